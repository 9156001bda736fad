//! What the commands share: the configuration, the datastore, and where things are found.

use super::conf::{Conf, Ipam};
use super::env::Container;
use super::error::{CniError, io};
use super::record::Form;
use super::request::Request;
use super::result::Attachment;
use super::workload::Workload;
use super::{delegate, ipam};
use crate::control::datastore::objects::{Id, Objects, Resource};
use crate::control::model::{self, FelixConfiguration, Object};
use crate::ops::view::StatusRow;
use serde_json::Value;
use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::sync::Arc;

/// One call of the plugin.
pub struct Plugin<O> {
    pub conf: Conf,
    pub store: O,
    /// How attachments are recorded there.
    pub form: Form,
    /// CNI_PATH.
    pub path: String,
}

impl<O: Objects> Plugin<O> {
    /// An error unless the cluster may be attached to: ClusterInformation's datastoreReady is false while it is
    /// upgraded or moved.
    pub async fn datastore_ready(&self) -> Result<(), CniError> {
        let id = Id::cluster(Resource::ClusterInformation, "default");
        match self.store.get(&id).await? {
            Some(object) if object["spec"]["datastoreReady"] == false => {
                Err(CniError::Later("ClusterInformation default: spec.datastoreReady is false: the datastore is being changed".into()))
            }
            _ => Ok(()),
        }
    }

    /// The Pod and its Namespace; `Null` where there is none.
    pub async fn objects_of(&self, workload: &Workload) -> Result<(Value, Value), CniError> {
        let Some(name) = &workload.pod else { return Ok((Value::Null, Value::Null)) };
        let id = Id::namespaced(Resource::Pod, &workload.namespace, name);
        let pod = self.store.get(&id).await?;
        if pod.is_none() && self.form == Form::Pod {
            return Err(CniError::Later(format!("{id} does not exist (any more)")));
        }
        let namespace = self.store.get(&Id::cluster(Resource::Namespace, &workload.namespace)).await?;
        Ok((pod.unwrap_or_default(), namespace.unwrap_or_default()))
    }

    /// How the names of pods' interfaces begin on this node.
    pub async fn interface_prefix(&self) -> Result<String, CniError> {
        let own = self.felix(&format!("node.{}", self.conf.node)).await?;
        let default = self.felix("default").await?;
        Ok(own.over(&default).interface_prefix().to_owned())
    }

    /// An object that cannot be read counts as absent, as it does for the daemon.
    async fn felix(&self, name: &str) -> Result<Arc<FelixConfiguration>, CniError> {
        let Some(object) = self.store.get(&Id::cluster(Resource::FelixConfiguration, name)).await? else { return Ok(Arc::default()) };
        let entry = model::parse(&object.to_string()).ok().and_then(|m| m.entries.into_iter().next());
        match entry.map(|e| e.object) {
            Some(Ok(Object::FelixConfiguration(f))) => Ok(f),
            _ => Ok(Arc::default()),
        }
    }

