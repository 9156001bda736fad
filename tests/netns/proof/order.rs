//! No datagram overtakes another of its flow, and none is changed, however they are batched, joined and split on
//! the way: several flows at once in both directions, each with a habit of its own.

use super::lab::{Lab, spec};
use super::traffic::ping;
use crate::kernel_node::stay_on_one_cpu;
use crate::random_packets::Rng;
use std::io::ErrorKind;
use std::net::{SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tortie::lab::spec::{Encap, Spec, Uplink, Workload, Xdp};
use tortie::port::sys;

/// Datagrams of one direction, all flows together.
const DATAGRAMS: u64 = 40_000;
/// Most that are on their way at once; what does not come in time is written off.
const WINDOW: u64 = 600;
const PATIENCE: Duration = Duration::from_millis(20);
/// Number of the datagram, big endian, before the bytes that follow from it.
const NUMBER: usize = 8;

/// How a flow chooses its sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    /// All of one small size.
    Equal,
    /// Runs of one size that end with a shorter one.
    Runs,
    /// Any size that fits the MTU.
    Any,
    /// Each longer than the one before, then from the start.
    Growing,
    /// Small and large by turns.
    Alternating,
    /// Super-frames of the sender's own (udp(7), UDP_SEGMENT).
    Segmented,
    /// Now and then longer than the MTU, in fragments.
    Fragmented,
}

const HABITS: [Habit; 7] = [Habit::Equal, Habit::Runs, Habit::Any, Habit::Growing, Habit::Alternating, Habit::Segmented, Habit::Fragmented];

/// One flow: a sender, a receiver, and what has been sent.
struct Flow {
    habit: Habit,
    sender: UdpSocket,
    receiver: UdpSocket,
    sent: u64,
    /// Longest payload that needs no fragments.
    longest: usize,
}

impl Flow {
    fn new(lab: &Lab, from: &str, to: &str, habit: Habit) -> Flow {
        let receiver = lab.inside(to, || UdpSocket::bind(SocketAddrV4::new(lab.address(to), 0)).unwrap());
        let sender = lab.inside(from, || UdpSocket::bind(SocketAddrV4::new(lab.address(from), 0)).unwrap());
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        receiver.connect(sender.local_addr().unwrap()).unwrap();
        for s in [&sender, &receiver] {
            sys::setsockopt(s, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &(8i32 << 20)).unwrap();
            s.set_nonblocking(true).unwrap();
        }
        sender.set_nonblocking(false).unwrap();
        sys::setsockopt(&sender, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, &libc::IP_PMTUDISC_DONT).unwrap();
        Flow { habit, sender, receiver, sent: 0, longest: usize::from(lab.plan.spec.pod_mtu()) - 28 }
    }

    /// Sends the next few datagrams; how many.
    fn send(&mut self, rng: &mut Rng) -> u64 {
        let (longest, before) = (self.longest, self.sent);
        let any = |rng: &mut Rng| rng.within(NUMBER, longest);
        match self.habit {
            Habit::Equal => (0..rng.within(1, 40)).for_each(|_| self.one(64)),
            Habit::Runs => {
                let size = any(rng);
                (0..rng.within(1, 20)).for_each(|_| self.one(size));
                self.one(rng.within(NUMBER, size));
            }
            Habit::Any => (0..rng.within(1, 20)).for_each(|_| self.one(any(rng))),
            Habit::Growing => (0..rng.within(2, 20)).for_each(|i| self.one(100 + 60 * i)),
            Habit::Alternating => (0..rng.within(1, 10)).for_each(|_| {
                self.one(longest);
                self.one(NUMBER);
            }),
            Habit::Segmented => self.many(any(rng), rng.within(2, 40), rng),
            Habit::Fragmented => {
                (0..rng.within(1, 6)).for_each(|i| self.one(if i == 3 { rng.within(longest + 1, 9000) } else { any(rng) }))
            }
        }
        self.sent - before
    }

    fn one(&mut self, size: usize) {
        self.raw(&datagram(self.sent, size));
        self.sent += 1;
    }

