//! IPv4 longest-prefix match: flat strides of 16, 8 and 8 bits with routes pushed down to the leaves, so a
//! lookup is one to three dependent loads. Copied on write: [`Table4`] is edited by one writer, `commit`
//! gives an immutable [`Lpm4`] that shares all untouched memory with the ones before.

use super::AdjId;
use ipnet::Ipv4Net;
use prefix_trie::PrefixMap;
use std::sync::Arc;

/// An entry is empty (0), a leaf (bit 31 clear; prefix length + 1 in bits 25-30, adjacency in bits 0-24), or
/// a child (bit 31 set, block number below). The length lets an insert see what it may overwrite and a
/// delete what was its own, without walking back to the route list.
type Entry = u32;

const CHILD: Entry = 1 << 31;
const ID_BITS: u32 = 25;
const ID_MASK: Entry = (1 << ID_BITS) - 1;
const BLOCK: usize = 256;
/// Blocks copied together when one of them changes: 64 KiB.
const BLOCKS_PER_CHUNK: usize = 64;

/// Most adjacencies that an entry can name.
pub const MAX_ADJ: u32 = ID_MASK;

type Block = [Entry; BLOCK];
type Root = [Entry; 1 << 16];

#[derive(Clone)]
struct Chunk([Block; BLOCKS_PER_CHUNK]);

#[inline(always)]
const fn leaf(len: u8, id: u32) -> Entry {
    ((len as u32 + 1) << ID_BITS) | id
}
#[inline(always)]
const fn leaf_len(e: Entry) -> u32 {
    (e & !CHILD) >> ID_BITS
}

/// An immutable generation of the table; clones share memory.
#[derive(Clone)]
pub struct Lpm4 {
    root: Arc<Root>,
    chunks: Vec<Arc<Chunk>>,
    /// The /0 route lives outside the array: writing it would touch every empty entry.
    default: AdjId,
}

impl Lpm4 {
    /// The adjacency for an address in host byte order; [`AdjId::NO_ROUTE`] when nothing covers it.
    #[inline(always)]
    pub fn lookup(&self, addr: u32) -> AdjId {
        let mut e = self.root[(addr >> 16) as usize];
        if e & CHILD != 0 {
            e = self.entry(e, addr >> 8);
            if e & CHILD != 0 {
                e = self.entry(e, addr);
            }
        }
        if e == 0 { self.default } else { AdjId(e & ID_MASK) }
    }

    #[inline(always)]
    fn entry(&self, child: Entry, byte: u32) -> Entry {
        let block = (child & !CHILD) as usize;
        self.chunks[block / BLOCKS_PER_CHUNK].0[block % BLOCKS_PER_CHUNK][(byte & 0xff) as usize]
    }

    /// Looks up several addresses level by level, so that their cache misses overlap. `out` must be as long
    /// as `addrs`.
    #[inline]
    pub fn lookup_batch(&self, addrs: &[u32], out: &mut [AdjId]) {
        const LANES: usize = 8;
        let (addr_lanes, addr_rest) = addrs.as_chunks::<LANES>();
        let (out_lanes, out_rest) = out.as_chunks_mut::<LANES>();
        for (a, o) in addr_lanes.iter().zip(out_lanes) {
            let mut e = [0 as Entry; LANES];
            for i in 0..LANES {
                e[i] = self.root[(a[i] >> 16) as usize];
            }
            for i in 0..LANES {
                if e[i] & CHILD != 0 {
                    e[i] = self.entry(e[i], a[i] >> 8);
                }
            }
            for i in 0..LANES {
                if e[i] & CHILD != 0 {
                    e[i] = self.entry(e[i], a[i]);
                }
            }
            for i in 0..LANES {
                o[i] = if e[i] == 0 { self.default } else { AdjId(e[i] & ID_MASK) };
            }
        }
        for (a, o) in addr_rest.iter().zip(out_rest) {
            *o = self.lookup(*a);
        }
    }

    /// Bytes of memory that this generation refers to (shared parts counted whole).
    pub fn memory(&self) -> usize {
        size_of::<Root>() + self.chunks.len() * size_of::<Chunk>()
    }
}

/// The writer's side: the routes themselves and the generation being built.
pub struct Table4 {
    routes: PrefixMap<Ipv4Net, AdjId>,
    next: Lpm4,
    free: Vec<u32>,
}

impl Default for Table4 {
    fn default() -> Table4 {
        Table4::new()
    }
}

fn zeroed_root() -> Arc<Root> {
    let v: Box<[Entry]> = vec![0; 1 << 16].into_boxed_slice();
    let root: Box<Root> = v.try_into().expect("the length is the type's");
    Arc::from(root)
}

