//! What may stand in a resource: every field with its type, and what fields of one object ask of each other.

mod felix;
mod kinds;
mod network;
mod policy;
mod scalar;

use super::{API_VERSION, Kind};
use crate::control::yaml::{Field, FieldError, Value};
use std::fmt;

/// One thing that is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// In the text that it was read from; 0 without one.
    pub line: u32,
    /// `spec.ipNetworks[0]`.
    pub field: String,
    /// As it was given; `None` for a field that is missing, or that is a list or a mapping.
    pub value: Option<String>,
    /// What is wrong, and what is allowed.
    pub reason: String,
}

impl Fault {
    pub fn of(field: &str, value: Option<String>, reason: impl Into<String>) -> Fault {
        Fault { line: 0, field: field.to_owned(), value, reason: reason.into() }
    }

    fn at(field: &Field, reason: impl Into<String>) -> Fault {
        let e = field.error(reason);
        Fault { line: e.line, field: e.path, value: field.scalar(), reason: e.message }
    }

    fn list_line(&self) -> String {
        let value = self.value.as_ref().map(|v| format!(" = '{v}'")).unwrap_or_default();
        format!("{}{value} ({})", self.field, self.reason)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "error with field {}", self.list_line())
    }
}

impl From<FieldError> for Fault {
    fn from(e: FieldError) -> Fault {
        Fault { line: e.line, field: e.path, value: None, reason: e.message }
    }
}

/// Several faults as one text, as calicoctl lists them.
pub fn join(faults: &[Fault]) -> String {
    match faults {
        [one] => one.to_string(),
        many => {
            let lines: Vec<String> = many.iter().map(|f| format!("\n-  {}", f.list_line())).collect();
            format!("error with the following fields:{}", lines.concat())
        }
    }
}

