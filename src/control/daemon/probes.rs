//! Tells the probes whom to measure.

use super::Daemon;
use crate::control::netlink::NeighState;
use crate::control::plan::Installed;
use crate::control::probe::{Orders, Path, field, target};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

impl Daemon {
    /// Called about once a second: what changes meanwhile is told together.
    pub(super) fn order_probes(&mut self) {
        let failed = self.failed_neighbours();
        if !std::mem::take(&mut self.probes_dirty) && self.failed_last == failed {
            return;
        }
        self.failed_last.clone_from(&failed);
        let orders = self.orders(failed);
        self.prober.order(orders);
    }

    /// Addresses on the uplink that do not answer ARP.
    fn failed_neighbours(&self) -> BTreeSet<Ipv4Addr> {
        let view = self.netlink.view();
        let uplink = view.link_by_name(&self.uplink).map(|l| l.index);
        let failed = view.neighbours.iter().filter(|((dev, _), n)| Some(*dev) == uplink && n.state == NeighState::Failed);
        failed.map(|((_, address), _)| *address).collect()
    }

    fn orders(&self, failed: BTreeSet<Ipv4Addr>) -> Orders {
        let desired = self.calculator.desired();
        let (Some(node), Some(pod_mtu)) = (desired.node.as_ref().filter(|_| self.in_sync), self.pod_mtu()) else {
            return Orders::default();
        };
        let mtu_of = |i: &Installed| self.planner.adjacency(i).mtu;
        let targets = target::targets(&self.cluster, node, self.planner.installed(), pod_mtu, mtu_of);
        let view = self.netlink.view();
        let index = |name: &str| view.link_by_name(name).map(|l| l.index);
        let direct = targets.iter().any(|t| t.path == Path::Direct);
        let (off, secret) = match self.config.probes.secret(self.cluster.guid()) {
            Ok(secret) => (None, Some(secret)),
            Err(why) => (Some(why), None),
        };
        Orders {
            off,
            secret,
            interval: self.config.probes.interval,
            lean: field::turn() * targets.len() as u32 > self.config.probes.interval,
            devices: [index(&self.config.host.interface), index(&self.uplink).filter(|_| direct)],
            address: Some(node.address.addr()),
            tunnel_address: node.tunnel_address,
            vni: node.vni.get(),
            targets,
            failed,
        }
    }
}
