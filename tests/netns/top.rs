//! `tortie top` on a pseudo-terminal of 80x24, beside a node with traffic: its screen is read back by a terminal
//! emulator.

use crate::daemon::{Pair, TORTIE};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

fn sized(n: u16) -> NonZeroU16 {
    NonZeroU16::new(n).unwrap()
}

/// A program on a terminal of its own.
struct OnTerminal {
    child: Child,
    /// Our end, and the program's, which stays open so that it can be asked for its state afterwards.
    ours: File,
    theirs: File,
    emulator: Arc<Mutex<vt100::Parser>>,
}

impl OnTerminal {
    fn start(args: &[&str]) -> OnTerminal {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap().into_string().unwrap();
        let theirs = File::options().read(true).write(true).open(name).unwrap();
        let (ours, emulator) = (File::from(ours), Arc::new(Mutex::new(vt100::Parser::new(sized(24), sized(80), 0))));
        tcsetwinsize(&ours, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let end = || Stdio::from(theirs.try_clone().unwrap());
        // The terminal controls the program: it hears of resizes.
        let child = Command::new("setsid")
            .args(["--ctty", "--wait", TORTIE])
            .args(args)
            .env("TERM", "xterm-256color")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        let (mut reader, screen) = (ours.try_clone().unwrap(), emulator.clone());
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut bytes) {
                screen.lock().unwrap().process(&bytes[..n]);
            }
        });
        OnTerminal { child, ours, theirs, emulator }
    }

    fn screen(&self) -> String {
        self.emulator.lock().unwrap().screen().contents()
    }

    /// Waits for a screen that satisfies; returns it.
    fn expect(&mut self, what: &str, good: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let text = self.screen();
            if good(&text) {
                return text;
            }
            assert!(Instant::now() < end, "{what}; exit: {:?}; on the screen:\n{text}", self.child.try_wait());
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn press(&mut self, keys: &str) {
        self.ours.write_all(keys.as_bytes()).unwrap();
    }

    fn resize(&mut self, rows: u16, cols: u16) {
        self.emulator.lock().unwrap().set_size(sized(rows), sized(cols));
        tcsetwinsize(&self.ours, Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    }

    /// The program's end, and that the terminal is as it was.
    fn end(mut self) -> ExitStatus {
        let end = Instant::now() + Duration::from_secs(10);
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < end, "still there:\n{}", self.screen());
            thread::sleep(Duration::from_millis(10));
        };
        let modes = tcgetattr(&self.theirs).unwrap().local_modes;
        assert!(modes.contains(LocalModes::ICANON | LocalModes::ECHO), "{modes:?}");
        thread::sleep(Duration::from_millis(100));
        let emulator = self.emulator.lock().unwrap();
        assert!(!emulator.screen().alternate_screen() && !emulator.screen().hide_cursor());
        status
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The line that begins with a word, by its words.
fn line(screen: &str, first: &str) -> Option<Vec<String>> {
    let words = |l: &str| l.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    screen.lines().map(words).find(|w| w.first().is_some_and(|f| f == first))
}

fn text(o: &Output) -> String {
    String::from_utf8_lossy(&o.stdout).into_owned() + &String::from_utf8_lossy(&o.stderr)
}

#[test]
fn top_shows_ports_pods_peers_drops_and_workers_and_survives_the_daemon() {
    let mut p = Pair::new("socket", 1);
    p.start();
    p.expect_both_ways("before");
    let _pings = p.a.pod.spawn(&["ping", "-q", "-i", "0.02", &p.b.pod_address()]);
    let _lost = p.a.pod.spawn(&["ping", "-q", "-i", "0.1", "10.244.1.40"]);
    let socket = p.a.socket.to_str().unwrap().to_owned();
    let mut top = OnTerminal::start(&["top", "--interval", "0.3", "--socket", &socket]);
    let moves = |first: &'static str, column: usize| move |s: &str| line(s, first).is_some_and(|w| w.get(column).is_some_and(|n| n != "0"));
    let screen = top.expect("ports", moves("cali0", 3));
    assert!(
        screen.contains("node1") && screen.contains("in sync") && screen.contains("1 Ports") && screen.contains("RX-BIT/S"),
        "{screen}"
    );
    assert!(screen.lines().count() <= 24 && screen.lines().all(|l| l.chars().count() <= 80), "{screen}");
    assert_eq!(line(&screen, "cali0").unwrap()[1..3], ["workload", "af-packet"], "{screen}");
    top.press("2");
    let pod = line(&top.expect("pods", moves("default/pod", 2)), "default/pod").unwrap();
    assert_eq!(pod[1], "10.244.1.5");
    top.press("3");
    // Both directions: requests and their answers.
    let peer = line(&top.expect("peers", |s| moves("node2", 2)(s) && moves("node2", 4)(s)), "node2").unwrap();
    assert_eq!(peer[1], "10.1.0.2");
    top.press("4");
    let screen = top.expect("drops", moves("blackhole", 1));
    assert!(line(&screen, "blackhole").unwrap().join(" ").contains("The destination lies in"), "{screen}");
    top.press("\r");
    top.expect("the reason", |s| s.contains("at port:") && s.contains("cali0:") && s.contains("drops, at most"));
    top.press("\r5");
    let worker = line(&top.expect("workers", moves("0", 2)), "0").unwrap();
    assert!(worker[1].ends_with('%'), "{worker:?}");
    // Sorted, filtered, opened.
    top.press("1s/cali\r");
    let screen = top.expect("a filter", |s| s.contains("\"cali\"") && s.contains("cali0") && !s.contains("eth0"));
    assert!(screen.contains("s sort: TX-PKT/S down"), "{screen}");
    top.press("\r");
    top.expect("details", |s| s.contains("default/pod") && s.contains("10.244.1.5") && s.contains("dropped:") && s.contains("blackhole"));
    // A small screen, and back.
    top.resize(8, 30);
    top.expect("a small screen", |s| s.contains("tortie top") && s.lines().count() <= 8);
    top.resize(24, 80);
    top.expect("the details again", |s| s.contains("addresses:") && s.lines().count() > 12);
    top.press("\r");
    top.expect("a large screen", |s| s.contains("cali0") && s.contains("RX-PKT/S"));
    // The daemon goes, and another comes.
    assert_eq!(p.a.signal("TERM"), Some(true));
    top.expect("no daemon", |s| s.contains("no daemon answers on"));
    p.a.start();
    top.expect("another daemon", |s| !s.contains("no daemon answers") && line(s, "cali0").is_some());
    let pid = format!("pid {}", p.a.client().status().unwrap().pid);
    top.expect("its rates", |s| s.contains(&pid));
    top.press("q");
    assert_eq!(top.end().code(), Some(0));
}

#[test]
fn a_signal_ends_top_and_the_terminal_is_as_before() {
    let mut top = OnTerminal::start(&["top", "--socket", "/nowhere/x.sock"]);
    let screen = top.expect("no daemon", |s| s.contains("no daemon answers on /nowhere/x.sock"));
    assert!(screen.contains("waiting for the first sample"), "{screen}");
    let pid = top.child.id();
    assert!(Command::new("sh").args(["-c", &format!("kill -TERM {pid}")]).status().unwrap().success());
    assert_eq!(top.end().code(), Some(128 + 15));
}

#[test]
fn rates_for_scripts_agree_with_the_traffic() {
    let mut p = Pair::new("socket", 1);
    p.start();
    p.expect_both_ways("before");
    let _pings = p.a.pod.spawn(&["ping", "-q", "-i", "0.02", &p.b.pod_address()]);
    let run =
        |args: &[&str]| Command::new(TORTIE).arg("top").args(args).arg("--socket").arg(&p.a.socket).stdin(Stdio::null()).output().unwrap();
    let out = run(&["--batch", "-n", "2", "--interval", "1", "-o", "json"]);
    assert!(out.status.success(), "{}", text(&out));
    let rates: Vec<Value> = text(&out).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(rates.len(), 2);
    for r in &rates {
        let peer = r["peers"].as_array().unwrap().iter().find(|p| p["node"] == "node2").unwrap();
        let pod = r["ports"].as_array().unwrap().iter().find(|p| p["pod"] == "default/pod").unwrap();
        for direction in ["rx", "tx"] {
            let number = |of: &Value, what: &str| of["traffic"][format!("{direction}_{what}")].as_f64().unwrap();
            let packets = number(peer, "packets");
            // 50 a second, each of 84 bytes inside the tunnel; the machine may be busy.
            assert!((10.0..60.0).contains(&packets), "{packets} {r}");
            assert!((number(peer, "bits") - packets * 84.0 * 8.0).abs() < 1.0, "{r}");
            // At the pod's port with its Ethernet header, and now and then an ARP packet.
            let bits = number(pod, "bits");
            assert!((packets * 90.0 * 8.0..packets * 110.0 * 8.0 + 9000.0).contains(&bits), "{bits} {r}");
        }
        let busy = r["workers"][0]["busy"].as_f64().unwrap();
        assert!(busy > 0.0 && busy <= 1.0, "{r}");
    }
    let out = run(&["--once", "--view", "peers", "--interval", "0.5"]);
    assert!(out.status.success() && text(&out).contains("NODE") && line(&text(&out), "node2").is_some(), "{}", text(&out));
    // Without a terminal and without being told so, there is nothing to draw on.
    let out = run(&[]);
    assert!(out.status.code() == Some(1) && text(&out).contains("tortie top --once"), "{}", text(&out));
    let out = Command::new(TORTIE).args(["top", "--once", "--socket", "/nowhere/x.sock"]).output().unwrap();
    assert!(out.status.code() == Some(1) && text(&out).contains("no daemon answers on /nowhere/x.sock"), "{}", text(&out));
}
