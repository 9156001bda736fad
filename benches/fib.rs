//! The forwarding table beside a binary trie (prefix-trie) and a tree bitmap: lookups, changes, what it costs to
//! publish a snapshot after one route changed, and a million routes at once.

mod support;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use ip_network_table_deps_treebitmap::IpLookupTable;
use ipnet::Ipv4Net;
use prefix_trie::PrefixMap;
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use support::{blocks, hot_dsts, internet, random_dsts, table};
use tortie::fib::AdjId;
use tortie::frame::BURST;
use tortie::snapshot::{Snapshot, channel};

/// Lookups per measured call: long enough to hide the loop, short enough to be one sample among many.
const LOOKUPS: usize = 1 << 16;

const MILLION: usize = 1_000_000;

fn sets() -> [(&'static str, Vec<Ipv4Net>); 3] {
    [("60", blocks(60)), ("5k", blocks(5000)), ("1m", internet(MILLION))]
}

fn short(g: &mut BenchmarkGroup<'_, WallTime>) {
    g.sample_size(20).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(600));
}

fn lookup(c: &mut Criterion) {
    let mut g = c.benchmark_group("lookup");
    short(&mut g);
    g.throughput(Throughput::Elements(LOOKUPS as u64));
    for (name, routes) in sets() {
        let fib = table(&routes).commit();
        let trie: PrefixMap<Ipv4Net, u32> = routes.iter().enumerate().map(|(i, r)| (*r, i as u32)).collect();
        let mut bitmap = IpLookupTable::new();
        for (i, r) in routes.iter().enumerate() {
            bitmap.insert(r.network(), u32::from(r.prefix_len()), i as u32);
        }
        for (kind, dsts) in [("random", random_dsts(&routes, LOOKUPS)), ("zipf", hot_dsts(&routes, LOOKUPS))] {
            g.bench_function(format!("{name}/{kind}/single"), |b| {
                b.iter(|| dsts.iter().fold(0u32, |acc, d| acc ^ fib.lookup(black_box(*d)).0));
            });
            g.bench_function(format!("{name}/{kind}/batch"), |b| {
                let mut out = [AdjId::NO_ROUTE; BURST];
                b.iter(|| {
                    for burst in dsts.chunks_exact(BURST) {
                        fib.lookup_batch(burst, &mut out);
                        black_box(&mut out);
                    }
                });
            });
            g.bench_function(format!("{name}/{kind}/treebitmap"), |b| {
                b.iter(|| dsts.iter().fold(0u32, |acc, d| acc ^ bitmap.longest_match(Ipv4Addr::from(black_box(*d))).map_or(0, |m| *m.2)));
            });
            g.bench_function(format!("{name}/{kind}/prefix-trie"), |b| {
                let host = |d: u32| Ipv4Net::new(Ipv4Addr::from(d), 32).expect("32 is a length");
                b.iter(|| dsts.iter().fold(0u32, |acc, d| acc ^ trie.get_lpm(&host(black_box(*d))).map_or(0, |m| *m.1)));
            });
        }
    }
    g.finish();
}

/// A /26 that is in none of the sets, under space that each of them covers.
fn extra() -> Ipv4Net {
    "10.200.1.64/26".parse().expect("a prefix")
}

fn change(c: &mut Criterion) {
    let mut g = c.benchmark_group("change");
    short(&mut g);
    for (name, routes) in sets() {
        let mut t = table(&routes);
        let kept = t.get(&extra());
        g.bench_function(format!("{name}/insert-and-remove"), |b| {
            b.iter(|| {
                t.insert(extra(), AdjId(7));
                t.remove(extra())
            });
        });
        if let Some(adj) = kept {
            t.insert(extra(), adj);
        }
        // With a generation alive that shares the memory, as in service: what is touched is copied first.
        let mut base = Snapshot::empty();
        base.fib = t.commit();
        let (mut publisher, mut readers) = channel(1);
        let mut adj = 1;
        g.bench_function(format!("{name}/publish-one-route"), |b| {
            b.iter(|| {
                adj = adj % 5000 + 1;
                t.insert(extra(), AdjId(adj));
                let next = Snapshot { fib: t.commit(), ..base.clone() };
                publisher.publish(next);
                readers[0].refresh()
            });
        });
    }
    g.bench_function("refresh-unchanged", |b| {
        let (_publisher, mut readers) = channel(1);
        b.iter(|| readers[0].refresh());
    });
    g.finish();
}

/// Loading a million routes into an empty table, and lookups while another thread publishes a changed route all the time.
fn million(c: &mut Criterion) {
    let mut g = c.benchmark_group("million");
    short(&mut g);
    g.sample_size(10);
    let routes = internet(MILLION);
    let before = resident();
    let mut t = table(&routes);
    let fib = t.commit();
    println!("million: {:.1} bytes a route, resident", (resident() - before) as f64 / MILLION as f64);
    g.bench_function("load", |b| b.iter(|| table(black_box(&routes)).commit()));
    let dsts = random_dsts(&routes, LOOKUPS);
    let (mut publisher, mut readers) = channel(1);
    publisher.publish(Snapshot { fib, ..Snapshot::empty() });
    let stop = AtomicBool::new(false);
    let published = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let adj = published.fetch_add(1, Ordering::Relaxed) as u32 % 5000 + 1;
                t.insert(extra(), AdjId(adj));
                publisher.publish(Snapshot { fib: t.commit(), ..Snapshot::empty() });
            }
        });
        g.throughput(Throughput::Elements(LOOKUPS as u64));
        g.bench_function("lookup-under-change", |b| {
            let mut out = [AdjId::NO_ROUTE; BURST];
            b.iter(|| {
                for burst in dsts.chunks_exact(BURST) {
                    readers[0].refresh();
                    readers[0].get().fib.lookup_batch(burst, &mut out);
                    black_box(&mut out);
                }
            });
        });
        stop.store(true, Ordering::Relaxed);
    });
    println!("million: {} changes published meanwhile", published.into_inner());
    g.finish();
}

/// Resident memory of this process, bytes (proc(5), statm).
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("proc");
    // The second number counts pages, of 4 KiB where these benches run.
    statm.split(' ').nth(1).and_then(|n| n.parse::<usize>().ok()).expect("a number") * 4096
}

criterion_group!(benches, lookup, change, million);
criterion_main!(benches);
