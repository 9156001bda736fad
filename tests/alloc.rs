//! No heap allocation per forwarded packet: a counting allocator watches 10,000 packets on each path after a
//! warm-up. A test binary of its own, because the allocator is the whole process's.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tortie::frame::{Batch, FramePool, PortId};
use tortie::port::{Caps, Medium, Port, RxReport, TxReport};
use tortie::testing::bed::Bed;
use tortie::testing::build::{self, ArpFrame, Ip4};
use tortie::testing::net::{Node, Setup, Via};
use tortie::wire::Mac;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting the calling thread's allocations.
struct Counting;

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: as above; `p` came from `alloc`.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const ME: Node = Node(1);
const PEER: Node = Node(2);
const PACKETS: u64 = 10_000;

/// Delivers the same frame again and again in full bursts, and swallows what is sent.
struct Loop {
    caps: Caps,
    frame: Vec<u8>,
    sent: Arc<AtomicU64>,
}

impl Port for Loop {
    fn caps(&self) -> &Caps {
        &self.caps
    }
    fn rx_burst(&mut self, pool: &mut FramePool, out: &mut Batch) -> io::Result<RxReport> {
        while !self.frame.is_empty() && out.room() > 0 {
            let Some(mut f) = pool.take_for(self.frame.len()) else { break };
            pool.set_len(&mut f, self.frame.len());
            pool.data_mut(&f).copy_from_slice(&self.frame);
            out.push(f);
        }
        Ok(RxReport::default())
    }
    fn tx_burst(&mut self, pool: &mut FramePool, out: &mut Batch) -> io::Result<TxReport> {
        let sent = out.len() as u32;
        pool.give_all(out);
        self.sent.fetch_add(u64::from(sent), Relaxed);
        Ok(TxReport { sent, ..TxReport::default() })
    }
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    fn release(&mut self, _: &mut FramePool) {}
}

/// Forwards `frame`, received on `from`, many times; every one must be sent on `to`.
fn forwards_without_allocating(s: &Setup, from: PortId, frame: Vec<u8>, to: PortId) {
    let mut bed = Bed::new(s);
    let sent = Arc::new(AtomicU64::new(0));
    for (i, spec) in s.ports.iter().enumerate() {
        let id = PortId(i as u16);
        let frame = if id == from { frame.clone() } else { Vec::new() };
        let sent = if id == to { sent.clone() } else { Arc::default() };
        bed.open(id, Box::new(Loop { caps: spec.caps.clone(), frame, sent }));
    }
    (0..10).for_each(|_| assert!(bed.turn()));
    let (before, first) = (ALLOCATIONS.get(), sent.load(Relaxed));
    assert!(first > 0, "the path does not lead to the port");
    while sent.load(Relaxed) < first + PACKETS {
        bed.turn();
    }
    assert_eq!(ALLOCATIONS.get() - before, 0, "allocations over {PACKETS} packets");
}

/// Two pods, an uplink, a route to the peer.
fn site(medium: Medium) -> (Setup, PortId, PortId, PortId) {
    let mut s = Setup::new(ME);
    let (a, b, up) = (s.pod(1), s.pod(2), s.uplink(medium));
    s.route(PEER.block(), Via::Vxlan(PEER));
    (s, a, b, up)
}

fn from_pod(packet: &[u8]) -> Vec<u8> {
    build::ethernet(Mac::GATEWAY, ME.pod_mac(1), packet)
}

#[test]
fn the_allocator_counts() {
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(ALLOCATIONS.get() - before, 1);
}

#[test]
fn local_delivery() {
    let (s, a, b, _) = site(Medium::Ethernet);
    forwards_without_allocating(&s, a, from_pod(&Ip4::new(ME.pod(1), ME.pod(2)).udp(1, 2, &[0; 64])), b);
}

#[test]
fn vxlan_encapsulation() {
    for medium in [Medium::Ethernet, Medium::VxlanUdp] {
        let (s, a, _, up) = site(medium);
        forwards_without_allocating(&s, a, from_pod(&Ip4::new(ME.pod(1), PEER.pod(2)).udp(1, 2, &[0; 64])), up);
    }
}

#[test]
fn vxlan_decapsulation() {
    let (s, a, _, up) = site(Medium::Ethernet);
    let inner = Ip4::new(PEER.pod(1), ME.pod(1)).udp(1, 2, &[0; 64]);
    forwards_without_allocating(&s, up, PEER.vxlan_to(ME).frame(&inner), a);
}

#[test]
fn joining() {
    let mut s = Setup::new(ME);
    let (a, b) = (s.pod(1), s.offload_pod(2));
    // Equal datagrams with DF make super-frames of a whole burst, long ones in big slots.
    for len in [64, 1000] {
        forwards_without_allocating(&s, a, from_pod(&Ip4::new(ME.pod(1), ME.pod(2)).udp(1, 2, &vec![0; len])), b);
    }
}

#[test]
fn arp() {
    let (s, a, ..) = site(Medium::Ethernet);
    forwards_without_allocating(&s, a, ArpFrame::request(ME.pod_mac(1), ME.pod(1), tortie::arp::GATEWAY).bytes(), a);
}

#[test]
fn fragments() {
    let (s, a, _, up) = site(Medium::Ethernet);
    forwards_without_allocating(&s, a, from_pod(&Ip4::new(ME.pod(1), PEER.pod(2)).may_fragment().udp(1, 2, &[0; 3000])), up);
}
