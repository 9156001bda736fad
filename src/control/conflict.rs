//! Two that claim what only one can have: what kind of conflict, who the parties are, how often it was seen.
//!
//! A conflict is lasting (it follows from the present state, and goes when that does) or was sighted (a packet, a change
//! on the host) and goes a minute after the last time.

use super::netlink::View;
use super::tally::Tally;
use crate::forward::{Claim, Identity};
use crate::wire::Mac;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant, SystemTime};

/// A conflict that was sighted is over when it was not sighted for so long.
const HOLD: Duration = Duration::from_secs(60);
/// Most sighted conflicts that are kept: whoever can send packets can make them up.
const KEPT: usize = 64;

/// What is claimed twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    NodeName,
    NodeAddress,
    TunnelAddress,
    VtepMac,
    Block,
    Interface,
}

impl Kind {
    pub const ALL: [Kind; 6] = [Kind::NodeName, Kind::NodeAddress, Kind::TunnelAddress, Kind::VtepMac, Kind::Block, Kind::Interface];

    /// As `tortie status` and metrics name it.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::NodeName => "node-name",
            Kind::NodeAddress => "node-address",
            Kind::TunnelAddress => "tunnel-address",
            Kind::VtepMac => "vtep-mac",
            Kind::Block => "block",
            Kind::Interface => "interface",
        }
    }

    /// As the `reason` of a Kubernetes Event.
    pub const fn reason(self) -> &'static str {
        match self {
            Kind::NodeName => "DuplicateNodeName",
            Kind::NodeAddress => "DuplicateNodeAddress",
            Kind::TunnelAddress => "DuplicateTunnelAddress",
            Kind::VtepMac => "DuplicateVTEPMAC",
            Kind::Block => "BlockHasTwoOwners",
            Kind::Interface => "InterfaceChanged",
        }
    }

    pub const fn index(self) -> usize {
        self as usize
    }
}

/// One conflict. Two with the same kind, subject and parties are the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    pub kind: Kind,
    /// What is claimed: a name, an address, a CIDR, an interface.
    pub subject: String,
    /// Who claims it: two at least.
    pub parties: Vec<String>,
    /// What was found and what follows from it.
    pub found: String,
    pub remedy: String,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} {}: {}: {}; {}", self.kind.name(), self.subject, self.parties.join(" and "), self.found, self.remedy)
    }
}

type Key = (Kind, String, Vec<String>);

impl Conflict {
    fn key(&self) -> Key {
        (self.kind, self.subject.clone(), self.parties.clone())
    }

    /// Nodes that have one underlay address in the datastore; the first keeps it.
    pub fn node_address(address: Ipv4Addr, nodes: &[&str], holder: &str) -> Conflict {
        Conflict {
            kind: Kind::NodeAddress,
            subject: address.to_string(),
            parties: nodes.iter().map(|n| format!("node {n}")).collect(),
            found: format!("the datastore gives it to each; it counts as {holder}'s, and nothing is routed to the others"),
            remedy: "give all but one another projectcalico.org/IPv4Address (on the machine: IP, or IP_AUTODETECTION_METHOD)".into(),
        }
    }

    /// Nodes that have one tunnel address in the datastore.
    pub fn tunnel_address(address: Ipv4Addr, nodes: &[&str]) -> Conflict {
        Conflict {
            kind: Kind::TunnelAddress,
            subject: address.to_string(),
            parties: nodes.iter().map(|n| format!("node {n}")).collect(),
            found: "the datastore gives it to each: packets to one node's host may reach another".into(),
            remedy: "remove the annotations IPv4VXLANTunnelAddr and IPv4IPIPTunnelAddr from all but the node that IPAM gave it to \
                     (tortie ipam show --ip); the others get new ones"
                .into(),
        }
    }

