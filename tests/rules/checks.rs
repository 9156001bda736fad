//! The rules. Each takes a source and returns what is wrong with it, as `path:line: what`.

use crate::source::{Source, has_word};

/// Lowest first: a module uses only modules that stand before it. `ops::view`, the plain rows that both the
/// control plane fills in and the tools print, stands below control; the rest of `ops` above.
const LAYERS: &[&str] = &[
    "drop",
    "wire",
    "flows",
    "frame",
    "fib",
    "encap",
    "arp",
    "icmp",
    "port",
    "snapshot",
    "forward",
    "worker",
    "ops::view",
    "control",
    "ops",
    "cni",
    "lab",
    "cli",
    "main",
];

/// Edges that go up, and why they may.
const UPWARD: &[(&str, &str)] = &[];

fn layer(name: &str) -> Option<usize> {
    LAYERS.iter().position(|l| *l == name)
}

pub fn layering(s: &Source) -> Vec<String> {
    let own = if s.path == "src/ops/view.rs" { "ops::view" } else { s.module() };
    if own == "lib" || own == "testing" {
        return Vec::new();
    }
    let Some(rank) = layer(own) else { return vec![format!("{}: module {own} is not in the layering", s.path)] };
    let mut wrong = Vec::new();
    for (line, target) in crate_paths(s) {
        let upward = layer(&target).is_none_or(|t| t > rank);
        let allowed = UPWARD.iter().any(|(from, to)| *from == s.path && *to == target);
        if upward && !allowed && target != own {
            wrong.push(format!("{}:{line}: {own} must not use {target}", s.path));
        }
    }
    wrong
}

/// Every `crate::module` (or `tortie::module`, in main.rs) that shipped code names, with the line.
fn crate_paths(s: &Source) -> Vec<(usize, String)> {
    let mut out = Vec::new();
    for prefix in ["crate::", "tortie::"] {
        for (at, _) in s.shipped.match_indices(prefix) {
            let word = |c: char| c.is_alphanumeric() || c == '_';
            if s.shipped[..at].ends_with(|c: char| word(c) || c == '$' || c == ':') {
                continue;
            }
            let line = s.shipped[..at].matches('\n').count() + 1;
            let rest = &s.shipped[at + prefix.len()..];
            for path in heads(rest) {
                let mut parts = path.split("::");
                let first = parts.next().unwrap_or_default();
                let view = first == "ops" && parts.next().is_some_and(|p| p.starts_with("view"));
                if layer(first).is_some() || first == "testing" {
                    out.push((line, if view { "ops::view".to_owned() } else { first.to_owned() }));
                }
            }
        }
    }
    out
}

