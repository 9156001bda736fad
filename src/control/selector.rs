//! Calico's selectors: expressions over labels, in IPPools, BGPPeers and policies.
//!
//! `||` binds weaker than `&&`, and that weaker than `!`. Operands: `k == 'v'`, `k != 'v'`, `k in {'a', 'b'}`,
//! `k not in {...}`, `k contains 'v'`, `k starts with 'v'`, `k ends with 'v'`, `has(k)`, `all()`, `global()`, and
//! parentheses. An empty selector selects everything.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Deepest nesting of parentheses; expressions are evaluated by recursion.
const MAX_DEPTH: usize = 100;
/// Longest name of a label.
const MAX_LABEL: usize = 512;

/// The text is not a selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{selector:?} is not a selector: {wanted} is expected at character {at}")]
pub struct SelectorError {
    pub selector: String,
    /// Counted from 1.
    pub at: usize,
    pub wanted: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    root: Node,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    All,
    Global,
    Has(String),
    /// Label, comparison, value. A label that is missing equals, contains, starts and ends with nothing.
    Compare(String, Compare, String),
    /// Label and values; `true` for `in`.
    In(String, bool, Vec<String>),
    Not(Box<Node>),
    And(Vec<Node>),
    Or(Vec<Node>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compare {
    Equal,
    NotEqual,
    Contains,
    StartsWith,
    EndsWith,
}

impl Selector {
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.root.matches(labels)
    }

    /// Selects whatever labels there are.
    pub fn is_all(&self) -> bool {
        self.root == Node::All
    }

    /// Whether it is `global()` alone: a NetworkPolicy's rule then means cluster-wide endpoints, not a namespace's.
    pub fn is_global(&self) -> bool {
        self.root == Node::Global
    }
}

impl Node {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Node::All | Node::Global => true,
            Node::Has(label) => labels.contains_key(label),
            Node::Compare(label, compare, value) => compare.holds(labels.get(label), value),
            Node::In(label, inside, values) => labels.get(label).is_some_and(|v| values.contains(v)) == *inside,
            Node::Not(node) => !node.matches(labels),
            Node::And(nodes) => nodes.iter().all(|n| n.matches(labels)),
            Node::Or(nodes) => nodes.iter().any(|n| n.matches(labels)),
        }
    }
}

impl Compare {
    fn holds(self, label: Option<&String>, value: &str) -> bool {
        match self {
            Compare::Equal => label.is_some_and(|l| l == value),
            Compare::NotEqual => label.is_none_or(|l| l != value),
            Compare::Contains => label.is_some_and(|l| l.contains(value)),
            Compare::StartsWith => label.is_some_and(|l| l.starts_with(value)),
            Compare::EndsWith => label.is_some_and(|l| l.ends_with(value)),
        }
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Selector, SelectorError> {
        let mut parser = Parser { text, at: 0, depth: 0 };
        parser.skip_blanks();
        if parser.rest().is_empty() {
            return Ok(Selector { root: Node::All });
        }
        let root = parser.or()?;
        match parser.rest() {
            "" => Ok(Selector { root }),
            _ => Err(parser.error("&&, || or the end")),
        }
    }
}

/// Recursive descent. Each part leaves the parser behind the blanks that follow it.
struct Parser<'a> {
    text: &'a str,
    /// In bytes.
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn error(&self, wanted: &'static str) -> SelectorError {
        SelectorError { selector: self.text.to_owned(), at: self.text[..self.at].chars().count() + 1, wanted }
    }

    fn skip_blanks(&mut self) {
        self.at = self.text.len() - self.rest().trim_start_matches([' ', '\t']).len();
    }

