//! ADD: address, interface, record; done when the daemon carries the pod's packets. What fails leaves nothing.

use super::conf::Device;
use super::daemon::Daemon;
use super::env::Container;
use super::error::CniError;
use super::interface::{self, HOST_MAC, Inside, Outside};
use super::plugin::Plugin;
use super::record::{self, Entry};
use super::request::{Request, Wanted};
use super::result::{Address, Attachment, Interface};
use super::workload::{Mark, Workload};
use super::{delegate, ipam};
use crate::control::datastore::objects::Objects;
use crate::ops::view::EndpointRow;
use crate::wire::Mac;
use ipnet::Ipv4Net;
use serde_json::Value;
use std::net::Ipv4Addr;
use std::path::Path;

/// The daemon's name for the TAPs that it makes.
const TAP: &str = "eth0";

/// Everything that is known before the first change.
struct Plan<'a> {
    container: &'a Container,
    workload: Workload,
    mark: Mark,
    netns: &'a Path,
    host: String,
    mtu: u16,
    mac: Option<Mac>,
    floating: Vec<Ipv4Addr>,
    pod: Value,
    /// Addresses, and the routes that an address plugin named.
    given: Attachment,
}

impl Plan<'_> {
    fn addresses(&self) -> Vec<Ipv4Addr> {
        self.given.addresses.iter().map(|a| a.address.addr()).collect()
    }
}

impl<O: Objects> Plugin<O> {
    pub async fn add(&self, container: &Container) -> Result<Attachment, CniError> {
        let netns = container.netns.as_deref().ok_or(CniError::Environment { name: "CNI_NETNS", fault: "missing".into() })?;
        self.datastore_ready().await?;
        let daemon = Daemon::new(&self.conf.socket, self.conf.patience);
        let status = daemon.wait_ready()?;
        if status.node != self.conf.node {
            return Err(CniError::Refused {
                what: format!("node {}", self.conf.node),
                fault: format!("the daemon on {} serves node {}: correct nodename or api_socket", self.conf.socket.display(), status.node),
            });
        }
        if self.conf.device == Device::Tap && container.interface != TAP {
            return Err(CniError::Refused { what: format!("CNI_IFNAME {}", container.interface), fault: format!("a TAP is always {TAP}") });
        }
        let workload = Workload::new(&self.conf, container);
        let (pod, namespace) = self.objects_of(&workload).await?;
        let request = Request::new(&self.conf, container, &pod, &namespace)?;
        let mtu = self.mtu(&status)?;
        let host = workload.host_interface(&self.interface_prefix().await?);
        let mark = Mark::new(&self.conf, container);
        interface::preflight((self.conf.device == Device::Veth).then_some(&host), &mark, netns)?;
        let given = self.addresses(container, &workload, &request.wanted).await?;
        let plan = Plan { container, workload, mark, netns, host, mtu, mac: request.mac, floating: request.floating, pod, given };
        match self.attach(&plan, &daemon).await {
            Ok(attachment) => Ok(attachment),
            Err(e) => {
                if let Err(left) = self.detach(container).await {
                    tracing::warn!("after a failed ADD: {left}");
                }
                Err(e)
            }
        }
    }

    /// As asked for; addresses are /32 whatever an address plugin says.
    pub async fn addresses(&self, container: &Container, workload: &Workload, wanted: &Wanted) -> Result<Attachment, CniError> {
        let one = |ip: Ipv4Addr| Address { address: Ipv4Net::from(ip), gateway: None, interface: Some(1) };
        let only = |ip| Attachment { addresses: vec![one(ip)], ..Attachment::default() };
        Ok(match wanted {
            Wanted::Unmanaged(ip) => only(*ip),
            Wanted::Assigned(ip) => only(ipam::assign(self, container, workload, *ip).await?),
            Wanted::Pools(pools) => only(ipam::assign_any(self, container, workload, pools).await?),
            Wanted::Plugin(name) => {
                let mut given = delegate::addresses(name, &self.path, &self.delegated().await?)?;
                given.addresses = given.addresses.iter().map(|a| one(a.address.addr())).collect();
                given
            }
        })
    }

