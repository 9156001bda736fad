//! `tortie drops`

use super::Outcome;
use super::table::{Style, Table};
use super::view;
use crate::ops::view::DropRow;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show reasons without packets too (JSON and YAML always do)
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    view: view::View,
}

pub fn show(args: &Args) -> Outcome {
    view::show(&args.view, |c| c.drops(), |rows, s| table(rows, args.all, s))
}

fn table(rows: &[DropRow], all: bool, style: Style) -> String {
    let mut t = Table::new(&["REASON", "PACKETS"]);
    for r in rows.iter().filter(|r| all || r.packets > 0) {
        t.row([r.reason.clone(), r.packets.to_string()]);
    }
    t.render(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroes_are_shown_on_request() {
        let rows = [DropRow { reason: "no-route".into(), packets: 2 }, DropRow { reason: "ip-martian".into(), packets: 0 }];
        assert_eq!(table(&rows, false, Style::Plain), "REASON     PACKETS\nno-route   2\n");
        assert!(table(&rows, true, Style::Plain).ends_with("ip-martian   0\n"));
    }
}