    /// Takes `token` and the blanks behind it, if it stands here.
    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
            self.skip_blanks();
        }
        found
    }

    fn need(&mut self, token: &'static str) -> Result<(), SelectorError> {
        if self.take(token) { Ok(()) } else { Err(self.error(token)) }
    }

    fn or(&mut self) -> Result<Node, SelectorError> {
        self.chain("||", Parser::and, Node::Or)
    }

    fn and(&mut self) -> Result<Node, SelectorError> {
        self.chain("&&", Parser::operation, Node::And)
    }

    fn chain(
        &mut self,
        operator: &str,
        part: fn(&mut Self) -> Result<Node, SelectorError>,
        join: fn(Vec<Node>) -> Node,
    ) -> Result<Node, SelectorError> {
        let first = part(self)?;
        let mut nodes = vec![first];
        while self.take(operator) {
            nodes.push(part(self)?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { join(nodes) })
    }

    fn operation(&mut self) -> Result<Node, SelectorError> {
        let mut negated = false;
        while self.take("!") {
            negated = !negated;
        }
        let node = if self.take("(") { self.parentheses()? } else { self.operand()? };
        Ok(if negated { Node::Not(Box::new(node)) } else { node })
    }

    fn parentheses(&mut self) -> Result<Node, SelectorError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error("a selector with fewer parentheses"));
        }
        let node = self.or()?;
        self.need(")")?;
        self.depth -= 1;
        Ok(node)
    }

    fn operand(&mut self) -> Result<Node, SelectorError> {
        for (token, node) in [("all(", Node::All), ("global(", Node::Global)] {
            if self.take(token) {
                return self.need(")").map(|()| node);
            }
        }
        if self.take("has(") {
            let label = self.label("the name of a label")?;
            return self.need(")").map(|()| Node::Has(label));
        }
        let label = self.label("has(), all(), global(), ! or the name of a label")?;
        self.comparison(label)
    }

    fn comparison(&mut self, label: String) -> Result<Node, SelectorError> {
        let operators = [
            ("==", "", Compare::Equal),
            ("!=", "", Compare::NotEqual),
            ("contains", "", Compare::Contains),
            ("starts", "with", Compare::StartsWith),
            ("ends", "with", Compare::EndsWith),
        ];
        for (word, second, compare) in operators {
            if self.take(word) {
                self.need(second)?;
                return Ok(Node::Compare(label, compare, self.string()?));
            }
        }
        let inside = !self.take("not");
        if !self.take("in") {
            return Err(self.error(if inside { "==, !=, in, not in, contains, starts with or ends with" } else { "in" }));
        }
        Ok(Node::In(label, inside, self.set()?))
    }

    fn label(&mut self, wanted: &'static str) -> Result<String, SelectorError> {
        let rest = self.rest();
        let is_label = |c: char| c.is_ascii_alphanumeric() || "_./-".contains(c);
        let label = &rest[..rest.find(|c| !is_label(c)).unwrap_or(rest.len())];
        if label.is_empty() || label.len() > MAX_LABEL {
            return Err(self.error(wanted));
        }
        self.take(label);
        Ok(label.to_owned())
    }

    /// In single or double quotes; there is no escape.
    fn string(&mut self) -> Result<String, SelectorError> {
        let rest = self.rest();
        let quote = rest.chars().next().filter(|c| ['\'', '"'].contains(c)).ok_or_else(|| self.error("a value in quotes"))?;
        let value = rest[1..].split_once(quote).map(|(value, _)| value).ok_or_else(|| self.error("a value with a closing quote"))?;
        self.at += value.len() + 2;
        self.skip_blanks();
        Ok(value.to_owned())
    }

    /// Values in braces, a comma behind the last allowed.
    fn set(&mut self) -> Result<Vec<String>, SelectorError> {
        self.need("{")?;
        let mut values = Vec::new();
        while !self.take("}") {
            values.push(self.string()?);
            if !self.take(",") {
                self.need("}")?;
                break;
            }
        }
        Ok(values)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.root.fmt(f)
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let joined = |f: &mut fmt::Formatter, nodes: &[Node], operator: &str| {
            let parts: Vec<String> = nodes.iter().map(Node::to_string).collect();
            write!(f, "({})", parts.join(operator))
        };
        match self {
            Node::All => f.write_str("all()"),
            Node::Global => f.write_str("global()"),
            Node::Has(label) => write!(f, "has({label})"),
            Node::Compare(label, compare, value) => write!(f, "{label} {compare} {}", Quoted(value)),
            Node::In(label, inside, values) => {
                let values: Vec<String> = values.iter().map(|v| Quoted(v).to_string()).collect();
                write!(f, "{label} {} {{{}}}", if *inside { "in" } else { "not in" }, values.join(", "))
            }
            Node::Not(node) => write!(f, "!{node}"),
            Node::And(nodes) => joined(f, nodes, " && "),
            Node::Or(nodes) => joined(f, nodes, " || "),
        }
    }
}

