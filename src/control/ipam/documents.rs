//! BlockAffinity, a node's claim on a block, and IPAMHandle, the blocks that hold a handle's addresses.

use super::attribute::clean_handle;
use super::{fields, names};
use crate::control::datastore::objects;
use crate::control::model::AffinityState;
use crate::control::yaml::{self, Field, FieldError};
use ipnet::IpNet;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const STATES: [(&str, AffinityState); 4] = [
    ("pending", AffinityState::Pending),
    ("confirmed", AffinityState::Confirmed),
    ("pendingDeletion", AffinityState::PendingDeletion),
    // Of the time before there were states.
    ("", AffinityState::Confirmed),
];

#[derive(Clone, Debug)]
pub struct Affinity {
    pub node: String,
    pub cidr: IpNet,
    pub state: AffinityState,
    /// `type: virtual` is not a node's.
    pub is_host: bool,
    pub deleted: bool,
    document: Value,
}

impl Affinity {
    /// A claim of a node that is not proven yet.
    pub fn pending(node: &str, cidr: IpNet) -> Affinity {
        let document = json!({
            "metadata": {"name": names::affinity(node, cidr), "labels": names::affinity_labels(node, "host", cidr)},
            "spec": {"node": node, "type": "host", "cidr": cidr},
        });
        Affinity { node: node.to_owned(), cidr, state: AffinityState::Pending, is_host: true, deleted: false, document }
    }

    pub fn read(document: &Value) -> Result<Affinity, FieldError> {
        let tree = yaml::Value::of_json(document);
        let spec = Field::root(&tree).get("spec")?;
        Ok(Affinity {
            node: spec.get("node")?.required_text()?.to_owned(),
            cidr: fields::cidr(&spec.get("cidr")?)?,
            state: spec.get("state")?.one_of(&STATES)?.unwrap_or(AffinityState::Confirmed),
            is_host: spec.get("type")?.one_of(&[("host", true), ("virtual", false), ("", true)])?.unwrap_or(true),
            deleted: fields::flag(&spec.get("deleted")?)?,
            document: document.clone(),
        })
    }

    /// Whether it is found by its node's label, which older versions of Calico did not set.
    pub fn is_labelled(&self) -> bool {
        self.document["metadata"]["labels"][names::NODE_LABEL] == names::node_label(&self.node)
    }

    /// With the labels that Calico looks it up by.
    pub fn labelled(mut self) -> Affinity {
        let Value::Object(all) = names::affinity_labels(&self.node, "host", self.cidr) else { return self };
        let labels = &mut self.document["metadata"]["labels"];
        if !labels.is_object() {
            *labels = json!({});
        }
        all.into_iter().for_each(|(key, value)| labels[key] = value);
        self
    }

    pub fn document(&self) -> Value {
        let mut document = self.document.clone();
        let state = STATES.iter().find(|(_, state)| *state == self.state).map(|(word, _)| *word);
        document["spec"]["state"] = json!(state);
        document["spec"]["deleted"] = json!(self.deleted);
        document
    }
}

#[derive(Clone, Debug)]
pub struct Handle {
    pub id: String,
    /// Addresses per block. During an assignment it may be more than the block says, never less.
    pub blocks: BTreeMap<IpNet, u64>,
    pub deleted: bool,
    document: Value,
}

impl Handle {
    pub fn new(id: &str) -> Handle {
        let document = json!({"metadata": {"name": names::handle(id)}, "spec": {"handleID": id}});
        Handle { id: id.to_owned(), blocks: BTreeMap::new(), deleted: false, document }
    }

    pub fn read(document: &Value) -> Result<Handle, FieldError> {
        let tree = yaml::Value::of_json(document);
        let spec = Field::root(&tree).get("spec")?;
        let block = |(key, count): (&str, Field)| {
            let cidr = key.parse::<IpNet>().map_err(|_| count.error("the key is not a CIDR"))?;
            Ok((cidr, fields::u64(&count)?))
        };
        Ok(Handle {
            id: clean_handle(spec.get("handleID")?.required_text()?).to_owned(),
            blocks: spec.get("block")?.children()?.into_iter().map(block).collect::<Result<_, _>>()?,
            deleted: fields::flag(&spec.get("deleted")?)?,
            document: document.clone(),
        })
    }

    pub fn document(&self) -> Value {
        let mut document = self.document.clone();
        document["spec"]["block"] = self.blocks.iter().map(|(cidr, count)| (cidr.to_string(), json!(count))).collect();
        document["spec"]["deleted"] = json!(self.deleted);
        document
    }

    /// Not in the datastore yet.
    pub fn is_new(&self) -> bool {
        objects::revision(&self.document).is_none()
    }

    pub fn add(&mut self, block: IpNet, count: u64) {
        *self.blocks.entry(block).or_default() += count;
    }

    /// Takes away at most what is there.
    pub fn subtract(&mut self, block: IpNet, count: u64) {
        if let Some(held) = self.blocks.get_mut(&block) {
            *held = held.saturating_sub(count);
        }
        self.blocks.retain(|_, held| *held > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn affinities_keep_what_is_not_known() {
        let stored = json!({
            "metadata": {"name": "n1-10-0-0-0-26", "resourceVersion": "7", "labels": {"x": "y"}},
            "spec": {"cidr": "10.0.0.0/26", "node": "n1", "state": "", "deleted": "false", "new": 1},
        });
        let mut a = Affinity::read(&stored).unwrap();
        assert_eq!((a.state, a.is_host, a.deleted), (AffinityState::Confirmed, true, false));
        a.state = AffinityState::PendingDeletion;
        let written = a.document();
        assert_eq!(written["spec"]["state"], "pendingDeletion");
        assert_eq!((&written["spec"]["new"], &written["metadata"]), (&json!(1), &stored["metadata"]));
        let e = Affinity::read(&json!({"spec": {"cidr": "10.0.0.0/26", "node": "n1", "state": "maybe"}})).unwrap_err();
        assert_eq!(e.to_string(), "spec.state: \"maybe\" is not one of pending, confirmed, pendingDeletion, ");
    }

    #[test]
    fn a_new_affinity_is_calico_s() {
        let document = Affinity::pending("n1", "10.0.0.64/26".parse().unwrap()).document();
        assert_eq!(document["metadata"]["name"], "n1-10-0-0-64-26");
        let spec = json!({"cidr": "10.0.0.64/26", "deleted": false, "node": "n1", "state": "pending", "type": "host"});
        assert_eq!(document["spec"], spec);
    }

    #[test]
    fn handles_count() {
        let (a, b): (IpNet, IpNet) = ("10.0.0.0/26".parse().unwrap(), "10.0.0.64/26".parse().unwrap());
        let mut h = Handle::new("net.ABC");
        h.add(a, 2);
        h.add(b, 1);
        let document = h.document();
        assert_eq!(document["metadata"]["name"], "net.abc");
        assert_eq!(document["spec"], json!({"handleID": "net.ABC", "block": {"10.0.0.0/26": 2, "10.0.0.64/26": 1}, "deleted": false}));
        let mut h = Handle::read(&document).unwrap();
        h.subtract(a, 5);
        h.subtract(b, 1);
        h.subtract(b, 1);
        assert!(h.blocks.is_empty() && h.is_new());
        let e = Handle::read(&json!({"spec": {"handleID": "h", "block": {"x": 1}}})).unwrap_err();
        assert_eq!(e.to_string(), "spec.block.x: the key is not a CIDR");
    }
}
