//! The tree, and how it is made from YAML and from JSON.

use super::quoted;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value as JsonValue;
use serde_saphyr::{DuplicateKeyPolicy, Spanned};
use std::fmt;

/// Deepest nesting that is read. Kubernetes objects stay below 20; the tree is built by recursion.
const MAX_DEPTH: usize = 100;
/// Most nodes in one file: a `kubectl get pods -A -o yaml` of 10,000 pods has about 4 million.
const MAX_NODES: usize = 16_000_000;

/// The text is not YAML.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SyntaxError {
    /// Counted from 1; 0 where the parser names none.
    pub line: u32,
    pub message: String,
}

/// One value and the line that it starts on.
#[derive(Clone, Debug)]
pub struct Value {
    pub(super) line: u32,
    pub(super) data: Data,
}

#[derive(Clone, Debug)]
pub(super) enum Data {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Value>),
    Map(Vec<(Key, Value)>),
}

#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) line: u32,
    pub(super) name: String,
}

impl Value {
    /// The same as JSON. Numbers that JSON cannot hold (beyond 64 bits) become text.
    pub fn to_json(&self) -> JsonValue {
        match &self.data {
            Data::Null => JsonValue::Null,
            Data::Bool(b) => JsonValue::Bool(*b),
            Data::Int(i) => {
                let number = i64::try_from(*i).map(JsonValue::from).or_else(|_| u64::try_from(*i).map(JsonValue::from));
                number.unwrap_or_else(|_| JsonValue::String(i.to_string()))
            }
            Data::Float(f) => serde_json::Number::from_f64(*f).map_or_else(|| JsonValue::String(f.to_string()), JsonValue::Number),
            Data::Text(s) => JsonValue::String(s.clone()),
            Data::List(l) => l.iter().map(Value::to_json).collect(),
            Data::Map(m) => JsonValue::Object(m.iter().map(|(k, v)| (k.name.clone(), v.to_json())).collect()),
        }
    }

    /// The items, if it is a list.
    pub fn sequence(&self) -> Option<&[Value]> {
        match &self.data {
            Data::List(l) => Some(l),
            _ => None,
        }
    }

    /// JSON as it would have been read, without lines.
    pub fn of_json(json: &JsonValue) -> Value {
        let data = match json {
            JsonValue::Null => Data::Null,
            JsonValue::Bool(b) => Data::Bool(*b),
            JsonValue::Number(n) => match (n.as_i64(), n.as_u64()) {
                (Some(i), _) => Data::Int(i.into()),
                (_, Some(u)) => Data::Int(u.into()),
                _ => Data::Float(n.as_f64().unwrap_or(f64::NAN)),
            },
            JsonValue::String(s) => Data::Text(s.clone()),
            JsonValue::Array(a) => Data::List(a.iter().map(Value::of_json).collect()),
            JsonValue::Object(o) => Data::Map(o.iter().map(|(k, v)| (Key { line: 0, name: k.clone() }, Value::of_json(v))).collect()),
        };
        Value { line: 0, data }
    }
}

/// JSON as block YAML: keys in order, text in quotes where it would be read as something else.
pub fn text(json: &JsonValue) -> String {
    // Fails only on types that JSON does not have.
    let mut text = serde_saphyr::to_string(json).unwrap_or_else(|_| json.to_string());
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// All documents of a text, empty ones left out.
pub fn documents(text: &str) -> Result<Vec<Value>, SyntaxError> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_events: 2 * MAX_NODES,
            max_documents: MAX_NODES,
            max_total_scalar_bytes: 1 << 30,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        // Plain y, n, on, off are names of nodes and pods more often than booleans; YAML 1.2 has true and false.
        strict_booleans: true,
        with_snippet: false,
    };
    serde_saphyr::from_multiple_with_options(text, options).map_err(|e| {
        let line = e.location().map_or(0, |l| l.line() as u32);
        SyntaxError { line, message: one_line(&e.without_snippet().to_string()) }
    })
}

