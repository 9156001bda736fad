//! Flows whose answers the host has to see.
//!
//! The host's packet filter translates addresses of packets that it is handed (a Service's address to a pod's, a host
//! port to a pod's port) and hands them back. The answers must come by it too, or nobody translates them back. So the
//! other direction of such a flow is kept here, and packets of it are punted.
//!
//! One table per node, of fixed size, shared by all workers: a flow's two directions may be different workers'. Nobody
//! waits: a slot is claimed by compare-and-swap, and a reader that meets a slot that is just being written sees no
//! flow, or for that one packet a wrong one, which takes the longer way by the host and arrives as well.

mod key;

pub use key::Key;

use crate::wire::ipv4;
use key::Packet;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

/// Slots of a bucket: one byte of a word for each.
const WAYS: usize = 8;
const BUCKETS: usize = 1 << 13;
/// Flows that fit; each takes a slot, and each pair of addresses one more.
pub const SLOTS: usize = BUCKETS * WAYS;

/// `Slot::rest` of a slot that nobody uses, and of one that is being written.
const EMPTY: u64 = 0;
const BUSY: u64 = 0xff;
/// How often a slot is looked for while others take them.
const TRIES: usize = 4;
/// An entry is not written anew for less, so that a packet seldom writes to memory that workers share.
const SLACK_MS: u64 = 1000;

/// Idle times, milliseconds; those of Linux's connection tracking (net.netfilter.nf_conntrack_*_timeout*): an entry
/// must not end before the host's.
const TCP_OPENING: u64 = 120_000;
const TCP_OPEN: u64 = 432_000_000;
const TCP_CLOSING: u64 = 120_000;
const UDP_OPENING: u64 = 30_000;
const UDP_OPEN: u64 = 120_000;
const ICMP: u64 = 30_000;
const OTHER: u64 = 600_000;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;

/// How far a flow is; decides how long it may be idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    Opening,
    Open,
    Closing,
}

impl Phase {
    fn of(bits: u64) -> Phase {
        match bits & 3 {
            0 => Phase::Opening,
            1 => Phase::Open,
            _ => Phase::Closing,
        }
    }

    /// After a packet of the flow, or an answer.
    fn next(self, protocol: u8, flags: u8, is_answer: bool) -> Phase {
        match (protocol, self) {
            (ipv4::PROTO_TCP, _) if flags & (FIN | RST) != 0 => Phase::Closing,
            (ipv4::PROTO_TCP, _) if flags & SYN != 0 => Phase::Opening,
            // The last acknowledgements of a connection open no new one.
            (ipv4::PROTO_TCP, Phase::Closing) => Phase::Closing,
            (ipv4::PROTO_TCP, _) => Phase::Open,
            _ if is_answer => Phase::Open,
            _ => self,
        }
    }

    fn idle_ms(self, key: Key) -> u64 {
        match (key.protocol(), self) {
            _ if key.is_pair() => OTHER,
            (ipv4::PROTO_TCP, Phase::Opening) => TCP_OPENING,
            (ipv4::PROTO_TCP, Phase::Open) => TCP_OPEN,
            (ipv4::PROTO_TCP, Phase::Closing) => TCP_CLOSING,
            (ipv4::PROTO_UDP, Phase::Opening) => UDP_OPENING,
            (ipv4::PROTO_UDP, _) => UDP_OPEN,
            (ipv4::PROTO_ICMP, _) => ICMP,
            _ => OTHER,
        }
    }
}

/// One entry. A quarter of a cache line pair: none lies across two lines.
#[derive(Default)]
#[repr(align(32))]
struct Slot {
    addresses: AtomicU64,
    rest: AtomicU64,
    /// When the entry ends, milliseconds, times four, and the phase.
    ends: AtomicU64,
}

impl Slot {
    fn is(&self, key: Key) -> bool {
        self.rest.load(Acquire) == key.rest && self.addresses.load(Relaxed) == key.addresses
    }

    fn ends_ms(&self) -> u64 {
        self.ends.load(Relaxed) >> 2
    }

