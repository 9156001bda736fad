//! DEL and GC: what an attachment had goes, as far as it is there, whether the daemon runs or not.

use super::conf::Ipam;
use super::env::Container;
use super::error::CniError;
use super::plugin::Plugin;
use super::record::{self, Form};
use super::workload::{Mark, Workload};
use super::{delegate, interface, ipam};
use crate::control::datastore::objects::Objects;

impl<O: Objects> Plugin<O> {
    /// DEL. Whatever can be removed is, even if something else cannot; then the runtime calls again.
    pub async fn detach(&self, container: &Container) -> Result<(), CniError> {
        let workload = Workload::new(&self.conf, container);
        let present = interface::marked(&self.conf.name, &container.id)?;
        if !present.is_empty() && !present.contains(&container.interface) {
            // Of one that was refused; the container's record and address belong to the other.
            tracing::info!(
                "container {} has {} and not {} on this network: nothing to do",
                container.id,
                present.join(", "),
                container.interface
            );
            return Ok(());
        }
        let mut faults = Vec::new();
        let turn = self.turn();
        faults.extend(record::withdraw(&self.store, self.form, &workload).await.err());
        drop(turn);
        let link = self.remove_interface(container);
        // An address that an interface still has must not be given to another.
        if link.is_ok() {
            faults.extend(self.release(container).await.err());
        }
        faults.extend(link.err());
        CniError::join(faults)
    }

    /// By the namespace, in which only this container's interface can be; then by the mark on the host's end, in case
    /// the namespace is not known any more.
    fn remove_interface(&self, container: &Container) -> Result<(), CniError> {
        if let Some(netns) = &container.netns {
            interface::remove_inside(netns, &container.interface)?;
        }
        let mark = Mark::new(&self.conf, container);
        interface::remove_marked(&self.conf.name, |m| *m != mark).map(drop)
    }

    /// GC: all attachments of the network on this node but the ones that the runtime lists.
    pub async fn collect(&self) -> Result<(), CniError> {
        let valid = self.valid()?;
        let stays = |container: &str, interface: &str| valid.iter().any(|(c, i)| c == container && i == interface);
        let mut faults = Vec::new();
        if self.form == Form::Endpoint {
            let _turn = self.turn();
            faults.extend(record::sweep(&self.store, &self.conf.node, &self.conf.name, stays).await.map_err(CniError::from).err());
        }
        let links = interface::remove_marked(&self.conf.name, |m| stays(&m.container, &m.interface));
        match links {
            Ok(gone) => {
                gone.iter().for_each(|m| tracing::info!("interface {} of container {} was left behind: removed", m.interface, m.container))
            }
            Err(e) => faults.push(e),
        }
        faults.extend(self.collect_addresses().await.err());
        CniError::join(faults)
    }

    /// The addresses' part.
    pub async fn collect_addresses(&self) -> Result<(), CniError> {
        let valid = self.valid()?;
        match &self.conf.ipam {
            Ipam::Plugin(name) => delegate::run(name, &self.path, "GC", &self.delegated_for_release()).map(drop),
            Ipam::BuiltIn => {
                let stays = |container: &str| valid.iter().any(|(c, _)| c == container);
                let prefix = self.conf.handle("");
                let held = ipam::handles(self).await?;
                let gone: Vec<String> =
                    held.into_iter().filter(|h| h.strip_prefix(&prefix).is_some_and(|container| !stays(container))).collect();
                if !gone.is_empty() {
                    tracing::info!("addresses of {} containers were left behind: released", gone.len());
                }
                ipam::release(self, &gone).await
            }
        }
    }

    fn valid(&self) -> Result<&[(String, String)], CniError> {
        self.conf.valid.as_deref().ok_or_else(|| CniError::Refused {
            what: "cni.dev/valid-attachments".into(),
            fault: "missing: without it all attachments would go".into(),
        })
    }
}
