use super::*;
use crate::wire::put16;
use std::collections::HashSet;

const A: u32 = 0x0af4_0105;
const B: u32 = 0x0af4_0206;

fn packet(src: u32, dst: u32, protocol: u8, l4: &[u8]) -> Vec<u8> {
    let mut p = vec![0; ipv4::HEADER];
    let len = (ipv4::HEADER + l4.len()) as u16;
    ipv4::Header { tos: 0, len, id: 7, frag: 0, ttl: 64, proto: protocol, src, dst }.write(&mut p);
    p.extend_from_slice(l4);
    p
}

fn ports(from: u16, to: u16) -> Vec<u8> {
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0; 4]].concat()
}

fn udp(src: u32, dst: u32, from: u16, to: u16) -> Vec<u8> {
    packet(src, dst, ipv4::PROTO_UDP, &ports(from, to))
}

fn tcp(src: u32, dst: u32, from: u16, to: u16, flags: u8) -> Vec<u8> {
    let mut l4 = [ports(from, to), vec![0; 12]].concat();
    l4[13] = flags;
    packet(src, dst, ipv4::PROTO_TCP, &l4)
}

fn fragment(mut p: Vec<u8>, word: u16) -> Vec<u8> {
    put16(&mut p, 6, word);
    p
}

fn error_about(p: &[u8], from: u32, to: u32) -> Vec<u8> {
    packet(from, to, ipv4::PROTO_ICMP, &[&[3, 3, 0, 0, 0, 0, 0, 0][..], &p[..28]].concat())
}

#[test]
fn answers_are_the_reverse_and_nothing_else() {
    let t = Flows::default();
    assert!(t.is_empty() && !t.answers(&udp(B, A, 53, 4000), 0));
    assert_eq!(t.keep(&udp(A, B, 4000, 53), 0), Kept { made: 2, evicted: 0 });
    assert_eq!(t.keep(&udp(A, B, 4000, 53), 0), Kept::default());
    assert_eq!(t.len(), 2);
    assert!(t.answers(&udp(B, A, 53, 4000), 1));
    for other in [udp(A, B, 4000, 53), udp(B, A, 53, 4001), udp(B, A, 54, 4000), udp(B, A + 1, 53, 4000), tcp(B, A, 53, 4000, 0)] {
        assert!(!t.answers(&other, 1));
    }
}

#[test]
fn what_the_host_hands_back_unchanged_is_not_translated() {
    let t = Flows::default();
    t.keep(&udp(A, B, 4000, 53), 0);
    let answer = udp(B, A, 53, 4000);
    assert!(t.answers(&answer, 1));
    assert_eq!(t.keep(&answer, 2), Kept::default());
    assert!(!t.answers(&answer, 3) && !t.answers(&udp(A, B, 4000, 53), 3), "neither direction takes the long way any more");
    // Another flow of the same two pods in the other direction is one of its own.
    t.keep(&udp(A, B, 4001, 53), 4);
    t.keep(&udp(B, A, 4001, 53), 4);
    assert!(t.answers(&udp(B, A, 53, 4001), 5) && t.answers(&udp(A, B, 53, 4001), 5));
}

#[test]
fn fragments_go_by_addresses_and_protocol() {
    let t = Flows::default();
    let (first, later) = (fragment(udp(B, A, 53, 4000), ipv4::MF), fragment(udp(B, A, 9999, 9999), 100));
    assert!(!t.answers(&first, 0) && !t.answers(&later, 0));
    t.keep(&udp(A, B, 4000, 53), 0);
    assert!(t.answers(&first, 0) && t.answers(&later, 0));
    assert!(!t.answers(&fragment(tcp(B, A, 53, 4000, 0), 100), 0));
    // From a first fragment both follow, from a later one the addresses alone.
    let t = Flows::default();
    assert_eq!(t.keep(&fragment(udp(A, B, 4000, 53), 100), 0).made, 1);
    assert!(!t.answers(&udp(B, A, 53, 4000), 0) && t.answers(&later, 0));
    assert_eq!(t.keep(&fragment(udp(A, B, 4000, 53), ipv4::MF), 0).made, 1);
    assert!(t.answers(&udp(B, A, 53, 4000), 0));
}

#[test]
fn icmp_goes_by_identifier_and_errors_by_what_they_are_about() {
    let t = Flows::default();
    let echo = |src, dst, kind, id| packet(src, dst, ipv4::PROTO_ICMP, &[kind, 0, 0, 0, 0, id, 0, 1]);
    t.keep(&echo(A, B, 8, 5), 0);
    assert!(t.answers(&echo(B, A, 0, 5), 0) && !t.answers(&echo(B, A, 0, 6), 0));
    let t = Flows::default();
    let sent = udp(A, B, 4000, 53);
    // From B or from a router on the way.
    let errors = [error_about(&sent, B, A), error_about(&sent, 0x0af4_0200, A)];
    assert!(errors.iter().all(|e| !t.answers(e, 0)));
    t.keep(&sent, 0);
    assert!(errors.iter().all(|e| t.answers(e, 0)));
    assert!(!t.answers(&error_about(&udp(A, B, 4001, 53), B, A), 0));
    assert!(t.answers(&error_about(&fragment(sent.clone(), 100), B, A), 0));
    // One that the host passes on is kept under nothing.
    assert_eq!(t.keep(&error_about(&udp(B, A, 1, 2), A, B), 0), Kept::default());
    for cut in 20..errors[0].len() {
        t.answers(&errors[0][..cut], 0);
    }
    assert!(!t.answers(&errors[0][..40], 0), "not enough of the packet inside");
}

