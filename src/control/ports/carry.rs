//! What one daemon's port manager tells its successor's: what is open, which MACs were learned, what was counted.

use super::{Key, Opener, PortManager, PortTotals, Wish};
use crate::frame::PortId;
use crate::wire::Mac;
use crate::worker::Reasons;
use std::collections::BTreeMap;

/// A port that is open.
pub struct OpenPort<'a> {
    pub key: &'a Key,
    pub wish: &'a Wish,
    /// Its numbers, in the order of what they are for.
    pub ids: &'a [PortId],
    pub refused: &'a [String],
}

impl<O: Opener> PortManager<O> {
    pub fn open_ports(&self) -> impl Iterator<Item = OpenPort<'_>> {
        let open = self.entries.iter().filter(|(_, e)| e.is_up());
        open.map(|(key, e)| OpenPort { key, wish: &e.wish, ids: &e.ids, refused: &e.refused })
    }

    /// MACs that ARP showed, by endpoint.
    pub fn learned(&self) -> &BTreeMap<String, Mac> {
        &self.learned
    }

    pub fn set_learned(&mut self, learned: BTreeMap<String, Mac>) {
        self.learned = learned;
    }

    /// What each port has done, number by number.
    pub fn totals(&self) -> BTreeMap<String, Vec<PortTotals>> {
        let of = |e: &super::Entry| e.ids.iter().zip(&e.bases).map(|(id, base)| PortTotals::of(&self.counters, *id).since(*base)).collect();
        self.entries.iter().map(|(key, e)| (key.to_string(), of(e))).collect()
    }

    /// Each port's drops by reason since it was opened, number by number.
    pub fn reasons(&self) -> BTreeMap<String, Vec<Reasons>> {
        let sum = |id: &PortId| {
            let mut sum = Reasons::new();
            let all = self.counters.iter().flat_map(|c| c.port(*id).reason_totals());
            all.for_each(|(reason, n)| *sum.entry(reason).or_default() += n);
            sum
        };
        self.entries.iter().map(|(key, e)| (key.to_string(), e.ids.iter().map(sum).collect())).collect()
    }

    /// The numbers of present ports with what their namesakes have dropped.
    pub fn carry_reasons(&self, reasons: &BTreeMap<String, Vec<Reasons>>) -> Vec<(PortId, Reasons)> {
        let of = |(key, e): (&Key, &super::Entry)| {
            let reasons = reasons.get(&key.to_string()).cloned().unwrap_or_default();
            e.ids.iter().copied().zip(reasons).collect::<Vec<_>>()
        };
        self.entries.iter().flat_map(of).filter(|(_, r)| !r.is_empty()).collect()
    }

    /// What the numbers of present ports are to be counted up by for what their namesakes have done; what ports have done
    /// that are not here is noted as past.
    pub fn carry(&mut self, totals: &BTreeMap<String, Vec<PortTotals>>, past: &BTreeMap<String, PortTotals>) -> Vec<(PortId, PortTotals)> {
        let mut out = Vec::new();
        let keys: BTreeMap<String, &[PortId]> = self.entries.iter().map(|(key, e)| (key.to_string(), &e.ids[..])).collect();
        for (key, of) in totals {
            match keys.get(key) {
                Some(ids) => out.extend(ids.iter().copied().zip(of.iter().copied())),
                None => of.iter().for_each(|t| self.past.entry(Key::role_of(key)).or_default().add(*t)),
            }
        }
        for (role, t) in past {
            self.past.entry(Key::role_of(role)).or_default().add(*t);
        }
        out
    }
}
