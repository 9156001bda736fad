//! YAML (and with it JSON) as a tree in which every value knows its line, and typed reading from that tree.
//! Config, manifests and what an API server sends are all read through it, so every complaint has the field's full
//! path, and a line where there are lines.

mod tree;

pub use tree::{SyntaxError, Value, documents, json, text};

use std::str::FromStr;
use tree::{Data, Key};

/// A value that is not what its field asks for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}{message}", path, if path.is_empty() { "" } else { ": " })]
pub struct FieldError {
    /// Of the value, or of the enclosing mapping when the field is missing.
    pub line: u32,
    /// `spec.ipNetworks[0]`; empty for the document itself.
    pub path: String,
    pub message: String,
}

/// The text in quotes, cut where it would fill the screen.
pub fn quoted(s: &str) -> String {
    match s.char_indices().nth(80) {
        Some((at, _)) => format!("{:?}...", &s[..at]),
        None => format!("{s:?}"),
    }
}

/// A place in a document: a value, or the absence of one, with its path. Null counts as absent, as it does
/// for Kubernetes.
#[derive(Clone, Debug)]
pub struct Field<'a> {
    line: u32,
    path: String,
    data: Option<&'a Data>,
}

impl<'a> Field<'a> {
    pub fn root(value: &'a Value) -> Field<'a> {
        Field::new(value, String::new())
    }

    fn new(value: &'a Value, path: String) -> Field<'a> {
        let data = if matches!(value.data, Data::Null) { None } else { Some(&value.data) };
        Field { line: value.line, path, data }
    }

    /// The same place as the start of a path of its own: an item of a list of objects.
    pub fn as_root(&self) -> Field<'a> {
        Field { path: String::new(), ..self.clone() }
    }

    pub fn line(&self) -> u32 {
        self.line
    }

    pub fn is_present(&self) -> bool {
        self.data.is_some()
    }

    /// An error about this field.
    pub fn error(&self, message: impl Into<String>) -> FieldError {
        FieldError { line: self.line, path: self.path.clone(), message: message.into() }
    }

    fn wrong_type(&self, wanted: &str) -> FieldError {
        match self.data {
            None => self.error(format!("missing; {wanted} is required")),
            Some(d) => self.error(format!("{wanted} is required, not {}", d.describe())),
        }
    }

    /// The entries of a mapping; none if absent.
    fn entries(&self) -> Result<&'a [(Key, Value)], FieldError> {
        match self.data {
            None => Ok(&[]),
            Some(Data::Map(m)) => Ok(m),
            Some(_) => Err(self.wrong_type("a mapping")),
        }
    }

