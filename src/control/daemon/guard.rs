//! What others do to interfaces that this daemon uses: seen in the kernel's messages, undone where the interface is
//! ours.

use crate::control::netlink::{Netlink, View};
use crate::port::{raw, udp};
use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

/// Repairs are this far apart: another program may undo each of them.
const PAUSE: Duration = Duration::from_secs(1);
/// The uplink is not opened again more often, since each time costs packets.
const REOPEN_PAUSE: Duration = Duration::from_secs(10);

/// What somebody did to an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Removed,
    Renamed {
        to: String,
    },
    Down,
    Mtu {
        now: u32,
        wanted: u32,
    },
    /// Made part of a bridge, bond or VRF.
    Enslaved {
        master: String,
    },
}

impl Change {
    /// What it concerns.
    pub fn aspect(&self) -> &'static str {
        match self {
            Change::Removed | Change::Down => "state",
            Change::Renamed { .. } => "name",
            Change::Mtu { .. } => "MTU",
            Change::Enslaved { .. } => "master",
        }
    }

    pub fn words(&self) -> String {
        match self {
            Change::Removed => "was removed".into(),
            Change::Renamed { to } => format!("was renamed to {to}"),
            Change::Down => "was set down".into(),
            Change::Mtu { now, wanted } => format!("got an MTU of {now} instead of {wanted}"),
            Change::Enslaved { master } => format!("was made part of {master}"),
        }
    }
}

/// Watches one device that this daemon made.
#[derive(Debug, Default)]
pub struct Device {
    /// Its index and MTU when it was as it should be.
    held: Option<(u32, u32)>,
    repaired: Option<Instant>,
    /// Changes wait for their repair.
    pending: bool,
}

/// The devices for super-frames, which are the uplink's.
pub const SUPER_FRAME_DEVICES: [&str; 2] = [udp::SUPER_FRAME_DEVICE, raw::SUPER_FRAME_DEVICE];

/// Watches this daemon's devices and the pods' interfaces.
#[derive(Debug, Default)]
pub struct Guard {
    pub host: Device,
    supers: [Device; SUPER_FRAME_DEVICES.len()],
    /// Those that were removed, and when the uplink was opened again for one last.
    removed: [bool; SUPER_FRAME_DEVICES.len()],
    reopened: Option<Instant>,
    /// The opening of the uplink that they are of.
    opening: Option<u64>,
    /// Pods' interfaces by name: their index, and since when something is wrong with them.
    pods: BTreeMap<String, (u32, Option<Instant>)>,
}

/// A device of ours: its name, and its MTU if it is open.
#[derive(Clone, Copy, Debug)]
pub struct Own<'a> {
    pub name: &'a str,
    pub mtu: Option<u32>,
}

impl Device {
    /// What differs about the device from what it was. What cannot be repaired yet is told later.
    pub fn look(&mut self, view: &View, own: Own, now: Instant) -> Vec<Change> {
        let index = self.held.map(|(i, _)| i).or_else(|| view.link_by_name(own.name).map(|l| l.index));
        let Some(link) = index.and_then(|i| view.links.get(&i)) else {
            self.pending = false;
            // Opening it again is the port manager's.
            return if self.held.take().is_some() { vec![Change::Removed] } else { Vec::new() };
        };
        // A device that is not open and never was is being made.
        let Some(wanted) = own.mtu.or(self.held.map(|(_, mtu)| mtu)) else { return Vec::new() };
        let mut out = Vec::new();
        if link.name != own.name {
            out.push(Change::Renamed { to: link.name.clone() });
        }
        if let Some(master) = link.master {
            let name = view.links.get(&master).map_or_else(|| format!("interface {master}"), |l| l.name.clone());
            out.push(Change::Enslaved { master: name });
        }
        if link.mtu != wanted {
            out.push(Change::Mtu { now: link.mtu, wanted });
        }
        if !link.up {
            out.push(Change::Down);
        }
        if out.is_empty() {
            self.held = Some((link.index, wanted));
            self.pending = false;
        }
        if self.held.is_none() {
            return Vec::new();
        }
        self.pending = !out.is_empty() && self.repaired.is_some_and(|t| now < t + PAUSE);
        if self.pending { Vec::new() } else { out }
    }

    /// Whether to look again although nothing has changed since.
    pub fn is_pending(&self) -> bool {
        self.pending
    }

    /// Undoes a change.
    pub fn repair(&mut self, netlink: &mut Netlink, own: Own, change: &Change, now: Instant) -> io::Result<()> {
        // A removal is told as a change of state first: what becomes of it is looked at again.
        (self.repaired, self.pending) = (Some(now), *change != Change::Removed);
        let Some((dev, mtu)) = self.held.map(|(dev, mtu)| (dev, own.mtu.unwrap_or(mtu))) else { return Ok(()) };
        match change {
            Change::Removed => Ok(()),
            Change::Renamed { .. } => match netlink.rename(dev, own.name) {
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                    netlink.set_down(dev)?;
                    netlink.rename(dev, own.name)?;
                    netlink.set_up(dev, mtu)
                }
                other => other,
            },
            Change::Down | Change::Mtu { .. } => netlink.set_up(dev, mtu),
            Change::Enslaved { .. } => netlink.release(dev),
        }
    }
}

