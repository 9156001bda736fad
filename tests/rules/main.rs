//! The repository's own rules: layering, one door per dependency, where `unsafe`, locks, clocks and formatting
//! may stand, file sizes, and that the generated documentation is current. Each rule is shown to fail, too.

mod checks;
mod counters;
mod manifests;
mod metrics;
mod source;

use source::{Source, sources};

/// Applies a rule to all of src/ and fails with everything it found.
fn enforce(rule: fn(&Source) -> Vec<String>) {
    let wrong: Vec<String> = sources("src").iter().flat_map(rule).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Asserts that a rule accepts `good` and refuses `bad` as the file `path`.
fn tells_apart(rule: fn(&Source) -> Vec<String>, path: &str, good: &str, bad: &[&str]) {
    assert_eq!(rule(&Source::new(path, good)), Vec::<String>::new(), "{path}: {good}");
    for b in bad {
        assert!(!rule(&Source::new(path, b)).is_empty(), "not refused in {path}: {b}");
    }
}

#[test]
fn modules_use_only_what_stands_below() {
    enforce(checks::layering);
}

#[test]
fn layering_can_fail() {
    let up = ["use crate::forward::X;", "use crate::{fib, worker::Y};", "fn f() { crate::control::z() }", "use crate::testing::q;"];
    tells_apart(checks::layering, "src/fib/a.rs", "use crate::frame::Frame; // crate::cli\nuse crate::{drop, wire::{Mac, be16}};", &up);
    tells_apart(checks::layering, "src/control/a.rs", "use crate::ops::view::Row;", &["use crate::ops::api::X;", "use crate::lab;"]);
    tells_apart(checks::layering, "src/fib/b.rs", "#[cfg(test)]\nmod tests { use crate::testing::x; }", &[]);
    tells_apart(checks::layering, "src/drop.rs", "", &["use crate::wire;"]);
    assert!(!checks::layering(&Source::new("src/newcomer/mod.rs", "")).is_empty());
}

#[test]
fn dependencies_enter_by_their_door() {
    enforce(checks::doors);
}

#[test]
fn doors_can_fail() {
    let bad = ["use tokio::x;", "fn f() { smoltcp::y() }", "use etherparse::Z;", "use crossbeam::queue::Q;", "use rtnetlink::H;"];
    tells_apart(checks::doors, "src/forward/a.rs", "use crate::frame; #[cfg(test)] mod t { use etherparse::X; }", &bad);
    tells_apart(checks::doors, "src/wire/a.rs", "use smoltcp::wire;", &["use tracing::info;"]);
}

#[test]
fn unsafe_stays_where_the_kernel_is() {
    enforce(checks::unsafe_places);
    enforce(checks::safety_comments);
}

#[test]
fn unsafe_rules_can_fail() {
    tells_apart(
        checks::unsafe_places,
        "src/fib/a.rs",
        "// unsafe\nlet s = \"unsafe\";",
        &["unsafe { x() }", "#[cfg(test)] mod t { unsafe {} }"],
    );
    let good = "// SAFETY: long\n// reason\nlet a =\n    unsafe { x() };\n// SAFETY: y\nunsafe impl Send for X {}";
    tells_apart(checks::safety_comments, "src/frame/pool.rs", good, &["unsafe { x() }", "// SAFETY: of another\na();\nunsafe { x() }"]);
}

#[test]
fn the_packet_path_counts_and_does_nothing_else() {
    enforce(checks::packet_path);
}

#[test]
fn packet_path_can_fail() {
    let bad = ["use std::sync::Mutex;", "let t = Instant::now();", "let s = format!(\"x\");", "println!(\"x\");", "tracing::info!(\"x\");"];
    tells_apart(checks::packet_path, "src/forward/a.rs", "// Mutex\n#[cfg(test)] mod t { fn f() { format!(\"\"); } }", &bad);
    let bad = ["fn rx_burst(&mut self) { let v = format!(\"\"); }", "fn tx_burst(a: B) -> C { if x { y } let v = Vec::new(); }"];
    tells_apart(checks::packet_path, "src/port/tun.rs", "fn open() { format!(\"\"); } fn rx_burst(&mut self); fn z() { vec![] }", &bad);
    assert!(checks::packet_path(&Source::new("src/control/a.rs", "use std::sync::Mutex;")).is_empty());
}

#[test]
fn files_are_short() {
    for dir in ["src", "tests", "benches", "fuzz"] {
        let wrong: Vec<String> = sources(dir).iter().flat_map(checks::size).collect();
        assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    }
    tells_apart(checks::size, "src/a.rs", &"\n".repeat(checks::LINES), &[&"\n".repeat(checks::LINES + 1)]);
}

#[test]
fn nothing_is_left_unfinished() {
    let mut wrong = Vec::new();
    for dir in ["src", "tests", "benches", "fuzz", "docs", "config"] {
        for file in source::files(dir, &["rs", "md", "yaml", "toml"]) {
            wrong.extend(checks::unfinished(&file.display().to_string(), &std::fs::read_to_string(&file).expect("readable")));
        }
    }
    for name in ["README.md", "CONTRIBUTING.md", "Makefile", "Cargo.toml"] {
        let Ok(text) = std::fs::read_to_string(source::root().join(name)) else { continue };
        wrong.extend(checks::unfinished(name, &text));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn unfinished_can_fail() {
    for bad in [concat!("// TO", "DO: x"), concat!("to", "do!()"), concat!("a FIX", "ME")] {
        assert_eq!(checks::unfinished("a", &format!("fine\n{bad}")).len(), 1, "{bad}");
    }
    assert!(checks::unfinished("a", "method todos").is_empty());
}

/// `TORTIE_BLESS=1 cargo test --test rules` rewrites the files.
#[test]
fn generated_documents_are_current() {
    let all =
        [("docs/counters.md", "src/drop.rs", counters::document()), ("docs/metrics.md", "src/ops/metrics/family.rs", metrics::document())];
    for (name, source, want) in all {
        let path = source::root().join(name);
        if std::env::var_os("TORTIE_BLESS").is_some() {
            std::fs::create_dir_all(path.parent().expect("docs")).expect("docs can be made");
            std::fs::write(&path, &want).expect("the document can be written");
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        let differs = want.lines().zip(found.lines()).find(|(a, b)| a != b);
        assert!(want == found, "{name} is not what {source} says, first at {differs:?}; run TORTIE_BLESS=1 cargo test --test rules");
    }
}
