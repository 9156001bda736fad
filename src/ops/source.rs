//! The API's rows from the daemon's facts and the workers' counters.

use super::replay::State;
use super::view::{
    ActivityRow, ConfigRow, CounterRow, DropRow, EndpointRow, FdbRow, FibRow, NeighRow, PeerActivity, PeersRow, PortActivity, PortRow,
    StatusRow, Traffic, WorkerActivity,
};
use crate::control::facts::{PortTotals, PortUse, Shared, TapError};
use crate::control::ports::PortFact;
use crate::drop::DropReason;
use crate::frame::PortId;
use crate::port::losses;
use crate::worker::Counters;
use crate::worker::tap::Tap;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

/// What the API asks of the daemon. May wait for the control plane: not to be called from a task.
pub trait Source: Send + Sync + 'static {
    fn fib(&self) -> Vec<FibRow>;
    fn fdb(&self) -> Vec<FdbRow>;
    fn neigh(&self) -> Vec<NeighRow>;
    fn ports(&self) -> Vec<PortRow>;
    fn endpoints(&self) -> Vec<EndpointRow>;
    fn drops(&self) -> Vec<DropRow>;
    fn counters(&self) -> Vec<CounterRow>;
    fn status(&self) -> StatusRow;
    /// What is counted; control is asked for names only.
    fn activity(&self) -> ActivityRow;
    fn config(&self) -> Vec<ConfigRow>;
    fn peers(&self) -> PeersRow;
    /// The data plane's state; `None` if the control plane does not answer.
    fn state(&self) -> Option<State>;
    /// Starts to write down packets; blocks until the workers are told.
    fn trace(&self, filter: &str, count: u64) -> Result<Arc<Tap>, TapError>;
    /// The interfaces that ports are on. Blocks as the others do.
    fn interfaces(&self) -> BTreeMap<PortId, String>;
}

impl Source for Shared {
    fn fib(&self) -> Vec<FibRow> {
        let row = |r| {
            let route: &crate::control::facts::RouteFact = r;
            FibRow {
                prefix: route.prefix.to_string(),
                kind: route.route.kind().into(),
                via: route.route.via(),
                node: route.route.node().map(Into::into),
                port: route.port.clone(),
                mtu: route.mtu,
                packets: self.packets(route),
            }
        };
        self.facts().routes.iter().map(row).collect()
    }

    fn fdb(&self) -> Vec<FdbRow> {
        let facts = self.facts();
        let rows = facts.vteps.iter();
        rows.map(|v| FdbRow { mac: v.mac.to_string(), dst: v.address, node: v.node.to_string(), vni: facts.vni }).collect()
    }

    fn neigh(&self) -> Vec<NeighRow> {
        let facts = self.facts();
        let row = |n: &crate::control::facts::NeighFact| NeighRow {
            address: n.address.into(),
            dev: n.dev.clone(),
            mac: n.mac.map(|m| m.to_string()),
            state: n.state.into(),
            node: n.node.clone(),
        };
        facts.neighbours.iter().map(row).collect()
    }

    fn ports(&self) -> Vec<PortRow> {
        let facts = self.facts();
        let row = |p: &crate::control::ports::PortFact| {
            let t = PortTotals::of(self.counters(), p.id).since(p.base);
            PortRow {
                id: p.id.0,
                name: p.name.clone(),
                role: p.role.into(),
                driver: p.driver.map(Into::into),
                refused: p.refused.clone(),
                state: p.state.clone(),
                mtu: p.mtu,
                queues: p.queues,
                rx_frames: t.rx_frames,
                rx_bytes: t.rx_bytes,
                tx_frames: t.tx_frames,
                tx_bytes: t.tx_bytes,
                tx_dropped: t.tx_dropped,
                kernel_drops: kernel_drops(p),
            }
        };
        facts.ports.iter().map(row).collect()
    }

    fn endpoints(&self) -> Vec<EndpointRow> {
        let row = |e: &crate::control::facts::EndpointFact| EndpointRow {
            name: e.name.clone(),
            workload: e.workload.clone(),
            interface: e.interface.clone(),
            ifindex: e.ifindex,
            netns: e.netns.as_ref().map(|n| n.display().to_string()),
            addresses: e.addresses.clone(),
            ready: e.ready,
        };
        self.facts().endpoints.iter().map(row).collect()
    }

    fn drops(&self) -> Vec<DropRow> {
        let sum = |r: &DropReason| self.counters().iter().map(|c| c.dropped[r.index()].get()).sum();
        DropReason::ALL.iter().map(|r| DropRow { reason: r.name().into(), packets: sum(r) }).collect()
    }

    fn counters(&self) -> Vec<CounterRow> {
        let mut rows: Vec<CounterRow> = self.counters().iter().enumerate().map(|(i, c)| counter_row(i, c)).collect();
        let mut total = CounterRow { worker: "total".into(), ..CounterRow::default() };
        for r in &rows {
            total.received += r.received;
            total.generated += r.generated;
            total.sent += r.sent;
            total.punted += r.punted;
            total.dropped += r.dropped;
            total.coalesced += r.coalesced;
            total.held += r.held;
            total.flows_kept += r.flows_kept;
            total.flows_evicted += r.flows_evicted;
            total.turns += r.turns;
            total.idle_turns += r.idle_turns;
            total.sleeps += r.sleeps;
            total.spins += r.spins;
            total.spins_found += r.spins_found;
            total.spins_contended += r.spins_contended;
            total.events_lost += r.events_lost;
        }
        rows.push(total);
        rows
    }