impl Table4 {
    pub fn new() -> Table4 {
        Table4 {
            routes: PrefixMap::new(),
            next: Lpm4 { root: zeroed_root(), chunks: Vec::new(), default: AdjId::NO_ROUTE },
            free: Vec::new(),
        }
    }

    /// Adds a route or changes its adjacency; returns the old one. Host bits of `prefix` are ignored.
    /// Panics if `adj` is above [`MAX_ADJ`].
    pub fn insert(&mut self, prefix: Ipv4Net, adj: AdjId) -> Option<AdjId> {
        assert!(adj.0 <= MAX_ADJ, "adjacency number beyond 25 bits");
        let prefix = prefix.trunc();
        let old = self.routes.insert(prefix, adj);
        let len = prefix.prefix_len();
        if len == 0 {
            self.next.default = adj;
        } else {
            let new = leaf(len, adj.0);
            self.write(prefix, new, |e| leaf_len(e) <= u32::from(len) + 1);
        }
        old
    }

    /// Removes a route; what it covered falls to the next shorter one. Returns its adjacency.
    pub fn remove(&mut self, prefix: Ipv4Net) -> Option<AdjId> {
        let prefix = prefix.trunc();
        let old = self.routes.remove(&prefix)?;
        let len = prefix.prefix_len();
        if len == 0 {
            self.next.default = AdjId::NO_ROUTE;
        } else {
            let cover = self.routes.get_lpm(&prefix).filter(|(p, _)| p.prefix_len() > 0).map_or(0, |(p, adj)| leaf(p.prefix_len(), adj.0));
            self.write(prefix, cover, |e| leaf_len(e) == u32::from(len) + 1);
        }
        Some(old)
    }

    /// The adjacency of exactly this prefix.
    pub fn get(&self, prefix: &Ipv4Net) -> Option<AdjId> {
        self.routes.get(&prefix.trunc()).copied()
    }

    pub fn len(&self) -> usize {
        self.routes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// All routes in address order.
    pub fn iter(&self) -> impl Iterator<Item = (Ipv4Net, AdjId)> + '_ {
        self.routes.iter().map(|(p, a)| (p, *a))
    }

    /// The table as edited so far, as an immutable generation.
    pub fn commit(&self) -> Lpm4 {
        self.next.clone()
    }

    /// Sets every leaf under `prefix` that `replace` accepts to `new`.
    fn write(&mut self, prefix: Ipv4Net, new: Entry, replace: impl Fn(Entry) -> bool + Copy) {
        let base = u32::from(prefix.network());
        let len = u32::from(prefix.prefix_len());
        let hi = (base >> 16) as usize;
        if len <= 16 {
            for i in hi..hi + (1 << (16 - len)) {
                let e = self.next.root[i];
                let n = self.rewritten(e, new, replace);
                if n != e {
                    Arc::make_mut(&mut self.next.root)[i] = n;
                }
            }
            return;
        }
        let e = self.next.root[hi];
        let b1 = self.child_of(e);
        let mid = (base >> 8 & 0xff) as usize;
        if len <= 24 {
            self.write_range(b1, mid, 1 << (24 - len), new, replace);
        } else {
            let e2 = self.block(b1)[mid];
            let b2 = self.child_of(e2);
            self.write_range(b2, (base & 0xff) as usize, 1 << (32 - len), new, replace);
            let n = self.collapsed(b2);
            if n != e2 {
                self.block_mut(b1)[mid] = n;
            }
        }
        let n = self.collapsed(b1);
        if n != e {
            Arc::make_mut(&mut self.next.root)[hi] = n;
        }
    }

    fn write_range(&mut self, block: u32, from: usize, count: usize, new: Entry, replace: impl Fn(Entry) -> bool + Copy) {
        for i in from..from + count {
            let e = self.block(block)[i];
            let n = self.rewritten(e, new, replace);
            if n != e {
                self.block_mut(block)[i] = n;
            }
        }
    }

    /// What entry `e` becomes: a leaf is replaced if `replace` says so, a child is descended into.
    fn rewritten(&mut self, e: Entry, new: Entry, replace: impl Fn(Entry) -> bool + Copy) -> Entry {
        if e & CHILD == 0 {
            return if replace(e) { new } else { e };
        }
        let block = e & !CHILD;
        self.write_range(block, 0, BLOCK, new, replace);
        self.collapsed(block)
    }

    /// The block under entry `e`, made and filled with the leaf `e` if there is none.
    fn child_of(&mut self, e: Entry) -> u32 {
        if e & CHILD != 0 {
            return e & !CHILD;
        }
        let block = self.free.pop().unwrap_or_else(|| {
            let first = (self.next.chunks.len() * BLOCKS_PER_CHUNK) as u32;
            self.next.chunks.push(Arc::new(Chunk([[0; BLOCK]; BLOCKS_PER_CHUNK])));
            self.free.extend((first + 1..first + BLOCKS_PER_CHUNK as u32).rev());
            first
        });
        self.block_mut(block).fill(e);
        block
    }

