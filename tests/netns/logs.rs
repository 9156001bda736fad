//! The daemon's log as people and machines read it, and its level while it runs.

use super::daemon::{Node, Pair, TORTIE};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

fn until(what: &str, n: &Node, ok: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !ok() {
        assert!(Instant::now() < end, "{what}\n{:?}\n{}", n.client().log_level(), n.story());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Stops the daemon; what it had written to standard error.
fn stop(n: &mut Node) -> String {
    let mut daemon = n.daemon.take().unwrap();
    n.ns.sh(&format!("kill -TERM {}", daemon.id()));
    assert_eq!(daemon.wait(Duration::from_secs(10)), Some(true));
    let mut text = String::new();
    daemon.child().stderr.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

fn configure(n: &Node, more: &str) {
    let text = std::fs::read_to_string(&n.config).unwrap();
    std::fs::write(&n.config, text + more).unwrap();
}

fn level(n: &Node) -> (String, String) {
    n.client().log_level().map(|r| (r.level, r.source)).unwrap()
}

fn of(level: &str, source: &str) -> (String, String) {
    (level.into(), source.into())
}

#[test]
fn json_is_an_object_a_line() {
    let mut p = Pair::new("socket", 1);
    configure(&p.a, "log: {format: json}\n");
    p.a.start();
    let text = stop(&mut p.a);
    let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect();
    let all = |key: &str| lines.iter().all(|l| l[key].is_string());
    assert!(all("timestamp") && all("level") && all("message"), "{text}");
    assert!(lines.iter().any(|l| l["level"] == "INFO" && l["message"].as_str().unwrap().starts_with("in sync: ")), "{text}");
}

#[test]
fn the_level_follows_the_verb_the_configuration_and_the_cluster() {
    let mut p = Pair::new("socket", 1);
    p.a.start();
    assert_eq!(level(&p.a), of("info", "configuration"));
    let felix = |level: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {{name: default}}\nspec: {{logSeverityScreen: {level}}}\n"
        )
    };
    p.file("felix.yaml", &felix("Warning"));
    until("FelixConfiguration", &p.a, || level(&p.a) == of("warn", "configuration"));

    let socket = p.a.socket.to_str().unwrap().to_owned();
    let verb = |words: &[&str]| {
        let out = p.a.ns.output(&[&[TORTIE, "log-level"], words, &["--socket", &socket]].concat());
        (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned())
    };
    assert_eq!(verb(&[]), (true, "warn (configuration)\n".into()));
    assert_eq!(verb(&["debug"]), (true, "debug (tortie log-level)\n".into()));
    assert!(!verb(&["loud"]).0);
    // What is chosen stays while the cluster's settings change, until a reload.
    p.file("felix.yaml", &felix("Error"));
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(level(&p.a), of("debug", "tortie log-level"));
    p.a.reload(|text| text + "log: {level: trace}\n");
    until("the reload", &p.a, || level(&p.a) == of("trace", "configuration"));
    assert_eq!(verb(&["off"]), (true, "off (tortie log-level)\n".into()));
    p.a.ns.sh("ip link set tunl-tortie down");
    until("put right", &p.a, || p.a.client().status().unwrap().conflicts.len() == 1);
    assert_eq!(verb(&["default"]), (true, "trace (configuration)\n".into()));

    // The last lines are there for who asks, but not what was off.
    let lines = p.a.client().body(tortie::ops::api::Resource::Log, "").unwrap();
    let lines: Vec<String> = serde_json::from_slice(&lines).unwrap();
    assert!(lines.iter().any(|l| l.contains("in sync: ")) && !lines.iter().any(|l| l.contains("conflict: interface")), "{lines:?}");
    let text = stop(&mut p.a);
    assert!(text.contains("INFO in sync: ") && !text.contains("conflict: interface"), "{text}");

    // The environment goes over the file.
    p.a.start_with(&["FELIX_LOGSEVERITYSCREEN=Fatal"]);
    assert_eq!(level(&p.a), of("error", "configuration"));
    stop(&mut p.a);
    p.a.start_with(&["TORTIE_LOG=tortie::control=debug"]);
    assert_eq!(level(&p.a), of("tortie::control=debug", "TORTIE_LOG"));
}

#[test]
fn the_journal_gets_fields() {
    let mut p = Pair::new("socket", 1);
    configure(&p.a, "log: {format: journald}\n");
    let journal = p.dir.path().join("journal");
    std::fs::create_dir(&journal).unwrap();
    let run = format!(
        "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && mount --bind {} /run/systemd/journal && exec {TORTIE} run --config {}",
        journal.display(),
        p.a.config.display()
    );
    let argv = ["unshare", "--mount", "sh", "-c", &run];
    // Nobody listens: said, and no daemon.
    let out = p.a.ns.output(&argv);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && said.contains("log.format: journald: ") && said.contains("set text or json"), "{said}");

    let socket = UnixDatagram::bind(journal.join("socket")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    p.a.daemon = Some(p.a.ns.spawn(&argv));
    let mut entry = vec![0; 65536];
    let fields = loop {
        let n = socket.recv(&mut entry).expect("an entry");
        let fields = fields(&entry[..n]);
        if fields.get("MESSAGE").is_some_and(|m| m.starts_with("in sync: ")) {
            break fields;
        }
    };
    assert_eq!((fields["SYSLOG_IDENTIFIER"].as_str(), fields["PRIORITY"].as_str()), ("tortie", "5"), "{fields:?}");
}

/// An entry of the journal's protocol: `NAME=value`, or the name alone, eight bytes of length, and the value.
fn fields(mut entry: &[u8]) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    while let Some(end) = entry.iter().position(|b| *b == b'\n') {
        let (line, rest) = (&entry[..end], &entry[end + 1..]);
        if let Some(at) = line.iter().position(|b| *b == b'=') {
            out.insert(text(&line[..at]), text(&line[at + 1..]));
            entry = rest;
        } else {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            out.insert(text(line), text(&rest[8..8 + length]));
            entry = &rest[8 + length + 1..];
        }
    }
    out
}
