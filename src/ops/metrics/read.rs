//! Where each metric's value comes from.

use super::family as f;
use super::{Set, Value};
use crate::control::facts::{Facts, PortTotals, Shared};
use crate::control::plan::PeerTotals;
use crate::control::ports::PortFact;
use crate::drop::{DropReason, PuntReason};
use crate::port::losses;
use crate::worker::Counters;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

/// Pods with metrics of their own, and peers: what one node adds to a Prometheus server stays bounded. Those with the
/// lowest port numbers, and the first by name, so that the choice is stable.
pub(super) const PODS: usize = 512;
pub(super) const PEERS: usize = 256;

/// Everything but the process's own.
pub(super) fn all(shared: &Shared, out: &mut Set) {
    let facts = shared.facts();
    node(shared, &facts, out);
    ends(shared.counters(), out);
    workers(shared.counters(), out);
    let totals: Vec<(&PortFact, PortTotals)> =
        facts.ports.iter().map(|p| (p, PortTotals::of(shared.counters(), p.id).since(p.base))).collect();
    roles(&facts, &totals, out);
    pods(&totals, out);
    peers(shared, &facts, out);
    fib(&facts, out);
    out.one(&f::FLOWS, facts.host_flows);
    felix(shared, &facts, out);
}

fn node(shared: &Shared, facts: &Facts, out: &mut Set) {
    out.add(&f::BUILD, [([env!("CARGO_PKG_VERSION").to_owned(), facts.node.clone()], Value::Number(1.0))]);
    out.one(&f::IN_SYNC, facts.in_sync);
    out.one(&f::READY, facts.in_sync && shared.tally().is_programmed());
    out.one(&f::PROBLEMS, shared.problems(facts).len());
}

/// How packets ended.
fn ends(counters: &[std::sync::Arc<Counters>], out: &mut Set) {
    let dropped = |r: &DropReason| counters.iter().map(|c| c.dropped[r.index()].get()).sum::<u64>();
    out.add(&f::DROPS, DropReason::ALL.iter().map(|r| ([r.name().to_owned()], dropped(r).into())));
    let punted = |r: &PuntReason| counters.iter().map(|c| c.punted[r.index()].get()).sum::<u64>();
    out.add(&f::PUNTS, PuntReason::ALL.iter().map(|r| ([r.name().to_owned()], punted(r).into())));
}

fn workers(counters: &[std::sync::Arc<Counters>], out: &mut Set) {
    type Read = fn(&Counters) -> u64;
    let each: [(&f::Family, Read); 11] = [
        (&f::RECEIVED, |c| c.received.get()),
        (&f::GENERATED, |c| c.generated.get()),
        (&f::SENT, |c| c.sent.get()),
        (&f::COALESCED, |c| c.coalesced.get()),
        (&f::HELD, |c| c.held.get()),
        (&f::FLOWS_KEPT, |c| c.flows_kept.get()),
        (&f::FLOWS_EVICTED, |c| c.flows_evicted.get()),
        (&f::TURNS, |c| c.turns.get()),
        (&f::IDLE_TURNS, |c| c.idle_turns.get()),
        (&f::SLEEPS, |c| c.sleeps.get()),
        (&f::EVENTS_LOST, |c| c.events_lost.get()),
    ];
    for (family, read) in each {
        out.add(family, counters.iter().enumerate().map(|(i, c)| ([i.to_string()], read(c).into())));
    }
    let spins = counters.iter().enumerate().flat_map(|(i, c)| {
        // The outcomes first: each is counted after the spin it belongs to.
        let (found, contended) = (c.spins_found.get(), c.spins_contended.get());
        let vain = c.spins.get().saturating_sub(found + contended);
        [("found", found), ("contended", contended), ("vain", vain)].map(|(o, n)| ([i.to_string(), o.to_owned()], n.into()))
    });
    out.add(&f::SPINS, spins);
}

/// All ports of a role together, those that are gone included, so that the sums never go down.
fn roles(facts: &Facts, totals: &[(&PortFact, PortTotals)], out: &mut Set) {
    let mut sums: BTreeMap<&str, PortTotals> = facts.past_ports.clone();
    let mut states: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let mut lost: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for (p, t) in totals {
        sums.entry(p.role).or_default().add(*t);
        *states.entry((p.role, if p.driver.is_some() { "up" } else { "down" })).or_default() += 1;
        for (reason, n) in losses::sum(&p.losses.0) {
            *lost.entry((p.role, reason)).or_default() += n;
        }
    }
    let both = |read: fn(&PortTotals) -> [u64; 2]| {
        let sample = move |(role, t): (&&str, &PortTotals)| {
            let [received, sent] = read(t);
            let label = |direction: &str| [(*role).to_owned(), direction.to_owned()];
            [(label("received"), received.into()), (label("sent"), sent.into())]
        };
        sums.iter().flat_map(sample).collect::<Vec<_>>()
    };
    out.add(&f::PORT_PACKETS, both(|t| [t.rx_frames, t.tx_frames]));
    out.add(&f::PORT_BYTES, both(|t| [t.rx_bytes, t.tx_bytes]));
    out.add(&f::PORT_DROPPED, sums.iter().map(|(role, t)| ([(*role).to_owned()], t.tx_dropped.into())));
    let pairs = |m: BTreeMap<(&str, &str), u64>| -> Vec<([String; 2], Value)> {
        m.into_iter().map(|((a, b), n)| ([a.to_owned(), b.to_owned()], n.into())).collect()
    };
    out.add(&f::PORTS, pairs(states));
    out.add(&f::KERNEL_DROPS, pairs(lost));
}