    /// A child of a mapping. Absent if this place is absent; an error if it holds something else.
    pub fn get(&self, key: &str) -> Result<Field<'a>, FieldError> {
        let path = self.child_path(key);
        Ok(match self.entries()?.iter().find(|(k, _)| k.name == key) {
            Some((_, value)) => Field::new(value, path),
            None => Field { line: self.line, path, data: None },
        })
    }

    /// A child several levels down, keys without dots.
    pub fn at(&self, keys: &[&str]) -> Result<Field<'a>, FieldError> {
        keys.iter().try_fold(self.clone(), |field, key| field.get(key))
    }

    fn child_path(&self, key: &str) -> String {
        let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        match (self.path.is_empty(), plain) {
            (true, true) => key.to_owned(),
            (false, true) => format!("{}.{key}", self.path),
            (_, false) => format!("{}[{}]", self.path, quoted(key)),
        }
    }

    /// The keys of a mapping, each with its value; none if absent.
    pub fn children(&self) -> Result<Vec<(&'a str, Field<'a>)>, FieldError> {
        let child = |(key, value): &'a (Key, Value)| {
            let mut field = Field::new(value, self.child_path(&key.name));
            field.line = key.line;
            (key.name.as_str(), field)
        };
        Ok(self.entries()?.iter().map(child).collect())
    }

    /// A whole number of any size, if it is one.
    pub fn integer(&self) -> Option<i128> {
        match self.data {
            Some(Data::Int(i)) => Some(*i),
            _ => None,
        }
    }

    pub fn is_number(&self) -> bool {
        matches!(self.data, Some(Data::Int(_) | Data::Float(_)))
    }

    /// A single value as text, however it was written; `None` for lists, mappings and nothing.
    pub fn scalar(&self) -> Option<String> {
        match self.data? {
            Data::Bool(b) => Some(b.to_string()),
            Data::Int(i) => Some(i.to_string()),
            Data::Float(f) => Some(f.to_string()),
            Data::Text(s) => Some(s.clone()),
            Data::Null | Data::List(_) | Data::Map(_) => None,
        }
    }

    /// What stands here, in words.
    pub fn describe(&self) -> String {
        self.data.map_or_else(|| "nothing".to_owned(), Data::describe)
    }

    /// Refuses keys other than these.
    pub fn only(&self, allowed: &[&str]) -> Result<(), FieldError> {
        match self.entries()?.iter().find(|(k, _)| !allowed.contains(&k.name.as_str())) {
            None => Ok(()),
            Some((key, _)) => Err(FieldError {
                line: key.line,
                path: self.child_path(&key.name),
                message: format!("unknown key; one of {}", allowed.join(", ")),
            }),
        }
    }

    /// The items of a list; none if absent.
    pub fn items(&self) -> Result<Vec<Field<'a>>, FieldError> {
        match self.data {
            None => Ok(Vec::new()),
            Some(Data::List(l)) => Ok(l.iter().enumerate().map(|(i, v)| Field::new(v, format!("{}[{i}]", self.path))).collect()),
            Some(_) => Err(self.wrong_type("a list")),
        }
    }

    /// The items of a list as trees of their own; none if absent.
    pub fn values(&self) -> Result<&'a [Value], FieldError> {
        match self.data {
            None => Ok(&[]),
            Some(Data::List(l)) => Ok(l),
            Some(_) => Err(self.wrong_type("a list")),
        }
    }

    pub fn text(&self) -> Result<Option<&'a str>, FieldError> {
        match self.data {
            None => Ok(None),
            Some(Data::Text(s)) => Ok(Some(s)),
            Some(_) => Err(self.wrong_type("text")),
        }
    }

    /// Text that must be there and not be empty.
    pub fn required_text(&self) -> Result<&'a str, FieldError> {
        match self.text()? {
            Some("") => Err(self.error("must not be empty")),
            Some(s) => Ok(s),
            None => Err(self.wrong_type("text")),
        }
    }

    pub fn boolean(&self) -> Result<Option<bool>, FieldError> {
        match self.data {
            None => Ok(None),
            Some(Data::Bool(b)) => Ok(Some(*b)),
            Some(_) => Err(self.wrong_type("true or false")),
        }
    }

    /// A whole number from `min` to `max`.
    pub fn number<T: TryFrom<i128>>(&self, min: u32, max: u32) -> Result<Option<T>, FieldError> {
        let range = format!("a whole number from {min} to {max}");
        match self.data {
            None => Ok(None),
            Some(Data::Int(i)) if (i128::from(min)..=i128::from(max)).contains(i) => {
                T::try_from(*i).map(Some).map_err(|_| self.wrong_type(&range))
            }
            Some(_) => Err(self.wrong_type(&range)),
        }
    }

    /// Text that parses as `T`; empty text counts as absent. `what` completes "... is not ...".
    pub fn parsed<T: FromStr>(&self, what: &str) -> Result<Option<T>, FieldError> {
        match self.text()? {
            None | Some("") => Ok(None),
            Some(s) => s.parse().map(Some).map_err(|_| self.error(format!("{} is not {what}", quoted(s)))),
        }
    }

    /// One of some words, as the value that stands beside it.
    pub fn one_of<T: Copy>(&self, words: &[(&str, T)]) -> Result<Option<T>, FieldError> {
        let Some(s) = self.text()? else { return Ok(None) };
        words.iter().find(|(w, _)| *w == s).map(|(_, v)| Some(*v)).ok_or_else(|| {
            let all: Vec<_> = words.iter().map(|(w, _)| *w).collect();
            self.error(format!("{} is not one of {}", quoted(s), all.join(", ")))
        })
    }
}

/// Longest name of a network interface, bytes (IFNAMSIZ without the NUL).
pub const INTERFACE_NAME_MAX: usize = 15;

