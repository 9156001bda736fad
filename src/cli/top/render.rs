//! The state on a screen of any size.

use super::model::{HISTORY, Link, Page, Top};
use super::rates::{PortRate, Rates, ReasonRate, TrafficRate, percent, short};
use super::rows::{Key, Row, meaning};
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Row as Cells, Sparkline, Table, TableState};

const HELP: &[&str] = &[
    "1-5, tab        ports, pods, peers, drops, workers",
    "up, down, j, k  move; page up and down, home, end",
    "enter           open one: history, addresses, drop reasons",
    "s, r            sort by the next column; the other way round",
    "/               filter; enter keeps it, escape takes it back",
    "q               quit",
    "",
    "RX: received by the engine: from a pod, from a peer.",
    "TX: sent by it. A super-frame is one packet; bits say",
    "what it holds. DROP: of either direction, and what the",
    "kernel lost on the port's sockets. BUSY: the time that a",
    "worker neither slept nor looked for packets in vain.",
];

/// Draws everything.
pub fn draw(top: &mut Top, frame: &mut Frame<'_>) {
    let [head, tabs, body, foot] =
        Layout::vertical([Constraint::Length(2), Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)]).areas(frame.area());
    let [first, second] = top.headline();
    let bold = Style::new().add_modifier(Modifier::BOLD);
    frame.render_widget(Paragraph::new(vec![Line::styled(first, bold), Line::raw(second)]), head);
    frame.render_widget(Line::from(pages(top)), tabs);
    match (top.open, top.opened()) {
        (true, Some(key)) => details(top, &key, frame, body),
        _ => list(top, frame, body),
    }
    let lost = matches!(top.link, Link::Lost(_)) && top.editing.is_none();
    frame.render_widget(Line::styled(top.footline(), if lost { tone(top, Color::Red) } else { Style::new() }), foot);
    if top.help {
        help(frame);
    }
}

fn tone(top: &Top, colour: Color) -> Style {
    if top.colour { Style::new().fg(colour) } else { Style::new() }
}

fn pages(top: &Top) -> Vec<Span<'static>> {
    let mut out = Vec::new();
    for (i, page) in Page::ALL.into_iter().enumerate() {
        let style = if page == top.page { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
        out.push(Span::styled(format!(" {} {} ", i + 1, page.name()), style));
        out.push(Span::raw(" "));
    }
    out
}

/// Width of a column: numbers take eight characters, the first text column what is left.
fn widths(page: Page) -> Vec<Constraint> {
    let width = |(i, (name, _)): (usize, &(&str, bool))| match (page, i, *name) {
        (Page::Workers, ..) => Constraint::Length(name.len().max(7) as u16),
        (Page::Drops, 0, _) => Constraint::Length(24),
        (Page::Drops, _, "TOTAL") => Constraint::Length(12),
        (_, 0, _) | (_, _, "MEANING") => Constraint::Fill(1),
        (_, _, "DRIVER") => Constraint::Length(9),
        (_, _, "ADDRESS") => Constraint::Length(15),
        _ => Constraint::Length(8),
    };
    page.columns().iter().enumerate().map(width).collect()
}

fn list(top: &mut Top, frame: &mut Frame<'_>, area: Rect) {
    let rows = top.rows();
    let columns = top.page.columns();
    let align = |text: String, number: bool| Line::from(text).alignment(if number { Alignment::Right } else { Alignment::Left });
    let sorted = top.sort().column;
    let heading = columns.iter().enumerate().map(|(i, (name, number))| {
        let style = if i == sorted { Modifier::BOLD | Modifier::UNDERLINED } else { Modifier::BOLD };
        align((*name).to_owned(), *number).style(Style::new().add_modifier(style))
    });
    let red = tone(top, Color::Red);
    let cells = |r: &Row| {
        let cells = r.cells.iter().zip(columns).map(|(c, (_, number))| align(c.text(), *number));
        Cells::new(cells.collect::<Vec<_>>()).style(if r.bad { red } else { Style::new() })
    };
    let mut state = TableState::default().with_selected(top.cursor(&rows)).with_offset(top.offset.min(rows.len()));
    let table = Table::new(rows.iter().map(cells), widths(top.page))
        .header(Cells::new(heading.collect::<Vec<_>>()))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_stateful_widget(table, area, &mut state);
    top.offset = state.offset();
    if rows.is_empty() && area.height > 1 {
        let why = match (&top.rates, top.filter.is_empty()) {
            (None, _) => "",
            (_, false) => "nothing matches the filter",
            (_, true) => "nothing here",
        };
        frame.render_widget(Line::raw(why), Rect { y: area.y + 1, height: 1, ..area });
    }
}