    /// Lets the entry live on because of a packet; false if it has ended.
    #[inline]
    fn refresh(&self, key: Key, flags: u8, is_answer: bool, now_ms: u64) -> bool {
        let mut old = self.ends.load(Relaxed);
        loop {
            if old >> 2 <= now_ms {
                return false;
            }
            let phase = Phase::of(old);
            let next = phase.next(key.protocol(), flags, is_answer);
            let ends = now_ms + next.idle_ms(key);
            if next == phase && ends <= (old >> 2) + SLACK_MS {
                return true;
            }
            match self.ends.compare_exchange_weak(old, ends << 2 | next as u64, Relaxed, Relaxed) {
                Ok(_) => return true,
                Err(now) => old = now,
            }
        }
    }
}

/// What it took to keep a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// New entries.
    pub made: u64,
    /// Live entries that had to go for them, and entries that found no place.
    pub evicted: u64,
}

/// An entry as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The direction that is punted.
    pub key: Key,
    pub phase: Phase,
    /// Until it ends, if no packet comes.
    pub left_ms: u64,
}

/// The table.
pub struct Flows {
    /// Per bucket, a byte for each slot: 0 if it is empty, else bits of the key's hash. Most packets belong to no flow
    /// here and need to see no more than this.
    tags: Box<[AtomicU64]>,
    slots: Box<[[Slot; WAYS]]>,
    live: AtomicUsize,
}

impl Default for Flows {
    fn default() -> Flows {
        Flows {
            tags: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            slots: (0..BUCKETS).map(|_| Default::default()).collect(),
            live: AtomicUsize::new(0),
        }
    }
}

impl Flows {
    /// Entries, those included that have ended since the last [`Flows::sweep`].
    pub fn len(&self) -> usize {
        self.live.load(Relaxed)
    }

    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keeps the flow of a packet that came from the host: its answers are the host's. An answer that comes from the host
    /// as it was punted ends its flow's entry instead: the host does not translate it. The packet starts at a validated
    /// IPv4 header.
    pub fn keep(&self, p: &[u8], now_ms: u64) -> Kept {
        // An error is about another flow, and has no answers.
        if key::offender(p).is_some() {
            return Kept::default();
        }
        let packet = Packet::read(p);
        if let Some(flow) = packet.flow
            && let Some(slot) = self.find(flow).filter(|slot| slot.ends_ms() > now_ms)
        {
            slot.ends.store(0, Relaxed);
            return Kept::default();
        }
        let mut kept = self.keep_one(packet.pair.reversed(), packet.flags, now_ms);
        if let Some(flow) = packet.flow {
            let one = self.keep_one(flow.reversed(), packet.flags, now_ms);
            kept = Kept { made: kept.made + one.made, evicted: kept.evicted + one.evicted };
        }
        kept
    }

    /// Whether a packet answers a flow that is kept, or is an ICMP error about one. The packet starts at a validated
    /// IPv4 header.
    #[inline]
    pub fn answers(&self, p: &[u8], now_ms: u64) -> bool {
        if let Some(offender) = key::offender(p) {
            let key = Packet::read(offender).key().reversed();
            return self.find(key).is_some_and(|slot| slot.ends_ms() > now_ms);
        }
        let packet = Packet::read(p);
        let key = packet.key();
        self.find(key).is_some_and(|slot| slot.refresh(key, packet.flags, true, now_ms))
    }

    #[inline]
    fn find(&self, key: Key) -> Option<&Slot> {
        let (bucket, tag) = place(key);
        let mut hits = bytes_equal(self.tags[bucket].load(Acquire), tag);
        while hits != 0 {
            let slot = &self.slots[bucket][hits.trailing_zeros() as usize / 8];
            if slot.is(key) {
                return Some(slot);
            }
            hits &= hits - 1;
        }
        None
    }

    fn keep_one(&self, key: Key, flags: u8, now_ms: u64) -> Kept {
        if self.find(key).is_some_and(|slot| slot.refresh(key, flags, false, now_ms)) {
            return Kept::default();
        }
        let phase = Phase::Opening.next(key.protocol(), flags, false);
        self.insert(key, phase, now_ms + phase.idle_ms(key), now_ms)
    }

