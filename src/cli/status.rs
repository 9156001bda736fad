//! `tortie status`

use super::table::{Style, Tone, notes, or_dash};
use crate::ops::view::StatusRow;
use std::fmt::Write;

pub fn lines(r: &StatusRow, style: Style) -> String {
    let sync = if r.in_sync { style.paint(Tone::Good, "in sync") } else { style.paint(Tone::Bad, "not read completely yet") };
    let mut out = String::new();
    let rows: [(&str, String); 9] = [
        ("Node", r.node.clone()),
        ("Version", format!("{}, pid {}", r.version, r.pid)),
        ("Datastore", sync),
        ("Generation", r.generation.to_string()),
        ("Workers", r.workers.to_string()),
        ("Uplink", r.uplink.clone()),
        ("Address", or_dash(&r.address)),
        ("Tunnel address", or_dash(&r.tunnel_address)),
        ("Pod MTU", or_dash(&r.pod_mtu)),
    ];
    for (name, value) in rows {
        let _ = writeln!(out, "{:<18}{value}", format!("{name}:"));
    }
    out.push_str(&notes(style, Tone::Bad, "Problems:", &r.problems));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_listed() {
        let r = StatusRow {
            node: "n1".into(),
            version: "0.1.0".into(),
            pid: 7,
            in_sync: false,
            generation: 3,
            workers: 1,
            uplink: "eth0".into(),
            address: None,
            tunnel_address: Some("10.244.1.0".parse().unwrap()),
            pod_mtu: Some(1450),
            problems: vec!["pool.yaml: spec.cidr: not a prefix".into()],
        };
        let text = lines(&r, Style::Plain);
        assert!(text.starts_with("Node:             n1\nVersion:          0.1.0, pid 7\nDatastore:        not read"), "{text}");
        assert!(text.contains("Address:          -\n") && text.ends_with("Problems:\n  pool.yaml: spec.cidr: not a prefix\n"), "{text}");
    }
}
