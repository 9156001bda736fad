//! Instructions per operation, counted by `valgrind --tool=callgrind`: the same on a busy machine and an idle
//! one, so a bound on them can fail a build. Each case runs twice in a child of its own, with N and 2N
//! operations; the difference is free of start-up.
//!
//! `cargo bench --bench instructions` prints the table and fails when a bound is exceeded. Without valgrind it
//! says so and fails: `apt-get install valgrind`.

#[path = "support/path.rs"]
mod path;
mod support;

use path::Path;
use std::hint::black_box;
use std::process::{Command, ExitCode};
use support::{Encap, blocks, internet, random_dsts, table};
use tortie::fib::AdjId;

/// A case: name, operations of the short run, bound in instructions per operation, and the work.
struct Case {
    name: &'static str,
    ops: usize,
    bound: f64,
    run: fn(usize),
}

/// Bounds leave about 15 % above what was measured when they were set.
const CASES: &[Case] = &[
    Case { name: "idle ports, 64 bytes", ops: 6400, bound: 104.0, run: |n| path(n, Encap::Vxlan, 64, Path::idle) },
    Case { name: "forward pod to vxlan, 64 bytes", ops: 6400, bound: 660.0, run: |n| path(n, Encap::Vxlan, 64, Path::outward) },
    Case { name: "forward vxlan to pod, 64 bytes", ops: 6400, bound: 785.0, run: |n| path(n, Encap::Vxlan, 64, Path::inward) },
    Case { name: "forward pod to ipip, 64 bytes", ops: 6400, bound: 640.0, run: |n| path(n, Encap::Ipip, 64, Path::outward) },
    Case { name: "forward ipip to pod, 64 bytes", ops: 6400, bound: 705.0, run: |n| path(n, Encap::Ipip, 64, Path::inward) },
    Case { name: "lookup of 64, 5,000 routes", ops: 6400, bound: 42.0, run: |n| lookup(n, 5000) },
    Case { name: "lookup of 64, 90,000 routes", ops: 6400, bound: 42.0, run: |n| lookup(n, 90_000) },
];

fn path(n: usize, encap: Encap, len: usize, go: fn(&mut Path, usize)) {
    let mut p = Path::new(5000, encap, len);
    go(&mut p, 64);
    go(&mut p, n);
    black_box(p.forwarder.counters.sent.get());
}

fn lookup(n: usize, routes: usize) {
    let routes = if routes > 5000 { internet(routes) } else { blocks(routes) };
    let fib = table(&routes).commit();
    let dsts = random_dsts(&routes, 64);
    let mut out = [AdjId::NO_ROUTE; 64];
    for _ in 0..n / 64 {
        fib.lookup_batch(black_box(&dsts), &mut out);
        black_box(&out);
    }
}

/// Instructions that a run of the case takes in total.
fn count(case: usize, ops: usize) -> Result<f64, String> {
    let me = std::env::current_exe().map_err(|e| format!("own path: {e}"))?;
    let child = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--cache-sim=no"])
        .arg(me)
        .args(["--child", &case.to_string(), &ops.to_string()])
        .output()
        .map_err(|e| format!("valgrind does not start: {e}; install it (apt-get install valgrind)"))?;
    let text = String::from_utf8_lossy(&child.stderr);
    let total = text.lines().find_map(|l| l.split_once("Collected : ")).and_then(|(_, n)| n.trim().parse().ok());
    total.filter(|_| child.status.success()).ok_or_else(|| format!("valgrind failed: {text}"))
}

fn all() -> Result<bool, String> {
    let mut good = true;
    println!("{:<34} {:>12} {:>8}", "instructions per packet or lookup", "measured", "bound");
    for (i, c) in CASES.iter().enumerate() {
        let per_op = (count(i, 2 * c.ops)? - count(i, c.ops)?) / c.ops as f64;
        let ok = per_op <= c.bound;
        println!("{:<34} {per_op:>12.1} {:>8.0}{}", c.name, c.bound, if ok { "" } else { "  EXCEEDED" });
        good &= ok;
    }
    Ok(good)
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if let [_, flag, case, ops] = &args[..]
        && flag == "--child"
    {
        let (case, ops): (usize, usize) = (case.parse().expect("a case number"), ops.parse().expect("a count"));
        (CASES[case].run)(ops);
        return ExitCode::SUCCESS;
    }
    match all() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}
