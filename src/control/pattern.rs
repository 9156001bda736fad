//! Regular expressions over interface names, in the syntax that Calico takes (RE2): they match anywhere in a name
//! unless anchored.

use regex::Regex;
use std::fmt;
use std::str::FromStr;

/// One expression. Equal to another if the text is.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

impl Pattern {
    pub fn matches(&self, name: &str) -> bool {
        self.0.is_match(name)
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

/// Why a text is no regular expression, on one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{pattern:?} is not a regular expression: {fault}")]
pub struct PatternError {
    pub pattern: String,
    pub fault: String,
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Pattern, PatternError> {
        Regex::new(text).map(Pattern).map_err(|e| {
            // The parser's message shows the text with a mark below it; its last line says what is wrong.
            let message = e.to_string();
            let fault = message.lines().last().unwrap_or(&message).trim().trim_start_matches("error: ").to_owned();
            PatternError { pattern: text.to_owned(), fault }
        })
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Pattern {}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unanchored_unless_it_says_so() {
        let p = |s: &str| s.parse::<Pattern>().unwrap();
        assert!(p("eth0").matches("myeth01") && !p("^eth0$").matches("eth01") && p("bond[0-9]+").matches("bond4"));
        assert_eq!(p("a.b"), p("a.b"));
        assert_ne!(p("a.b"), p("a\\.b"));
        assert_eq!("eth(".parse::<Pattern>().unwrap_err().to_string(), "\"eth(\" is not a regular expression: unclosed group");
    }
}