impl Field<'_> {
    /// The name of a network interface as the kernel allows it (`dev_valid_name`), ASCII only.
    pub fn interface_name(&self) -> Result<Option<String>, FieldError> {
        if !self.is_present() {
            return Ok(None);
        }
        let name = self.required_text()?;
        let fault = if name.len() > INTERFACE_NAME_MAX {
            format!("{} bytes, at most {INTERFACE_NAME_MAX} are allowed", name.len())
        } else if name == "." || name == ".." || !name.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':') {
            "no blanks, slashes, colons or letters beyond ASCII are allowed".into()
        } else {
            return Ok(Some(name.to_owned()));
        };
        Err(self.error(format!("{} is not an interface name: {fault}", quoted(name))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Value {
        documents(text).unwrap().remove(0)
    }

    #[test]
    fn every_value_knows_its_line_and_path() {
        let v = one("a: 1\nb:\n  c:\n  - x\n  - 'y'\n  d.e/f: {g: yes, h: null}\n");
        let root = Field::root(&v);
        let items = root.at(&["b", "c"]).unwrap().items().unwrap();
        let y = &items[1];
        assert_eq!((y.line(), y.text().unwrap()), (5, Some("y")));
        assert_eq!(y.error("is bad").to_string(), "b.c[1]: is bad");
        let g = root.at(&["b", "d.e/f", "g"]).unwrap();
        assert_eq!(g.error("z").path, "b[\"d.e/f\"].g");
        assert!(!root.at(&["b", "d.e/f", "h"]).unwrap().is_present());
        let missing = root.at(&["b", "x", "y"]).unwrap();
        assert_eq!(missing.required_text().unwrap_err().to_string(), "b.x.y: missing; text is required");
        assert_eq!(missing.line(), 3);
        assert_eq!(root.at(&["a", "b"]).unwrap_err().to_string(), "a: a mapping is required, not the number 1");
    }

    #[test]
    fn several_documents_count_lines_through() {
        let docs = documents("---\na: 1\n---\n---\n# nothing\n---\nb: 2\n...\n").unwrap();
        let lines: Vec<_> = docs.iter().map(|d| d.line).collect();
        assert_eq!(lines, [2, 7]);
        assert!(documents("").unwrap().is_empty());
    }

    #[test]
    fn json_with_tabs_is_read() {
        let v = one("{\n\t\"a\": [\n\t\t1,\n\t\t\"\\u00e9\\/\"\n\t]\n}\n");
        let a = Field::root(&v).get("a").unwrap().items().unwrap();
        assert_eq!((a[1].line(), a[1].text().unwrap()), (4, Some("é/")));
    }

    #[test]
    fn json_without_lines_and_without_what_is_skipped() {
        let text = br#"{"a": [1, -2, 1.5, true, null, "\u00e9"], "big": {"x": [1, 2, {"y": 1}]}, "b": {"big": 1, "c": "d"}}"#;
        let v = json(text, &["big"]).unwrap();
        let root = Field::root(&v);
        assert!(!root.get("big").unwrap().is_present() && !root.at(&["b", "big"]).unwrap().is_present());
        assert_eq!(root.at(&["b", "c"]).unwrap().text().unwrap(), Some("d"));
        let items = root.get("a").unwrap().items().unwrap();
        assert_eq!((items[1].line(), items.len(), items[5].text().unwrap()), (0, 6, Some("é")));
        assert_eq!(items[3].text().unwrap_err().to_string(), "a[3]: text is required, not the boolean true");
        for wrong in ["", "{", "{\"a\": 1} 2", "[1,]"] {
            assert!(!json(wrong.as_bytes(), &[]).unwrap_err().message.is_empty(), "{wrong}");
        }
        assert!(json("[".repeat(100_000).as_bytes(), &[]).is_err());
    }

    #[test]
    fn types_are_not_guessed_across() {
        let v = one("n: '4789'\ni: 4789\nf: 1.5\nb: true\nbig: 99999999999999999999\nneg: -1\n");
        let root = Field::root(&v);
        let number = |k: &str| root.get(k).unwrap().number::<u16>(1, 65535);
        assert_eq!(number("i").unwrap(), Some(4789));
        assert_eq!(number("n").unwrap_err().to_string(), "n: a whole number from 1 to 65535 is required, not the text \"4789\"");
        assert!(["f", "b", "big", "neg"].iter().all(|k| number(k).is_err()));
        assert_eq!(root.get("i").unwrap().text().unwrap_err().to_string(), "i: text is required, not the number 4789");
        assert!(root.get("n").unwrap().boolean().is_err());
    }

    #[test]
    fn unknown_keys_and_syntax_errors_have_lines() {
        let v = one("a: 1\nb:\n  c: 1\n  d: 2\n");
        let e = Field::root(&v).get("b").unwrap().only(&["c", "e"]).unwrap_err();
        assert_eq!((e.line, e.to_string().as_str()), (4, "b.d: unknown key; one of c, e"));
        for (text, line) in [("a: 1\nb: [1,\nc: 2\n", 0), ("a: 1\na: 2\n", 2), ("a: 1\n  b: 2\n", 2), ("a: *x\n", 1), ("a: \"x\n\n", 0)] {
            let e = documents(text).unwrap_err();
            assert!(line == 0 || e.line == line, "{text:?}: {e:?}");
            assert!(!e.message.contains('\n') && !e.message.contains(" at line") && !e.message.is_empty(), "{e:?}");
        }
    }

    #[test]
    fn json_and_back() {
        let v = one("a: [1, -2, 18446744073709551615, 1.5, true, null, 'x']\nb: {c: '7'}\n");
        let json = v.to_json();
        assert_eq!(json.to_string(), r#"{"a":[1,-2,18446744073709551615,1.5,true,null,"x"],"b":{"c":"7"}}"#);
        assert_eq!(Value::of_json(&json).to_json(), json);
        let back = Value::of_json(&json);
        let children: Vec<_> = Field::root(&back).children().unwrap().into_iter().map(|(k, f)| (k.to_owned(), f.describe())).collect();
        assert_eq!(children, [("a".into(), "a list".to_owned()), ("b".into(), "a mapping".into())]);
    }

    #[test]
    fn bombs_are_refused() {
        assert!(documents(&"[".repeat(50_000)).is_err());
        assert!(documents(&format!("{}1", "- ".repeat(50_000))).is_err());
        let mut laughs = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for i in 1..12 {
            laughs += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(","));
        }
        assert!(documents(&laughs).is_err());
    }
}