    /// `count` datagrams of `size` in one call, the last one shorter or equal.
    fn many(&mut self, size: usize, count: usize, rng: &mut Rng) {
        let count = count.min(60_000 / size).max(1);
        let last = rng.within(NUMBER, size);
        let size_of = |i| if i + 1 == count { last } else { size };
        let all: Vec<u8> = (0..count).flat_map(|i| datagram(self.sent + i as u64, size_of(i))).collect();
        sys::setsockopt(&self.sender, libc::SOL_UDP, libc::UDP_SEGMENT, &(size as i32)).unwrap();
        self.raw(&all);
        self.sent += count as u64;
    }

    fn raw(&self, bytes: &[u8]) {
        match self.sender.send(bytes) {
            Ok(n) => assert_eq!(n, bytes.len()),
            // The interface's queue is full: as good as lost on the way.
            Err(e) => assert_eq!(e.raw_os_error(), Some(libc::ENOBUFS), "{:?}: {e}", self.habit),
        }
    }
}

/// The payload of datagram number `n`: every byte follows from the number and its place.
fn datagram(n: u64, size: usize) -> Vec<u8> {
    let key = (n ^ 0x5bd1_e995).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ size as u64;
    let body = (NUMBER..size).map(|i| ((key ^ i as u64).wrapping_mul(0xff51_afd7_ed55_8ccd) >> 56) as u8);
    n.to_be_bytes().into_iter().chain(body).collect()
}

/// What one direction's receivers saw.
#[derive(Debug, Default)]
struct Seen {
    /// Per flow, in the order of the flows: arrived.
    arrived: Vec<u64>,
    /// Numbers that were not above the one before them.
    disorder: Vec<String>,
    changed: Vec<String>,
}

