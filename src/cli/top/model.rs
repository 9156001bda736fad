//! What is shown and how it changes: by keys and by samples. No terminal in here.

use super::rates::{Rates, percent, short};
use super::rows::{Cell, Key, Row, rows};
use crate::ops::view::ActivityRow;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use std::collections::{BTreeMap, VecDeque};

/// Samples that a history keeps.
pub const HISTORY: usize = 120;

/// What a page lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Page {
    Ports,
    Pods,
    Peers,
    Drops,
    Workers,
}

impl Page {
    pub const ALL: [Page; 5] = [Page::Ports, Page::Pods, Page::Peers, Page::Drops, Page::Workers];

    pub fn name(self) -> &'static str {
        match self {
            Page::Ports => "Ports",
            Page::Pods => "Pods",
            Page::Peers => "Peers",
            Page::Drops => "Drops",
            Page::Workers => "Workers",
        }
    }

    /// Headings of the columns, and whether the column is of numbers.
    pub fn columns(self) -> &'static [(&'static str, bool)] {
        const TRAFFIC: (&str, &str, &str, &str) = ("RX-PKT/S", "RX-BIT/S", "TX-PKT/S", "TX-BIT/S");
        const RX_P: (&str, bool) = (TRAFFIC.0, true);
        const RX_B: (&str, bool) = (TRAFFIC.1, true);
        const TX_P: (&str, bool) = (TRAFFIC.2, true);
        const TX_B: (&str, bool) = (TRAFFIC.3, true);
        const LOST: (&str, bool) = ("DROP/S", true);
        match self {
            Page::Ports => &[("NAME", false), ("ROLE", false), ("DRIVER", false), RX_P, RX_B, TX_P, TX_B, LOST],
            Page::Pods => &[("POD", false), ("ADDRESS", false), RX_P, RX_B, TX_P, TX_B, LOST],
            Page::Peers => &[("NODE", false), ("ADDRESS", false), RX_P, RX_B, TX_P, TX_B, LOST],
            Page::Drops => &[("REASON", false), ("DROP/S", true), ("TOTAL", true), ("MEANING", false)],
            Page::Workers => &[
                ("WORKER", true),
                ("BUSY", true),
                ("RX-PKT/S", true),
                ("TX-PKT/S", true),
                ("DROP/S", true),
                ("HELD", true),
                ("TURNS/S", true),
                ("WITH-WORK", true),
                ("SLEEPS/S", true),
            ],
        }
    }

    /// The column that a page is sorted by at first: the one that says where the load is.
    fn first_sort(self) -> Sort {
        let column = match self {
            Page::Ports => 4,
            Page::Pods | Page::Peers => 3,
            Page::Drops => 1,
            Page::Workers => return Sort { column: 0, descending: false },
        };
        Sort { column, descending: true }
    }

    fn index(self) -> usize {
        self as usize
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sort {
    pub column: usize,
    pub descending: bool,
}

/// Whether the daemon answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// Nothing has come yet.
    Waiting,
    Up,
    /// Why not.
    Lost(String),
}

/// What a key asks of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Stay,
    Quit,
}

/// The state of the screen.
pub struct Top {
    pub page: Page,
    sorts: [Sort; 5],
    pub filter: String,
    /// The filter is being typed; what it was before.
    pub editing: Option<String>,
    /// The row that the cursor is on, by what it is about.
    selected: Option<Key>,
    /// Details of the selected row instead of the list.
    pub open: bool,
    pub help: bool,
    pub link: Link,
    /// Something that happened and is worth a line.
    pub note: Option<String>,
    pub colour: bool,
    /// First row on the screen, kept by the renderer.
    pub offset: usize,
    last: Option<ActivityRow>,
    pub rates: Option<Rates>,
    history: BTreeMap<Key, VecDeque<[u64; 2]>>,
}

impl Top {
    pub fn new(page: Page, filter: String, colour: bool) -> Top {
        Top {
            page,
            sorts: Page::ALL.map(Page::first_sort),
            filter,
            editing: None,
            selected: None,
            open: false,
            help: false,
            link: Link::Waiting,
            note: None,
            colour,
            offset: 0,
            last: None,
            rates: None,
            history: BTreeMap::new(),
        }
    }