/// The path behind `crate::`, or the paths of a braced list.
fn heads(rest: &str) -> Vec<&str> {
    let path = |s: &str| s.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(s.len());
    let Some(list) = rest.strip_prefix('{') else { return vec![&rest[..path(rest)]] };
    let (mut out, mut depth, mut start) = (Vec::new(), 0, 0);
    for (i, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                let item = list[start..i].trim();
                out.push(&item[..path(item)]);
                start = i + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    out
}

/// Dependencies with one door: crate and the paths it may be named in.
const DOORS: &[(&str, &[&str])] = &[
    ("smoltcp", &["src/wire/", "src/testing/"]),
    ("etherparse", &["src/testing/", "src/lab/", "src/cli/"]),
    ("proptest", &["src/testing/"]),
    ("rtnetlink", &["src/control/netlink/"]),
    ("netlink_packet_route", &["src/control/netlink/"]),
    ("notify", &["src/control/"]),
    ("regex", &["src/control/pattern.rs"]),
    ("kube", &["src/control/datastore/"]),
    ("k8s_openapi", &["src/control/datastore/"]),
    ("http", &["src/control/datastore/"]),
    ("hyper", &["src/testing/"]),
    ("hyper_util", &["src/testing/"]),
    ("tokio_rustls", &["src/testing/"]),
    ("rcgen", &["src/testing/"]),
    // Manifests are read in control only; the tools write them.
    ("serde_saphyr", &["src/control/", "src/lab/", "src/cli/"]),
    ("hmac", &["src/control/probe/"]),
    // Interface names by Calico's rule.
    ("sha1", &["src/control/", "src/lab/"]),
    ("prometheus", &["src/ops/metrics/"]),
    // Labels of block affinities by Calico's rule.
    ("sha3", &["src/control/datastore/", "src/control/ipam/"]),
    ("json_patch", &["src/control/resources/patch.rs"]),
    ("prefix_trie", &["src/fib/", "src/control/"]),
    ("arc_swap", &["src/snapshot.rs"]),
    ("crossbeam", &["src/worker/", "src/port/mem.rs", "src/testing/"]),
    ("clap", &["src/cli/", "src/main.rs"]),
    ("ratatui", &["src/cli/top/"]),
    ("clap_complete", &["src/cli/generate.rs"]),
    ("clap_mangen", &["src/cli/generate.rs"]),
    // Descriptors between processes.
    ("rustix", &["src/control/takeover/"]),
    ("flate2", &["src/ops/diags.rs"]),
    ("tar", &["src/ops/diags.rs"]),
    ("tokio", &["src/control/", "src/ops/", "src/cni/", "src/cli/", "src/lab/", "src/testing/", "src/main.rs"]),
    ("tracing", &["src/control/", "src/ops/", "src/cni/", "src/cli/", "src/lab/", "src/main.rs"]),
    ("tracing_journald", &["src/control/logging.rs"]),
    ("tracing_subscriber", &["src/control/logging.rs", "src/cni/log.rs"]),
];

pub fn doors(s: &Source) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, allowed) in DOORS {
        if allowed.iter().any(|a| s.path.starts_with(a)) {
            continue;
        }
        for (n, line) in s.lines() {
            let path = format!("{name}::");
            let named = line.match_indices(&path).any(|(i, _)| !line[..i].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'));
            if named || line.trim_start().starts_with(&format!("use {name};")) {
                wrong.push(format!("{}:{n}: {name} has its door in {}", s.path, allowed.join(", ")));
            }
        }
    }
    wrong
}

/// Where `unsafe` may stand: memory that the kernel shares, and system calls.
const UNSAFE: &[&str] = &[
    "src/frame/memory.rs",
    "src/frame/pool.rs",
    "src/worker/mailbox.rs",
    "src/control/daemon/watch.rs",
    "src/worker/poll.rs",
    "src/port/icmp.rs",
    "src/port/mmsg.rs",
    "src/port/nl.rs",
    "src/port/packet/",
    "src/port/pair.rs",
    "src/port/raw.rs",
    "src/port/receive.rs",
    "src/port/sys.rs",
    "src/port/tcx.rs",
    "src/port/tun.rs",
    "src/port/udp/",
    "src/port/whole.rs",
    "src/port/xsk/",
    "src/lab/sys.rs",
    "src/testing/netns.rs",
];

pub fn unsafe_places(s: &Source) -> Vec<String> {
    if UNSAFE.iter().any(|a| s.path.starts_with(a)) {
        return Vec::new();
    }
    let lines = s.code.lines().enumerate().filter(|(_, l)| has_word(l, "unsafe"));
    lines.map(|(i, _)| format!("{}:{}: unsafe outside the files that talk to the kernel", s.path, i + 1)).collect()
}

/// How far above an `unsafe` its reason may start, in lines of the same statement.
const STATEMENT: usize = 4;

pub fn safety_comments(s: &Source) -> Vec<String> {
    let raw: Vec<&str> = s.raw.lines().collect();
    let mut wrong = Vec::new();
    for (i, line) in s.code.lines().enumerate() {
        let wants = has_word(line, "unsafe") && !line.contains("unsafe fn") && !line.contains("unsafe extern");
        if wants && !explained(&raw, i) {
            wrong.push(format!("{}:{}: unsafe without a SAFETY comment above", s.path, i + 1));
        }
    }
    wrong
}