/// Sends until the direction's share is out and waits for the rest; what was seen.
fn direction(lab: &Lab, from: &str, to: &str, seed: u64) -> (Vec<u64>, Seen) {
    let mut flows: Vec<Flow> = HABITS.iter().map(|h| Flow::new(lab, from, to, *h)).collect();
    let receivers: Vec<(Habit, UdpSocket)> = flows.iter().map(|f| (f.habit, f.receiver.try_clone().unwrap())).collect();
    let longest = flows[0].longest;
    let (arrived, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let (arrived, done) = (&arrived, &done);
    std::thread::scope(|s| {
        let collecting = s.spawn(move || collect(&receivers, longest, arrived, done));
        // A veth hands a packet to the backlog of the CPU that the sender runs on: one that moves overtakes itself.
        let sending = s.spawn(move || {
            stay_on_one_cpu();
            let (mut rng, mut sent, mut lost) = (Rng(seed), 0, 0);
            while sent < DATAGRAMS {
                let at = rng.within(0, flows.len() - 1);
                sent += flows[at].send(&mut rng);
                lost += overdue(arrived, sent - lost);
            }
            flows
        });
        // The senders stay open: answers still come.
        let flows = sending.join();
        std::thread::sleep(Duration::from_millis(300));
        done.store(true, Ordering::Relaxed);
        let seen = collecting.join().unwrap_or_else(|e| std::panic::resume_unwind(e));
        let flows = flows.unwrap_or_else(|e| std::panic::resume_unwind(e));
        (flows.iter().map(|f| f.sent).collect(), seen)
    })
}

/// Waits while the window is full; how many are written off because nothing came for a while.
fn overdue(arrived: &AtomicU64, expected: u64) -> u64 {
    let (mut last, mut since) = (0, Instant::now());
    loop {
        let now = arrived.load(Ordering::Relaxed);
        if expected.saturating_sub(now) <= WINDOW {
            return 0;
        }
        if now != last {
            (last, since) = (now, Instant::now());
        } else if since.elapsed() > PATIENCE {
            return expected - now;
        }
        std::thread::sleep(Duration::from_micros(50));
    }
}

fn collect(receivers: &[(Habit, UdpSocket)], longest: usize, arrived: &AtomicU64, done: &AtomicBool) -> Seen {
    let mut seen = Seen { arrived: vec![0; receivers.len()], ..Seen::default() };
    // Fragments show no ports: on the wire they are a flow of their own (another outer source port, as from Linux),
    // which keeps its order, but not beside the rest.
    let mut next = vec![[0u64; 2]; receivers.len()];
    let mut buf = vec![0u8; 1 << 16];
    loop {
        let (over, mut idle) = (done.load(Ordering::Relaxed), true);
        for (i, (habit, socket)) in receivers.iter().enumerate() {
            // A few at a time, so that no flow waits long.
            for _ in 0..64 {
                let n = match socket.recv(&mut buf) {
                    Ok(n) => n,
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    Err(e) => panic!("{habit:?}: {e}"),
                };
                idle = false;
                let number = u64::from_be_bytes(buf[..NUMBER].try_into().unwrap());
                if n < NUMBER || buf[..n] != datagram(number, n) {
                    seen.changed.push(format!("{habit:?}: {n} bytes that say they are number {number}"));
                    continue;
                }
                let next = &mut next[i][usize::from(n > longest)];
                if number < *next {
                    seen.disorder.push(format!("{habit:?}: {number} after {}", *next - 1));
                }
                *next = (*next).max(number + 1);
                seen.arrived[i] += 1;
                arrived.fetch_add(1, Ordering::Relaxed);
                // A flow has two directions: an answer now and then, which nobody counts.
                if number % 16 == 0 {
                    let _ = socket.send(&buf[..NUMBER]);
                }
            }
        }
        if over && idle {
            return seen;
        }
        if idle {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

/// Both directions at once.
pub fn in_order(lab: &Lab, a: &str, b: &str) {
    if lab.plan.spec.workload == Workload::AfXdp && lab.plan.spec.xdp == Xdp::Generic {
        // Generic XDP sees the pod's UDP super-frames without their segment size: such a pod must not send any.
        [a, b].into_iter().for_each(|pod| drop(lab.sh(pod, "ethtool -K eth0 tx-udp-segmentation off")));
    }
    std::thread::scope(|s| {
        let there = s.spawn(|| direction(lab, a, b, 1));
        let back = s.spawn(|| direction(lab, b, a, 2));
        for (way, run) in [(format!("{a} to {b}"), there), (format!("{b} to {a}"), back)] {
            let (sent, seen) = run.join().unwrap_or_else(|e| std::panic::resume_unwind(e));
            let lost = sent.iter().sum::<u64>().saturating_sub(seen.arrived.iter().sum());
            println!("{way}: {sent:?} sent, {lost} lost");
            let story = || format!("{way}, sent {sent:?}, arrived {:?}\n{}", seen.arrived, lab.story());
            assert!(
                seen.changed.is_empty(),
                "{} changed: {:?}\n{}",
                seen.changed.len(),
                &seen.changed[..seen.changed.len().min(5)],
                story()
            );
            let first = &seen.disorder[..seen.disorder.len().min(5)];
            assert!(first.is_empty(), "{} out of order: {first:?}\n{}", seen.disorder.len(), story());
            for (i, habit) in HABITS.iter().enumerate() {
                assert!(seen.arrived[i] * 2 > sent[i], "{habit:?}: too little arrived to tell\n{}", story());
            }
        }
    });
}

/// Whether a node's engine has joined packets since it started.
fn joined(lab: &Lab, node: &str) -> u64 {
    lab.client(node).counters().unwrap().pop().unwrap().coalesced
}

fn pair(spec: Spec) {
    let lab = Lab::up(spec);
    ping(&lab, "n1-p1", "n2-p1");
    ping(&lab, "n2-p1", "n1-p1");
    in_order(&lab, "n1-p1", "n2-p1");
    println!("joined: {} and {}", joined(&lab, "n1"), joined(&lab, "n2"));
    for node in ["n1", "n2"] {
        lab.expect_balance(node);
    }
}

fn workers(workload: Workload, uplink: Uplink) {
    pair(Spec { workers: 2, ..spec(workload, uplink, Xdp::Native) });
}

#[test]
fn two_workers_with_packet_sockets_and_udp() {
    workers(Workload::AfPacket, Uplink::Socket);
}

#[test]
fn two_workers_with_taps_and_udp() {
    workers(Workload::Tap, Uplink::Socket);
}

#[test]
fn two_workers_with_af_xdp() {
    workers(Workload::AfXdp, Uplink::AfXdp);
}

#[test]
fn two_workers_with_raw_sockets() {
    pair(Spec { workers: 2, encap: Encap::Ipip, ..spec(Workload::AfPacket, Uplink::Socket, Xdp::Auto) });
}