fn pods(totals: &[(&PortFact, PortTotals)], out: &mut Set) {
    let mut pods: Vec<(&str, &PortFact, PortTotals)> =
        totals.iter().filter_map(|(p, t)| p.workload.as_deref().map(|w| (w, *p, *t))).collect();
    pods.sort_by_key(|(_, p, _)| p.id.0);
    out.one(&f::PODS_OMITTED, pods.len().saturating_sub(PODS));
    pods.truncate(PODS);
    let both = |read: fn(&PortTotals) -> [u64; 2]| {
        let sample = move |(workload, p, t): &(&str, &PortFact, PortTotals)| {
            let (namespace, pod) = workload.split_once('/').unwrap_or(("", workload));
            let [from, to] = read(t);
            let label = |direction: &str| [namespace, pod, p.name.as_str(), direction].map(str::to_owned);
            [(label("from-pod"), from.into()), (label("to-pod"), to.into())]
        };
        pods.iter().flat_map(sample).collect::<Vec<_>>()
    };
    out.add(&f::POD_PACKETS, both(|t| [t.rx_frames, t.tx_frames]));
    out.add(&f::POD_BYTES, both(|t| [t.rx_bytes, t.tx_bytes]));
}

fn peers(shared: &Shared, facts: &Facts, out: &mut Set) {
    let mut peers: Vec<(&str, PeerTotals)> =
        facts.peers.iter().filter_map(|p| p.node.as_deref().map(|n| (n, shared.peer(p.counted)))).collect();
    peers.sort_unstable_by_key(|(node, _)| *node);
    out.one(&f::PEERS_OMITTED, peers.len().saturating_sub(PEERS));
    peers.truncate(PEERS);
    let both = |read: fn(&PeerTotals) -> [u64; 2]| {
        let sample = move |(node, t): &(&str, PeerTotals)| {
            let [to, from] = read(t);
            let label = |direction: &str| [(*node).to_owned(), direction.to_owned()];
            [(label("to-peer"), to.into()), (label("from-peer"), from.into())]
        };
        peers.iter().flat_map(sample).collect::<Vec<_>>()
    };
    out.add(&f::PEER_PACKETS, both(|t| [t.tx_packets, t.rx_packets]));
    out.add(&f::PEER_BYTES, both(|t| [t.tx_bytes, t.rx_bytes]));
}

fn fib(facts: &Facts, out: &mut Set) {
    out.one(&f::GENERATION, facts.generation);
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    facts.routes.iter().for_each(|r| *kinds.entry(r.route.kind()).or_default() += 1);
    out.add(&f::ROUTES, kinds.into_iter().map(|(kind, n)| ([kind.to_owned()], n.into())));
    out.one(&f::VTEPS, facts.vteps.len());
    if let Some(mtu) = facts.pod_mtu {
        out.one(&f::POD_MTU, u64::from(mtu));
    }
}

fn felix(shared: &Shared, facts: &Facts, out: &mut Set) {
    let tally = shared.tally();
    out.one(&f::FELIX_ENDPOINTS, facts.ports.iter().filter(|p| p.workload.is_some()).count());
    out.one(&f::FELIX_HOSTS, facts.nodes);
    out.one(&f::FELIX_WORKLOADS, facts.workloads);
    out.one(&f::FELIX_STATE, if facts.in_sync { 3u64 } else { 2 });
    out.one(&f::FELIX_RESYNCS, tally.resyncs.load(Relaxed));
    let timer = |t: &crate::control::tally::Timer| Value::Sum(t.count(), t.total().as_secs_f64());
    out.add(&f::FELIX_CALC, [([], timer(&tally.calculations))]);
    out.add(&f::FELIX_APPLY, [([], timer(&tally.applies))]);
    out.one(&f::FELIX_FAILURES, tally.failures.load(Relaxed));
    out.add(&f::FELIX_ROUTES, [(["main".to_owned()], facts.host_routes.into())]);
}