fn explained(raw: &[&str], at: usize) -> bool {
    let mut code_lines = 0;
    for line in raw[..at].iter().rev().map(|l| l.trim()) {
        if line.starts_with("//") {
            if line.contains("SAFETY:") {
                return true;
            }
        } else {
            code_lines += 1;
            if code_lines > STATEMENT || line.is_empty() || line.ends_with(';') || line.ends_with('}') {
                return false;
            }
        }
    }
    false
}

const PACKET_PATH: &[&str] = &["wire", "flows", "frame", "encap", "fib", "arp", "icmp", "forward", "port", "snapshot"];

/// Never on a packet's way: locks, clocks, logging, output.
const NEVER: &[&str] =
    &["Mutex", "RwLock", "RefCell", "Condvar", "Instant", "SystemTime", "println!", "eprintln!", "print!", "dbg!", "tracing::", "log::"];

/// Files of packet-path folders whose opening and closing functions build error texts.
const FORMATS: &[&str] = &[
    "src/port/error.rs",
    "src/port/handles.rs",
    "src/port/mod.rs",
    "src/port/open.rs",
    "src/port/nl.rs",
    "src/port/packet/",
    "src/port/pair.rs",
    "src/port/probe.rs",
    "src/port/raw.rs",
    "src/port/sys.rs",
    "src/port/tun.rs",
    "src/port/udp/mod.rs",
    "src/port/whole.rs",
    "src/port/xsk/",
    "src/fib/adjacency.rs",
    "src/wire/ether.rs",
];

/// Not even in those files inside a burst: formatting and allocation.
const NEVER_IN_BURST: &[&str] = &["format!", "to_string(", "to_owned(", "to_vec(", "vec!", "Vec::new", "Box::new", "String::"];

pub fn packet_path(s: &Source) -> Vec<String> {
    if !PACKET_PATH.contains(&s.module()) {
        return Vec::new();
    }
    let mut wrong = Vec::new();
    let formats = FORMATS.iter().any(|f| s.path.starts_with(f));
    for (n, line) in s.lines() {
        let bad = NEVER.iter().find(|w| has_word(line, w));
        let text = (!formats).then(|| ["format!", "write!", "to_string("].iter().find(|w| has_word(line, w))).flatten();
        if let Some(w) = bad.or(text) {
            wrong.push(format!("{}:{n}: {w} on a packet's way", s.path));
        }
    }
    // Memory ports copy by design: they are the tests' wires.
    if s.path != "src/port/mem.rs" {
        for name in ["rx_burst", "tx_burst"] {
            wrong.extend(burst(s, name));
        }
    }
    wrong
}

fn burst(s: &Source, name: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for (at, _) in s.shipped.match_indices(&format!("fn {name}(")) {
        let rest = &s.shipped[at..];
        let Some(open) = rest.find(['{', ';']).filter(|i| rest.as_bytes()[*i] == b'{') else { continue };
        let mut depth = 0;
        let end = rest[open..].char_indices().find_map(|(i, c)| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            (depth == 0).then_some(open + i)
        });
        let body = &rest[..end.unwrap_or(rest.len())];
        if let Some(w) = NEVER_IN_BURST.iter().find(|w| body.contains(**w)) {
            wrong.push(format!("{}: {w} in {name}", s.path));
        }
    }
    wrong
}

pub const LINES: usize = 800;

pub fn size(s: &Source) -> Vec<String> {
    let n = s.raw.lines().count();
    if n > LINES { vec![format!("{}: {n} lines, at most {LINES}", s.path)] } else { Vec::new() }
}

/// Marks of unfinished work; assembled here so that this file does not contain them.
pub fn unfinished(path: &str, text: &str) -> Vec<String> {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX"), concat!("to", "do!("), concat!("unimple", "mented!(")];
    let line = |(i, l): (usize, &str)| {
        let mark = marks.iter().find(|m| has_word(l, m))?;
        Some(format!("{path}:{}: {mark}", i + 1))
    };
    text.lines().enumerate().filter_map(line).collect()
}
