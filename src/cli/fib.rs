//! `tortie fib`

use super::table::{Style, Table, Tone, or_dash};
use crate::ops::view::FibRow;

pub fn table(rows: &[FibRow], style: Style) -> String {
    let mut t = Table::new(&["PREFIX", "KIND", "VIA", "NODE", "PORT", "MTU", "PACKETS"]);
    for r in rows {
        let tone = match r.kind.as_str() {
            "drop" => Tone::Bad,
            "blackhole" => Tone::Faint,
            _ => Tone::Normal,
        };
        let cells = [or_dash(&r.via), or_dash(&r.node), or_dash(&r.port), or_dash(&r.mtu), or_dash(&r.packets)];
        let head = [(r.prefix.clone(), Tone::Normal), (r.kind.clone(), tone)];
        t.toned(head.into_iter().chain(cells.map(|c| (c, Tone::Normal))));
    }
    t.render(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> FibRow {
        FibRow {
            prefix: "10.244.56.64/26".into(),
            kind: "vxlan".into(),
            via: Some("10.244.56.64".parse().unwrap()),
            node: Some("worker1-k8s".into()),
            port: Some("eth0".into()),
            mtu: Some(1450),
            packets: None,
        }
    }

    #[test]
    fn missing_values_are_dashes() {
        let text = table(&[row()], Style::Plain);
        assert_eq!(text.lines().nth(1).unwrap(), "10.244.56.64/26   vxlan   10.244.56.64   worker1-k8s   eth0   1450   -");
    }

    #[test]
    fn json_has_exactly_the_documented_keys() {
        let v = serde_json::to_value(vec![row()]).unwrap();
        let keys: Vec<_> = v[0].as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, ["kind", "mtu", "node", "packets", "port", "prefix", "via"]);
    }
}