    /// Of the pod's interface: the configuration's, the file's, the daemon's.
    pub fn mtu(&self, status: &StatusRow) -> Result<u16, CniError> {
        if let Some(mtu) = self.conf.mtu {
            return Ok(mtu);
        }
        let file = &self.conf.mtu_file;
        match fs::read_to_string(file) {
            Ok(text) => text.trim().parse().ok().filter(|m| *m > 0).ok_or_else(|| CniError::File {
                path: file.clone(),
                fault: format!("{:?} is not an MTU: correct it, or set mtu in the network configuration", text.trim()),
            }),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                status.pod_mtu.ok_or_else(|| CniError::Later("the daemon does not know the pods' MTU yet: its uplink is not there".into()))
            }
            Err(e) => Err(io(format!("read {}", file.display()))(e)),
        }
    }

    /// An address and nothing else, for another plugin.
    pub async fn add_address(&self, container: &Container) -> Result<Attachment, CniError> {
        self.datastore_ready().await?;
        let request = Request::new(&self.conf, container, &Value::Null, &Value::Null)?;
        let mut given = self.addresses(container, &Workload::new(&self.conf, container), &request.wanted).await?;
        given.addresses.iter_mut().for_each(|a| a.interface = None);
        Ok(given)
    }

    /// Held while a folder is written to: processes of one host then wait in line, instead of for the folder's own
    /// lock, which gives up after a while. An API server needs no such order.
    pub fn turn(&self) -> Option<File> {
        if self.form == Form::Pod {
            return None;
        }
        let take = || {
            if let Some(folder) = self.conf.lock.parent() {
                fs::create_dir_all(folder)?;
            }
            let file = OpenOptions::new().create(true).append(true).open(&self.conf.lock)?;
            file.lock().map(|()| file)
        };
        take().inspect_err(|e| tracing::warn!("{}: going on without this lock: {e}", self.conf.lock.display())).ok()
    }

    /// Gives the addresses of a container back.
    pub async fn release(&self, container: &Container) -> Result<(), CniError> {
        match &self.conf.ipam {
            Ipam::BuiltIn => {
                let legacy = Workload::new(&self.conf, container).legacy_handle();
                ipam::release(self, &[self.conf.handle(&container.id), legacy]).await
            }
            Ipam::Plugin(name) => delegate::run(name, &self.path, "DEL", &self.delegated_for_release()).map(drop),
        }
    }

    /// The configuration for another address plugin, this node's pod CIDR filled in where it is asked for.
    pub async fn delegated(&self) -> Result<Value, CniError> {
        let mut conf = self.conf.raw.clone();
        if !asks_for_pod_cidr(&conf["ipam"]) {
            return Ok(conf);
        }
        let id = Id::cluster(Resource::Node, &self.conf.node);
        let node = self.store.get(&id).await?.unwrap_or_default();
        let cidr = node["spec"]["podCIDR"].as_str().filter(|c| c.contains('.')).ok_or_else(|| CniError::Refused {
            what: "ipam.subnet usePodCidr".into(),
            fault: format!("{id} has no IPv4 spec.podCIDR: set the subnet itself"),
        })?;
        fill_pod_cidr(&mut conf["ipam"], cidr);
        Ok(conf)
    }

    /// Which subnet it is does not matter there, only that it is one.
    pub fn delegated_for_release(&self) -> Value {
        let mut conf = self.conf.raw.clone();
        fill_pod_cidr(&mut conf["ipam"], "0.0.0.0/0");
        conf
    }
}

fn is_pod_cidr(v: &Value) -> bool {
    v.as_str().is_some_and(|s| s.eq_ignore_ascii_case("usePodCidr"))
}

/// `subnet` of the section itself, and those in `ranges`, which is a list of lists.
fn subnets(ipam: &mut Value) -> Vec<&mut Value> {
    let Some(ipam) = ipam.as_object_mut() else { return Vec::new() };
    let mut out = Vec::new();
    for (key, value) in ipam.iter_mut() {
        match key.as_str() {
            "subnet" => out.push(value),
            "ranges" => {
                let ranges = value.as_array_mut().into_iter().flatten().filter_map(Value::as_array_mut).flatten();
                out.extend(ranges.filter_map(|r| r.get_mut("subnet")));
            }
            _ => {}
        }
    }
    out
}

fn asks_for_pod_cidr(ipam: &Value) -> bool {
    subnets(&mut ipam.clone()).into_iter().any(|s| is_pod_cidr(s))
}

fn fill_pod_cidr(ipam: &mut Value, cidr: &str) {
    subnets(ipam).into_iter().filter(|s| is_pod_cidr(s)).for_each(|s| *s = Value::from(cidr));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_pod_cidr_is_filled_in_wherever_it_is_asked_for() {
        let mut ipam = json!({ "subnet": "usePodCidr", "ranges": [[{ "subnet": "usepodcidr" }], [{ "subnet": "10.9.0.0/24" }]], "type": "host-local" });
        assert!(asks_for_pod_cidr(&ipam));
        fill_pod_cidr(&mut ipam, "10.1.0.0/24");
        assert_eq!(ipam["subnet"], "10.1.0.0/24");
        assert_eq!(ipam["ranges"], json!([[{ "subnet": "10.1.0.0/24" }], [{ "subnet": "10.9.0.0/24" }]]));
        assert!(!asks_for_pod_cidr(&ipam) && !asks_for_pod_cidr(&Value::Null));
    }
}
