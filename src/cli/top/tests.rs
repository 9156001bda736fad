//! The screen without a terminal: what it shows at 80x24, and what keys and samples do to it.

use super::batch;
use super::model::{Link, Page, Top, Wish};
use super::rates::Rates;
use super::rates::tests::activity;
use super::render::draw;
use super::rows::Key;
use crate::cli::table::Style;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::{Color, Modifier};

/// A node seen for so many seconds.
fn seen(seconds: u64) -> Top {
    let mut top = Top::new(Page::Ports, String::new(), true);
    (0..=seconds).for_each(|n| top.sample(Ok(activity(n, 4, 3))));
    top
}

fn press(top: &mut Top, keys: &str) {
    for c in keys.chars() {
        let code = match c {
            '\n' => KeyCode::Enter,
            '\t' => KeyCode::Tab,
            '\x1b' => KeyCode::Esc,
            '\x08' => KeyCode::Backspace,
            '↓' => KeyCode::Down,
            '↑' => KeyCode::Up,
            c => KeyCode::Char(c),
        };
        assert_eq!(top.key(code.into()), Wish::Stay, "{c:?}");
    }
}

fn terminal(top: &mut Top, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut t = Terminal::new(TestBackend::new(width, height)).unwrap();
    t.draw(|frame| draw(top, frame)).unwrap();
    t
}

/// The screen's text, without spaces at the ends of lines.
fn screen(top: &mut Top) -> String {
    let t = terminal(top, 80, 24);
    let b = t.backend().buffer();
    let line = |y| (0..80).map(|x| b[(x, y)].symbol()).collect::<String>().trim_end().to_owned() + "\n";
    (0..24).map(line).collect()
}