impl Guard {
    /// Whether to look again although nothing has changed since.
    pub fn is_pending(&self) -> bool {
        self.host.is_pending() || self.supers.iter().any(Device::is_pending) || self.removed.contains(&true)
    }

    /// What somebody did to the devices for super-frames. They come and go with each `opening` of the uplink; `None`: it is
    /// not open.
    pub fn look_at_supers(&mut self, view: &View, opening: Option<u64>, now: Instant) -> Vec<(usize, Change)> {
        if self.opening != opening {
            self.opening = opening;
            self.supers.iter_mut().for_each(|d| (d.held, d.pending) = (None, false));
            self.removed = Default::default();
        }
        if opening.is_none() {
            return Vec::new();
        }
        let look = |(i, d): (usize, &mut Device)| {
            let own = super_frame_device(i, view.link_by_name(SUPER_FRAME_DEVICES[i]).map(|l| l.mtu).filter(|_| d.held.is_none()));
            d.look(view, own, now).into_iter().map(|c| (i, c)).collect::<Vec<_>>()
        };
        let mut changes: Vec<(usize, Change)> = self.supers.iter_mut().enumerate().flat_map(look).collect();
        changes.extract_if(.., |(_, c)| *c == Change::Removed).for_each(|(i, _)| self.removed[i] = true);
        if self.removed.contains(&true) && self.reopened.is_none_or(|t| now >= t + REOPEN_PAUSE) {
            self.reopened = Some(now);
            let removed = std::mem::take(&mut self.removed).into_iter().enumerate().filter(|(_, removed)| *removed);
            changes.extend(removed.map(|(i, _)| (i, Change::Removed)));
        }
        changes
    }

    /// Undoes a change to one of them, unless it was removed.
    pub fn repair_super(&mut self, netlink: &mut Netlink, i: usize, change: &Change, now: Instant) -> io::Result<()> {
        self.supers[i].repair(netlink, super_frame_device(i, None), change, now)
    }

    /// What is wrong with pods' interfaces for longer than it takes to remove one. `pods`: those that are attached to,
    /// or were.
    pub fn look_at_pods<'a>(&mut self, view: &View, pods: impl Iterator<Item = &'a str>, now: Instant) -> Vec<(String, Change)> {
        let by_name: BTreeMap<&str, u32> = view.links.values().map(|l| (l.name.as_str(), l.index)).collect();
        let mut next = BTreeMap::new();
        let mut out = Vec::new();
        for name in pods {
            let known = self.pods.get(name).copied();
            let here = by_name.get(name).copied();
            let index = known.map(|(index, _)| index).filter(|i| view.links.contains_key(i) && (here.is_none() || here == Some(*i)));
            let Some(link) = index.or(here).and_then(|i| view.links.get(&i)) else { continue };
            let change = if link.name != name {
                Some(Change::Renamed { to: link.name.clone() })
            } else if let Some(master) = link.master {
                Some(Change::Enslaved { master: view.links.get(&master).map_or_else(|| format!("interface {master}"), |l| l.name.clone()) })
            } else {
                (!link.up).then_some(Change::Down)
            };
            // One that has never been right is being made.
            let since = match (&change, known) {
                (None, _) => None,
                (Some(_), None) => continue,
                (Some(_), Some((_, since))) => Some(since.unwrap_or(now)),
            };
            next.insert(name.to_owned(), (link.index, since));
            out.extend(change.filter(|_| since.is_some_and(|s| now >= s + PAUSE)).map(|c| (name.to_owned(), c)));
        }
        self.pods = next;
        out
    }
}