fn details(top: &Top, key: &Key, frame: &mut Frame<'_>, area: Rect) {
    let Some(rates) = &top.rates else { return };
    let (title, lines, names) = about(rates, key);
    let [text, upper, lower] =
        Layout::vertical([Constraint::Length(lines.len() as u16 + 2), Constraint::Fill(1), Constraint::Fill(1)]).areas(area);
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(format!(" {title} "))), text);
    for ((area, data), (name, unit)) in [upper, lower].into_iter().zip(top.history(key)).zip(names) {
        if !name.is_empty() {
            history(top, frame, area, name, unit, &data);
        }
    }
}

/// The newest samples that fit, the newest at the right.
fn history(top: &Top, frame: &mut Frame<'_>, area: Rect, name: &str, unit: Unit, data: &[u64]) {
    let most = data.iter().copied().max().unwrap_or(0);
    let scale = match unit {
        Unit::Bits => format!("{} bit/s", short(most as f64)),
        Unit::Packets => format!("{}/s", short(most as f64)),
        Unit::Thousandths => percent(most as f64 / 1000.0),
    };
    let block = Block::bordered().title(format!(" {name}, at most {scale} in {} of {HISTORY} samples ", data.len()));
    let room = usize::from(block.inner(area).width);
    let mut shown = vec![0; room.saturating_sub(data.len())];
    shown.extend_from_slice(&data[data.len().saturating_sub(room)..]);
    frame.render_widget(Sparkline::default().data(&shown).max(most.max(1)).style(tone(top, Color::Cyan)).block(block), area);
}

#[derive(Clone, Copy)]
enum Unit {
    Bits,
    Packets,
    Thousandths,
}

type About = (String, Vec<Line<'static>>, [(&'static str, Unit); 2]);

const DIRECTIONS: [(&str, Unit); 2] = [("received", Unit::Bits), ("sent", Unit::Bits)];

/// Title, lines, and what the two histories are.
fn about(r: &Rates, key: &Key) -> About {
    match key {
        Key::Port(..) => match r.ports.iter().find(|p| Key::port(p) == *key) {
            Some(p) => (p.pod.clone().unwrap_or_else(|| p.name.clone()), port(p), DIRECTIONS),
            None => gone("the port"),
        },
        Key::Peer(address) => match r.peers.iter().find(|p| p.address == *address) {
            Some(p) => {
                let known = if p.node.is_some() { "a node of the cluster" } else { "not in the cluster: from externalNodesList" };
                let mut lines = vec![line("address", address.to_string()), line("known as", known.into())];
                lines.extend(traffic(&p.traffic));
                lines.push(line(
                    "dropped",
                    format!("{}/s, {} in all, of those known to be for it or from it", short(p.dropped), p.dropped_total),
                ));
                (p.name(), lines, DIRECTIONS)
            }
            None => gone("the node"),
        },
        Key::Drop(reason) => match r.drops.iter().find(|d| d.reason == *reason) {
            Some(d) => {
                let mut lines = vec![
                    line("meaning", meaning(reason).into()),
                    line("packets", format!("{}/s, {} in all", short(d.per_second), d.total)),
                ];
                let at = |p: &PortRate| p.drops.iter().find(|x| x.reason == *reason && x.total > 0).map(|x| (p.name.clone(), x.clone()));
                let mut places: Vec<(String, ReasonRate)> = r.ports.iter().filter_map(at).collect();
                places.sort_by(|a, b| b.1.per_second.total_cmp(&a.1.per_second).then(b.1.total.cmp(&a.1.total)));
                lines.extend(places.iter().take(6).map(|(name, x)| line("at port", format!("{name}: {}", reason_text(x)))));
                (reason.clone(), lines, [("drops", Unit::Packets), ("", Unit::Packets)])
            }
            None => gone("the reason"),
        },
        Key::Worker(n) => match r.workers.iter().find(|w| w.worker == *n) {
            Some(w) => {
                let lines = vec![
                    line("busy", percent(w.busy)),
                    line("packets/s", format!("{} received, {} sent, {} dropped", short(w.received), short(w.sent), short(w.dropped))),
                    line("turns", format!("{}/s, {} of them found packets", short(w.turns), percent(w.with_work))),
                    line("a turn", format!("{} packets", short(w.received / (w.turns * w.with_work).max(1.0)))),
                    line("sleeps", format!("{}/s", short(w.sleeps))),
                    line("held", format!("{} packets wait", w.held)),
                ];
                (format!("worker {n}"), lines, [("busy", Unit::Thousandths), ("received", Unit::Packets)])
            }
            None => gone("the worker"),
        },
    }
}