/// Compares with a file beside this one; `TORTIE_BLESS=1` writes it.
fn golden(name: &str, found: &str) {
    let path = format!("{}/src/cli/top/screens/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("TORTIE_BLESS").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, expected, "{path}");
}

#[test]
fn every_page_at_80_by_24() {
    let mut top = seen(30);
    for (key, name) in ["1", "2", "3", "4", "5"].into_iter().zip(["ports", "pods", "peers", "drops", "workers"]) {
        press(&mut top, key);
        golden(name, &screen(&mut top));
    }
    press(&mut top, "2\n");
    golden("pod", &screen(&mut top));
    press(&mut top, "4\n");
    golden("reason", &screen(&mut top));
    press(&mut top, "\n1?");
    golden("help", &screen(&mut top));
}

#[test]
fn any_size_will_do() {
    let mut top = seen(3);
    for (width, height) in (1..=9).chain([20, 40, 79, 80, 200]).flat_map(|w| [1, 2, 3, 4, 5, 6, 10, 24, 60].map(|h| (w, h))) {
        for keys in ["1", "2\n", "3", "4\n", "5\n", "?", "?/web", "\x1b"] {
            press(&mut top, keys);
            terminal(&mut top, width, height);
        }
    }
    // The cursor stays on the screen however small it is.
    let mut top = Top::new(Page::Pods, String::new(), true);
    (0..2).for_each(|n| top.sample(Ok(activity(n, 100, 0))));
    for _ in 0..60 {
        press(&mut top, "↓");
    }
    let t = terminal(&mut top, 80, 8);
    let reversed = |y: u16| t.backend().buffer()[(0, y)].modifier.contains(Modifier::REVERSED);
    assert_eq!((4..7).filter(|y| reversed(*y)).count(), 1);
}

#[test]
fn pages_turn_and_rows_are_sorted_filtered_and_opened() {
    let mut top = seen(2);
    let names = |top: &Top| top.rows().iter().map(|r| r.cells[0].text()).collect::<Vec<_>>();
    press(&mut top, "\t");
    assert_eq!((top.page, names(&top)[0].as_str()), (Page::Pods, "default/web-4"), "most bits first");
    // By the next column, sent packets; then the other way round.
    press(&mut top, "sr");
    assert_eq!((top.page.columns()[top.sort().column].0, names(&top)[0].as_str()), ("TX-PKT/S", "default/web-1"));
    press(&mut top, "sss");
    assert_eq!(top.page.columns()[top.sort().column].0, "POD");
    assert_eq!(names(&top), ["default/web-1", "default/web-2", "default/web-3", "default/web-4"]);
    // The cursor stays on its row when the order changes.
    press(&mut top, "↓r");
    let rows = top.rows();
    assert_eq!(rows[top.cursor(&rows).unwrap()].cells[0].text(), "default/web-2");
    press(&mut top, "↑↑↑↑↓");
    let rows = top.rows();
    assert_eq!(top.cursor(&rows), Some(1));
    // A filter on the address; taken back; and for good.
    press(&mut top, "/.1.3");
    assert_eq!((top.footline().as_str(), names(&top)), ("filter: .1.3_", vec!["default/web-3".to_owned()]));
    press(&mut top, "\x1b");
    assert_eq!(names(&top).len(), 4);
    press(&mut top, "/WEB-2x\x08\n");
    assert_eq!(names(&top), ["default/web-2"]);
    // What is open stays open when the filter lets it through no more.
    press(&mut top, "\n");
    assert!(top.open);
    top.filter = "nothing".into();
    assert_eq!(top.opened(), Some(Key::Port(3, "cali0002".into())));
    press(&mut top, "\n\x1b");
    assert_eq!((top.open, names(&top).len()), (false, 4));
    assert_eq!(top.key(KeyCode::Char('q').into()), Wish::Quit);
    assert_eq!(top.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Wish::Quit);
}

#[test]
fn a_daemon_that_goes_and_comes_back_is_told_of() {
    let mut top = Top::new(Page::Ports, String::new(), false);
    assert!(screen(&mut top).contains("waiting for the first sample"));
    top.sample(Ok(activity(1, 1, 1)));
    assert!(top.rows().is_empty() && screen(&mut top).contains("n1   waiting for the second sample"));
    top.sample(Ok(activity(2, 1, 1)));
    top.sample(Err("no daemon answers on /run/x".into()));
    let text = screen(&mut top);
    assert!(text.contains("no daemon answers on /run/x; trying again") && text.contains("eth0"), "{text}");
    // Another process counts from zero: the last rates stay until it has been seen twice.
    let anew = |n| crate::ops::view::ActivityRow { pid: 8, ..activity(n, 1, 1) };
    top.sample(Ok(anew(0)));
    assert_eq!((top.link.clone(), top.footline().as_str()), (Link::Up, "the daemon was started anew: process 8, before 7"));
    assert_eq!(top.rates.as_ref().unwrap().pid, 7);
    top.sample(Ok(anew(1)));
    assert_eq!((top.rates.as_ref().unwrap().pid, top.note.as_deref()), (8, None));
    assert_eq!(top.rates.as_ref().unwrap().ports[1].traffic.rx_packets, 100.0);
    // What is gone has no history, and says so if it is open.
    press(&mut top, "2\n");
    let key = top.opened().unwrap();
    assert_eq!(top.history(&key)[0].len(), 2);
    top.sample(Ok(crate::ops::view::ActivityRow { pid: 8, ..activity(2, 0, 1) }));
    assert!(top.history(&key)[0].is_empty() && screen(&mut top).contains("the port is gone"));
}

#[test]
fn colour_is_for_terminals_that_have_it() {
    let coloured = |colour| {
        let mut top = seen(2);
        top.colour = colour;
        press(&mut top, "4");
        let t = terminal(&mut top, 80, 24);
        t.backend().buffer().content.iter().any(|c| c.fg != Color::Reset)
    };
    assert!(coloured(true) && !coloured(false));
}

#[test]
fn text_for_scripts_has_every_page_or_one() {
    let rates = Rates::between(&activity(1, 2, 1), &activity(2, 2, 1)).unwrap();
    golden("batch", &batch::text(&rates, None, "", Style::Plain));
    let pods = batch::text(&rates, Some(Page::Pods), "web-2", Style::Plain);
    assert!(pods.lines().count() == 5 && pods.contains("default/web-2   10.244.1.2   300"), "{pods}");
    let json: serde_json::Value = serde_json::to_value(&rates).unwrap();
    assert_eq!((&json["ports"][0]["name"], &json["peers"][0]["traffic"]["rx_bits"]), (&"eth0".into(), &5600.0.into()));
}