fn super_frame_device(i: usize, mtu: Option<u32>) -> Own<'static> {
    Own { name: SUPER_FRAME_DEVICES[i], mtu }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::netlink::Link;

    const OWN: Own = Own { name: "tunl-tortie", mtu: Some(1450) };

    fn link(index: u32, name: &str) -> Link {
        Link { index, name: name.into(), mac: None, mtu: 1450, up: true, running: true, master: None }
    }

    fn view(links: Vec<Link>) -> View {
        View { links: links.into_iter().map(|l| (l.index, l)).collect(), ..View::default() }
    }

    #[test]
    fn a_device_being_made_is_nobodys_doing() {
        let (mut g, now) = (Device::default(), Instant::now());
        let raw = Link { up: false, mtu: 1500, ..link(7, "tunl-tortie") };
        assert_eq!(g.look(&view(vec![]), OWN, now), []);
        assert_eq!(g.look(&view(vec![raw.clone()]), OWN, now), []);
        assert_eq!(g.look(&view(vec![raw]), Own { mtu: None, ..OWN }, now), []);
        assert_eq!(g.look(&view(vec![]), OWN, now), [], "never held");
    }

    #[test]
    fn each_change_to_a_device_that_was_right() {
        let (now, right) = (Instant::now(), link(7, "tunl-tortie"));
        let bridge = link(9, "br0");
        let cases = [
            (Link { up: false, ..right.clone() }, Change::Down),
            (Link { mtu: 1500, ..right.clone() }, Change::Mtu { now: 1500, wanted: 1450 }),
            (link(7, "eth9"), Change::Renamed { to: "eth9".into() }),
            (Link { master: Some(9), ..right.clone() }, Change::Enslaved { master: "br0".into() }),
        ];
        for (touched, want) in cases {
            let mut g = Device::default();
            assert_eq!(g.look(&view(vec![right.clone()]), OWN, now), []);
            assert_eq!(g.look(&view(vec![touched, bridge.clone()]), OWN, now), [want]);
        }
        let mut g = Device::default();
        g.look(&view(vec![right.clone()]), OWN, now);
        assert_eq!(g.look(&view(vec![bridge]), Own { mtu: None, ..OWN }, now), [Change::Removed]);
        assert_eq!(g.look(&view(vec![Link { index: 8, ..right }]), OWN, now), [], "the new one is right");
    }

    #[test]
    fn a_fight_is_one_repair_a_second() {
        let (mut g, now) = (Device::default(), Instant::now());
        let (right, down) = (view(vec![link(7, "tunl-tortie")]), view(vec![Link { up: false, ..link(7, "tunl-tortie") }]));
        g.look(&right, OWN, now);
        assert_eq!(g.look(&down, OWN, now), [Change::Down]);
        g.repaired = Some(now);
        assert_eq!((g.look(&down, OWN, now + PAUSE / 2), g.is_pending()), (vec![], true));
        assert_eq!((g.look(&down, OWN, now + PAUSE), g.is_pending()), (vec![Change::Down], false));
    }

    #[test]
    fn devices_for_super_frames_go_with_the_uplink_and_not_without_it() {
        let (mut g, now) = (Guard::default(), Instant::now());
        let [gso, ip4] = SUPER_FRAME_DEVICES;
        let both = view(vec![link(7, gso), link(8, ip4)]);
        let down = view(vec![link(7, gso), Link { up: false, ..link(8, ip4) }]);
        assert_eq!(g.look_at_supers(&down, None, now), []);
        assert_eq!(g.look_at_supers(&down, Some(1), now), [], "being made");
        assert_eq!(g.look_at_supers(&both, Some(1), now), []);
        assert_eq!(g.look_at_supers(&down, Some(1), now), [(1, Change::Down)]);
        let gone = view(vec![link(8, ip4)]);
        assert_eq!(g.look_at_supers(&gone, Some(1), now), [(0, Change::Removed)]);
        assert_eq!(g.look_at_supers(&gone, Some(1), now), [], "told once");
        g.look_at_supers(&both, Some(1), now);
        assert_eq!(g.look_at_supers(&gone, None, now), [], "the uplink was closed");
        g.look_at_supers(&both, Some(2), now);
        assert_eq!(g.look_at_supers(&view(vec![]), Some(3), now), [], "and here opened again by a method without them");
        g.look_at_supers(&both, Some(3), now);
        assert_eq!((g.look_at_supers(&gone, Some(3), now), g.is_pending()), (vec![], true), "again so soon");
        assert_eq!(g.look_at_supers(&gone, Some(3), now + REOPEN_PAUSE), [(0, Change::Removed)]);
    }

    #[test]
    fn pods_interfaces_are_told_when_it_lasts() {
        let (mut g, now) = (Guard::default(), Instant::now());
        let right = link(5, "cali0");
        let mut look = |links: Vec<Link>, at| g.look_at_pods(&view(links), ["cali0"].into_iter(), at);
        let down = Link { up: false, ..right.clone() };
        assert_eq!(look(vec![down.clone()], now), [], "not set up yet");
        look(vec![right.clone()], now);
        assert_eq!(look(vec![down.clone()], now), []);
        assert_eq!(look(vec![down.clone()], now + PAUSE), [("cali0".to_owned(), Change::Down)]);
        assert_eq!(look(vec![right.clone()], now + PAUSE), []);
        assert_eq!(look(vec![link(5, "x")], now), []);
        assert_eq!(look(vec![link(5, "x")], now + PAUSE), [("cali0".to_owned(), Change::Renamed { to: "x".into() })]);
        assert_eq!(look(vec![link(5, "x"), link(6, "cali0")], now + PAUSE), [], "another one has its place");
        assert_eq!(look(vec![], now + PAUSE * 3), [], "a pod that is gone");
    }
}
