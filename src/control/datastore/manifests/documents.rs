//! The text of a manifest as objects that can be replaced and removed one by one. Documents that are not touched keep
//! every byte; one that is written anew keeps the comments above and below it.

use crate::control::yaml::{self, SyntaxError};
use serde_json::{Value, json};

/// Where in a text an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    piece: usize,
    /// Index into `items` if the document is a list.
    item: Option<usize>,
}

/// A text, cut at its document markers.
#[derive(Clone, Debug)]
pub struct Documents {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug)]
struct Piece {
    text: String,
    document: Option<Value>,
}

impl Documents {
    pub fn parse(text: &str) -> Result<Documents, SyntaxError> {
        let mut pieces = Vec::new();
        let mut line = 0;
        for piece in cut(text) {
            let document = if has_content(piece) { document(piece, line)? } else { None };
            pieces.push(Piece { text: piece.to_owned(), document });
            line += piece.lines().count() as u32;
        }
        Ok(Documents { pieces })
    }

    /// All objects; those of a typed list get the list's apiVersion and kind where they have none.
    pub fn objects(&self) -> Vec<(Place, Value)> {
        let mut out = Vec::new();
        for (piece, document) in self.pieces.iter().enumerate().filter_map(|(i, p)| Some((i, p.document.as_ref()?))) {
            match items(document) {
                None => out.push((Place { piece, item: None }, document.clone())),
                Some((kind, items)) => {
                    for (i, item) in items.iter().enumerate() {
                        out.push((Place { piece, item: Some(i) }, typed(item, &document["apiVersion"], kind)));
                    }
                }
            }
        }
        out
    }

    pub fn replace(&mut self, place: Place, object: Value) {
        self.edit(place, Some(object));
    }

    /// A list that has no items left goes with its last one.
    pub fn remove(&mut self, place: Place) {
        self.edit(place, None);
    }

    fn edit(&mut self, place: Place, object: Option<Value>) {
        let Some(piece) = self.pieces.get_mut(place.piece) else { return };
        piece.document = match (place.item, object, piece.document.take()) {
            (None, object, _) => object,
            (Some(at), object, Some(mut list)) => {
                if let Some(items) = list["items"].as_array_mut().filter(|items| at < items.len()) {
                    match object {
                        Some(object) => items[at] = object,
                        None => drop(items.remove(at)),
                    }
                }
                Some(list).filter(|l| l["items"].as_array().is_some_and(|items| !items.is_empty()))
            }
            (Some(_), _, None) => None,
        };
        piece.text = piece.written();
    }

    /// The text; `None` if there is nothing left in it.
    pub fn text(&self) -> Option<String> {
        let text: String = self.pieces.iter().map(|p| p.text.as_str()).collect();
        let blank = text.lines().all(|l| l.trim().is_empty() || is_marker(l, "---") || is_marker(l, "..."));
        if blank { None } else { Some(text) }
    }
}

impl Piece {
    fn written(&self) -> String {
        let (head, body, tail) = self.parts();
        let body = match &self.document {
            None => return format!("{head}{tail}"),
            Some(d) if body.trim_start().starts_with('{') => format!("{d:#}\n"),
            Some(d) => yaml::text(d),
        };
        format!("{head}{body}{tail}")
    }

    /// Marker and comments above the document, the document, comments below it.
    fn parts(&self) -> (String, &str, &str) {
        let note = |l: &str| l.trim().is_empty() || l.starts_with('#');
        let lines: Vec<&str> = self.text.split_inclusive('\n').collect();
        let above = lines.iter().take_while(|l| note(l) || l.trim_end() == "---").count();
        let below = lines[above..].iter().rev().take_while(|l| note(l) || is_marker(l, "...")).count();
        let at = |n: usize| lines[..n].iter().map(|l| l.len()).sum::<usize>();
        let (start, end) = (at(above), at(lines.len() - below));
        let mut head = self.text[..start].to_owned();
        // A document that begins on its marker's own line.
        let body = match self.text[start..end].strip_prefix("---") {
            Some(body) => {
                head.push_str("---\n");
                body
            }
            None => &self.text[start..end],
        };
        (head, body, &self.text[end..])
    }
}

/// `---` or `...` at the start of a line separates documents, whatever stands around it.
fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

fn cut(text: &str) -> Vec<&str> {
    let (mut out, mut start, mut at) = (Vec::new(), 0, 0);
    for line in text.split_inclusive('\n') {
        if is_marker(line, "---") && at > start {
            out.push(&text[start..at]);
            start = at;
        }
        at += line.len();
        if is_marker(line, "...") {
            out.push(&text[start..at]);
            start = at;
        }
    }
    out.push(&text[start..]);
    out
}

/// Whether there is more than markers, comments and directives.
fn has_content(piece: &str) -> bool {
    piece.lines().any(|l| {
        let l = l.strip_prefix("---").filter(|_| is_marker(l, "---")).unwrap_or(l).trim();
        !(l.is_empty() || l.starts_with(['#', '%']) || is_marker(l, "..."))
    })
}

