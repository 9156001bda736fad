//! `tortie config`

use super::table::{Style, Table, Tone};
use crate::ops::view::ConfigRow;

/// One line per setting; what is ignored stands out.
pub fn table(rows: &[ConfigRow], style: Style) -> String {
    let mut t = Table::new(&["KEY", "VALUE", "SOURCE"]);
    for r in rows {
        let tone = match r.source.as_str() {
            "default" => Tone::Faint,
            s if s.starts_with("ignored: ") => Tone::Bad,
            _ => Tone::Normal,
        };
        let value = if r.value.is_empty() { "-" } else { &r.value };
        t.toned([(r.key.clone(), Tone::Normal), (value.to_owned(), Tone::Normal), (r.source.clone(), tone)]);
    }
    t.render(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_with_its_source() {
        let row = |key: &str, value: &str, source: &str| ConfigRow { key: key.into(), value: value.into(), source: source.into() };
        let rows = [row("node", "a", "/etc/tortie/node.yaml:4"), row("AS", "", "default"), row("IP6", "autodetect", "ignored: no IPv6")];
        let text = table(&rows, Style::Plain);
        assert_eq!(
            text,
            "KEY    VALUE        SOURCE\nnode   a            /etc/tortie/node.yaml:4\nAS     -            default\nIP6    autodetect   ignored: no IPv6\n"
        );
        assert!(table(&rows, Style::Colour).contains("\x1b[31mignored: no IPv6\x1b[0m"));
    }
}