    /// The entry that stands for `block`: the block itself, or, when all its entries are the same leaf, that
    /// leaf, and the block is free again.
    fn collapsed(&mut self, block: u32) -> Entry {
        let b = self.block(block);
        let first = b[0];
        if first & CHILD != 0 || b.iter().any(|e| *e != first) {
            return CHILD | block;
        }
        self.free.push(block);
        first
    }

    fn block(&self, block: u32) -> &Block {
        &self.next.chunks[block as usize / BLOCKS_PER_CHUNK].0[block as usize % BLOCKS_PER_CHUNK]
    }

    fn block_mut(&mut self, block: u32) -> &mut Block {
        &mut Arc::make_mut(&mut self.next.chunks[block as usize / BLOCKS_PER_CHUNK]).0[block as usize % BLOCKS_PER_CHUNK]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn net(s: &str) -> Ipv4Net {
        s.parse().unwrap()
    }
    fn at(l: &Lpm4, s: &str) -> u32 {
        l.lookup(u32::from(s.parse::<Ipv4Addr>().unwrap())).0
    }

    #[test]
    fn longest_wins_and_generations_are_independent() {
        let mut t = Table4::new();
        assert_eq!(at(&t.commit(), "1.2.3.4"), 0);
        for (i, p) in
            ["0.0.0.0/0", "10.0.0.0/8", "10.244.0.0/16", "10.244.56.64/26", "10.244.56.65/32", "10.244.56.0/24"].iter().enumerate()
        {
            assert_eq!(t.insert(net(p), AdjId(i as u32 + 1)), None);
        }
        let full = t.commit();
        for (addr, want) in
            [("9.9.9.9", 1), ("10.1.1.1", 2), ("10.244.1.1", 3), ("10.244.56.127", 4), ("10.244.56.65", 5), ("10.244.56.1", 6)]
        {
            assert_eq!(at(&full, addr), want, "{addr}");
        }
        assert_eq!(t.remove(net("10.244.56.64/26")), Some(AdjId(4)));
        assert_eq!(t.remove(net("10.244.56.64/26")), None);
        assert_eq!((at(&t.commit(), "10.244.56.127"), at(&t.commit(), "10.244.56.65")), (6, 5));
        assert_eq!(at(&full, "10.244.56.127"), 4);
        for p in ["0.0.0.0/0", "10.0.0.0/8", "10.244.0.0/16", "10.244.56.65/32", "10.244.56.0/24"] {
            t.remove(net(p)).unwrap();
        }
        assert!(t.is_empty());
        assert_eq!(t.free.len(), t.next.chunks.len() * BLOCKS_PER_CHUNK);
        assert!(t.next.root.iter().all(|e| *e == 0));
    }

    fn prefix() -> impl Strategy<Value = Ipv4Net> {
        // A small universe, so that prefixes nest, repeat and are removed again.
        (0u8..=32, prop_oneof![Just(0x0af4_0000u32), Just(0x0af4_3840), Just(0x0a00_0000), Just(0xc0a8_0100)], 0u32..512)
            .prop_map(|(len, base, off)| Ipv4Net::new(Ipv4Addr::from(base ^ off), len).unwrap().trunc())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
        #[test]
        fn agrees_with_a_trie(ops in proptest::collection::vec((prefix(), 1u32..1000, any::<bool>()), 1..120), probes in proptest::collection::vec((0usize..120, 0u32..1024), 64)) {
            let mut t = Table4::new();
            let mut oracle: PrefixMap<Ipv4Net, u32> = PrefixMap::new();
            for (p, id, add) in &ops {
                if *add {
                    prop_assert_eq!(t.insert(*p, AdjId(*id)).map(|a| a.0), oracle.insert(*p, *id));
                } else {
                    prop_assert_eq!(t.remove(*p).map(|a| a.0), oracle.remove(p));
                }
            }
            let l = t.commit();
            let addrs: Vec<u32> = probes.iter().map(|(i, off)| u32::from(ops[i % ops.len()].0.network()) ^ off).collect();
            let mut batch = vec![AdjId(0); addrs.len()];
            l.lookup_batch(&addrs, &mut batch);
            for (a, b) in addrs.iter().zip(batch) {
                let want = oracle.get_lpm(&Ipv4Net::new(Ipv4Addr::from(*a), 32).unwrap()).map_or(0, |(_, id)| *id);
                prop_assert_eq!(l.lookup(*a).0, want);
                prop_assert_eq!(b.0, want);
            }
        }
    }
}
