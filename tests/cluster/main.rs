//! A cluster in one process: engines joined by an underlay in memory, pods with network stacks of their own.

use std::collections::BTreeSet;
use tortie::drop::DropReason;
use tortie::port::Medium;
use tortie::testing::bed::{Bed, Delta};
use tortie::testing::build::pattern;
use tortie::testing::cluster::{Cluster, Weather};
use tortie::testing::host::Host;
use tortie::testing::net::{Node, Setup, Via};

const PORT: u16 = 5001;

/// Sends `data` from one pod to another over TCP; the time it took in steps, or a panic after `limit`.
fn transfer(c: &mut Cluster, from: (usize, usize), to: (usize, usize), data: &[u8], limit: u64) {
    let dst = Node(to.0 as u8 + 1).pod(to.1 as u8 + 1);
    let server = c.pod(to.0, to.1).listen(PORT);
    let client = c.pod(from.0, from.1).connect(dst, PORT, 40_000);
    let (mut sent, mut got) = (0, Vec::new());
    let done = c.until(limit, |c| {
        let socket = c.pod(from.0, from.1).tcp(client);
        if socket.can_send() && sent < data.len() {
            sent += socket.send_slice(&data[sent..]).unwrap();
        }
        let socket = c.pod(to.0, to.1).tcp(server);
        while socket.can_recv() {
            socket.recv(|b| (b.len(), got.extend_from_slice(b))).unwrap();
        }
        got.len() >= data.len()
    });
    assert!(done, "{} of {} bytes after {limit} ms", got.len(), data.len());
    assert!(got == data, "the data arrived changed");
}

/// Pings and returns whether the right answer came. smoltcp loses an answer whose receiver it has to ask for first,
/// and asks once a second.
fn pings(c: &mut Cluster, from: (usize, usize), to: (usize, usize)) -> bool {
    let dst = Node(to.0 as u8 + 1).pod(to.1 as u8 + 1);
    (0..4).any(|seq| {
        c.pod(from.0, from.1).ping(dst, seq, b"are you there");
        c.until(1100, |c| c.pod(from.0, from.1).pong() == Some((dst, seq, b"are you there".to_vec())))
    })
}

#[test]
fn everyone_reaches_everyone() {
    for medium in [Medium::Ethernet, Medium::VxlanUdp] {
        let mut c = Cluster::new(3, 2, medium, 1);
        for a in 0..6 {
            for b in (0..6).filter(|b| *b != a) {
                assert!(pings(&mut c, (a / 2, a % 2), (b / 2, b % 2)), "{medium:?}: pod {a} to pod {b}");
            }
        }
        // One hop on the node itself, two across nodes.
        for m in &c.members {
            assert!(m.pods.iter().all(|p| p.ttls == BTreeSet::from([62, 63])));
        }
    }
}

#[test]
fn nobody_answers_for_an_address_without_a_pod() {
    let mut c = Cluster::new(2, 1, Medium::Ethernet, 1);
    assert!(!pings(&mut c, (0, 0), (0, 40)));
    assert!(!pings(&mut c, (0, 0), (1, 40)));
    assert!(!pings(&mut c, (0, 0), (7, 0)));
}

#[test]
fn tcp_of_a_megabyte() {
    let data = pattern(1 << 20);
    for medium in [Medium::Ethernet, Medium::VxlanUdp] {
        let mut c = Cluster::new(2, 2, medium, 1);
        transfer(&mut c, (0, 0), (1, 0), &data, 20_000);
        transfer(&mut c, (0, 0), (0, 1), &data, 20_000);
    }
    let mut c = Cluster::new(2, 1, Medium::Ethernet, 1);
    (0..2).for_each(|n| c.reroute(n, Via::Ipip));
    transfer(&mut c, (1, 0), (0, 0), &data, 20_000);
    assert!(c.crossed.iter().all(|proto| *proto == 4));
}

#[test]
fn tcp_through_loss_and_reordering() {
    let data = pattern(200_000);
    for seed in [1, 2, 3] {
        let mut c = Cluster::new(2, 1, Medium::Ethernet, seed);
        c.weather = Weather { lost: 20, delayed: 50 };
        transfer(&mut c, (0, 0), (1, 0), &data, 300_000);
    }
}

#[test]
fn a_pool_changes_its_mode_without_loss() {
    let mut c = Cluster::new(3, 1, Medium::Ethernet, 1);
    for (a, b) in [(0, 1), (1, 2), (2, 0)] {
        assert!(pings(&mut c, (a, 0), (b, 0)), "before the change");
    }
    let sockets: Vec<_> = (0..3).map(|n| c.pod(n, 0).udp_bind(7000)).collect();
    let mut seen: Vec<BTreeSet<Vec<u8>>> = vec![BTreeSet::new(); 3];
    const ROUNDS: u32 = 300;
    for round in 0..ROUNDS + 10 {
        // Each node hears of the change at its own time.
        match round {
            100 => c.reroute(1, Via::Ipip),
            140 => c.reroute(0, Via::Ipip),
            200 => c.reroute(2, Via::Ipip),
            _ => {}
        }
        for (from, socket) in sockets.iter().enumerate() {
            for to in (0..3).filter(|to| *to != from && round < ROUNDS) {
                let text = format!("{from} {round}");
                let dst = (Node(to as u8 + 1).pod(1), 7000);
                c.pod(from, 0).udp(*socket).send_slice(text.as_bytes(), dst).unwrap();
            }
        }
        c.step();
        for n in 0..3 {
            while let Ok((data, _)) = c.pod(n, 0).udp(sockets[n]).recv() {
                seen[n].insert(data.to_vec());
            }
        }
    }
    assert!(
        seen.iter().all(|s| s.len() == 2 * ROUNDS as usize),
        "not one is lost: {:?}",
        seen.iter().map(BTreeSet::len).collect::<Vec<_>>()
    );
    let count = |proto| c.crossed.iter().filter(|p| **p == proto).count();
    assert!(count(17) > 500 && count(4) > 500, "both encapsulations were in use: {} {}", count(17), count(4));
}

#[test]
fn a_pod_with_too_large_an_mtu_is_told() {
    let mut setup = Setup::new(Node(1));
    let (a, up) = (setup.pod(1), setup.uplink(Medium::Ethernet));
    setup.route(Node(2).block(), Via::Vxlan(Node(2)));
    let mut bed = Bed::new(&setup);
    let mut host = Host::new(bed.wire(a).clone(), Node(1).pod_mac(1), Node(1).pod(1), 1500);
    host.ping(Node(2).pod(1), 1, &pattern(1472));
    for ms in 0..5 {
        host.poll(ms);
        bed.run();
    }
    assert_eq!(bed.drain(up), [], "smoltcp sets DF");
    // The ARP exchange, the ping, and the error about it, which reached the pod.
    assert_eq!(bed.delta(), Delta::received(2).generated(1).sent(2).dropped(DropReason::MtuExceeded, 1));
    assert_eq!(host.ttls, BTreeSet::from([64]));
}
