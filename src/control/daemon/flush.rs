//! What is done at a flush: the present state of cluster, host and ports is put in force, in the data plane and on the host.

use super::{Daemon, transition};
use crate::control::cluster::Changed;
use crate::control::config::WorkloadDriver;
use crate::control::conflict::Source;
use crate::control::desired::Delta;
use crate::control::netlink::Changes;
use crate::control::plan::{self, Inputs};
use crate::control::ports::{self, Fixed};
use std::time::Instant;

/// What has to be done at the next flush.
#[derive(Debug)]
pub(super) struct Dirty {
    /// What changed in the cluster's state.
    pub cluster: Changed,
    /// What changed on this host.
    pub host: Changes,
    /// What ports there should be has to be looked at in any case.
    pub wishes: bool,
    pub since: Option<Instant>,
}

impl Default for Dirty {
    fn default() -> Dirty {
        Dirty { cluster: Changed::none(), host: Changes::default(), wishes: false, since: None }
    }
}

impl Dirty {
    pub fn plan(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    pub fn cluster(&mut self, changed: Changed) {
        self.cluster.merge(changed);
        self.plan();
    }

    pub fn wishes(&mut self) {
        self.wishes = true;
        self.plan();
    }
}

impl Daemon {
    /// Puts the present state of cluster, host and ports in force, here and on the host.
    pub(super) fn flush(&mut self, now: Instant) {
        if self.in_sync {
            self.host_changed();
            self.guard_host_device(now);
            self.guard_super_frame_devices(now);
        }
        let (delta, host, known) = self.put_in_force(now);
        if let Some(known) = known {
            self.reconcile_host(&delta, &host, &known);
            self.host_touched(now);
        }
        self.report(&delta);
    }

    /// The data plane's part: what changed, and the ports in force; `None` if nothing is known of the cluster yet.
    pub(super) fn put_in_force(&mut self, now: Instant) -> (Delta, Changes, Option<plan::Ports>) {
        let known = self.store.in_sync();
        if !known && !self.in_sync {
            self.dirty.since = None;
            return (Delta::none(), Changes::default(), None);
        }
        // What the kernel has said meanwhile is part of this state, not a reason for the next.
        self.host_changed();
        self.probes_dirty = true;
        let dirty = std::mem::take(&mut self.dirty);
        let mut changed = dirty.cluster;
        if !known {
            // Another datastore that has not been read yet: what is in force stays.
            self.dirty.cluster = std::mem::replace(&mut changed, Changed::none());
        }
        if known {
            let over = self.transitions.look(&mut self.cluster.pools, || transition::is_strict(&self.uplink), now);
            self.host.overlap(self.transitions.nets());
            if !over.is_empty() {
                changed.merge(Changed::Keys(over));
            }
        }
        let started = Instant::now();
        let delta = self.calculator.update(&self.cluster, &changed);
        if changed != Changed::none() {
            self.shared.tally().calculations.add(started.elapsed());
            self.census = None;
        }
        if delta.has_warnings() {
            self.conflicts.set(Source::Cluster, self.calculator.desired().conflicts.clone(), now, self.shared.tally());
        }
        let moved = self.find_uplink();
        let desired = self.calculator.desired();
        if let Some(node) = &desired.node
            && let Some(conflict) = self.home.look(&node.name, node.address.addr(), self.netlink.view())
        {
            self.conflicts.sight(conflict, now, self.shared.tally());
        }
        if let Some(node) = &desired.node
            && (moved || dirty.wishes || delta.has_endpoints() || dirty.host.links || dirty.host.addresses)
        {
            let wishes = ports::wishes(desired, node, self.netlink.view(), &self.fixed());
            self.ports.sync(wishes, now);
        }
        let known = self.ports.ports();
        let outcome = self.planner.update(Inputs { desired, ports: &known, view: self.netlink.view() }, &delta, &dirty.host);
        self.ports.published(self.planner.generation());
        if outcome.published.is_some() {
            self.workers.wake();
        }
        if outcome.ways_changed {
            self.plan_problems = self.planner.warnings();
            self.resolver.set(self.planner.hops());
            if let Err(e) = self.resolver.tick(&mut self.netlink, now) {
                tracing::warn!("neighbours: {e}");
            }
        }
        (delta, dirty.host, Some(known))
    }

    fn reconcile_host(&mut self, delta: &Delta, changes: &Changes, ports: &plan::Ports) {
        let device = self.config.host.interface.clone();
        if self.calculator.desired().node.is_some() {
            // The device may just have been made: its addresses come first, its routes need them. Whatever else comes in here
            // leads to another flush.
            self.host_changed();
            self.host.addresses(&mut self.netlink, self.calculator.desired(), ports, &device);
            if delta.has_floating() {
                self.nat.want(self.calculator.desired().translations());
            }
            self.host.routes(&mut self.netlink, self.calculator.desired(), delta, changes, ports, &device);
            if self.host.problems().next().is_some() {
                self.shared.tally().failure();
            }
            if !self.in_sync {
                self.in_sync = true;
                self.shared.tally().set_in_sync();
                // The probes are told at once.
                self.next_housekeeping = Instant::now();
                self.first_generation = self.planner.generation();
                let d = self.calculator.desired();
                tracing::info!("in sync: {} routes, {} endpoints, {} other nodes", d.routes.len(), d.endpoints.len(), d.senders.len());
            }
        }
    }

    fn fixed(&self) -> Fixed {
        Fixed {
            uplink: self.uplink.clone(),
            host: self.config.host.interface.clone(),
            tap_only: self.config.workloads.driver == WorkloadDriver::Tap,
            veth_only: matches!(self.config.workloads.driver, WorkloadDriver::Veth | WorkloadDriver::AfPacket | WorkloadDriver::AfXdp),
        }
    }

    /// Finds the uplink by the node's address, if it is not configured; whether it is another one now. While no
    /// interface has the address, the last one stays.
    fn find_uplink(&mut self) -> bool {
        let Some(node) = self.calculator.desired().node.as_ref().filter(|_| self.config.uplink.interface.is_none()) else {
            return false;
        };
        let view = self.netlink.view();
        let found = view.link_with(node.address.addr()).filter(|l| l.name != self.config.host.interface && l.name != "lo");
        let Some(name) = found.map(|l| l.name.clone()).filter(|n| *n != self.uplink) else { return false };
        tracing::info!("the uplink is {name}, which has the node's address {}", node.address.addr());
        self.uplink = name;
        true
    }

    pub(super) fn host_changed(&mut self) {
        let mut changes = match self.netlink.drain() {
            Ok(c) => c,
            Err(e) => {
                tracing::warn!("netlink: {e}; reading everything again");
                match self.netlink.resync() {
                    Ok(()) => Changes::everything(),
                    Err(e) => return tracing::error!("netlink: {e}; changes on this host are not seen until it recovers"),
                }
            }
        };
        let (view, desired) = (self.netlink.view(), self.calculator.desired());
        changes.foreign_routes = self.planner.follow(view, changes.foreign_routes);
        changes.routes.retain(|dst| self.host.concerns(desired, view, *dst));
        if changes.links || changes.addresses {
            self.ports.hurry(Instant::now());
        }
        if changes.any() {
            self.dirty.host.merge(changes);
            self.dirty.plan();
        }
    }
}
