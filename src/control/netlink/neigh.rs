//! Underlay neighbours in use: who is asked for, and how often. The answers come with the view.

use super::{NeighState, Netlink, NextHop};
use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// A neighbour in use is confirmed this often, so that the kernel does not let it go stale for good.
const REFRESH: Duration = Duration::from_secs(25);
/// Not asked for again sooner than this.
const RETRY: Duration = Duration::from_secs(1);

/// The next hops that adjacencies use.
#[derive(Debug, Default)]
pub struct Resolver {
    in_use: BTreeMap<(u32, Ipv4Addr), Option<Instant>>,
}

impl Resolver {
    /// Sets which next hops are in use; those that stay keep their timers.
    pub fn set(&mut self, hops: impl IntoIterator<Item = NextHop>) {
        let mut next = BTreeMap::new();
        for h in hops {
            let key = (h.dev, h.address);
            next.insert(key, self.in_use.get(&key).copied().flatten());
        }
        self.in_use = next;
    }

    /// Whether a next hop is in use.
    pub fn uses(&self, dev: u32, address: Ipv4Addr) -> bool {
        self.in_use.contains_key(&(dev, address))
    }

    /// Packets wait for this address: asks at once unless it was asked for within the last second.
    pub fn miss(&mut self, netlink: &mut Netlink, address: Ipv4Addr, now: Instant) -> io::Result<()> {
        let keys: Vec<_> = self.in_use.keys().filter(|(_, a)| *a == address).copied().collect();
        for key in keys {
            if due(self.in_use[&key], now, RETRY) {
                self.ask(netlink, key, now)?;
            }
        }
        Ok(())
    }

    /// Asks for those that are due: unresolved and stale ones every second, resolved ones every 25 seconds.
    /// To be called about once a second.
    pub fn tick(&mut self, netlink: &mut Netlink, now: Instant) -> io::Result<()> {
        let keys: Vec<_> = self
            .in_use
            .iter()
            .filter(|(key, asked)| {
                let state = netlink.view().neighbours.get(key).map(|n| n.state);
                match state {
                    Some(NeighState::Permanent) => false,
                    Some(NeighState::Reachable) => due(**asked, now, REFRESH),
                    // The kernel is at it.
                    Some(NeighState::Incomplete) => false,
                    Some(NeighState::Stale | NeighState::Failed) | None => due(**asked, now, RETRY),
                }
            })
            .map(|(key, _)| *key)
            .collect();
        for key in keys {
            self.ask(netlink, key, now)?;
        }
        Ok(())
    }

    fn ask(&mut self, netlink: &mut Netlink, key: (u32, Ipv4Addr), now: Instant) -> io::Result<()> {
        self.in_use.insert(key, Some(now));
        match netlink.use_neighbour(key.0, key.1) {
            // The interface has just gone or is down: netlink tells when it is back.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENODEV | libc::ENETDOWN | libc::EINVAL)) => Ok(()),
            r => r,
        }
    }
}

fn due(asked: Option<Instant>, now: Instant, every: Duration) -> bool {
    asked.is_none_or(|a| now.saturating_duration_since(a) >= every)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_survive_a_new_set() {
        let mut r = Resolver::default();
        let a = NextHop { address: [10, 0, 0, 1].into(), dev: 2 };
        let b = NextHop { address: [10, 0, 0, 2].into(), dev: 2 };
        r.set([a, b]);
        let now = Instant::now();
        r.in_use.insert((2, a.address), Some(now));
        r.set([a]);
        assert_eq!(r.in_use[&(2, a.address)], Some(now));
        assert!(!r.uses(2, b.address) && r.uses(2, a.address));
        assert!(!due(Some(now), now + Duration::from_millis(999), RETRY) && due(Some(now), now + RETRY, RETRY) && due(None, now, RETRY));
    }
}
