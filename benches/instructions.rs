//! Instructions per operation, counted by `valgrind --tool=callgrind`: the same on a busy machine and an idle
//! one, so a bound on them can fail a build. Each case runs twice in a child of its own, with N and 2N
//! operations; the difference is free of start-up.
//!
//! `cargo bench --bench instructions` prints the table and fails when a bound is exceeded. Without valgrind it
//! says so and fails: `apt-get install valgrind`.

#[path = "support/path.rs"]
mod path;
mod support;
#[path = "support/worker.rs"]
mod worker;

use path::Path;
use std::hint::black_box;
use std::process::{Command, ExitCode};
use support::{Encap, blocks, internet, random_dsts, table};
use tortie::fib::AdjId;

const WITHOUT: &str = "turn without tap code, 64 bytes";
const NEVER: &str = "turn of a worker, never traced";
const BEFORE: &str = "turn of a worker, trace is over";
const ARMED: &str = "turn of a worker, traced, no match";
/// Most that a worker's turn may add to a packet of a full burst beside the bare path, instructions. How the compiler
/// inlines either of the two moves it by some.
const PER_TURN: f64 = 12.0;

/// A case: name, operations of the short run, bound in instructions per operation, and the work.
struct Case {
    name: &'static str,
    ops: usize,
    bound: f64,
    run: fn(usize),
}

/// Most that the look for a tap may add to a packet of a full burst, instructions; and that a trace which is over may
/// leave behind. It is a comparison per burst.
const UNARMED: f64 = 1.0;

/// Bounds leave about 15 % above what was measured when they were set.
const CASES: &[Case] = &[
    Case { name: "idle ports, 64 bytes", ops: 6400, bound: 104.0, run: |n| path(n, Encap::Vxlan, 64, Path::idle) },
    Case { name: "forward pod to vxlan, 64 bytes", ops: 6400, bound: 660.0, run: |n| path(n, Encap::Vxlan, 64, Path::outward) },
    Case { name: "forward vxlan to pod, 64 bytes", ops: 6400, bound: 785.0, run: |n| path(n, Encap::Vxlan, 64, Path::inward) },
    Case { name: "forward pod to ipip, 64 bytes", ops: 6400, bound: 640.0, run: |n| path(n, Encap::Ipip, 64, Path::outward) },
    Case { name: "forward ipip to pod, 64 bytes", ops: 6400, bound: 705.0, run: |n| path(n, Encap::Ipip, 64, Path::inward) },
    Case { name: "lookup of 64, 5,000 routes", ops: 6400, bound: 42.0, run: |n| lookup(n, 5000) },
    Case { name: WITHOUT, ops: 6400, bound: 700.0, run: |n| worker::Untapped::new().turns(n / 64) },
    Case { name: NEVER, ops: 6400, bound: 705.0, run: |n| worker::Turned::new().turns(n / 64) },
    Case { name: BEFORE, ops: 6400, bound: 705.0, run: |n| worker::Turned::new().traced_before().turns(n / 64) },
    Case { name: ARMED, ops: 6400, bound: 1030.0, run: |n| worker::Turned::new().traced().turns(n / 64) },
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
    good &= unarmed()?;
    Ok(good)
}

/// The forward path of a worker that could be traced and is not, beside the same path without that code.
fn unarmed() -> Result<bool, String> {
    let of = |name: &str| {
        let at = CASES.iter().position(|c| c.name == name).ok_or_else(|| format!("no case {name}"))?;
        Ok::<f64, String>((count(at, 2 * CASES[at].ops)? - count(at, CASES[at].ops)?) / CASES[at].ops as f64)
    };
    let (without, never, before, armed) = (of(WITHOUT)?, of(NEVER)?, of(BEFORE)?, of(ARMED)?);
    println!();
    println!("what a trace costs a packet of 64 bytes in a full burst, in instructions");
    for (name, n) in [
        ("a worker that is not traced, beyond the bare path", never - without),
        ("after a trace that is over", before - never),
        ("while a trace looks for what does not come", armed - never),
    ] {
        println!("{name:<52} {n:>8.2}");
    }
    // The worker also looks at its mailbox, the newest snapshot and a port more: per burst, not per packet.
    let good = never - without <= PER_TURN && (before - never).abs() <= UNARMED;
    if !good {
        println!("EXCEEDED: at most {PER_TURN} and {UNARMED}");
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
