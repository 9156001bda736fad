//! What is asked of the control plane through the API: all that is in force, and a look at packets.

use super::Daemon;
use crate::control::facts::{Dump, DumpPort, DumpRoute, Request, TapError};
use crate::control::plan;
use crate::worker::Command;
use crate::worker::tap::{Filter, Tap};
use std::net::Ipv4Addr;
use std::sync::Arc;

impl Daemon {
    /// Whoever asked may have gone meanwhile: then the answer goes nowhere.
    pub(super) fn answer(&mut self, request: Request) {
        match request {
            Request::Dump(answer) => drop(answer.send(self.dump())),
            Request::Tap { filter, count, answer } => {
                let tap = self.start_tap(&filter, count);
                if answer.send(tap.clone()).is_err()
                    && let Ok(tap) = tap
                {
                    tap.stop();
                }
            }
        }
    }

    fn start_tap(&mut self, filter: &str, count: u64) -> Result<Arc<Tap>, TapError> {
        if self.tap.as_ref().is_some_and(|t| !t.is_over()) {
            return Err(TapError::Busy);
        }
        let filter = Filter::parse(filter, &|name| self.pod(name))?;
        let port = self.calculator.desired().node.as_ref().map_or(crate::wire::vxlan::PORT, |n| n.vxlan_port);
        let tap = Arc::new(Tap::new(filter, port, count));
        for mailbox in self.workers.mailboxes() {
            if mailbox.command(Command::Tap(tap.clone())).is_err() {
                tap.stop();
                return Err(TapError::Worker);
            }
        }
        self.workers.wake();
        self.tap = Some(tap.clone());
        Ok(tap)
    }

    /// The addresses of a pod on this node, by `namespace/name` or the name of its interface.
    fn pod(&self, name: &str) -> Option<Vec<Ipv4Addr>> {
        let found = self.calculator.desired().endpoints.values().find(|e| e.workload == name || e.interface == name);
        found.map(|e| e.addresses.clone())
    }

    /// The state in force. Objects are shared, not copied.
    fn dump(&self) -> Dump {
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
            add(Some(w.out), self.calculator.desired().endpoints.get(&**name).map_or(name, |e| &e.interface));
        }
        let route =
            |(prefix, i): (&ipnet::Ipv4Net, &plan::Installed)| DumpRoute { prefix: *prefix, route: i.route.clone(), adjacency: i.id };
        Dump {
            node: self.config.node.clone(),
            snapshot: self.planner.current(),
            ports: all,
            routes: self.planner.installed().iter().map(route).collect(),
            cluster: self.cluster.clone(),
            floating: self.calculator.desired().floating.clone(),
            uplink_mtu: ports.uplink.map(|u| u.mtu),
            flows: self.planner.flows().entries(crate::worker::now_ms()),
        }
    }
}
