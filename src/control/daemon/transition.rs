//! Pools whose packets begin to travel without encapsulation, or cease to. Nodes learn of that one after the other, and a
//! kernel with a strict reverse-path filter takes an unencapsulated packet only where its own route leads back the same way.
//! So for a while both ways are right, and what is to go without encapsulation goes in the tunnel still: tunnels are always
//! accepted.

use crate::control::model::{Encap, IpPool, Key, Kind, Mode};
use ipnet::{IpNet, Ipv4Net};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long: other nodes have to learn of the change meanwhile.
const OVERLAP: Duration = Duration::from_secs(2);

/// Pools by name.
type Pools = BTreeMap<String, Arc<IpPool>>;

#[derive(Default)]
pub struct Transitions {
    /// As the calculation knows them.
    known: Pools,
    /// What becomes of some of them at the end.
    held: Pools,
    ends: BTreeMap<String, (Ipv4Net, Instant)>,
}

impl Transitions {
    /// Takes the pools in as the datastore has them now, and leaves those out that have to wait; those whose wait is over.
    /// `strict`: whether this node's filters are, as other nodes' are then likely to be.
    pub fn look(&mut self, pools: &mut Pools, strict: impl Fn() -> bool, now: Instant) -> BTreeSet<Key> {
        let mut over = BTreeSet::new();
        let due: Vec<String> = self.ends.iter().filter(|(_, (_, end))| *end <= now).map(|(name, _)| name.clone()).collect();
        for name in due {
            self.ends.remove(&name);
            if let (Some(new), Some(pool)) = (self.held.remove(&name), pools.get_mut(&name)) {
                if self.known.get(&name) == Some(pool) {
                    pool.clone_from(&new);
                }
                self.known.insert(name.clone(), pool.clone());
                over.insert(Key { kind: Kind::IpPool, name });
            }
        }
        for (name, pool) in pools.iter_mut() {
            let Some(old) = self.known.get(name).filter(|old| *old != pool) else { continue };
            if self.held.get(name) != Some(pool) {
                self.held.remove(name);
                let IpNet::V4(cidr) = pool.cidr else { continue };
                let direct = goes_direct(pool);
                if direct == goes_direct(old) || old.cidr != pool.cidr || !strict() {
                    continue;
                }
                self.ends.insert(name.clone(), (cidr, now + OVERLAP));
                if !direct {
                    continue;
                }
                self.held.insert(name.clone(), pool.clone());
            }
            pool.clone_from(old);
        }
        self.held.retain(|name, _| pools.contains_key(name));
        self.known.clone_from(pools);
        over
    }

    /// The pools for whose packets both ways are right.
    pub fn nets(&self) -> Vec<Ipv4Net> {
        self.ends.values().map(|(net, _)| *net).collect()
    }

    /// When the next wait is over.
    pub fn due(&self) -> Option<Instant> {
        self.ends.values().map(|(_, end)| *end).min()
    }
}

/// Whether packets to some node may travel without encapsulation.
fn goes_direct(pool: &IpPool) -> bool {
    !matches!(pool.encap, Encap::Vxlan(Mode::Always) | Encap::Ipip(Mode::Always))
}

/// Whether the reverse-path filter of an interface is strict; the larger of two settings counts.
pub fn is_strict(interface: &str) -> bool {
    let value = |name: &str| fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter")).ok()?.trim().parse::<u8>().ok();
    ["all", interface].into_iter().filter_map(value).max() == Some(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pools(encap: Encap) -> Pools {
        let pool = IpPool { cidr: "10.244.0.0/16".parse().unwrap(), encap, disabled: false, block_size: 26, carries_workloads: true };
        [("p".to_owned(), Arc::new(pool))].into()
    }

    const TUNNEL: Encap = Encap::Vxlan(Mode::Always);
    const DIRECT: Encap = Encap::Vxlan(Mode::CrossSubnet);

    #[test]
    fn what_is_to_go_direct_waits_and_what_is_to_go_in_a_tunnel_does_not() {
        let (mut t, start) = (Transitions::default(), Instant::now());
        let mut look = |encap, after: Duration| {
            let mut all = pools(encap);
            let over = t.look(&mut all, || true, start + after).len();
            (all["p"].encap, over, t.nets().len(), t.due().is_some())
        };
        let second = Duration::from_secs(1);
        assert_eq!(look(TUNNEL, Duration::ZERO), (TUNNEL, 0, 0, false), "as it is at the start");
        assert_eq!(look(DIRECT, Duration::ZERO), (TUNNEL, 0, 1, true));
        assert_eq!(look(DIRECT, second), (TUNNEL, 0, 1, true), "told again: no new wait");
        assert_eq!(look(TUNNEL, OVERLAP), (DIRECT, 1, 0, false), "as it was put back before");
        assert_eq!(look(Encap::Ipip(Mode::CrossSubnet), 3 * second), (Encap::Ipip(Mode::CrossSubnet), 0, 0, false), "direct as before");
        assert_eq!(look(TUNNEL, 3 * second), (TUNNEL, 0, 1, true), "at once, but both are right");
        assert_eq!(look(TUNNEL, 5 * second), (TUNNEL, 0, 0, false));
        // Somebody thinks better of it meanwhile.
        assert_eq!(look(DIRECT, 6 * second), (TUNNEL, 0, 1, true));
        assert_eq!(look(Encap::Ipip(Mode::Always), 7 * second), (Encap::Ipip(Mode::Always), 0, 1, true));
        assert_eq!(look(Encap::Ipip(Mode::Always), 8 * second), (Encap::Ipip(Mode::Always), 0, 0, false));
    }

    #[test]
    fn nothing_waits_where_filters_are_not_strict() {
        let (mut t, now) = (Transitions::default(), Instant::now());
        t.look(&mut pools(TUNNEL), || false, now);
        let mut all = pools(DIRECT);
        assert!(t.look(&mut all, || false, now).is_empty() && t.due().is_none());
        assert_eq!(all["p"].encap, DIRECT);
    }
}