    /// Takes the key's own slot if it has one, else an empty one, else the one that would end first.
    fn insert(&self, key: Key, phase: Phase, ends_ms: u64, now_ms: u64) -> Kept {
        let (bucket, tag) = place(key);
        for _ in 0..TRIES {
            let rank = |slot: &&Slot| match slot.rest.load(Relaxed) {
                BUSY => u64::MAX,
                EMPTY => 1,
                _ if slot.is(key) => 0,
                _ => slot.ends_ms().max(1) + 1,
            };
            let Some((way, slot)) = self.slots[bucket].iter().enumerate().min_by_key(|(_, slot)| rank(slot)) else { break };
            let old = slot.rest.load(Relaxed);
            if old == BUSY || slot.rest.compare_exchange(old, BUSY, Acquire, Relaxed).is_err() {
                continue;
            }
            let evicted = old != EMPTY && slot.ends_ms() > now_ms;
            slot.addresses.store(key.addresses, Relaxed);
            slot.ends.store(ends_ms << 2 | phase as u64, Relaxed);
            self.set_tag(bucket, way, tag);
            slot.rest.store(key.rest, Release);
            if old == EMPTY {
                self.live.fetch_add(1, Relaxed);
            }
            return Kept { made: 1, evicted: evicted.into() };
        }
        Kept { made: 0, evicted: 1 }
    }

    fn set_tag(&self, bucket: usize, way: usize, tag: u8) {
        let shift = way * 8;
        let set = |tags: u64| Some(tags & !(0xff << shift) | u64::from(tag) << shift);
        // The closure never declines.
        let _ = self.tags[bucket].fetch_update(Release, Relaxed, set);
    }

    /// Frees the slots of entries that have ended; how many entries are left. For control, now and then.
    pub fn sweep(&self, now_ms: u64) -> usize {
        if self.is_empty() {
            return 0;
        }
        for (bucket, slots) in self.slots.iter().enumerate().filter(|(i, _)| self.tags[*i].load(Relaxed) != 0) {
            for (way, slot) in slots.iter().enumerate() {
                let rest = slot.rest.load(Relaxed);
                let has_ended = |slot: &Slot| slot.ends_ms() <= now_ms;
                if matches!(rest, EMPTY | BUSY) || !has_ended(slot) || slot.rest.compare_exchange(rest, BUSY, Acquire, Relaxed).is_err() {
                    continue;
                }
                if has_ended(slot) {
                    self.set_tag(bucket, way, 0);
                    slot.rest.store(EMPTY, Release);
                    self.live.fetch_sub(1, Relaxed);
                } else {
                    slot.rest.store(rest, Release);
                }
            }
        }
        self.len()
    }

    /// All entries that have not ended, in no order.
    pub fn entries(&self, now_ms: u64) -> Vec<Entry> {
        let entry = |slot: &Slot| {
            let (rest, ends) = (slot.rest.load(Acquire), slot.ends.load(Relaxed));
            let left_ms = (ends >> 2).saturating_sub(now_ms);
            let key = Key { addresses: slot.addresses.load(Relaxed), rest };
            (!matches!(rest, EMPTY | BUSY) && left_ms > 0).then(|| Entry { key, phase: Phase::of(ends), left_ms })
        };
        self.slots.iter().flatten().filter_map(entry).collect()
    }

    /// Puts an entry back that [`Flows::entries`] gave.
    pub fn restore(&self, entry: &Entry, now_ms: u64) -> Kept {
        self.insert(entry.key, entry.phase, now_ms + entry.left_ms, now_ms)
    }
}

/// A key's bucket and its tag, which is not 0.
#[inline(always)]
fn place(key: Key) -> (usize, u8) {
    let hash = crate::wire::flow::mix(key.addresses, key.rest);
    (hash as usize % BUCKETS, (hash >> 24) as u8 | 1)
}

/// The top bits of the bytes of `word` that equal `byte`; a byte above such a one may be marked too.
#[inline(always)]
const fn bytes_equal(word: u64, byte: u8) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let x = word ^ (ONES * byte as u64);
    x.wrapping_sub(ONES) & !x & (ONES << 7)
}

#[cfg(test)]
mod tests;
