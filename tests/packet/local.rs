//! Pod to pod on one node.

use super::{ME, delivered, from_pod, udp};
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