/// What a value may be.
#[derive(Clone, Copy)]
enum Type {
    Text,
    Bool,
    /// A whole number in a range, both ends included.
    Int(i64, i64),
    Number,
    /// One of these words.
    One(&'static [&'static str]),
    /// One of these words in any case.
    OneAnyCase(&'static [&'static str]),
    /// Text of a form of its own.
    Scalar(scalar::Form),
    List(&'static Type),
    /// At most that many items.
    ListMax(&'static Type, usize),
    /// Keys of the author's choice, each with a text.
    Texts,
    Object(&'static [Entry]),
    /// Must be there, and not be empty.
    Required(&'static Type),
    /// Kept as it is.
    Any,
}

type Entry = (&'static str, Type);

const METADATA: &[Entry] = &[
    ("name", Type::Required(&Type::Scalar(scalar::Form::Name))),
    ("namespace", Type::Scalar(scalar::Form::Name)),
    ("labels", Type::Texts),
    ("annotations", Type::Texts),
    ("generateName", Type::Text),
    ("uid", Type::Text),
    ("resourceVersion", Type::Text),
    ("generation", Type::Any),
    ("creationTimestamp", Type::Any),
    ("deletionTimestamp", Type::Any),
    ("deletionGracePeriodSeconds", Type::Any),
    ("ownerReferences", Type::Any),
    ("finalizers", Type::Any),
    ("managedFields", Type::Any),
    ("selfLink", Type::Any),
];

/// Everything that is wrong with an object in itself.
pub fn check(kind: Kind, object: &Value) -> Vec<Fault> {
    let mut faults = Vec::new();
    let root = Field::root(object);
    let spec = kinds::spec(kind);
    walk(&root, &top(spec), &mut faults);
    // Fields are required even where the whole spec is missing.
    if let Ok(absent) = root.get("spec")
        && !absent.is_present()
    {
        walk(&absent, spec, &mut faults);
    }
    if faults.is_empty() {
        names(kind, &root, &mut faults);
        let result = match kind {
            Kind::IpPool => network::pool(&root, &mut faults),
            Kind::BgpPeer => network::bgp_peer(&root, &mut faults),
            Kind::BgpConfiguration => network::bgp_configuration(&root, &mut faults),
            Kind::HostEndpoint => network::host_endpoint(&root, &mut faults),
            Kind::WorkloadEndpoint => network::workload_endpoint(&root, &mut faults),
            Kind::NetworkPolicy => policy::check(&root, policy::Scope::Namespace, &mut faults),
            Kind::GlobalNetworkPolicy => policy::check(&root, policy::Scope::Global, &mut faults),
            _ => Ok(()),
        };
        faults.extend(result.err().map(Fault::from));
    }
    faults
}

fn top(spec: &'static [Entry]) -> [Entry; 5] {
    [
        ("apiVersion", Type::Required(&Type::One(&[API_VERSION]))),
        ("kind", Type::Required(&Type::Text)),
        ("metadata", Type::Required(&Type::Object(METADATA))),
        ("spec", Type::Object(spec)),
        ("status", Type::Any),
    ]
}

/// The kind's own name, and the names of objects where only certain ones mean anything.
fn names(kind: Kind, root: &Field, faults: &mut Vec<Fault>) {
    if let Ok(field) = root.get("kind")
        && field.scalar().as_deref() != Some(kind.name())
    {
        faults.push(Fault::at(&field, format!("{kind} is required")));
    }
    let Ok(name) = root.at(&["metadata", "name"]) else { return };
    let text = name.scalar().unwrap_or_default();
    let per_node = text.strip_prefix("node.").is_some_and(|n| !n.is_empty());
    let fault = match kind {
        Kind::FelixConfiguration | Kind::BgpConfiguration if text != "default" && !per_node => "must be default or node.NODENAME",
        Kind::IpamConfiguration | Kind::ClusterInformation if text != "default" => "must be default",
        _ => return,
    };
    faults.push(Fault::at(&name, fault));
}

fn walk(field: &Field, entries: &[Entry], faults: &mut Vec<Fault>) {
    let children = match field.children() {
        Ok(children) => children,
        Err(e) => return faults.push(e.into()),
    };
    for (key, child) in &children {
        match entries.iter().find(|(name, _)| name == key) {
            Some((_, ty)) => value(child, ty, faults),
            None => faults.push(Fault::at(child, unknown(key, entries))),
        }
    }
    for (key, ty) in entries {
        if matches!(ty, Type::Required(_)) && !children.iter().any(|(k, _)| k == key) {
            match field.get(key) {
                Ok(missing) => value(&missing, ty, faults),
                Err(e) => faults.push(e.into()),
            }
        }
    }
}

fn value(field: &Field, ty: &Type, faults: &mut Vec<Fault>) {
    if let Type::Required(inner) = ty {
        if !field.is_present() || field.scalar().is_some_and(|s| s.is_empty()) {
            return faults.push(Fault::at(field, format!("missing; {} is required", wanted(inner))));
        }
        return value(field, inner, faults);
    }
    if !field.is_present() {
        return;
    }
    match ty {
        Type::Object(entries) => walk(field, entries, faults),
        Type::List(inner) => items(field, inner, usize::MAX, faults),
        Type::ListMax(inner, max) => items(field, inner, *max, faults),
        Type::Texts => texts(field, faults),
        _ => {
            if !fits(field, ty) {
                faults.push(Fault::at(field, format!("{} is required, not {}", wanted(ty), field.describe())));
            } else if let Type::Scalar(form) = ty
                && let Some(fault) = field.scalar().and_then(|s| form.fault(&s))
            {
                faults.push(Fault::at(field, fault));
            }
        }
    }
}

fn items(field: &Field, inner: &Type, max: usize, faults: &mut Vec<Fault>) {
    match field.items() {
        Err(e) => faults.push(e.into()),
        Ok(items) if items.len() > max => faults.push(Fault::at(field, format!("{} items; at most {max} are allowed", items.len()))),
        Ok(items) => {
            for item in &items {
                // Null would be no item at all.
                if item.is_present() {
                    value(item, inner, faults);
                } else {
                    faults.push(Fault::at(item, format!("missing; {} is required", wanted(inner))));
                }
            }
        }
    }
}

fn texts(field: &Field, faults: &mut Vec<Fault>) {
    match field.children() {
        Err(e) => faults.push(e.into()),
        Ok(children) => faults.extend(children.iter().filter_map(|(_, f)| f.text().err().map(Fault::from))),
    }
}

fn fits(field: &Field, ty: &Type) -> bool {
    let word = |fits: &dyn Fn(&str) -> bool| matches!(field.text(), Ok(Some(s)) if s.is_empty() || fits(s));
    match ty {
        Type::Text => field.text().is_ok(),
        Type::Bool => field.boolean().is_ok(),
        Type::Int(min, max) => field.integer().is_some_and(|i| (i128::from(*min)..=i128::from(*max)).contains(&i)),
        Type::Number => field.is_number(),
        Type::One(words) => word(&|s| words.contains(&s)),
        Type::OneAnyCase(words) => word(&|s| words.iter().any(|w| w.eq_ignore_ascii_case(s))),
        Type::Scalar(form) => form.takes_numbers() && field.integer().is_some() || field.text().is_ok(),
        Type::Any | Type::Required(_) | Type::Object(_) | Type::List(_) | Type::ListMax(..) | Type::Texts => true,
    }
}

fn wanted(ty: &Type) -> String {
    match ty {
        Type::Text => "text".into(),
        Type::Bool => "true or false".into(),
        Type::Int(min, max) => format!("a whole number from {min} to {max}"),
        Type::Number => "a number".into(),
        Type::One([word]) => (*word).into(),
        Type::One(words) | Type::OneAnyCase(words) => format!("one of {}", words.join(", ")),
        Type::Scalar(form) => form.name().into(),
        Type::List(_) | Type::ListMax(..) => "a list".into(),
        Type::Texts | Type::Object(_) => "a mapping".into(),
        Type::Required(inner) => wanted(inner),
        Type::Any => "a value".into(),
    }
}

/// Names the field that was meant, if one is near.
fn unknown(key: &str, entries: &[Entry]) -> String {
    let near = entries.iter().map(|(name, _)| (distance(&key.to_lowercase(), &name.to_lowercase()), *name)).min();
    match near {
        Some((d, name)) if d <= 1 + key.len() / 4 => format!("unknown field; did you mean {name}?"),
        _ if entries.len() <= 16 => {
            let all: Vec<&str> = entries.iter().map(|(name, _)| *name).collect();
            format!("unknown field; known are {}", all.join(", "))
        }
        _ => "unknown field".into(),
    }
}

/// Levenshtein's.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut last = i;
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = last + usize::from(ca != *cb);
            last = row[j + 1];
            row[j + 1] = replaced.min(last + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests;