impl fmt::Display for Compare {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Compare::Equal => "==",
            Compare::NotEqual => "!=",
            Compare::Contains => "contains",
            Compare::StartsWith => "starts with",
            Compare::EndsWith => "ends with",
        })
    }
}

/// In double quotes, or in single ones if it holds a double one.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let quote = if self.0.contains('"') { '\'' } else { '"' };
        write!(f, "{quote}{}{quote}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selects(selector: &str, labels: &[(&str, &str)]) -> bool {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let parsed: Selector = selector.parse().unwrap_or_else(|e| panic!("{e}"));
        let again: Selector = parsed.to_string().parse().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(parsed, again, "{selector} printed and read again");
        parsed.matches(&labels)
    }

    #[test]
    fn operands() {
        let l = [("a", "xyz"), ("projectcalico.org/b", "1"), ("e", "")];
        for (selector, want) in [
            ("", true),
            ("  ", true),
            ("all()", true),
            ("global( )", true),
            ("has(a)", true),
            ("has( c )", false),
            ("!has(c)", true),
            ("!!has(c)", false),
            ("a == 'xyz'", true),
            ("a=='xyz'", true),
            ("a == \"x'z\"", false),
            ("projectcalico.org/b==\"1\"", true),
            ("c == ''", false),
            ("e == ''", true),
            ("a != 'xyz'", false),
            ("c != 'xyz'", true),
            ("a in {'1', 'xyz'}", true),
            ("a in{'1','xyz',}", true),
            ("a in {}", false),
            ("c in {'1'}", false),
            ("a not in {'1'}", true),
            ("a not\tin {'xyz'}", false),
            ("c not in {'1'}", true),
            ("a contains 'y'", true),
            ("c contains ''", false),
            ("a starts with 'x'", true),
            ("a starts  with 'y'", false),
            ("a ends with 'yz'", true),
            ("has == 'x'", false),
            ("all != 'x'", true),
        ] {
            assert_eq!(selects(selector, &l), want, "{selector}");
        }
    }

    #[test]
    fn precedence() {
        let l = [("a", "1")];
        assert!(selects("has(a) || has(b) && has(c)", &l));
        assert!(!selects("(has(a) || has(b)) && has(c)", &l));
        assert!(selects("!has(b) && has(a)", &l));
        assert!(!selects("!(has(b) || has(a))", &l));
        assert!(selects("(((a == '1')))", &l));
        assert!(!"has(a)".parse::<Selector>().unwrap().is_all() && " all() ".parse::<Selector>().unwrap().is_all());
        assert!("global()".parse::<Selector>().unwrap().is_global());
    }

    #[test]
    fn faults_say_what_is_expected_and_where() {
        for (selector, at, wanted) in [
            ("a", 2, "==, !=, in"),
            ("a = 'b'", 3, "==, !=, in"),
            ("a == b", 6, "a value in quotes"),
            ("a == 'b", 6, "a value with a closing quote"),
            ("a not 'b'", 7, "in"),
            ("a starts 'b'", 10, "with"),
            ("a in 'b'", 6, "{"),
            ("a in {'b'", 10, "}"),
            ("a in {b}", 7, "a value in quotes"),
            ("has()", 5, "the name of a label"),
            ("all(x)", 5, ")"),
            ("(has(a)", 8, ")"),
            ("has(a) has(b)", 8, "&&, || or the end"),
            ("has(a) &&", 10, "has(), all()"),
            ("has(a) & has(b)", 8, "&&, ||"),
            ("é == 'b'", 1, "has(), all()"),
            ("a == 'é' x", 10, "&&, ||"),
        ] {
            let e = selector.parse::<Selector>().unwrap_err();
            assert!(e.at == at && e.wanted.starts_with(wanted), "{selector}: {e}");
        }
        assert_eq!("a".parse::<Selector>().unwrap_err().selector, "a");
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = |n: usize| format!("{}has(a){}", "(".repeat(n), ")".repeat(n)).parse::<Selector>();
        assert!(deep(100).is_ok() && deep(101).is_err() && deep(1_000_000).is_err());
        assert!(format!("{}has(a)", "!".repeat(100_000)).parse::<Selector>().is_ok());
    }
}