    /// Nodes that have one VTEP MAC.
    pub fn vtep_mac(mac: Mac, nodes: &[&str]) -> Conflict {
        Conflict {
            kind: Kind::VtepMac,
            subject: mac.to_string(),
            parties: nodes.iter().map(|n| format!("node {n}")).collect(),
            found: "the datastore gives it to each: nodes drop the others' packets as their own, and stock nodes send to one of them"
                .into(),
            remedy: "remove the annotation projectcalico.org/VXLANTunnelMACAddr from all but one: a node's default follows from its name"
                .into(),
        }
    }

    /// A machine on the underlay that said that it is this node.
    pub fn claimed(claim: &Claim, me: &Identities, name_of: impl FnOnce(Ipv4Addr) -> Option<String>) -> Conflict {
        let Claim { identity, sender, mac } = *claim;
        let node = name_of(sender).filter(|_| sender != me.address);
        let own = me.mac_is_default && identity == Identity::VtepMac && node.is_none();
        let by_mac = mac.map(|m| format!(", MAC {m}")).unwrap_or_default();
        let other = match &node {
            Some(node) => format!("node {node} at {sender}{by_mac}"),
            None if sender == me.address => format!("a machine with this node's address{by_mac}"),
            None => format!("a machine at {sender}{by_mac}"),
        };
        let this = format!("node {} at {}", me.name, me.address);
        let (kind, subject, found, remedy) = match identity {
            Identity::VtepMac if own => (
                Kind::NodeName,
                me.name.clone(),
                format!("its VXLAN packets come from VTEP MAC {}, which follows from this node's name; they are dropped", me.vtep_mac),
                "give one of the two machines another name (NODENAME, or node in the configuration)",
            ),
            Identity::VtepMac => (
                Kind::VtepMac,
                me.vtep_mac.to_string(),
                "its VXLAN packets come from this node's VTEP MAC; they are dropped".to_owned(),
                "on the other machine, change the VXLAN device's MAC (ip -d link show type vxlan), or its node's annotation \
                 projectcalico.org/VXLANTunnelMACAddr",
            ),
            Identity::TunnelAddress => (
                Kind::TunnelAddress,
                me.tunnel_address.map_or_else(String::new, |a| a.to_string()),
                "its tunnel packets come from this node's tunnel address; they are dropped".to_owned(),
                "on the other machine, remove the address (ip -br addr shows it), and look at its node's annotation IPv4VXLANTunnelAddr",
            ),
            Identity::NodeAddress => (
                Kind::NodeAddress,
                me.address.to_string(),
                "its tunnel packets come from this node's address; they are dropped".to_owned(),
                "give one of the two machines another address",
            ),
        };
        Conflict { kind, subject, parties: vec![this, other], found, remedy: remedy.into() }
    }

    /// The node's object has an address that is not here any more, while the one that it had still is.
    pub fn moved_away(name: &str, here: Ipv4Addr, now: Ipv4Addr) -> Conflict {
        Conflict {
            kind: Kind::NodeName,
            subject: name.into(),
            parties: vec![format!("this machine at {here}"), format!("a machine at {now}")],
            found: format!("somebody changed the node's address from {here}, which is here, to {now}, which is not"),
            remedy: "give one of the two machines another name (NODENAME, or node in the configuration), or correct the node's address"
                .into(),
        }
    }
}

/// This node's own, as others may claim it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identities {
    pub name: String,
    pub address: Ipv4Addr,
    pub tunnel_address: Option<Ipv4Addr>,
    pub vtep_mac: Mac,
    /// Whether the VTEP MAC follows from the name.
    pub mac_is_default: bool,
}

/// Notices when the node's object is given an address that is not here.
#[derive(Debug, Default)]
pub struct Home {
    /// The last address of the node that was on this host.
    last: Option<Ipv4Addr>,
}

impl Home {
    /// `address` is what the datastore says now.
    pub fn look(&mut self, name: &str, address: Ipv4Addr, view: &View) -> Option<Conflict> {
        let here = |a: Ipv4Addr| view.addresses.iter().any(|(_, net)| net.addr() == a);
        if here(address) {
            self.last = Some(address);
            return None;
        }
        self.last.filter(|last| here(*last)).map(|last| Conflict::moved_away(name, last, address))
    }
}

