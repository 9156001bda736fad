//! The order in which a node tries a pool's blocks: from a place that its name decides, once around. Two nodes rarely
//! begin at the same block, and one node always begins at the same.

use super::gorand::GoRand;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A pool's blocks in a node's order.
pub struct Walk {
    pool: IpNet,
    block_size: u8,
    blocks: u128,
    next: u128,
    left: u128,
}

impl Walk {
    /// `block_size` is the prefix length of the blocks; `nanoseconds` since the epoch decide for blocks of a single
    /// address, where going always to the same would only mean more blocks in use to pass.
    pub fn new(pool: IpNet, block_size: u8, host: &str, nanoseconds: i64) -> Walk {
        let bits = block_size.checked_sub(pool.prefix_len());
        let blocks = bits.map_or(0, |b| 1u128.checked_shl(b.into()).unwrap_or(u128::MAX));
        let seed = if block_size == pool.max_prefix_len() { nanoseconds } else { i64::from(fnv1(host)) };
        let start = if blocks > 1 { GoRand::new(seed).below(blocks) } else { 0 };
        Walk { pool, block_size, blocks, next: start, left: blocks }
    }
}

impl Iterator for Walk {
    type Item = IpNet;

    fn next(&mut self) -> Option<IpNet> {
        self.left = self.left.checked_sub(1)?;
        let index = self.next;
        self.next = if index + 1 == self.blocks { 0 } else { index + 1 };
        Some(block(self.pool, self.block_size, index))
    }
}

/// The block number `index` of a pool.
fn block(pool: IpNet, block_size: u8, index: u128) -> IpNet {
    let offset = index << (pool.max_prefix_len() - block_size).min(127);
    let address = match pool.network() {
        IpAddr::V4(a) => Ipv4Addr::from(u32::from(a).wrapping_add(offset as u32)).into(),
        IpAddr::V6(a) => Ipv6Addr::from(u128::from(a).wrapping_add(offset)).into(),
    };
    super::net(address, block_size)
}

/// FNV-1 with 32 bits (not FNV-1a).
fn fnv1(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash: u32, byte| hash.wrapping_mul(0x0100_0193) ^ u32::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(pool: &str, host: &str) -> String {
        Walk::new(pool.parse().unwrap(), 26, host, 0).next().unwrap().to_string()
    }

    /// Blocks that nodes of running Calico clusters had.
    #[test]
    fn nodes_begin_where_calico_s_do() {
        for (node, block) in [
            ("worker1-k8s", "10.244.56.64/26"),
            ("worker2-k8s", "10.244.238.192/26"),
            ("worker3-k8s", "10.244.202.128/26"),
            ("master1-k8s", "10.244.218.64/26"),
            ("worker1-c1", "10.244.92.128/26"),
            ("worker2-c1", "10.244.71.64/26"),
            ("worker3-c1", "10.244.208.0/26"),
            ("master-c1", "10.244.174.192/26"),
        ] {
            assert_eq!(first("10.244.0.0/16", &format!("{node}.myk8s.example.com")), block, "{node}");
        }
        assert_eq!(first("192.168.0.0/16", "controlplane"), "192.168.49.64/26");
        assert_eq!(first("192.168.0.0/16", "node01"), "192.168.196.128/26");
    }

    #[test]
    fn every_block_once_in_a_circle() {
        let pool: IpNet = "10.0.0.0/28".parse().unwrap();
        let blocks: Vec<IpNet> = Walk::new(pool, 30, "n1", 0).collect();
        assert_eq!(blocks.len(), 4);
        let start = blocks.iter().position(|b| b.to_string() == "10.0.0.0/30").unwrap();
        let turned: Vec<String> = blocks[start..].iter().chain(&blocks[..start]).map(IpNet::to_string).collect();
        assert_eq!(turned, ["10.0.0.0/30", "10.0.0.4/30", "10.0.0.8/30", "10.0.0.12/30"]);
    }

    #[test]
    fn edges() {
        let walk = |pool: &str, size, time| Walk::new(pool.parse().unwrap(), size, "n1", time);
        assert_eq!(walk("10.0.0.0/28", 26, 0).count(), 0, "blocks larger than the pool");
        assert_eq!(walk("10.0.0.0/26", 26, 0).count(), 1);
        let starts: std::collections::BTreeSet<_> = (1..40).map(|time| walk("10.0.0.0/24", 32, time).next().unwrap()).collect();
        assert!(starts.len() > 20, "blocks of one address begin anywhere");
        assert!(walk("fd00::/48", 122, 0).next().unwrap().to_string().ends_with("/122"));
        assert_eq!(walk("fd00::/48", 122, 0).take(1000).collect::<std::collections::BTreeSet<_>>().len(), 1000);
        assert!(walk("::/0", 128, 5).next().is_some());
    }

    #[test]
    fn fnv1_vectors() {
        assert_eq!((fnv1(""), fnv1("a"), fnv1("foobar")), (0x811c_9dc5, 0x050c_5d7e, 0x31f0_b262));
    }
}