    pub fn sort(&self) -> Sort {
        self.sorts[self.page.index()]
    }

    /// The rows of the page, filtered and sorted.
    pub fn rows(&self) -> Vec<Row> {
        let Some(rates) = &self.rates else { return Vec::new() };
        arrange(rows(self.page, rates), &self.filter, self.sort())
    }

    /// Position of the cursor among the rows: the first row if what it was on is not there.
    pub fn cursor(&self, rows: &[Row]) -> Option<usize> {
        let at = self.selected.as_ref().and_then(|key| rows.iter().position(|r| r.key == *key));
        at.or((!rows.is_empty()).then_some(0))
    }

    /// What details are about.
    pub fn opened(&self) -> Option<Key> {
        let rows = self.rows();
        match &self.selected {
            // What is open stays so, wherever sorting puts it and whatever the filter says.
            Some(key) if self.open => Some(key.clone()),
            _ => self.cursor(&rows).map(|i| rows[i].key.clone()),
        }
    }

    /// Received and sent bits per second, oldest first; of a worker, its load in thousandths; of a reason, its drops.
    pub fn history(&self, key: &Key) -> [Vec<u64>; 2] {
        let all = self.history.get(key);
        [0, 1].map(|i| all.map(|h| h.iter().map(|v| v[i]).collect()).unwrap_or_default())
    }

    /// Takes in an answer of the daemon, or why there is none.
    pub fn sample(&mut self, sample: Result<ActivityRow, String>) {
        let now = match sample {
            Ok(now) => now,
            Err(why) => {
                self.link = Link::Lost(why);
                return;
            }
        };
        if let Some(last) = &self.last {
            if now.pid != last.pid {
                self.note = Some(format!("the daemon was started anew: process {}, before {}", now.pid, last.pid));
            } else if self.link != Link::Up {
                self.note = Some("the daemon answers again".into());
            } else {
                self.note = None;
            }
            if let Some(rates) = Rates::between(last, &now) {
                self.remember(&rates);
                self.rates = Some(rates);
            }
        }
        self.link = Link::Up;
        self.last = Some(now);
    }

    fn remember(&mut self, r: &Rates) {
        let mut now: BTreeMap<Key, [u64; 2]> = BTreeMap::new();
        now.extend(r.ports.iter().map(|p| (Key::port(p), [p.traffic.rx_bits as u64, p.traffic.tx_bits as u64])));
        now.extend(r.peers.iter().map(|p| (Key::Peer(p.address), [p.traffic.rx_bits as u64, p.traffic.tx_bits as u64])));
        now.extend(r.drops.iter().map(|d| (Key::Drop(d.reason.clone()), [d.per_second as u64, 0])));
        now.extend(r.workers.iter().map(|w| (Key::Worker(w.worker), [(w.busy * 1000.0) as u64, w.received as u64])));
        // What is gone has no history.
        self.history.retain(|key, _| now.contains_key(key));
        for (key, value) in now {
            let all = self.history.entry(key).or_default();
            if all.len() == HISTORY {
                all.pop_front();
            }
            all.push_back(value);
        }
    }

    /// What a key does.
    pub fn key(&mut self, key: KeyEvent) -> Wish {
        if key.kind == KeyEventKind::Release {
            return Wish::Stay;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) && matches!(key.code, KeyCode::Char('c' | 'd')) {
            return Wish::Quit;
        }
        if self.editing.is_some() {
            self.edit(key.code);
            return Wish::Stay;
        }
        if self.help {
            self.help = false;
            return Wish::Stay;
        }
        match key.code {
            KeyCode::Char('q') => return Wish::Quit,
            KeyCode::Char('?' | 'h') => self.help = true,
            KeyCode::Char('/') => self.editing = Some(std::mem::take(&mut self.filter)),
            KeyCode::Char('s') => self.sort_by_next(),
            KeyCode::Char('r') => self.sorts[self.page.index()].descending ^= true,
            KeyCode::Char(c @ '1'..='5') => self.turn_to(Page::ALL[c as usize - '1' as usize]),
            KeyCode::Tab | KeyCode::Right => self.turn_to(Page::ALL[(self.page.index() + 1) % 5]),
            KeyCode::BackTab | KeyCode::Left => self.turn_to(Page::ALL[(self.page.index() + 4) % 5]),
            KeyCode::Enter if !self.open => {
                self.selected = self.opened();
                self.open = self.selected.is_some();
            }
            KeyCode::Enter | KeyCode::Backspace => self.open = false,
            KeyCode::Esc if self.open => self.open = false,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::PageUp => self.step(-10),
            KeyCode::PageDown | KeyCode::Char(' ') => self.step(10),
            KeyCode::Home => self.step(isize::MIN),
            KeyCode::End => self.step(isize::MAX),
            _ => {}
        }
        Wish::Stay
    }

