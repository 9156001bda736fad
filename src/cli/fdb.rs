//! `tortie fdb`

use super::table::Style;
use crate::ops::view::FdbRow;
use std::fmt::Write;

/// One line per VTEP, in the shape of `bridge fdb show`.
pub fn lines(rows: &[FdbRow], _: Style) -> String {
    rows.iter().fold(String::new(), |mut out, r| {
        let _ = writeln!(out, "{} dst {} node {} vni {}", r.mac, r.dst, r.node, r.vni);
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_like_bridge_fdb() {
        let r = FdbRow { mac: "66:b6:a5:9d:e1:c9".into(), dst: "10.0.0.2".parse().unwrap(), node: "n2".into(), vni: 4096 };
        assert_eq!(lines(&[r], Style::Plain), "66:b6:a5:9d:e1:c9 dst 10.0.0.2 node n2 vni 4096\n");
    }
}
