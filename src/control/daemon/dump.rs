//! Everything that forwarding depends on at this moment, for those who want to run it again elsewhere.

use super::Daemon;
use crate::control::facts::{Dump, DumpPort, DumpRoute};
use crate::control::plan;

impl Daemon {
    /// The state in force. Objects are shared, not copied.
    pub(super) fn dump(&self) -> Dump {
        let ports = self.ports.ports();
        let mut all = Vec::new();
        let mut add = |out: Option<plan::Out>, interface: &str| {
            // One port may serve several purposes.
            if let Some(out) = out.filter(|o| all.iter().all(|p: &DumpPort| p.out.id != o.id)) {
                all.push(DumpPort { out, interface: interface.to_owned() });
            }
        };
        if let Some(u) = &ports.uplink {
            [u.vxlan, u.ipip, u.direct].into_iter().for_each(|out| add(out, &u.name));
        }
        add(ports.host, &self.config.host.interface);
        for (name, w) in &ports.workloads {
            add(Some(w.out), self.desired.endpoints.get(name).map_or(name, |e| &e.interface));
        }
        let route =
            |(prefix, i): (&ipnet::Ipv4Net, &plan::Installed)| DumpRoute { prefix: *prefix, route: i.route.clone(), adjacency: i.id };
        Dump {
            node: self.config.node.clone(),
            snapshot: self.planner.current(),
            ports: all,
            routes: self.planner.installed().iter().map(route).collect(),
            cluster: self.cluster.clone(),
            uplink_mtu: ports.uplink.map(|u| u.mtu),
        }
    }
}
