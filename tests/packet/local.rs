//! Pod to pod on one node.

use super::{ME, delivered, from_pod, udp};
use tortie::drop::DropReason;
use tortie::testing::bed::{Bed, Delta};
use tortie::testing::net::Setup;

#[test]
fn pod_to_pod() {
    let mut s = Setup::new(ME);
    let (a, b) = (s.pod(1), s.pod(2));
    let mut bed = Bed::new(&s);
    let sent = udp(1, ME.pod(2), 100);
    assert_eq!(bed.feed(a, from_pod(1, &sent)), Delta::received(1).sent(1));
    let packet = delivered(2, &bed.recv(b).unwrap());
    assert_eq!(packet.ttl(), 63);
    packet.l4().unwrap();
    // Nothing but the TTL and the header checksum changed.
    assert_eq!((&packet.bytes[..8], &packet.bytes[12..]), (&sent[..8], &sent[12..]));
    assert_eq!(bed.recv(a), None);
    let port = bed.counters().port(b);
    assert_eq!((port.tx_frames.get(), port.tx_bytes.get()), (1, 14 + sent.len() as u64));
}

#[test]
fn two_workers_share_the_traffic() {
    // Each worker has a bed of its own; what leaves both together is what leaves one alone.
    let mut s = Setup::new(ME);
    let (a, b) = (s.pod(1), s.pod(2));
    let mut alone = Bed::new(&s);
    let mut shared = [Bed::new(&s), Bed::new(&s)];
    for i in 0..200 {
        let frame = from_pod(1, &udp(1, ME.pod(if i % 5 == 0 { 9 } else { 2 }), i));
        alone.send(a, frame.clone());
        shared[i % 2].send(a, frame);
    }
    alone.run();
    shared.iter_mut().for_each(Bed::run);
    let per_worker = Delta::received(100).sent(80).dropped(DropReason::NoRoute, 20);
    assert!(shared.iter_mut().all(|w| w.delta() == per_worker));
    let mut got: Vec<_> = shared.iter_mut().flat_map(|w| w.drain(b)).map(|w| w.bytes).collect();
    let mut want: Vec<_> = alone.drain(b).into_iter().map(|w| w.bytes).collect();
    got.sort();
    want.sort();
    assert_eq!(got, want);
}