    fn config(&self) -> Vec<ConfigRow> {
        self.facts().config.clone()
    }

    fn peers(&self) -> PeersRow {
        self.probes().rows()
    }

    fn status(&self) -> StatusRow {
        let facts = self.facts();
        StatusRow {
            node: facts.node.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            in_sync: facts.in_sync,
            generation: facts.generation,
            workers: self.counters().len() as u16,
            uplink: facts.uplink.clone(),
            address: facts.address,
            tunnel_address: facts.tunnel_address,
            pod_mtu: facts.pod_mtu,
            problems: self.problems(&facts),
            conflicts: facts.conflicts.clone(),
        }
    }

    fn activity(&self) -> ActivityRow {
        let inventory = self.inventory();
        let drops = self.drops().into_iter().filter(|d| d.packets > 0);
        ActivityRow {
            node: inventory.node.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            at_ms: clock_ms(),
            in_sync: inventory.in_sync,
            generation: inventory.generation,
            routes: inventory.routes,
            workers: self.counters().iter().enumerate().map(|(i, c)| worker_activity(i, c)).collect(),
            ports: inventory.ports.iter().map(|u| port_activity(u, self.counters())).collect(),
            peers: inventory
                .peers
                .iter()
                .map(|p| {
                    let t = self.peer(p.counted);
                    let (rx_packets, rx_bytes, tx_packets, tx_bytes) = (t.rx_packets, t.rx_bytes, t.tx_packets, t.tx_bytes);
                    let traffic = Traffic { rx_packets, rx_bytes, tx_packets, tx_bytes };
                    PeerActivity { node: p.node.clone(), address: p.address, traffic, dropped: t.dropped }
                })
                .collect(),
            drops: drops.collect(),
        }
    }

    fn state(&self) -> Option<State> {
        self.dump().map(|d| State::from(&d))
    }

    fn trace(&self, filter: &str, count: u64) -> Result<Arc<Tap>, TapError> {
        self.tap(filter.to_owned(), count)
    }

    fn interfaces(&self) -> BTreeMap<PortId, String> {
        self.inventory().ports.iter().map(|u| (u.port.id, u.port.name.clone())).collect()
    }
}

/// Milliseconds since the first call.
fn clock_ms() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_millis() as u64
}

fn worker_activity(worker: usize, c: &Counters) -> WorkerActivity {
    let r = counter_row(worker, c);
    WorkerActivity {
        worker,
        received: r.received,
        sent: r.sent,
        punted: r.punted,
        dropped: r.dropped,
        held: r.held,
        turns: r.turns,
        idle_turns: r.idle_turns,
        sleeps: r.sleeps,
        busy_ns: c.busy_ns.get(),
    }
}

fn port_activity(u: &PortUse, counters: &[Arc<Counters>]) -> PortActivity {
    let (p, t) = (&u.port, PortTotals::of(counters, u.port.id).since(u.port.base));
    let count = |r: &DropReason| counters.iter().filter_map(|c| c.port(p.id).reasons().get(r.index())).map(|n| n.get()).sum();
    let drops = DropReason::ALL.iter().map(|r| DropRow { reason: r.name().into(), packets: count(r) });
    PortActivity {
        id: p.id.0,
        name: p.name.clone(),
        role: p.role.into(),
        pod: p.workload.clone(),
        addresses: u.addresses.clone(),
        driver: p.driver.map(Into::into),
        state: p.state.clone(),
        mtu: p.mtu,
        traffic: Traffic { rx_packets: t.rx_frames, rx_bytes: t.rx_bytes, tx_packets: t.tx_frames, tx_bytes: t.tx_bytes },
        rx_dropped: t.rx_dropped,
        tx_dropped: t.tx_dropped,
        drops: drops.filter(|d| d.packets > 0).collect(),
        kernel_drops: kernel_drops(p),
    }
}

fn kernel_drops(p: &PortFact) -> Vec<DropRow> {
    losses::sum(&p.losses.0).into_iter().map(|(reason, packets)| DropRow { reason: reason.into(), packets }).collect()
}

fn counter_row(index: usize, c: &Counters) -> CounterRow {
    CounterRow {
        worker: index.to_string(),
        received: c.received.get(),
        generated: c.generated.get(),
        sent: c.sent.get(),
        punted: c.punted.iter().map(|p| p.get()).sum(),
        dropped: c.dropped.iter().map(|d| d.get()).sum(),
        coalesced: c.coalesced.get(),
        held: c.held.get(),
        flows_kept: c.flows_kept.get(),
        flows_evicted: c.flows_evicted.get(),
        turns: c.turns.get(),
        idle_turns: c.idle_turns.get(),
        sleeps: c.sleeps.get(),
        spins: c.spins.get(),
        spins_found: c.spins_found.get(),
        spins_contended: c.spins_contended.get(),
        events_lost: c.events_lost.get(),
    }
}
