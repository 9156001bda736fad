//! Text for people: aligned columns the way calicoctl prints them, and colour where a person looks.

use std::io::IsTerminal;

/// Whether to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Plain,
    Colour,
}

/// What a piece of text says about the state of things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Normal,
    Heading,
    Good,
    Bad,
    Faint,
}

impl Style {
    /// Colour on a terminal, unless NO_COLOR is set to something (no-color.org) or the terminal is dumb.
    pub fn of_stdout() -> Style {
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|v| v == "dumb");
        if std::io::stdout().is_terminal() && !no_colour && !dumb { Style::Colour } else { Style::Plain }
    }

    /// `text` in the colour of `tone` (ECMA-48 SGR).
    pub fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Normal => return text.to_owned(),
            Tone::Heading => "1",
            Tone::Good => "32",
            Tone::Bad => "31",
            Tone::Faint => "2",
        };
        if self == Style::Plain || text.is_empty() { text.to_owned() } else { format!("\x1b[{code}m{text}\x1b[0m") }
    }
}

/// Least width of a column, its gap included.
const MIN_WIDTH: usize = 5;
/// Spaces between columns.
const GAP: usize = 3;

/// Rows under a heading; columns as wide as their longest cell.
pub struct Table {
    rows: Vec<Vec<(String, Tone)>>,
}

impl Table {
    pub fn new(heading: &[&str]) -> Table {
        Table { rows: vec![heading.iter().map(|h| ((*h).to_owned(), Tone::Heading)).collect()] }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.toned(cells.into_iter().map(|c| (c, Tone::Normal)));
    }

    pub fn toned(&mut self, cells: impl IntoIterator<Item = (String, Tone)>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The text, one line per row. No spaces at the end of a line.
    pub fn render(&self, style: Style) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |c: usize| self.rows.iter().filter_map(|r| r.get(c)).map(|(t, _)| t.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(|c| (width(c) + GAP).max(MIN_WIDTH)).collect();
        let mut out = String::new();
        for row in &self.rows {
            let last = row.iter().rposition(|(t, _)| !t.is_empty()).map_or(0, |p| p + 1);
            for (c, (text, tone)) in row[..last].iter().enumerate() {
                out.push_str(&style.paint(*tone, text));
                if c + 1 < last {
                    out.extend(std::iter::repeat_n(' ', widths[c] - text.chars().count()));
                }
            }
            out.push('\n');
        }
        out
    }
}

/// `-` for nothing.
pub fn or_dash<T: ToString>(v: &Option<T>) -> String {
    v.as_ref().map_or_else(|| "-".to_owned(), T::to_string)
}

/// An indented list under a heading, nothing if the list is empty.
pub fn notes(style: Style, tone: Tone, heading: &str, lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let mut out = style.paint(Tone::Heading, heading) + "\n";
    for l in lines {
        out.push_str(&format!("  {}\n", style.paint(tone, l)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_like_calicoctl() {
        let mut t = Table::new(&["NAME", "A", "SELECTOR"]);
        t.row(["default-ipv4-ippool".into(), "x".into(), "all()".into()]);
        t.row(["b".into(), String::new(), String::new()]);
        assert_eq!(t.render(Style::Plain), "NAME                  A    SELECTOR\ndefault-ipv4-ippool   x    all()\nb\n");
    }

    #[test]
    fn colour_does_not_move_columns() {
        let mut t = Table::new(&["STATE", "N"]);
        t.toned([("up".into(), Tone::Good), ("1".into(), Tone::Normal)]);
        let coloured = t.render(Style::Colour);
        assert!(coloured.contains("\x1b[32mup\x1b[0m      1"), "{coloured:?}");
        let mut plain = coloured;
        for code in ["\x1b[1m", "\x1b[32m", "\x1b[0m"] {
            plain = plain.replace(code, "");
        }
        assert_eq!(plain, t.render(Style::Plain));
    }
}
