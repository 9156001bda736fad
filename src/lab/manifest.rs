//! The lab's cluster as manifests in Calico's shapes: what a real datastore would hold for it.

use super::LabError;
use super::spec::{Encap, Kind, Mode, Node, POOL, Plan, Pod, Workload, netns_path};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

const V3: &str = "projectcalico.org/v3";

/// Where a lab's datastore is.
pub fn folder(lab: &str) -> PathBuf {
    super::spec::run_dir(lab).join("datastore")
}

/// Writes every manifest of the plan, one file per node and one for the cluster. A file appears whole or not
/// at all.
pub fn write(plan: &Plan) -> Result<(), LabError> {
    let folder = folder(&plan.spec.name);
    fs::create_dir_all(&folder).map_err(|source| LabError::file("make", &folder, source))?;
    put(&folder, "cluster.yaml", &cluster(plan))?;
    for node in &plan.nodes {
        put(&folder, &format!("{}.yaml", node.name), &node_objects(plan, node))?;
    }
    Ok(())
}

fn put(folder: &Path, name: &str, objects: &[Value]) -> Result<(), LabError> {
    let mut text = String::new();
    for o in objects {
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string(o).map_err(|e| LabError::Internal(format!("{name}: {e}")))?);
    }
    // The watcher must not read half a file; a leading dot keeps the unfinished one out of its sight.
    let (unfinished, path) = (folder.join(format!(".{name}")), folder.join(name));
    fs::write(&unfinished, text).and_then(|()| fs::rename(&unfinished, &path)).map_err(|source| LabError::file("write", &path, source))
}

/// The pool and the Felix configuration.
fn cluster(plan: &Plan) -> Vec<Value> {
    let used = if plan.spec.mode == Mode::Always { "Always" } else { "CrossSubnet" };
    let mode = |encap| if plan.spec.encap == encap { used } else { "Never" };
    vec![
        json!({
            "apiVersion": V3, "kind": "IPPool", "metadata": {"name": "default-ipv4-ippool"},
            "spec": {
                "cidr": POOL, "blockSize": plan.spec.block_prefix(), "natOutgoing": false, "nodeSelector": "all()",
                "vxlanMode": mode(Encap::Vxlan), "ipipMode": mode(Encap::Ipip),
            },
        }),
        json!({"apiVersion": V3, "kind": "FelixConfiguration", "metadata": {"name": "default"}, "spec": {}}),
        // The probes' key is made of the GUID.
        json!({
            "apiVersion": V3, "kind": "ClusterInformation", "metadata": {"name": "default"},
            "spec": {"clusterGUID": format!("tortie-lab-{}", plan.spec.name), "clusterType": "lab", "datastoreReady": true},
        }),
    ]
}

/// Everything that belongs to one node.
fn node_objects(plan: &Plan, node: &Node) -> Vec<Value> {
    let mut objects = vec![node_object(plan, node), block(plan, node), affinity(node)];
    objects.extend(node.pods.iter().map(|p| endpoint(plan, node, p)));
    objects
}

fn node_object(plan: &Plan, node: &Node) -> Value {
    let mut bgp = json!({"ipv4Address": node.address.to_string()});
    let mut spec = json!({});
    if let Some(tunnel) = node.tunnel {
        match plan.spec.encap {
            Encap::Vxlan => spec["ipv4VXLANTunnelAddr"] = json!(tunnel),
            Encap::Ipip => bgp["ipv4IPIPTunnelAddr"] = json!(tunnel),
            Encap::None => {}
        }
    }
    spec["bgp"] = bgp;
    json!({"apiVersion": V3, "kind": "Node", "metadata": {"name": node.name}, "spec": spec})
}