#[test]
fn idle_times_follow_the_phase() {
    let t = Flows::default();
    t.keep(&tcp(A, B, 4000, 80, SYN), 0);
    let answer = |flags, at| t.answers(&tcp(B, A, 80, 4000, flags), at);
    assert!(answer(SYN | 0x10, TCP_OPENING - 1));
    let mut at = TCP_OPENING;
    t.keep(&tcp(A, B, 4000, 80, 0x10), at);
    at += TCP_OPEN - 1;
    assert!(answer(0x10, at), "open for long");
    assert!(answer(FIN | 0x10, at));
    t.keep(&tcp(A, B, 4000, 80, 0x10), at);
    assert!(answer(0x10, at + TCP_CLOSING - 1));
    assert!(!answer(0x10, at + 2 * TCP_CLOSING), "closing for good");
    // A new connection on the same ports.
    at += 3 * TCP_CLOSING;
    assert_eq!(t.keep(&tcp(A, B, 4000, 80, SYN), at).made, 1);
    assert!(answer(SYN | 0x10, at + 1));

    let t = Flows::default();
    t.keep(&udp(A, B, 4000, 53), 0);
    let answer = |at| t.answers(&udp(B, A, 53, 4000), at);
    assert!(!answer(UDP_OPENING) && answer(UDP_OPENING - 1) && answer(UDP_OPEN));
    assert!(answer(2 * UDP_OPEN - 1), "refreshed by its answers");
    t.keep(&udp(A, B, 4000, 53), 3 * UDP_OPEN - 2);
    assert!(answer(4 * UDP_OPEN - 3), "and by the flow");
}

#[test]
fn what_has_ended_is_swept() {
    let t = Flows::default();
    t.keep(&udp(A, B, 4000, 53), 0);
    t.keep(&tcp(A, B, 4000, 80, 0), 0);
    assert_eq!(t.sweep(UDP_OPENING - 1), 4);
    assert_eq!(t.sweep(UDP_OPENING), 3);
    assert_eq!(t.sweep(OTHER), 1);
    assert!(t.answers(&tcp(B, A, 80, 4000, 0), OTHER));
    assert_eq!(t.sweep(OTHER + TCP_OPEN), 0);
    assert!(t.is_empty() && t.tags.iter().all(|w| w.load(Relaxed) == 0));
}

#[test]
fn entries_can_be_put_back() {
    let t = Flows::default();
    t.keep(&udp(A, B, 4000, 53), 5000);
    t.keep(&tcp(A, B, 4000, 80, SYN), 6000);
    let entries = t.entries(7000);
    let other = Flows::default();
    for e in &entries {
        assert_eq!(other.restore(e, 0), Kept { made: 1, evicted: 0 });
    }
    let sorted = |mut all: Vec<Entry>| {
        all.sort_by_key(|e| (e.key.addresses, e.key.rest));
        all
    };
    assert_eq!(sorted(other.entries(0)), sorted(entries));
    assert!(other.answers(&udp(B, A, 53, 4000), UDP_OPENING - 2001) && !other.answers(&udp(B, A, 53, 4001), 0));
}

#[test]
fn a_full_table_gives_up_what_would_end_first() {
    let t = Flows::default();
    let open = tcp(A, B, 1, 80, 0x10);
    t.keep(&open, 0);
    let mut evicted = 0;
    for i in 0..4 * SLOTS as u32 {
        evicted += t.keep(&udp(0x0a00_0000 + i, B, 4000, 53), 10).evicted;
    }
    assert!(evicted > 6 * SLOTS as u64, "{evicted}");
    assert!(t.len() <= SLOTS && t.len() > SLOTS * 9 / 10, "{}", t.len());
    assert!(t.answers(&tcp(B, A, 80, 1, 0x10), 20), "the connection that is open stays");
}

#[test]
fn workers_share_it() {
    let t = Flows::default();
    const EACH: u16 = 2000;
    std::thread::scope(|s| {
        for w in 0..4u32 {
            let t = &t;
            s.spawn(move || {
                for i in 0..EACH {
                    // Half of the flows are kept by two workers at once.
                    let a = A + (w / 2) * u32::from(i % 2);
                    t.keep(&udp(a, B, i, 53), 1);
                    // While the other worker writes the same flow, it may not be seen.
                    let seen = || t.answers(&udp(B, a, 53, i), 1) || (std::thread::yield_now(), false).1;
                    assert!((0..1000).any(|_| seen()), "{w} {i}");
                }
            });
        }
        s.spawn(|| (0..20).for_each(|_| assert!(t.sweep(0) <= SLOTS)));
    });
    let keys: HashSet<(u64, u64)> = t.entries(1).iter().map(|e| (e.key.addresses, e.key.rest)).collect();
    assert!(keys.len() >= usize::from(EACH) && t.len() >= keys.len());
    t.sweep(2 * OTHER);
    assert!(t.is_empty(), "{} left", t.len());
}
