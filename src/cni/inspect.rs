//! CHECK and STATUS: what is there, compared with what should be.

use super::add::carried;
use super::conf::{Device, Ipam};
use super::daemon::Daemon;
use super::env::Container;
use super::error::{CniError, io};
use super::interface::{self, GATEWAY, HOST_MAC};
use super::plugin::Plugin;
use super::record;
use super::result::{Attachment, Version};
use super::workload::{Mark, Workload};
use super::{delegate, ipam};
use crate::control::datastore::objects::Objects;
use crate::control::netlink::pod::Device as Link;
use crate::control::netlink::{Netlink, View};
use crate::port::sys;
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

/// CHECK may come right after ADD, and while the daemon starts again.
const PATIENCE: Duration = Duration::from_secs(5);

fn differs(what: impl Into<String>, found: impl Into<String>, wanted: impl Into<String>) -> CniError {
    CniError::Differs { what: what.into(), found: found.into(), wanted: wanted.into() }
}

impl<O: Objects> Plugin<O> {
    pub async fn check(&self, container: &Container) -> Result<(), CniError> {
        let previous = self.previous()?;
        let netns = container.netns.as_deref().ok_or(CniError::Environment { name: "CNI_NETNS", fault: "missing".into() })?;
        let workload = Workload::new(&self.conf, container);
        let addresses = addresses_of(previous, &container.interface);
        check_inside(netns, container, previous, &addresses)?;
        let host = self.check_host(container, previous)?;
        match record::holder(&self.store, self.form, &workload).await? {
            Some((id, _)) if id == container.id => {}
            Some((id, _)) => return Err(differs(format!("the container of {}", workload.endpoint_key()), id, &container.id)),
            None => return Err(differs(workload.endpoint_key(), "not in the datastore", "there")),
        }
        self.check_addresses(container, &addresses).await?;
        let here = netns.display().to_string();
        let same = |row: &crate::ops::view::EndpointRow| match &host {
            Some(link) => row.ifindex == link.index,
            None => row.netns.as_deref() == Some(here.as_str()),
        };
        Daemon::new(&self.conf.socket, PATIENCE.min(self.conf.patience))
            .wait_endpoint(&workload.endpoint_key(), |row| carried(row, &addresses, same))
    }

    fn previous(&self) -> Result<&Attachment, CniError> {
        self.conf
            .previous
            .as_ref()
            .ok_or_else(|| CniError::Refused { what: "prevResult".into(), fault: "missing: CHECK compares with it".into() })
    }

    /// The host's end; a TAP has none.
    fn check_host(&self, container: &Container, previous: &Attachment) -> Result<Option<Link>, CniError> {
        if self.conf.device == Device::Tap {
            return Ok(None);
        }
        // A plugin further down the chain may have added interfaces of its own behind ours.
        let Some(wanted) = previous.interfaces.iter().find(|i| i.sandbox.is_none()) else {
            return Err(differs("prevResult.interfaces", "without the host's interface", "with it"));
        };
        let what = format!("interface {}", wanted.name);
        let link = interface::device_outside(&wanted.name)?.ok_or_else(|| differs(&what, "missing", "there"))?;
        let mark = Mark::new(&self.conf, container).text();
        if link.alias.as_deref() != Some(mark.as_str()) {
            return Err(differs(&what, format!("of {:?}", link.alias.unwrap_or_default()), mark));
        }
        if link.mac != Some(HOST_MAC) {
            return Err(differs(what, link.mac.map(|m| m.to_string()).unwrap_or_default(), HOST_MAC.to_string()));
        }
        if !link.up {
            return Err(differs(what, "down", "up"));
        }
        Ok(Some(link))
    }

    /// That the addresses are this container's.
    pub async fn check_addresses(&self, container: &Container, addresses: &[Ipv4Addr]) -> Result<(), CniError> {
        match &self.conf.ipam {
            Ipam::Plugin(name) => delegate::run(name, &self.path, "CHECK", &self.delegated().await?).map(drop),
            // Such addresses are none of IPAM's.
            Ipam::BuiltIn if self.conf.addresses_without_ipam => Ok(()),
            Ipam::BuiltIn => {
                let handle = self.conf.handle(&container.id);
                let held = ipam::held(self, &handle).await?;
                match addresses.iter().find(|a| !held.contains(a)) {
                    Some(a) => Err(differs(format!("address {a}"), "not assigned", format!("held by {handle}"))),
                    None => Ok(()),
                }
            }
        }
    }