/// The node's block: the tunnel address at ordinal 0, then the pods.
fn block(plan: &Plan, node: &Node) -> Value {
    let size = 1 << (32 - plan.spec.block_prefix());
    let mut allocations: Vec<Option<usize>> = vec![None; size];
    let mut attributes = Vec::new();
    if node.tunnel.is_some() {
        let kind = if plan.spec.encap == Encap::Ipip { "ipip" } else { "vxlan" };
        allocations[0] = Some(0);
        attributes.push(json!({
            "handle_id": format!("{kind}-tunnel-addr-{}", node.name),
            "secondary": {"node": node.name, "type": format!("{kind}TunnelAddress")},
        }));
    }
    for pod in &node.pods {
        allocations[usize::from(pod.address.octets()[3])] = Some(attributes.len());
        attributes.push(json!({
            "handle_id": format!("k8s-pod-network.{}", pod.name),
            "secondary": {"namespace": "default", "node": node.name, "pod": pod.name},
        }));
    }
    let unallocated: Vec<usize> = (0..size).filter(|o| allocations[*o].is_none()).collect();
    json!({
        "apiVersion": V3, "kind": "IPAMBlock", "metadata": {"name": dashed(node)},
        "spec": {
            "cidr": node.block.to_string(), "affinity": format!("host:{}", node.name), "strictAffinity": false, "deleted": false,
            "allocations": allocations, "attributes": attributes, "unallocated": unallocated,
        },
    })
}

fn affinity(node: &Node) -> Value {
    json!({
        "apiVersion": V3, "kind": "BlockAffinity", "metadata": {"name": format!("{}-{}", node.name, dashed(node))},
        "spec": {"cidr": node.block.to_string(), "node": node.name, "state": "confirmed", "type": "host", "deleted": false},
    })
}

fn endpoint(plan: &Plan, node: &Node, pod: &Pod) -> Value {
    // Dashes inside the parts of a WorkloadEndpoint's name are doubled.
    let name = format!("{}-k8s-{}-eth0", node.name.replace('-', "--"), pod.name.replace('-', "--"));
    let mut metadata = json!({"name": name, "namespace": "default"});
    if node.kind == Kind::Tortie && plan.spec.workload == Workload::Tap {
        metadata["annotations"] = json!({"tortie/netns": netns_path(&pod.netns)});
    }
    json!({
        "apiVersion": V3, "kind": "WorkloadEndpoint", "metadata": metadata,
        "spec": {
            "orchestrator": "k8s", "node": node.name, "pod": pod.name, "endpoint": "eth0", "containerID": pod.name,
            "interfaceName": pod.interface, "ipNetworks": [format!("{}/32", pod.address)], "profiles": ["kns.default"],
        },
    })
}

/// A block's CIDR as an object name.
fn dashed(node: &Node) -> String {
    node.block.to_string().replace(['.', '/'], "-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::spec::Spec;

    #[test]
    fn a_block_accounts_for_every_address_once() {
        for encap in [Encap::Vxlan, Encap::Ipip, Encap::None] {
            let plan = Plan::new(Spec { encap, pods: 3, ..Spec::new("lab") }).unwrap();
            let b = block(&plan, &plan.nodes[1]);
            assert_eq!(b["metadata"]["name"], "10-244-2-0-26");
            let used = b["spec"]["allocations"].as_array().unwrap().iter().filter(|a| !a.is_null()).count();
            assert_eq!(used, 3 + usize::from(encap != Encap::None));
            assert_eq!(used, b["spec"]["attributes"].as_array().unwrap().len());
            assert_eq!(b["spec"]["unallocated"].as_array().unwrap().len(), 64 - used);
        }
    }

    #[test]
    fn modes_and_annotations_follow_the_flags() {
        let spec = Spec { encap: Encap::Ipip, mode: Mode::CrossSubnet, workload: Workload::Tap, ..Spec::new("lab") };
        let plan = Plan::new(spec).unwrap();
        let pool = &cluster(&plan)[0]["spec"];
        assert_eq!((pool["ipipMode"].as_str(), pool["vxlanMode"].as_str()), (Some("CrossSubnet"), Some("Never")));
        let objects = node_objects(&plan, &plan.nodes[0]);
        assert_eq!(objects[0]["spec"]["bgp"]["ipv4IPIPTunnelAddr"], "10.244.1.0");
        assert_eq!(objects[3]["metadata"]["name"], "n1-k8s-n1--p1-eth0");
        assert_eq!(objects[3]["metadata"]["annotations"]["tortie/netns"], "/run/netns/tortie-lab-n1-p1");
    }

    #[test]
    fn manifests_are_yaml_that_reads_back() {
        let plan = Plan::new(Spec::new("lab")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let object = node_objects(&plan, &plan.nodes[0]).remove(1);
        put(dir.path(), "x.yaml", std::slice::from_ref(&object)).unwrap();
        let text = fs::read_to_string(dir.path().join("x.yaml")).unwrap();
        assert_eq!(serde_saphyr::from_str::<Value>(text.trim_start_matches("---\n")).unwrap(), object);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no unfinished file left");
    }
}
