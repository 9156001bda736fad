//! The forwarding table beside a binary trie (prefix-trie) and a tree bitmap: lookups, changes, and what it
//! costs to publish a snapshot after one route changed.

mod support;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use ip_network_table_deps_treebitmap::IpLookupTable;
use ipnet::Ipv4Net;
use prefix_trie::PrefixMap;
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::time::Duration;
use support::{blocks, hot_dsts, internet, random_dsts, table};
use tortie::fib::AdjId;
use tortie::frame::BURST;
use tortie::snapshot::{Snapshot, channel};

/// Lookups per measured call: long enough to hide the loop, short enough to be one sample among many.
const LOOKUPS: usize = 1 << 16;

fn sets() -> [(&'static str, Vec<Ipv4Net>); 3] {
    [("60", blocks(60)), ("5k", blocks(5000)), ("900k", internet(900_000))]
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

criterion_group!(benches, lookup, change);
criterion_main!(benches);