    async fn attach(&self, plan: &Plan<'_>, daemon: &Daemon) -> Result<Attachment, CniError> {
        let mac = match self.conf.device {
            Device::Veth => self.attach_veth(plan, daemon).await?,
            Device::Tap => self.attach_tap(plan, daemon).await?,
        };
        let mtu = Some(plan.mtu.into());
        let host = (self.conf.device == Device::Veth).then(|| Interface {
            name: plan.host.clone(),
            mac: Some(HOST_MAC.to_string()),
            mtu,
            sandbox: None,
        });
        let inside = Interface {
            name: plan.container.interface.clone(),
            mac: Some(mac.to_string()),
            mtu,
            sandbox: Some(plan.netns.display().to_string()),
        };
        let interfaces: Vec<Interface> = host.into_iter().chain([inside]).collect();
        let mut out = plan.given.clone();
        out.addresses.iter_mut().for_each(|a| a.interface = Some(interfaces.len() - 1));
        out.routes.iter_mut().for_each(|r| r.via = Some(interface::GATEWAY));
        out.interfaces = interfaces;
        Ok(out)
    }

    async fn attach_veth(&self, plan: &Plan<'_>, daemon: &Daemon) -> Result<Mac, CniError> {
        let outside = Outside { interface: &plan.host, mark: &plan.mark, mac: plan.mac, mtu: plan.mtu, queues: self.conf.queues };
        let (addresses, routes) = (plan.addresses(), self.routes(&plan.given));
        let pair = interface::make(&outside, &self.inside(plan, &addresses, &routes))?;
        self.record(plan, &plan.host, Some(pair.mac), None).await?;
        daemon.wait_endpoint(&plan.workload.endpoint_key(), |row| carried(row, &addresses, |row| row.ifindex == pair.index))?;
        Ok(pair.mac)
    }

    async fn attach_tap(&self, plan: &Plan<'_>, daemon: &Daemon) -> Result<Mac, CniError> {
        let (addresses, routes) = (plan.addresses(), self.routes(&plan.given));
        self.record(plan, TAP, plan.mac, Some(plan.netns)).await?;
        let here = plan.netns.display().to_string();
        daemon.wait_endpoint(&plan.workload.endpoint_key(), |row| {
            carried(row, &addresses, |row| row.netns.as_deref() == Some(here.as_str()))
        })?;
        interface::configure(&self.inside(plan, &addresses, &routes), plan.mtu)
    }

    fn inside<'a>(&self, plan: &'a Plan, addresses: &'a [Ipv4Addr], routes: &'a [Ipv4Net]) -> Inside<'a> {
        Inside {
            netns: plan.netns,
            interface: &plan.container.interface,
            addresses,
            routes,
            forwarding: self.conf.forwarding,
            egress: self.conf.egress,
        }
    }

    /// The default route, unless the address plugin names others.
    fn routes(&self, given: &Attachment) -> Vec<Ipv4Net> {
        let default = (given.routes.is_empty() || self.conf.default_route).then(Ipv4Net::default);
        default.into_iter().chain(given.routes.iter().map(|r| r.dst)).collect()
    }

    async fn record(&self, plan: &Plan<'_>, interface: &str, mac: Option<Mac>, netns: Option<&Path>) -> Result<(), CniError> {
        let addresses = plan.addresses();
        let entry = Entry {
            workload: &plan.workload,
            network: &self.conf.name,
            interface,
            addresses: &addresses,
            floating: &plan.floating,
            mac,
            netns,
            ingress: self.conf.ingress,
        };
        let _turn = self.turn();
        record::publish(&self.store, self.form, &entry, &plan.pod).await
    }
}

/// Whether the daemon has this very attachment in force, and not what was there before it.
pub fn carried(row: &EndpointRow, addresses: &[Ipv4Addr], same: impl Fn(&EndpointRow) -> bool) -> Result<(), String> {
    if row.addresses != addresses {
        return Err(format!("the daemon still has the addresses {:?} for endpoint {}", row.addresses, row.name));
    }
    if !same(row) {
        return Err(format!("the daemon has not taken up the new interface of endpoint {} yet", row.name));
    }
    if !row.ready {
        return Err(format!("the port or the route of endpoint {} is not in force yet (tortie ports, tortie status)", row.name));
    }
    Ok(())
}
