//! Bodies of lists and watches, taken apart while they arrive: nothing larger than one object is held.

use serde::Deserialize;

/// The end of a list.
#[derive(Debug, PartialEq, Eq)]
pub struct Tail {
    /// `metadata.resourceVersion`
    pub revision: String,
    /// `metadata.continue`: there are further pages.
    pub next: Option<String>,
}

/// Where in the text of a list the reader stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Outside `items`.
    Around,
    /// In `items`, between two of them.
    Between,
    Item,
}

/// Splits `{..., "items": [...], ...}` into its items. What is around them is kept, to be read at the end.
pub struct ListSplitter {
    place: Place,
    depth: usize,
    in_text: bool,
    escaped: bool,
    item: Vec<u8>,
    around: Vec<u8>,
    /// The text that ended last, if it may be a key of the outermost mapping.
    last_text: Vec<u8>,
}

impl Default for ListSplitter {
    fn default() -> ListSplitter {
        ListSplitter {
            place: Place::Around,
            depth: 0,
            in_text: false,
            escaped: false,
            item: Vec::new(),
            around: Vec::new(),
            last_text: Vec::new(),
        }
    }
}

impl ListSplitter {
    /// Takes a piece of the body; each item that it completes is handed out.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(&[u8])) {
        for byte in bytes {
            self.take(*byte, &mut each);
        }
    }

    fn take(&mut self, byte: u8, each: &mut impl FnMut(&[u8])) {
        match self.place {
            Place::Item => self.item.push(byte),
            Place::Around => self.around.push(byte),
            Place::Between if byte == b']' => self.around.push(byte),
            Place::Between if byte == b'{' => self.item.push(byte),
            Place::Between => {}
        }
        if self.in_text {
            return self.within_text(byte);
        }
        match byte {
            b'"' => {
                self.in_text = true;
                self.last_text.clear();
            }
            b'{' | b'[' => self.open(byte),
            b'}' | b']' => self.close(each),
            _ => {}
        }
    }

    fn within_text(&mut self, byte: u8) {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' => self.escaped = true,
            b'"' => return self.in_text = false,
            _ => {}
        }
        if self.depth == 1 {
            self.last_text.push(byte);
        }
    }

    fn open(&mut self, byte: u8) {
        self.depth += 1;
        match self.place {
            Place::Around if self.depth == 2 && byte == b'[' && self.last_text == b"items" => self.place = Place::Between,
            Place::Between => self.place = Place::Item,
            _ => {}
        }
    }

    fn close(&mut self, each: &mut impl FnMut(&[u8])) {
        self.depth = self.depth.saturating_sub(1);
        match (self.place, self.depth) {
            (Place::Item, 2) => {
                each(&self.item);
                self.item.clear();
                self.place = Place::Between;
            }
            (Place::Between, 1) => self.place = Place::Around,
            _ => {}
        }
    }

    /// What the list says of itself; an error if it broke off or is none.
    pub fn finish(&self) -> Result<Tail, String> {
        let list: Envelope = serde_json::from_slice(&self.around).map_err(|e| format!("the list broke off or is not JSON: {e}"))?;
        if list.items.is_none() {
            return Err(format!("the answer is a {} and not a list", list.kind.unwrap_or_else(|| "nameless object".into())));
        }
        let next = list.metadata.next.filter(|t| !t.is_empty());
        match list.metadata.revision.filter(|r| !r.is_empty()) {
            Some(revision) => Ok(Tail { revision, next }),
            None => Err("the list has no metadata.resourceVersion".into()),
        }
    }
}

#[derive(Deserialize)]
struct Envelope {
    kind: Option<String>,
    #[serde(default)]
    metadata: Metadata,
    /// Empty: they have been handed out. Go writes null for none.
    #[serde(default, deserialize_with = "present")]
    items: Option<()>,
}

fn present<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<()>, D::Error> {
    serde::de::IgnoredAny::deserialize(d).map(|_| Some(()))
}

#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(rename = "resourceVersion")]
    revision: Option<String>,
    #[serde(rename = "continue")]
    next: Option<String>,
}

/// Splits the body of a watch into its lines.
#[derive(Default)]
pub struct LineSplitter {
    rest: Vec<u8>,
}

impl LineSplitter {
    pub fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(&[u8])) {
        while let Some(at) = bytes.iter().position(|b| *b == b'\n') {
            let (line, further) = (&bytes[..at], &bytes[at + 1..]);
            if self.rest.is_empty() {
                each(line);
            } else {
                self.rest.extend_from_slice(line);
                each(&self.rest);
                self.rest.clear();
            }
            bytes = further;
        }
        self.rest.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{"kind":"PodList","metadata":{"resourceVersion":"7","continue":"c","items":["x"]},"items":[ {"a":"]}\\","b":[{}]} ,{"items":[1]},{}],"z":"items","y":[2]}"#;

    fn split(text: &str, piece: usize) -> (Vec<String>, Result<Tail, String>) {
        let (mut splitter, mut items) = (ListSplitter::default(), Vec::new());
        for chunk in text.as_bytes().chunks(piece) {
            splitter.feed(chunk, |item| items.push(String::from_utf8(item.to_vec()).unwrap()));
        }
        (items, splitter.finish())
    }

    #[test]
    fn a_list_in_pieces_of_any_size() {
        for piece in 1..LIST.len() + 1 {
            let (items, tail) = split(LIST, piece);
            assert_eq!(items, [r#"{"a":"]}\\","b":[{}]}"#, r#"{"items":[1]}"#, "{}"], "{piece}");
            assert_eq!(tail, Ok(Tail { revision: "7".into(), next: Some("c".into()) }));
        }
    }

    #[test]
    fn a_list_that_breaks_off_anywhere_is_not_complete() {
        for end in 0..LIST.len() {
            assert!(split(&LIST[..end], 5).1.is_err(), "{}", &LIST[..end]);
        }
    }

    #[test]
    fn answers_that_are_no_lists() {
        assert_eq!(split(r#"{"kind":"Status","metadata":{}}"#, 9).1.unwrap_err(), "the answer is a Status and not a list");
        assert_eq!(
            split(r#"{"items":null,"metadata":{"resourceVersion":"1"}}"#, 9),
            (vec![], Ok(Tail { revision: "1".into(), next: None }))
        );
        assert!(split(r#"{"items":[]}"#, 9).1.unwrap_err().contains("resourceVersion"));
        assert!(split("<html>", 9).1.is_err());
    }

    #[test]
    fn lines_in_pieces() {
        for piece in 1..12 {
            let (mut splitter, mut lines) = (LineSplitter::default(), Vec::new());
            for chunk in b"ab\n\ncdef\ngh".chunks(piece) {
                splitter.feed(chunk, |l| lines.push(String::from_utf8(l.to_vec()).unwrap()));
            }
            assert_eq!(lines, ["ab", "", "cdef"]);
        }
    }
}