    /// CHECK of the address plugin alone.
    pub async fn check_ipam(&self, container: &Container) -> Result<(), CniError> {
        let all: Vec<Ipv4Addr> = self.previous()?.addresses.iter().map(|a| a.address.addr()).collect();
        self.check_addresses(container, &all).await
    }

    /// STATUS: whether an ADD could be served now.
    pub async fn status(&self) -> Result<(), CniError> {
        self.datastore_status().await?;
        if let Err(missing) = Daemon::new(&self.conf.socket, Duration::ZERO).ready() {
            return Err(CniError::NotReady(missing));
        }
        match &self.conf.ipam {
            Ipam::BuiltIn => Ok(()),
            Ipam::Plugin(name) => match delegate::run(name, &self.path, "STATUS", &self.delegated_for_release()) {
                // Plugins older than 1.1.0 have no STATUS, and no opinion.
                Err(CniError::Plugin { code: 1 | 4, .. }) => Ok(()),
                done => done.map(drop),
            },
        }
    }

    pub async fn datastore_status(&self) -> Result<(), CniError> {
        self.datastore_ready().await.map_err(|e| CniError::NotReady(e.to_string()))
    }

    /// CHECK came with 0.4.0, GC and STATUS with 1.1.0.
    pub fn since(&self, command: &'static str, since: Version) -> Result<(), CniError> {
        let version = self.conf.version;
        if version < since { Err(CniError::Command { command, version, since: since.name() }) } else { Ok(()) }
    }
}

/// What an earlier result says of the interface.
fn addresses_of(previous: &Attachment, name: &str) -> Vec<Ipv4Addr> {
    let ours = |i: Option<usize>| i.and_then(|i| previous.interfaces.get(i)).is_none_or(|i| i.name == name && i.sandbox.is_some());
    previous.addresses.iter().filter(|a| ours(a.interface)).map(|a| a.address.addr()).collect()
}

fn check_inside(netns: &Path, container: &Container, previous: &Attachment, addresses: &[Ipv4Addr]) -> Result<(), CniError> {
    let name = &container.interface;
    let what = format!("{name} in {}", netns.display());
    let link = interface::device_inside(netns, name)?.ok_or_else(|| differs(&what, "missing", "there"))?;
    if !link.up {
        return Err(differs(what, "down", "up"));
    }
    let wanted = previous.interfaces.iter().find(|i| i.name == *name && i.sandbox.is_some()).and_then(|i| i.mac.as_deref());
    let mac = link.mac.map(|m| m.to_string()).unwrap_or_default();
    if let Some(wanted) = wanted.filter(|w| !w.eq_ignore_ascii_case(&mac)) {
        return Err(differs(format!("the hardware address of {what}"), mac, wanted));
    }
    let view = sys::in_netns(netns, || Netlink::open().map(|n| n.view().clone())).and_then(|v| v).map_err(io(format!("look at {what}")))?;
    for address in addresses {
        if !view.addresses.contains(&(link.index, Ipv4Net::from(*address))) {
            return Err(differs(format!("address {address}/32"), "missing", format!("on {what}")));
        }
    }
    check_routes(&view, link.index, previous)
}

/// The way out, and what the result names; other routes are another plugin's business.
fn check_routes(view: &View, dev: u32, previous: &Attachment) -> Result<(), CniError> {
    let via = |dst: Ipv4Net| view.routes.iter().any(|r| r.dst == dst && r.dev == dev && r.gateway == Some(GATEWAY));
    let named: Vec<Ipv4Net> = previous.routes.iter().filter(|r| r.via == Some(GATEWAY)).map(|r| r.dst).collect();
    let wanted = if named.is_empty() { vec![Ipv4Net::default()] } else { named };
    match wanted.into_iter().find(|dst| !via(*dst)) {
        Some(dst) => Err(differs(format!("route {dst}"), "missing", format!("via {GATEWAY}"))),
        None => Ok(()),
    }
}
