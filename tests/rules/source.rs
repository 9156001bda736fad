//! Rust source as the rules see it: without comments, without the text of literals, and without tests.

use std::path::{Path, PathBuf};

/// One source file.
pub struct Source {
    /// From the repository's root, `/`-separated.
    pub path: String,
    pub raw: String,
    /// `raw` with comments and the contents of literals blanked; line numbers stay.
    pub code: String,
    /// `code` without items under `#[cfg(test)]` (or `any(test, ...)`, `all(test, ...)`).
    pub shipped: String,
}

impl Source {
    pub fn new(path: &str, raw: &str) -> Source {
        let code = blank_text(raw);
        let shipped = if is_test_file(path) { code.replace(|c| c != '\n', " ") } else { blank_tests(&code) };
        Source { path: path.to_owned(), raw: raw.to_owned(), code, shipped }
    }

    /// The module directly under the crate: `fib` for src/fib/lpm.rs, `drop` for src/drop.rs.
    pub fn module(&self) -> &str {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path);
        inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs")
    }

    /// Shipped lines with their numbers, from 1.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.shipped.lines().enumerate().map(|(i, l)| (i + 1, l))
    }
}

/// A file that its parent declares under `#[cfg(test)] mod tests;`.
fn is_test_file(path: &str) -> bool {
    path.starts_with("src/") && (path.ends_with("/tests.rs") || path.contains("/tests/"))
}

pub fn root() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it for tests"))
}

/// All files under `dir` with one of the extensions, sorted.
pub fn files(dir: &str, extensions: &[&str]) -> Vec<PathBuf> {
    let mut out = Vec::new();
    walk(&root().join(dir), extensions, &mut out);
    out.sort();
    out
}

fn walk(dir: &Path, extensions: &[&str], out: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let hidden = path.file_name().is_some_and(|n| n == "target" || n == "artifacts" || n == "corpus");
        if path.is_dir() && !hidden {
            walk(&path, extensions, out);
        } else if path.extension().is_some_and(|e| extensions.iter().any(|x| e == *x)) {
            out.push(path);
        }
    }
}

/// Every Rust file of a folder.
pub fn sources(dir: &str) -> Vec<Source> {
    let read = |p: &PathBuf| {
        let path = p.strip_prefix(root()).expect("walked from the root").to_string_lossy().replace('\\', "/");
        Source::new(&path, &std::fs::read_to_string(p).expect("source is readable"))
    };
    files(dir, &["rs"]).iter().map(read).collect()
}

