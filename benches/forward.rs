//! The forward path in bursts of 64 frames: parse, check, look up, rewrite, queue, send. Compare with `idle`,
//! which is what the bench's own ports cost. Allocations are counted and must be zero.

#[path = "support/counting.rs"]
mod counting;
#[path = "support/path.rs"]
mod path;
mod support;
#[path = "support/worker.rs"]
mod worker;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use path::Path;
use std::time::Duration;
use support::Encap;
use tortie::frame::BURST;

fn forward(c: &mut Criterion) {
    let mut g = c.benchmark_group("forward");
    g.throughput(Throughput::Elements(BURST as u64)).sample_size(40).warm_up_time(Duration::from_millis(300));
    g.measurement_time(Duration::from_secs(1));
    let mut idle = Path::new(5000, Encap::Vxlan, 64);
    g.bench_function("idle/64", |b| b.iter(|| idle.idle(BURST)));
    for (name, encap) in [("vxlan", Encap::Vxlan), ("ipip", Encap::Ipip)] {
        for len in [64, 1464] {
            let mut p = Path::new(5000, encap, len);
            p.outward(1024);
            p.inward(1024);
            g.bench_function(format!("{name}-out/{len}"), |b| b.iter(|| p.outward(BURST)));
            g.bench_function(format!("{name}-in/{len}"), |b| b.iter(|| p.inward(BURST)));
            p.check();
        }
    }
    // What could be traced and is not, beside code that knows no trace.
    let mut untapped = worker::Untapped::new();
    g.bench_function("turn/without-tap-code", |b| b.iter(|| untapped.turns(1)));
    for (name, mut turned) in [
        ("turn/never-traced", worker::Turned::new()),
        ("turn/trace-is-over", worker::Turned::new().traced_before()),
        ("turn/traced-no-match", worker::Turned::new().traced()),
    ] {
        g.bench_function(name, |b| b.iter(|| turned.turns(1)));
    }
    g.finish();
    // Outside criterion, which allocates for itself.
    let mut p = Path::new(5000, Encap::Vxlan, 64);
    p.outward(BURST);
    p.inward(BURST);
    let before = counting::allocations();
    p.outward(10_048);
    p.inward(10_048);
    assert_eq!(counting::allocations() - before, 0, "the forward path allocated");
    p.check();
}

criterion_group!(benches, forward);
criterion_main!(benches);