    fn edit(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.editing = None,
            // As it was.
            KeyCode::Esc => self.filter = self.editing.take().unwrap_or_default(),
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) if self.filter.len() < 64 => self.filter.push(c),
            _ => {}
        }
    }

    fn turn_to(&mut self, page: Page) {
        if page != self.page {
            (self.page, self.open, self.offset, self.selected) = (page, false, 0, None);
        }
    }

    fn sort_by_next(&mut self) {
        let columns = self.page.columns();
        let sort = &mut self.sorts[self.page.index()];
        sort.column = (sort.column + 1) % columns.len();
        // Numbers: most first; names: by the alphabet.
        sort.descending = columns[sort.column].1;
    }

    fn step(&mut self, by: isize) {
        let rows = self.rows();
        let Some(at) = self.cursor(&rows) else { return };
        let to = at.saturating_add_signed(by).min(rows.len() - 1);
        self.selected = Some(rows[to].key.clone());
    }

    /// The first lines: the node and what it does in all.
    pub fn headline(&self) -> [String; 2] {
        let Some(r) = &self.rates else {
            let first = match &self.last {
                Some(a) => format!("tortie top   {}   waiting for the second sample", a.node),
                None => "tortie top   waiting for the first sample".into(),
            };
            return [first, String::new()];
        };
        let [received, sent, dropped] = r.packets().map(short);
        let workers = r.workers.len();
        let first = format!(
            "tortie top   {}   {}   FIB generation {}, {} routes   {workers} worker{} {} busy",
            r.node,
            if r.in_sync { "in sync" } else { "NOT IN SYNC" },
            r.generation,
            r.routes,
            if workers == 1 { "" } else { "s, the most" },
            percent(r.load()),
        );
        [first, format!("packets/s: {received} received, {sent} sent, {dropped} dropped   {} peers   pid {}", r.peers.len(), r.pid)]
    }

    /// The last line.
    pub fn footline(&self) -> String {
        if self.editing.is_some() {
            return format!("filter: {}_", self.filter);
        }
        if let Link::Lost(why) = &self.link {
            return format!("{why}; trying again");
        }
        if let Some(note) = &self.note {
            return note.clone();
        }
        let sort = self.sort();
        let order = if sort.descending { "down" } else { "up" };
        let filter = if self.filter.is_empty() { String::new() } else { format!(" \"{}\"", self.filter) };
        if self.open {
            return "enter back   1-5 pages   ? help   q quit".into();
        }
        format!("s sort: {} {order}   / filter{filter}   enter open   ? help   q quit", self.page.columns()[sort.column].0)
    }
}

/// Rows that match a filter, sorted; equal ones by their first column.
pub fn arrange(mut rows: Vec<Row>, filter: &str, sort: Sort) -> Vec<Row> {
    let filter = filter.to_lowercase();
    rows.retain(|r| filter.is_empty() || r.cells.iter().any(|c| matches!(c, Cell::Text(t) if t.to_lowercase().contains(&filter))));
    rows.sort_by(|a, b| {
        let by = a.cells[sort.column].cmp(&b.cells[sort.column]);
        let by = if sort.descending { by.reverse() } else { by };
        by.then_with(|| a.cells[0].cmp(&b.cells[0]))
    });
    rows
}

/// As [`Top::rows`], of a page at its first order: for output without a screen.
pub fn listed(page: Page, rates: &Rates, filter: &str) -> Vec<Row> {
    arrange(rows(page, rates), filter, page.first_sort())
}