fn document(piece: &str, above: u32) -> Result<Option<Value>, SyntaxError> {
    let docs = yaml::documents(piece).map_err(|e| SyntaxError { line: if e.line == 0 { 0 } else { e.line + above }, ..e })?;
    Ok(docs.first().map(yaml::Value::to_json))
}

/// The items of a list, and their kind; empty for a list of mixed kinds.
fn items(document: &Value) -> Option<(&str, &Vec<Value>)> {
    Some((document["kind"].as_str()?.strip_suffix("List")?, document["items"].as_array()?))
}

fn typed(item: &Value, api_version: &Value, kind: &str) -> Value {
    let mut item = item.clone();
    if item.is_object() && item.get("apiVersion").is_none() && item.get("kind").is_none() {
        item["apiVersion"] = api_version.clone();
        item["kind"] = json!(kind);
    }
    item
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# the cluster\n---\n# first\n{a: 1, kind: A}\n---\nkind: B   # b's remark\nb: |\n  --- not a marker\n  x\n# below b\n\n---\napiVersion: v1\nkind: CList\nitems:\n- {c: 1}\n- {c: 2, kind: D, apiVersion: x}\n";

    fn kinds(d: &Documents) -> Vec<String> {
        d.objects()
            .iter()
            .map(|(_, o)| format!("{} {}", o["apiVersion"].as_str().unwrap_or("-"), o["kind"].as_str().unwrap_or("-")))
            .collect()
    }

    #[test]
    fn untouched_documents_keep_every_byte() {
        for text in [TEXT, "", "# only a remark\n", "a: 1", "%YAML 1.2\n---\na: 1\n...\n---\nb: 2\n...\n", "--- {a: 1}\n--- \nb: 1\n"] {
            let d = Documents::parse(text).unwrap();
            assert_eq!(d.text().unwrap_or_default(), text);
        }
        assert_eq!(kinds(&Documents::parse(TEXT).unwrap()), ["- A", "- B", "v1 C", "x D"]);
        assert_eq!(Documents::parse("--- {a: 1}\n--- \nb: 1\n").unwrap().objects().len(), 2);
    }

    #[test]
    fn a_replaced_document_keeps_its_comments_and_neighbours() {
        let mut d = Documents::parse(TEXT).unwrap();
        let b = d.objects()[1].0;
        d.replace(b, json!({"kind": "B", "b": 7}));
        let want = TEXT.replace("kind: B   # b's remark\nb: |\n  --- not a marker\n  x\n", "b: 7\nkind: B\n");
        assert_eq!(d.text().unwrap(), want);
        let a = d.objects()[0].0;
        d.replace(a, json!({"kind": "A"}));
        assert_eq!(d.text().unwrap(), want.replace("{a: 1, kind: A}\n", "{\n  \"kind\": \"A\"\n}\n"), "JSON stays JSON");
        assert_eq!(kinds(&Documents::parse(&d.text().unwrap()).unwrap()), kinds(&d));
        let mut d = Documents::parse("--- {kind: A}\n...\n--- \nb: 1").unwrap();
        d.replace(d.objects()[0].0, json!({"kind": "Z"}));
        d.replace(d.objects()[1].0, json!({"kind": "X"}));
        assert_eq!(d.text().unwrap(), "---\n{\n  \"kind\": \"Z\"\n}\n...\n--- \nkind: X\n");
    }

    #[test]
    fn items_of_lists_are_edited_in_place() {
        let mut d = Documents::parse(TEXT).unwrap();
        d.replace(d.objects()[3].0, json!({"kind": "E"}));
        d.remove(d.objects()[2].0);
        assert_eq!(kinds(&d), ["- A", "- B", "- E"]);
        assert!(d.text().unwrap().ends_with("---\napiVersion: v1\nitems:\n- kind: E\nkind: CList\n"), "{:?}", d.text());
        d.remove(d.objects()[2].0);
        assert_eq!(kinds(&d), ["- A", "- B"]);
        assert!(d.text().unwrap().ends_with("# below b\n\n---\n"), "{:?}", d.text());
    }

    #[test]
    fn the_last_document_takes_the_text_with_it() {
        let mut d = Documents::parse("---\na: 1\n---\n").unwrap();
        d.remove(d.objects()[0].0);
        assert_eq!(d.text(), None);
        let mut d = Documents::parse("# a remark\n---\na: 1\n").unwrap();
        d.remove(d.objects()[0].0);
        assert_eq!(d.text().unwrap(), "# a remark\n---\n");
    }

    #[test]
    fn faults_have_the_files_line() {
        let e = Documents::parse("a: 1\n---\nb: 1\n  c: 2\n").unwrap_err();
        assert_eq!(e.line, 4, "{e:?}");
    }
}
