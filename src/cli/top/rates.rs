//! Two moments of a node make rates.

use crate::ops::view::{ActivityRow, DropRow, Traffic};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// What a node did, per second, between two moments.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rates {
    pub node: String,
    pub version: String,
    pub pid: u32,
    pub in_sync: bool,
    pub generation: u64,
    pub routes: usize,
    /// Between the two moments.
    pub seconds: f64,
    pub workers: Vec<WorkerRate>,
    pub ports: Vec<PortRate>,
    pub peers: Vec<PeerRate>,
    pub drops: Vec<ReasonRate>,
}

/// Packets and bits per second in both directions, and packets since counting began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct TrafficRate {
    pub rx_packets: f64,
    pub rx_bits: f64,
    pub tx_packets: f64,
    pub tx_bits: f64,
    pub total: Traffic,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WorkerRate {
    pub worker: usize,
    /// Share of the time that it neither slept nor looked for packets in vain.
    pub busy: f64,
    /// Packets per second.
    pub received: f64,
    pub sent: f64,
    pub dropped: f64,
    /// Packets that wait now.
    pub held: u64,
    /// Turns per second, and the share of them that found packets.
    pub turns: f64,
    pub with_work: f64,
    pub sleeps: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PortRate {
    pub id: u16,
    pub name: String,
    pub role: String,
    pub pod: Option<String>,
    pub addresses: Vec<Ipv4Addr>,
    pub driver: Option<String>,
    pub state: String,
    pub mtu: Option<u16>,
    pub traffic: TrafficRate,
    /// Packets per second.
    pub rx_dropped: f64,
    pub tx_dropped: f64,
    /// Both by reason.
    pub drops: Vec<ReasonRate>,
    /// What the kernel lost on the port's sockets.
    pub kernel_drops: Vec<ReasonRate>,
}

impl PortRate {
    /// Packets lost per second, whoever lost them.
    pub fn lost(&self) -> f64 {
        self.rx_dropped + self.tx_dropped + self.kernel_drops.iter().map(|d| d.per_second).sum::<f64>()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PeerRate {
    pub node: Option<String>,
    pub address: Ipv4Addr,
    pub traffic: TrafficRate,
    pub dropped: f64,
    pub dropped_total: u64,
}

impl PeerRate {
    /// The node's name, or the address of one that is not in the cluster.
    pub fn name(&self) -> String {
        self.node.clone().unwrap_or_else(|| self.address.to_string())
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReasonRate {
    pub reason: String,
    pub per_second: f64,
    pub total: u64,
}

impl Rates {
    /// From an earlier moment to a later one of the same process; `None` for any other two.
    pub fn between(before: &ActivityRow, now: &ActivityRow) -> Option<Rates> {
        let seconds = now.at_ms.checked_sub(before.at_ms).filter(|ms| *ms > 0 && now.pid == before.pid)? as f64 / 1000.0;
        let per_second = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let traffic = |now: Traffic, before: Traffic| TrafficRate {
            rx_packets: per_second(now.rx_packets, before.rx_packets),
            rx_bits: per_second(now.rx_bytes, before.rx_bytes) * 8.0,
            tx_packets: per_second(now.tx_packets, before.tx_packets),
            tx_bits: per_second(now.tx_bytes, before.tx_bytes) * 8.0,
            total: now,
        };
        let reasons = |now: &[DropRow], before: &[DropRow]| {
            let old = |reason: &str| before.iter().find(|d| d.reason == reason).map_or(0, |d| d.packets);
            let rate =
                |d: &DropRow| ReasonRate { reason: d.reason.clone(), per_second: per_second(d.packets, old(&d.reason)), total: d.packets };
            now.iter().map(rate).collect::<Vec<_>>()
        };
        // What was not there before began at zero.
        let old_workers: BTreeMap<_, _> = before.workers.iter().map(|w| (w.worker, w)).collect();
        let workers = now.workers.iter().map(|w| {
            let b = old_workers.get(&w.worker).map(|b| (*b).clone()).unwrap_or_default();
            let turns = w.turns.saturating_sub(b.turns);
            let idle = w.idle_turns.saturating_sub(b.idle_turns).min(turns);
            WorkerRate {
                worker: w.worker,
                busy: (per_second(w.busy_ns, b.busy_ns) / 1e9).min(1.0),
                received: per_second(w.received, b.received),
                sent: per_second(w.sent + w.punted, b.sent + b.punted),
                dropped: per_second(w.dropped, b.dropped),
                held: w.held,
                turns: turns as f64 / seconds,
                with_work: if turns == 0 { 0.0 } else { (turns - idle) as f64 / turns as f64 },
                sleeps: per_second(w.sleeps, b.sleeps),
            }
        });
        let old_ports: BTreeMap<_, _> = before.ports.iter().map(|p| ((p.id, &p.name), p)).collect();
        let ports = now.ports.iter().map(|p| {
            let b = old_ports.get(&(p.id, &p.name)).map(|b| (*b).clone()).unwrap_or_default();
            PortRate {
                id: p.id,
                name: p.name.clone(),
                role: p.role.clone(),
                pod: p.pod.clone(),
                addresses: p.addresses.clone(),
                driver: p.driver.clone(),
                state: p.state.clone(),
                mtu: p.mtu,
                traffic: traffic(p.traffic, b.traffic),
                rx_dropped: per_second(p.rx_dropped, b.rx_dropped),
                tx_dropped: per_second(p.tx_dropped, b.tx_dropped),
                drops: reasons(&p.drops, &b.drops),
                kernel_drops: reasons(&p.kernel_drops, &b.kernel_drops),
            }
        });
        let old_peers: BTreeMap<_, _> = before.peers.iter().map(|p| (p.address, (p.traffic, p.dropped))).collect();
        let peers = now.peers.iter().map(|p| {
            let (before, dropped) = old_peers.get(&p.address).copied().unwrap_or_default();
            PeerRate {
                node: p.node.clone(),
                address: p.address,
                traffic: traffic(p.traffic, before),
                dropped: per_second(p.dropped, dropped),
                dropped_total: p.dropped,
            }
        });
        Some(Rates {
            node: now.node.clone(),
            version: now.version.clone(),
            pid: now.pid,
            in_sync: now.in_sync,
            generation: now.generation,
            routes: now.routes,
            seconds,
            workers: workers.collect(),
            ports: ports.collect(),
            peers: peers.collect(),
            drops: reasons(&now.drops, &before.drops),
        })
    }

    /// Packets per second over all workers: received, sent or handed to the host, dropped.
    pub fn packets(&self) -> [f64; 3] {
        let sum = |read: fn(&WorkerRate) -> f64| self.workers.iter().map(read).sum();
        [sum(|w| w.received), sum(|w| w.sent), sum(|w| w.dropped)]
    }

    /// The busiest worker's share.
    pub fn load(&self) -> f64 {
        self.workers.iter().map(|w| w.busy).fold(0.0, f64::max)
    }
}

/// A number in at most five characters: three digits and a unit of a thousand.
pub fn short(n: f64) -> String {
    const UNITS: [&str; 6] = ["", "k", "M", "G", "T", "P"];
    let (mut n, mut unit) = (n.max(0.0), 0);
    // What would be rounded to 1000 belongs to the next unit.
    while n >= 999.5 && unit + 1 < UNITS.len() {
        (n, unit) = (n / 1000.0, unit + 1);
    }
    let digits = match n {
        n if n >= 99.95 => 0,
        n if n >= 9.995 => usize::from(unit > 0),
        n if unit == 0 && (n - n.round()).abs() < 0.05 => 0,
        _ if unit == 0 => 1,
        _ => 2,
    };
    format!("{n:.digits$}{}", UNITS[unit])
}

/// A share as percent.
pub fn percent(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::ops::view::{PeerActivity, PortActivity, WorkerActivity};

    /// A node with an uplink, the host, `pods` pods and `peers` peers, after `n` intervals of a second.
    pub fn activity(n: u64, pods: u64, peers: u64) -> ActivityRow {
        let port = |id: u64, name: String, role: &str| PortActivity {
            id: id as u16,
            name,
            role: role.into(),
            driver: Some("udp".into()),
            state: "up".into(),
            mtu: Some(1450),
            traffic: Traffic { rx_packets: n * id * 100, rx_bytes: n * id * 12_500, tx_packets: n * id * 10, tx_bytes: n * id * 1250 },
            ..PortActivity::default()
        };
        let pod = |i: u64| PortActivity {
            pod: Some(format!("default/web-{i}")),
            addresses: vec![[10, 244, 1, i as u8].into()],
            rx_dropped: n * i,
            drops: vec![DropRow { reason: "source-spoofed".into(), packets: n * i }],
            ..port(i + 1, format!("cali{i:04}"), "workload")
        };
        let mut ports = vec![port(0, "eth0".into(), "uplink"), port(1, "tunl-tortie".into(), "host")];
        ports.extend((1..=pods).map(pod));
        let peer = |i: u64| PeerActivity {
            node: Some(format!("n{}", i + 1)),
            address: [172, 31, 1, i as u8 + 1].into(),
            traffic: Traffic { rx_packets: n * i * 7, rx_bytes: n * i * 700, tx_packets: n * i * 3, tx_bytes: n * i * 300 },
            dropped: n * (i - 1),
        };
        ActivityRow {
            node: "n1".into(),
            version: "0.1.0".into(),
            pid: 7,
            at_ms: 5000 + n * 1000,
            in_sync: true,
            generation: 12,
            routes: 8,
            workers: vec![WorkerActivity {
                worker: 0,
                received: n * 1000,
                sent: n * 990,
                punted: n * 5,
                dropped: n * 5,
                turns: n * 200,
                idle_turns: n * 50,
                sleeps: n * 40,
                busy_ns: n * 250_000_000,
                held: 3,
            }],
            ports,
            peers: (1..=peers).map(peer).collect(),
            drops: vec![DropRow { reason: "no-route".into(), packets: n * 2 }, DropRow { reason: "source-spoofed".into(), packets: n * 3 }],
        }
    }

    #[test]
    fn rates_are_per_second_of_the_daemons_clock() {
        let (before, mut now) = (activity(1, 2, 1), activity(3, 2, 1));
        let r = Rates::between(&before, &now).unwrap();
        assert_eq!((r.seconds, r.packets(), r.load()), (2.0, [1000.0, 995.0, 5.0], 0.25));
        let w = &r.workers[0];
        assert_eq!((w.turns, w.with_work, w.sleeps, w.held), (200.0, 0.75, 40.0, 3));
        let p = &r.ports[3];
        assert_eq!((p.pod.as_deref(), p.traffic.rx_packets, p.traffic.rx_bits), (Some("default/web-2"), 300.0, 300_000.0));
        assert_eq!((p.rx_dropped, p.lost(), p.drops[0].per_second, p.drops[0].total), (2.0, 2.0, 2.0, 6));
        assert_eq!((r.peers[0].name(), r.peers[0].traffic.tx_bits), ("n2".to_owned(), 2400.0));
        let third = Rates::between(&activity(1, 0, 3), &activity(3, 0, 3)).unwrap().peers.remove(2);
        assert_eq!((third.dropped, third.dropped_total), (2.0, 6));
        assert_eq!((r.drops[0].per_second, r.drops[0].total), (2.0, 6));
        // A port that is new under an old number began at zero; what went down does not go below it.
        now.ports[3].name = "cali9999".into();
        now.ports[2].traffic.rx_packets = 0;
        let r = Rates::between(&before, &now).unwrap();
        assert_eq!((r.ports[3].traffic.rx_packets, r.ports[2].traffic.rx_packets), (450.0, 0.0));
        // Other processes, and the same moment, have no rates.
        now.pid = 8;
        assert!(Rates::between(&before, &now).is_none() && Rates::between(&before, &before).is_none());
        assert!(Rates::between(&activity(2, 0, 0), &activity(1, 0, 0)).is_none());
    }

    #[test]
    fn numbers_are_short() {
        for (n, text) in [
            (0.0, "0"),
            (0.34, "0.3"),
            (7.0, "7"),
            (7.25, "7.2"),
            (42.4, "42"),
            (999.4, "999"),
            (999.6, "1.00k"),
            (1234.0, "1.23k"),
            (45_600.0, "45.6k"),
            (456_000.0, "456k"),
            (1e7, "10.0M"),
            (9.47e9, "9.47G"),
            (3e20, "300000P"),
            (-5.0, "0"),
        ] {
            assert_eq!(short(n), text, "{n}");
        }
        assert_eq!((percent(0.254), percent(1.0)), ("25%".to_owned(), "100%".to_owned()));
    }
}