/// Where lasting conflicts come from; each source says all of its own at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The cluster's state.
    Cluster,
    /// The node's work on its own object.
    Node,
    /// This host.
    Host,
}

/// A conflict that is not over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    pub conflict: Conflict,
    /// As it was found first, for the log.
    pub line: String,
    pub since: SystemTime,
    pub last: SystemTime,
    /// Sightings; a lasting conflict is one.
    pub times: u64,
    seen: Instant,
    sighted: bool,
    sources: BTreeSet<Source>,
}

/// All conflicts that are not over.
#[derive(Debug, Default)]
pub struct Conflicts {
    present: BTreeMap<Key, Present>,
}

impl Conflicts {
    /// Replaces what a source says. True if something came or went.
    pub fn set(&mut self, source: Source, all: impl IntoIterator<Item = Conflict>, now: Instant, tally: &Tally) -> bool {
        let all: BTreeMap<Key, Conflict> = all.into_iter().map(|c| (c.key(), c)).collect();
        let mut changed = false;
        for (key, p) in &mut self.present {
            if !all.contains_key(key) {
                changed |= p.sources.remove(&source);
            }
        }
        for (key, conflict) in all {
            if self.present.get(&key).is_some_and(|p| p.sources.contains(&source)) {
                continue;
            }
            changed = true;
            self.add(key, conflict, now, tally).sources.insert(source);
        }
        if changed {
            // What was never sighted has nothing to wait for.
            self.present.retain(|_, p| !p.sources.is_empty() || (p.sighted && p.seen + HOLD > now));
        }
        changed
    }

    /// Notes a conflict that showed itself just now. True if it is new.
    pub fn sight(&mut self, conflict: Conflict, now: Instant, tally: &Tally) -> bool {
        let key = conflict.key();
        let new = !self.present.contains_key(&key);
        if new && self.present.values().filter(|p| p.sighted).count() >= KEPT {
            tally.conflict(conflict.kind);
            return false;
        }
        self.add(key, conflict, now, tally).sighted = true;
        new
    }

    fn add(&mut self, key: Key, conflict: Conflict, now: Instant, tally: &Tally) -> &mut Present {
        tally.conflict(conflict.kind);
        let wall = SystemTime::now();
        let fresh = || Present {
            conflict: conflict.clone(),
            line: conflict.to_string(),
            since: wall,
            last: wall,
            times: 0,
            seen: now,
            sighted: false,
            sources: BTreeSet::new(),
        };
        let p = self.present.entry(key).or_insert_with(fresh);
        (p.conflict, p.last, p.seen, p.times) = (conflict, wall, now, p.times + 1);
        p
    }

    /// Forgets what was not sighted for long. True if something went.
    pub fn expire(&mut self, now: Instant) -> bool {
        let before = self.present.len();
        self.present.retain(|_, p| !p.sources.is_empty() || p.seen + HOLD > now);
        self.present.len() != before
    }

