//! The lines of each page.

use super::model::Page;
use super::rates::{PortRate, Rates, TrafficRate, percent, short};
use crate::drop::DropReason;
use std::cmp::Ordering;
use std::net::Ipv4Addr;

/// What a line is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Port(u16, String),
    Peer(Ipv4Addr),
    Drop(String),
    Worker(usize),
}

impl Key {
    pub fn port(p: &PortRate) -> Key {
        Key::Port(p.id, p.name.clone())
    }
}

/// One field: what it reads, and what it sorts by.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    Text(String),
    /// With three digits.
    Rate(f64),
    Share(f64),
    /// In full.
    Count(u64),
}

impl Cell {
    pub fn text(&self) -> String {
        match self {
            Cell::Text(t) => t.clone(),
            Cell::Rate(n) => short(*n),
            Cell::Share(n) => percent(*n),
            Cell::Count(n) => n.to_string(),
        }
    }

    /// Cells of one column are of one kind.
    pub fn cmp(&self, other: &Cell) -> Ordering {
        match (self, other) {
            (Cell::Rate(a), Cell::Rate(b)) | (Cell::Share(a), Cell::Share(b)) => a.total_cmp(b),
            (Cell::Count(a), Cell::Count(b)) => a.cmp(b),
            (a, b) => a.text().cmp(&b.text()),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub key: Key,
    /// As many as the page has columns.
    pub cells: Vec<Cell>,
    /// Something is wrong here: packets are dropped, a port is not up.
    pub bad: bool,
}

/// All lines of a page, in no order.
pub fn rows(page: Page, r: &Rates) -> Vec<Row> {
    match page {
        Page::Ports => r.ports.iter().map(port).collect(),
        Page::Pods => r.ports.iter().filter(|p| p.pod.is_some()).map(pod).collect(),
        Page::Peers => r
            .peers
            .iter()
            .map(|p| {
                let mut cells = vec![Cell::Text(p.name()), Cell::Text(p.address.to_string())];
                cells.extend(traffic(&p.traffic));
                cells.push(Cell::Rate(p.dropped));
                Row { key: Key::Peer(p.address), cells, bad: p.dropped > 0.0 }
            })
            .collect(),
        Page::Drops => r
            .drops
            .iter()
            .map(|d| {
                let cells = vec![
                    Cell::Text(d.reason.clone()),
                    Cell::Rate(d.per_second),
                    Cell::Count(d.total),
                    Cell::Text(meaning(&d.reason).into()),
                ];
                Row { key: Key::Drop(d.reason.clone()), cells, bad: d.per_second > 0.0 }
            })
            .collect(),
        Page::Workers => r
            .workers
            .iter()
            .map(|w| {
                let cells = vec![
                    Cell::Count(w.worker as u64),
                    Cell::Share(w.busy),
                    Cell::Rate(w.received),
                    Cell::Rate(w.sent),
                    Cell::Rate(w.dropped),
                    Cell::Count(w.held),
                    Cell::Rate(w.turns),
                    Cell::Share(w.with_work),
                    Cell::Rate(w.sleeps),
                ];
                Row { key: Key::Worker(w.worker), cells, bad: w.busy > 0.95 }
            })
            .collect(),
    }
}

fn traffic(t: &TrafficRate) -> [Cell; 4] {
    [t.rx_packets, t.rx_bits, t.tx_packets, t.tx_bits].map(Cell::Rate)
}

fn bad(p: &PortRate) -> bool {
    p.state != "up" || p.lost() > 0.0
}

fn port(p: &PortRate) -> Row {
    let driver = p.driver.clone().unwrap_or_else(|| "down".into());
    let mut cells = vec![Cell::Text(p.name.clone()), Cell::Text(p.role.clone()), Cell::Text(driver)];
    cells.extend(traffic(&p.traffic));
    cells.push(Cell::Rate(p.lost()));
    Row { key: Key::port(p), cells, bad: bad(p) }
}

fn pod(p: &PortRate) -> Row {
    let address = p.addresses.first().map_or_else(|| "-".to_owned(), Ipv4Addr::to_string);
    let mut cells = vec![Cell::Text(p.pod.clone().unwrap_or_default()), Cell::Text(address)];
    cells.extend(traffic(&p.traffic));
    cells.push(Cell::Rate(p.lost()));
    Row { key: Key::port(p), cells, bad: bad(p) }
}

/// What a drop reason means, on one line.
pub fn meaning(reason: &str) -> &'static str {
    DropReason::ALL.iter().find(|r| r.name() == reason).map_or("", |r| r.doc())
}
