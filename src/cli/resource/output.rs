//! What get prints.

use super::{Found, columns};
use crate::cli::table::{Style, Table};
use crate::control::resources::{API_VERSION, Kind};
use crate::control::yaml;
use serde_json::{Value, json};

/// How it is printed.
#[derive(Debug, PartialEq, Eq)]
pub enum Form {
    Table { wide: bool },
    Columns(Vec<String>),
    Yaml,
    Json,
    Name,
}

/// What cells need besides their object.
pub struct Context {
    /// Of nodes without one of their own.
    pub as_number: String,
    pub show_namespace: bool,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutputError {
    #[error("unrecognized output format '{0}'; one of ps, wide, yaml, json, name, custom-columns=COLUMN,...")]
    Unknown(String),
    #[error("need to specify at least one column, like custom-columns=NAME")]
    NoColumns,
    #[error("{0} is not supported: use -o json with jq, or custom-columns=COLUMN,... for a table")]
    Template(String),
    #[error("Unknown heading {heading}, valid values are: {}", known.join(", "))]
    Heading { heading: String, known: Vec<&'static str> },
}

impl Form {
    pub fn parse(text: &str) -> Result<Form, OutputError> {
        match text.split_once('=').unwrap_or((text, "")) {
            ("ps", "") => Ok(Form::Table { wide: false }),
            ("wide", "") => Ok(Form::Table { wide: true }),
            ("yaml" | "yml", "") => Ok(Form::Yaml),
            ("json", "") => Ok(Form::Json),
            ("name", "") => Ok(Form::Name),
            ("custom-columns", "") => Err(OutputError::NoColumns),
            ("custom-columns", list) => Ok(Form::Columns(list.split(',').map(|c| c.trim().to_uppercase()).collect())),
            (template @ ("go-template" | "go-template-file"), _) => Err(OutputError::Template(template.to_owned())),
            _ => Err(OutputError::Unknown(text.to_owned())),
        }
    }
}

pub fn render(form: &Form, found: &[Found], context: &Context) -> Result<String, OutputError> {
    Ok(match form {
        Form::Yaml => yaml::text(&document(found)),
        Form::Json => format!("{:#}\n", document(found)),
        Form::Name => found.iter().flat_map(Found::objects).map(|(kind, o)| name(kind, o)).collect(),
        Form::Table { wide } => {
            let columns = |kind| columns::default(kind, *wide).iter().map(|c| (*c).to_owned()).collect();
            tables(found, columns, context)?
        }
        Form::Columns(list) => tables(found, |_| list.clone(), context)?,
    })
}

impl Found {
    fn kind(&self) -> Kind {
        match self {
            Found::One(kind, _) | Found::List(kind, _) => *kind,
        }
    }

    fn objects(&self) -> impl Iterator<Item = (Kind, &Value)> {
        let slice = match self {
            Found::One(_, object) => std::slice::from_ref(object),
            Found::List(_, objects) => objects.as_slice(),
        };
        slice.iter().map(|o| (self.kind(), o))
    }

    fn document(&self) -> Value {
        match self {
            Found::One(_, object) => object.clone(),
            Found::List(kind, objects) => {
                json!({"apiVersion": API_VERSION, "kind": format!("{kind}List"), "metadata": {}, "items": objects})
            }
        }
    }
}

/// One thing is printed as it is, several are a list.
fn document(found: &[Found]) -> Value {
    match found {
        [one] => one.document(),
        many => many.iter().map(Found::document).collect(),
    }
}

fn name(kind: Kind, object: &Value) -> String {
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
    let kind_name = kind.name().to_lowercase();
    if kind.is_namespaced() {
        format!("{kind_name}/{}/{}\n", text("namespace"), text("name"))
    } else {
        format!("{kind_name}/{}\n", text("name"))
    }
}

/// A table for everything that was asked for, each with an empty line behind it.
fn tables(found: &[Found], columns: impl Fn(Kind) -> Vec<String>, context: &Context) -> Result<String, OutputError> {
    let mut out = String::new();
    for part in found {
        let mut columns = columns(part.kind());
        let known = columns::known(part.kind());
        if context.show_namespace && part.kind().is_namespaced() && !columns.iter().any(|c| c == "NAMESPACE") {
            columns.insert(0, "NAMESPACE".into());
        }
        if let Some(heading) = columns.iter().find(|c| !known.contains(&c.as_str())) {
            return Err(OutputError::Heading { heading: heading.clone(), known });
        }
        let headings: Vec<&str> = columns.iter().map(String::as_str).collect();
        let mut table = Table::new(&headings);
        for (kind, object) in part.objects() {
            table.row(columns.iter().map(|c| columns::cell(kind, c, object, context)));
        }
        out.push_str(&table.render(Style::Plain));
        out.push('\n');
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        assert_eq!(Form::parse("wide"), Ok(Form::Table { wide: true }));
        assert_eq!(Form::parse("custom-columns=name,CIDR"), Ok(Form::Columns(vec!["NAME".into(), "CIDR".into()])));
        for (text, want) in [
            ("xml", "unrecognized output format 'xml'; one of ps"),
            ("custom-columns=", "need to specify at least one column"),
            ("go-template={{.}}", "go-template is not supported: use -o json with jq"),
            ("go-template-file=f", "go-template-file is not supported: use -o json with jq"),
        ] {
            assert!(Form::parse(text).unwrap_err().to_string().starts_with(want), "{text}");
        }
    }

    #[test]
    fn unknown_headings_name_the_known_ones() {
        let found = [Found::List(Kind::NetworkSet, Vec::new())];
        let context = Context { as_number: String::new(), show_namespace: false };
        let e = render(&Form::Columns(vec!["CIDR".into()]), &found, &context).unwrap_err();
        assert_eq!(e.to_string(), "Unknown heading CIDR, valid values are: NAME, NETS, NAMESPACE");
        assert_eq!(render(&Form::Table { wide: true }, &found, &context).unwrap(), "NAME   NETS\n\n");
    }
}
