//! `tortie ports`

use super::table::{Style, Table, Tone, notes, or_dash};
use crate::ops::view::PortRow;

pub fn table(rows: &[PortRow], style: Style) -> String {
    let mut t = Table::new(&[
        "ID",
        "NAME",
        "ROLE",
        "DRIVER",
        "STATE",
        "MTU",
        "QUEUES",
        "RX-FRAMES",
        "RX-BYTES",
        "TX-FRAMES",
        "TX-BYTES",
        "TX-DROPPED",
        "KERNEL-DROPS",
    ]);
    for r in rows {
        let state = if r.state == "up" { Tone::Good } else { Tone::Bad };
        let mut cells = vec![r.id.to_string(), r.name.clone(), r.role.clone(), or_dash(&r.driver)];
        cells.push(r.state.clone());
        cells.push(or_dash(&r.mtu));
        cells.push(r.queues.to_string());
        cells.extend([r.rx_frames, r.rx_bytes, r.tx_frames, r.tx_bytes, r.tx_dropped].map(|n| n.to_string()));
        cells.push(r.kernel_drops.iter().map(|d| d.packets).sum::<u64>().to_string());
        t.toned(cells.into_iter().enumerate().map(|(i, c)| (c, if i == 4 { state } else { Tone::Normal })));
    }
    let mut refused: Vec<String> = rows.iter().flat_map(|r| r.refused.iter().map(|why| format!("{}: {why}", r.name))).collect();
    // The uplink's ports are opened together, and share their reasons.
    refused.dedup();
    let mut out = t.render(style);
    if !refused.is_empty() {
        out.push('\n');
        out.push_str(&notes(style, Tone::Faint, "Drivers not used:", &refused));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::view::DropRow;

    #[test]
    fn refusals_are_listed_below() {
        let r = PortRow {
            id: 1,
            name: "eth0".into(),
            role: "uplink".into(),
            driver: Some("udp-socket".into()),
            refused: vec!["af-xdp: no permission".into()],
            state: "up".into(),
            mtu: Some(1500),
            queues: 1,
            rx_frames: 1,
            rx_bytes: 2,
            tx_frames: 3,
            tx_bytes: 4,
            tx_dropped: 5,
            kernel_drops: vec![DropRow { reason: "a".into(), packets: 60 }, DropRow { reason: "b".into(), packets: 7 }],
        };
        let text = table(&[r.clone(), r], Style::Plain);
        assert!(
            text.contains(
                "eth0   uplink   udp-socket   up      1500   1        1           2          3           4          5            67\n"
            ),
            "{text}"
        );
        assert!(text.ends_with("\nDrivers not used:\n  eth0: af-xdp: no permission\n"), "{text}");
    }
}