    /// In order of kind and subject.
    pub fn present(&self) -> impl Iterator<Item = &Present> {
        self.present.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conflict(n: u8) -> Conflict {
        Conflict::tunnel_address([10, 244, n, 0].into(), &["a", "b"])
    }

    fn counted(t: &Tally) -> u64 {
        t.conflicts(Kind::TunnelAddress)
    }

    #[test]
    fn lasting_ones_stay_as_long_as_a_source_says_so() {
        let (mut all, tally, now) = (Conflicts::default(), Tally::default(), Instant::now());
        assert!(all.set(Source::Cluster, [conflict(1), conflict(2)], now, &tally));
        assert!(!all.set(Source::Cluster, [conflict(1), conflict(2)], now, &tally), "nothing new");
        assert!(all.set(Source::Node, [conflict(1)], now, &tally));
        assert!(!all.expire(now + HOLD * 2));
        assert!(all.set(Source::Cluster, [], now, &tally));
        assert_eq!(all.present().map(|p| &p.conflict.subject).collect::<Vec<_>>(), ["10.244.1.0"], "the other source goes on");
        assert!(all.set(Source::Node, [], now, &tally));
        assert_eq!((all.present().count(), counted(&tally)), (0, 3));
    }

    #[test]
    fn sighted_ones_go_a_minute_after_the_last_time() {
        let (mut all, tally, start) = (Conflicts::default(), Tally::default(), Instant::now());
        assert!(all.sight(conflict(1), start, &tally));
        assert!(!all.sight(conflict(1), start + HOLD / 2, &tally));
        assert_eq!((all.present().next().map(|p| p.times), counted(&tally)), (Some(2), 2));
        assert!(!all.expire(start + HOLD));
        // Lasting as well for a while: what was sighted remains.
        all.set(Source::Host, [conflict(1)], start + HOLD, &tally);
        all.set(Source::Host, [], start + HOLD, &tally);
        assert_eq!(all.present().count(), 1);
        assert!(all.expire(start + HOLD * 2) && all.present().count() == 0);
    }

    #[test]
    fn made_up_ones_are_bounded() {
        let (mut all, tally, now) = (Conflicts::default(), Tally::default(), Instant::now());
        for n in 0..200 {
            all.sight(conflict(n), now, &tally);
        }
        assert_eq!((all.present().count(), counted(&tally)), (KEPT, 200));
        assert!(all.set(Source::Cluster, [conflict(250)], now, &tally), "what the datastore says has its place");
    }

    #[test]
    fn both_parties_are_named() {
        let me = Identities {
            name: "a".into(),
            address: [10, 0, 0, 1].into(),
            tunnel_address: Some([10, 244, 1, 0].into()),
            vtep_mac: Mac([0x66, 0, 0, 0, 0, 1]),
            mac_is_default: true,
        };
        let of = |identity, sender: [u8; 4]| {
            let name = |a: Ipv4Addr| (a == Ipv4Addr::from([10, 0, 0, 2])).then(|| "b".to_owned());
            Conflict::claimed(&Claim { identity, sender: sender.into(), mac: None }, &me, name)
        };
        let c = of(Identity::VtepMac, [10, 0, 0, 2]);
        assert_eq!(
            (c.kind, c.parties.as_slice()),
            (Kind::VtepMac, ["node a at 10.0.0.1".to_owned(), "node b at 10.0.0.2".into()].as_slice())
        );
        // A stranger with the MAC that follows from our name has our name.
        let c = of(Identity::VtepMac, [10, 0, 0, 9]);
        assert_eq!((c.kind, c.subject.as_str(), c.parties[1].as_str()), (Kind::NodeName, "a", "a machine at 10.0.0.9"));
        let c = of(Identity::TunnelAddress, [10, 0, 0, 9]);
        assert_eq!((c.kind, c.subject.as_str()), (Kind::TunnelAddress, "10.244.1.0"));
        let c = of(Identity::NodeAddress, [10, 0, 0, 1]);
        assert_eq!((c.kind, c.parties[1].as_str()), (Kind::NodeAddress, "a machine with this node's address"));
    }

    #[test]
    fn an_address_that_moves_away_is_a_second_node_of_this_name() {
        let (mut home, mut view) = (Home::default(), View::default());
        let (own, other): (Ipv4Addr, Ipv4Addr) = ([10, 0, 0, 1].into(), [10, 0, 0, 9].into());
        assert_eq!(home.look("a", other, &view), None, "never was here");
        view.addresses.insert((2, "10.0.0.1/24".parse().unwrap()));
        assert_eq!(home.look("a", own, &view), None);
        let c = home.look("a", other, &view).unwrap();
        assert_eq!((c.kind, c.parties[1].as_str()), (Kind::NodeName, "a machine at 10.0.0.9"));
        assert_eq!(home.look("a", own, &view), None, "it came back");
        view.addresses.clear();
        view.addresses.insert((2, "10.0.0.9/24".parse().unwrap()));
        assert_eq!(home.look("a", other, &view), None, "the host has moved");
    }
}