/// The parser's own message on one line, without the position that the caller prints in front.
fn one_line(message: &str) -> String {
    let text = message.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.rfind(" at line ") {
        Some(at) if text[at + 9..].bytes().all(|b| b.is_ascii_digit() || b", column".contains(&b)) => text[..at].to_owned(),
        _ => text,
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Value, D::Error> {
        Lines.deserialize(d)
    }
}

/// One JSON value as a tree without lines. What stands under a key in `skip`, at any depth, is left out.
pub fn json(text: &[u8], skip: &[&str]) -> Result<Value, SyntaxError> {
    let mut parser = serde_json::Deserializer::from_slice(text);
    let value = NoLines { skip }.deserialize(&mut parser).and_then(|v| parser.end().map(|()| v));
    value.map_err(|e| SyntaxError { line: e.line() as u32, message: one_line(&e.to_string()) })
}

/// How values and keys are read: what the parser can tell beside them.
trait Reading: Copy + for<'de> DeserializeSeed<'de, Value = Value> {
    fn key<'de, A: MapAccess<'de>>(self, map: &mut A) -> Result<Option<Key>, A::Error>;
    /// Whether what stands under the key is left out.
    fn skips(self, name: &str) -> bool;
}

/// Everything, with the lines that a YAML parser knows.
#[derive(Clone, Copy)]
struct Lines;

/// What [`Spanned`] reads.
struct Lined(Data);

impl<'de> Deserialize<'de> for Lined {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Lined, D::Error> {
        d.deserialize_any(DataVisitor(Lines)).map(Lined)
    }
}

impl<'de> DeserializeSeed<'de> for Lines {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        let spanned = Spanned::<Lined>::deserialize(d)?;
        Ok(Value { line: spanned.referenced.line() as u32, data: spanned.value.0 })
    }
}

impl Reading for Lines {
    fn key<'de, A: MapAccess<'de>>(self, map: &mut A) -> Result<Option<Key>, A::Error> {
        let spanned = map.next_key::<Spanned<String>>()?;
        Ok(spanned.map(|s| Key { line: s.referenced.line() as u32, name: s.value }))
    }
    fn skips(self, _: &str) -> bool {
        false
    }
}

/// From a parser that knows no lines, without what stands under some keys.
#[derive(Clone, Copy)]
struct NoLines<'a> {
    skip: &'a [&'a str],
}

impl<'de> DeserializeSeed<'de> for NoLines<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(DataVisitor(self)).map(|data| Value { line: 0, data })
    }
}

impl Reading for NoLines<'_> {
    fn key<'de, A: MapAccess<'de>>(self, map: &mut A) -> Result<Option<Key>, A::Error> {
        Ok(map.next_key()?.map(|name| Key { line: 0, name }))
    }
    fn skips(self, name: &str) -> bool {
        self.skip.contains(&name)
    }
}

struct DataVisitor<R>(R);

impl<'de, R: Reading> Visitor<'de> for DataVisitor<R> {
    type Value = Data;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("any value")
    }
    fn visit_unit<E>(self) -> Result<Data, E> {
        Ok(Data::Null)
    }
    fn visit_none<E>(self) -> Result<Data, E> {
        Ok(Data::Null)
    }
    fn visit_bool<E>(self, v: bool) -> Result<Data, E> {
        Ok(Data::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Data, E> {
        Ok(Data::Int(v.into()))
    }
    fn visit_u64<E>(self, v: u64) -> Result<Data, E> {
        Ok(Data::Int(v.into()))
    }
    fn visit_i128<E>(self, v: i128) -> Result<Data, E> {
        Ok(Data::Int(v))
    }
    fn visit_f64<E>(self, v: f64) -> Result<Data, E> {
        Ok(Data::Float(v))
    }
    fn visit_str<E>(self, v: &str) -> Result<Data, E> {
        Ok(Data::Text(v.to_owned()))
    }
    fn visit_string<E>(self, v: String) -> Result<Data, E> {
        Ok(Data::Text(v))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Data, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self.0)? {
            items.push(item);
        }
        Ok(Data::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Data, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = self.0.key(&mut map)? {
            if self.0.skips(&key.name) {
                map.next_value::<IgnoredAny>()?;
            } else {
                entries.push((key, map.next_value_seed(self.0)?));
            }
        }
        Ok(Data::Map(entries))
    }
}

impl Data {
    pub(super) fn describe(&self) -> String {
        match self {
            Data::Null => "null".into(),
            Data::Bool(b) => format!("the boolean {b}"),
            Data::Int(i) => format!("the number {i}"),
            Data::Float(f) => format!("the number {f}"),
            Data::Text(s) => format!("the text {}", quoted(s)),
            Data::List(_) => "a list".into(),
            Data::Map(_) => "a mapping".into(),
        }
    }
}
