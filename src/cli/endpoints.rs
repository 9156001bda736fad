//! `tortie endpoints`

use super::table::{Style, Table, Tone};
use crate::ops::view::EndpointRow;

pub fn table(rows: &[EndpointRow], style: Style) -> String {
    let mut t = Table::new(&["WORKLOAD", "NAME", "NETWORKS", "INTERFACE", "READY"]);
    for r in rows {
        let networks: Vec<String> = r.addresses.iter().map(|a| format!("{a}/32")).collect();
        let (ready, tone) = if r.ready { ("yes", Tone::Good) } else { ("no", Tone::Bad) };
        let cells = [r.workload.clone(), r.name.clone(), networks.join(","), r.interface.clone()].map(|c| (c, Tone::Normal));
        t.toned(cells.into_iter().chain([(ready.to_owned(), tone)]));
    }
    t.render(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_for_each() {
        let row = |ready| EndpointRow {
            name: "default/n1-k8s-web-eth0".into(),
            workload: "default/web".into(),
            interface: "cali3745790aa7e".into(),
            ifindex: 4,
            netns: None,
            addresses: vec![[10, 244, 1, 2].into()],
            ready,
        };
        let text = table(&[row(true), row(false)], Style::Plain);
        assert!(text.starts_with("WORKLOAD      NAME"), "{text}");
        assert!(text.contains("default/web   default/n1-k8s-web-eth0   10.244.1.2/32   cali3745790aa7e   yes\n"), "{text}");
        assert!(text.ends_with("no\n"), "{text}");
    }
}