/// Blanks comments and the contents of string, byte, raw and character literals.
pub fn blank_text(raw: &str) -> String {
    let s: Vec<char> = raw.chars().collect();
    let mut out: Vec<char> = Vec::with_capacity(s.len());
    let mut i = 0;
    let blank = |out: &mut Vec<char>, range: &[char]| out.extend(range.iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
    while i < s.len() {
        let end = match s[i] {
            '/' if s.get(i + 1) == Some(&'/') => find(&s, i, |w| w[0] == '\n'),
            '/' if s.get(i + 1) == Some(&'*') => block_comment(&s, i),
            '"' => quoted(&s, i + 1, '"'),
            'r' if starts_raw(&s, i) => raw_string(&s, i),
            '\'' if is_char_literal(&s, i) => quoted(&s, i + 1, '\''),
            _ => {
                out.push(s[i]);
                i += 1;
                continue;
            }
        };
        blank(&mut out, &s[i..end]);
        i = end;
    }
    out.into_iter().collect()
}

fn find(s: &[char], from: usize, hit: impl Fn(&[char]) -> bool) -> usize {
    (from..s.len()).find(|i| hit(&s[*i..])).unwrap_or(s.len())
}

fn block_comment(s: &[char], from: usize) -> usize {
    let (mut i, mut depth) = (from + 2, 1);
    while i < s.len() && depth > 0 {
        let step = match (s[i], s.get(i + 1)) {
            ('/', Some('*')) => 1,
            ('*', Some('/')) => -1,
            _ => 0,
        };
        depth += step;
        i += if step == 0 { 1 } else { 2 };
    }
    i.min(s.len())
}

fn quoted(s: &[char], from: usize, end: char) -> usize {
    let mut i = from;
    while i < s.len() && s[i] != end {
        i += if s[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(s.len())
}

/// `r"` or `r#..."`, not the end of an identifier and not a raw identifier.
fn starts_raw(s: &[char], i: usize) -> bool {
    let ident = |c: &char| c.is_alphanumeric() || *c == '_';
    let before_ok = i == 0 || !ident(&s[i - 1]) || (s[i - 1] == 'b' && (i < 2 || !ident(&s[i - 2])));
    let hashes = s[i + 1..].iter().take_while(|c| **c == '#').count();
    before_ok && s.get(i + 1 + hashes) == Some(&'"')
}

fn raw_string(s: &[char], i: usize) -> usize {
    let hashes = s[i + 1..].iter().take_while(|c| **c == '#').count();
    let open = i + 2 + hashes;
    let closed = find(s, open, |w| w[0] == '"' && w[1..].iter().take_while(|c| **c == '#').count() >= hashes);
    (closed + 1 + hashes).min(s.len())
}

/// A quote starts a literal, not a lifetime, if an escape or one character and a quote follow.
fn is_char_literal(s: &[char], i: usize) -> bool {
    s.get(i + 1) == Some(&'\\') || s.get(i + 2) == Some(&'\'')
}

/// Blanks the items that only tests see.
pub fn blank_tests(code: &str) -> String {
    let mut out = code.to_owned();
    for marker in ["#[cfg(test)]", "#[cfg(any(test", "#[cfg(all(test", "#[test]"] {
        while let Some(at) = out.find(marker) {
            let end = item_end(&out, at);
            let blanked: String = out[at..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
            out.replace_range(at..end, &blanked);
        }
    }
    out
}

/// Where the item behind the attributes at `at` ends: its closing brace, or a semicolon before any brace.
fn item_end(code: &str, at: usize) -> usize {
    let (mut braces, mut brackets) = (0, 0);
    for (i, c) in code[at..].char_indices() {
        match c {
            '[' | '(' => brackets += 1,
            ']' | ')' => brackets -= 1,
            '{' => braces += 1,
            '}' => {
                braces -= 1;
                if braces == 0 {
                    return at + i + 1;
                }
            }
            ';' if braces == 0 && brackets == 0 => return at + i + 1,
            _ => {}
        }
    }
    code.len()
}

/// Whether `word` stands in `line` on its own, not as part of a longer name.
pub fn has_word(line: &str, word: &str) -> bool {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(i, _)| {
        let starts_named = word.starts_with(|c: char| c.is_alphanumeric());
        let ends_named = word.ends_with(|c: char| c.is_alphanumeric());
        let longer_left = starts_named && part(line[..i].chars().next_back());
        let longer_right = ends_named && part(line[i + word.len()..].chars().next());
        !longer_left && !longer_right
    })
}

#[test]
fn text_and_tests_are_blanked_and_lines_stay() {
    let raw = "let a = \"unsafe { \\\" \"; // unsafe\n/* unsafe /* x */ */ let b = 'u';\nlet c: &'static str = r#\"unsafe\"#;\nreal();\n";
    let code = blank_text(raw);
    assert!(!code.contains("unsafe") && code.contains("'static") && code.contains("real();"));
    assert_eq!(code.lines().count(), raw.lines().count());
    let s = Source::new("src/x.rs", "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { if x {} }\n}\n#[cfg(test)]\nuse z;\nfn c() {}\n");
    assert!(s.shipped.contains("fn a") && s.shipped.contains("fn c") && !s.shipped.contains("fn b") && !s.shipped.contains("use z"));
    assert!(Source::new("src/x/tests.rs", "fn a() {}").shipped.trim().is_empty());
    assert!(has_word("use tokio::x", "tokio") && !has_word("my_tokio", "tokio") && !has_word("tokios", "tokio"));
}