fn gone(what: &str) -> About {
    (String::new(), vec![Line::raw(format!("{what} is gone"))], [("", Unit::Bits), ("", Unit::Bits)])
}

fn line(name: &str, text: String) -> Line<'static> {
    Line::raw(format!("{:<14}{text}", format!("{name}:")))
}

fn port(p: &PortRate) -> Vec<Line<'static>> {
    let addresses: Vec<String> = p.addresses.iter().map(ToString::to_string).collect();
    let driver = p.driver.clone().unwrap_or_else(|| "none".into());
    let mtu = p.mtu.map_or_else(String::new, |m| format!(", MTU {m}"));
    let mut lines = vec![line("port", format!("{} ({}), {}, driver {driver}{mtu}", p.name, p.role, p.state))];
    if !addresses.is_empty() {
        lines.push(line("addresses", addresses.join(" ")));
    }
    lines.extend(traffic(&p.traffic));
    lines.push(line("dropped/s", format!("{} of what came, {} of what it was to send", short(p.rx_dropped), short(p.tx_dropped))));
    let mut drops: Vec<(&str, &ReasonRate)> = p.drops.iter().map(|d| ("dropped", d)).collect();
    drops.extend(p.kernel_drops.iter().filter(|d| d.total > 0).map(|d| ("kernel lost", d)));
    drops.sort_by(|a, b| b.1.per_second.total_cmp(&a.1.per_second).then(b.1.total.cmp(&a.1.total)));
    lines.extend(drops.iter().take(4).map(|(what, d)| line(what, format!("{}: {}", d.reason, reason_text(d)))));
    lines
}

fn reason_text(d: &ReasonRate) -> String {
    format!("{}/s, {} in all", short(d.per_second), d.total)
}

fn traffic(t: &TrafficRate) -> [Line<'static>; 2] {
    let text = |packets: f64, bits: f64, total: u64, bytes: u64| {
        format!(
            "{} packets/s, {} bit/s; in all {} packets, {} bytes",
            short(packets),
            short(bits),
            short(total as f64),
            short(bytes as f64)
        )
    };
    [
        line("received", text(t.rx_packets, t.rx_bits, t.total.rx_packets, t.total.rx_bytes)),
        line("sent", text(t.tx_packets, t.tx_bits, t.total.tx_packets, t.total.tx_bytes)),
    ]
}

fn help(frame: &mut Frame<'_>) {
    let width = HELP.iter().map(|l| l.len()).max().unwrap_or(0) as u16 + 4;
    let area = frame.area().centered(Constraint::Max(width), Constraint::Max(HELP.len() as u16 + 2));
    frame.render_widget(Clear, area);
    let text: Vec<Line<'_>> = HELP.iter().map(|l| Line::raw(*l)).collect();
    frame.render_widget(Paragraph::new(text).block(Block::bordered().title(" Keys ")), area);
}
