//! `tortie counters`

use super::table::{Style, Table};
use crate::ops::view::CounterRow;

pub fn table(rows: &[CounterRow], style: Style) -> String {
    let mut t = Table::new(&[
        "WORKER",
        "RECEIVED",
        "GENERATED",
        "SENT",
        "PUNTED",
        "DROPPED",
        "COALESCED",
        "HELD",
        "FLOWS-KEPT",
        "EVICTED",
        "TURNS",
        "IDLE-TURNS",
        "SLEEPS",
        "SPINS",
        "FOUND",
        "CONTENDED",
        "EVENTS-LOST",
    ]);
    for r in rows {
        let packets = [r.received, r.generated, r.sent, r.punted, r.dropped, r.coalesced, r.held, r.flows_kept, r.flows_evicted];
        let loops = [r.turns, r.idle_turns, r.sleeps, r.spins, r.spins_found, r.spins_contended, r.events_lost];
        t.row(std::iter::once(r.worker.clone()).chain(packets.iter().chain(&loops).map(u64::to_string)));
    }
    t.render(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_per_worker() {
        let row = CounterRow { worker: "total".into(), received: 12, sent: 11, dropped: 1, ..CounterRow::default() };
        let text = table(&[row], Style::Plain);
        let cells: Vec<_> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(cells, ["total", "12", "0", "11", "0", "1", "0", "0", "0", "0", "0", "0", "0", "0", "0", "0", "0"]);
    }
}
