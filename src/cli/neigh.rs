//! `tortie neigh`

use super::table::{Style, Tone};
use crate::ops::view::NeighRow;
use std::fmt::Write;

/// One line per neighbour, in the shape of `ip neigh show`.
pub fn lines(rows: &[NeighRow], style: Style) -> String {
    rows.iter().fold(String::new(), |mut out, r| {
        let lladdr = r.mac.as_ref().map(|m| format!(" lladdr {m}")).unwrap_or_default();
        let node = r.node.as_ref().map(|n| format!(" node {n}")).unwrap_or_default();
        let tone = match r.state.as_str() {
            "failed" | "incomplete" => Tone::Bad,
            "reachable" | "permanent" => Tone::Good,
            _ => Tone::Normal,
        };
        let _ = writeln!(out, "{} dev {}{lladdr}{node} {}", r.address, r.dev, style.paint(tone, &r.state.to_uppercase()));
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_like_ip_neigh() {
        let mut r = NeighRow {
            address: "172.31.1.2".parse().unwrap(),
            dev: "eth0".into(),
            mac: Some("02:00:00:00:00:02".into()),
            state: "reachable".into(),
            node: None,
        };
        assert_eq!(lines(&[r.clone()], Style::Plain), "172.31.1.2 dev eth0 lladdr 02:00:00:00:00:02 REACHABLE\n");
        r.mac = None;
        r.state = "failed".into();
        r.node = Some("n2".into());
        assert_eq!(lines(&[r], Style::Plain), "172.31.1.2 dev eth0 node n2 FAILED\n");
    }
}
