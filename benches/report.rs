//! One table of what the other benches measured: every unit of work, where there is one beside the obvious
//! alternatives. Reads what criterion left under `target/criterion`.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// A unit's name in the benches and the names of what it is compared with; `*` stands for the same text in all.
const COMPARED: &[(&str, &[&str])] = &[
    ("lookup/*/batch", &["lookup/*/single", "lookup/*/treebitmap", "lookup/*/prefix-trie"]),
    ("encap/vxlan/*", &["encap/vxlan-etherparse/*", "encap/vxlan-smoltcp/*"]),
    ("checksum/sum/*", &["checksum/etherparse/*", "checksum/smoltcp/*", "checksum/loop/*"]),
    ("segment/segment-into-64k", &["segment/copy-64k"]),
    ("million/lookup-under-change", &["lookup/1m/random/batch"]),
];

/// One bench's median.
struct Measured {
    /// Of one element (a lookup, a packet) where the bench counts some, else of one round; nanoseconds.
    nanos: f64,
    /// Bytes of a round, where the bench counts those.
    bytes: Option<f64>,
}

impl Measured {
    fn show(&self) -> String {
        match (self.bytes, self.nanos) {
            (Some(bytes), ns) => format!("{:.1} GB/s", bytes / ns),
            (None, ns) if ns < 1e3 => format!("{ns:.1} ns"),
            (None, ns) if ns < 1e6 => format!("{:.1} us", ns / 1e3),
            (None, ns) if ns < 1e9 => format!("{:.1} ms", ns / 1e6),
            (None, ns) => format!("{:.2} s", ns / 1e9),
        }
    }
}

fn main() {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let mut found = BTreeMap::new();
    read(&target.join("criterion"), &mut found);
    if found.is_empty() {
        println!("nothing under {}: run `cargo bench --features testing` first", target.join("criterion").display());
    }
    print!("{}", table(&found));
}

/// Every bench under a folder, by its name.
fn read(folder: &Path, found: &mut BTreeMap<String, Measured>) {
    let json = |file: &str| -> Option<Value> { serde_json::from_slice(&std::fs::read(folder.join("new").join(file)).ok()?).ok() };
    if let (Some(bench), Some(estimates)) = (json("benchmark.json"), json("estimates.json"))
        && let (Some(name), Some(round)) = (bench["full_id"].as_str(), estimates["median"]["point_estimate"].as_f64())
    {
        let elements = bench["throughput"]["Elements"].as_f64().unwrap_or(1.0);
        found.insert(name.to_owned(), Measured { nanos: round / elements, bytes: bench["throughput"]["Bytes"].as_f64() });
    }
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten().filter(|e| e.path().is_dir()) {
        read(&entry.path(), found);
    }
}

/// What `*` in a pattern stands for in a name.
fn wild<'a>(pattern: &str, name: &'a str) -> Option<&'a str> {
    match pattern.split_once('*') {
        Some((before, behind)) => name.strip_prefix(before)?.strip_suffix(behind),
        None => (pattern == name).then_some(""),
    }
}

fn table(found: &BTreeMap<String, Measured>) -> String {
    let alternatives = |name: &str| -> Vec<String> {
        let with = |(pattern, others): &(&str, &[&str])| wild(pattern, name).map(|w| others.iter().map(|o| o.replace('*', w)).collect());
        COMPARED.iter().find_map(with).unwrap_or_default()
    };
    let beside: Vec<String> = found.keys().flat_map(|name| alternatives(name)).collect();
    let width = found.keys().map(String::len).max().unwrap_or(0).max(4);
    let mut out = format!("\n{:width$} {:>12}   BESIDE\n", "UNIT", "MEDIAN");
    // A lookup in batches is compared with others, and is itself what lookups under change are compared with.
    for (name, m) in found.iter().filter(|(name, _)| !beside.contains(name) || !alternatives(name).is_empty()) {
        let _ = write!(out, "{name:width$} {:>12}  ", m.show());
        for other in alternatives(name).iter().filter_map(|o| Some((o.as_str(), found.get(o)?))) {
            let _ = write!(out, " {} {} ({:.1} times)", label(other.0), other.1.show(), other.1.nanos / m.nanos);
        }
        out.push('\n');
    }
    out
}

/// The part of an alternative's name that says what it is.
fn label(name: &str) -> &str {
    const KNOWN: [&str; 8] = ["treebitmap", "prefix-trie", "single", "etherparse", "smoltcp", "loop", "copy", "batch"];
    KNOWN.into_iter().find(|k| name.contains(k)).unwrap_or(name)
}
