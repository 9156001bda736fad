//! IPPools: defaults, and what other pools, their own past and blocks forbid.

use super::schema::Fault;
use ipnet::IpNet;
use serde_json::{Value, json};

/// The pool with calicoctl's defaults written out, and its CIDR in canonical form.
pub fn with_defaults(mut pool: Value) -> Value {
    let Some(cidr) = cidr(&pool) else { return pool };
    let spec = &mut pool["spec"];
    let unset = |v: &Value| v.is_null() || v.as_str() == Some("") || v.as_array().is_some_and(Vec::is_empty) || v.as_u64() == Some(0);
    let block_size = if matches!(cidr, IpNet::V4(_)) { 26 } else { 122 };
    let defaults = [
        ("allowedUses", json!(["Workload", "Tunnel"])),
        ("assignmentMode", json!("Automatic")),
        ("blockSize", json!(block_size)),
        ("ipipMode", json!("Never")),
        ("nodeSelector", json!("all()")),
        ("vxlanMode", json!("Never")),
    ];
    for (key, value) in defaults {
        if unset(&spec[key]) {
            spec[key] = value;
        }
    }
    spec["cidr"] = json!(cidr.to_string());
    pool
}

fn cidr(pool: &Value) -> Option<IpNet> {
    pool["spec"]["cidr"].as_str()?.parse().ok()
}

/// A pool with its defaults against what is stored: itself before, all pools, all blocks.
pub fn check(pool: &Value, stored: Option<&Value>, pools: &[Value], blocks: &[Value]) -> Vec<Fault> {
    let mut faults = Vec::new();
    if let Some(old) = stored {
        for (field, why) in [("cidr", "addresses in use"), ("blockSize", "blocks in use")] {
            if old["spec"][field] != pool["spec"][field] {
                let reason = format!("cannot be modified: it is {} and there may be {why}; make another pool", plain(&old["spec"][field]));
                faults.push(Fault::of(&format!("spec.{field}"), Some(plain(&pool["spec"][field])), reason));
            }
        }
        let balances = |p: &Value| p["spec"]["allowedUses"].as_array().is_some_and(|u| u.contains(&json!("LoadBalancer")));
        if balances(old) && !balances(pool) {
            let reason = "cannot be changed from LoadBalancer to Workload or Tunnel; make another pool";
            faults.push(Fault::of("spec.allowedUses", Some(pool["spec"]["allowedUses"].to_string()), reason));
        }
        return faults;
    }
    let (Some(own), name) = (cidr(pool), &pool["metadata"]["name"]) else { return faults };
    for other in pools.iter().filter(|p| p["metadata"]["name"] != *name) {
        if let Some(taken) = cidr(other).filter(|c| overlap(*c, own)) {
            let reason = format!("overlaps with IPPool({}) CIDR {taken}", plain(&other["metadata"]["name"]));
            faults.push(Fault::of("spec.cidr", Some(own.to_string()), reason));
        }
    }
    let size = pool["spec"]["blockSize"].as_u64();
    let other_size = |b: &IpNet| overlap(*b, own) && size != Some(b.prefix_len().into());
    if let Some(block) = blocks.iter().filter_map(cidr).find(other_size) {
        let reason = format!("conflicts with existing allocations that use a different blockSize: block {block}");
        faults.push(Fault::of("spec.blockSize", size.map(|s| s.to_string()), reason));
    }
    faults
}

fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

fn plain(v: &Value) -> String {
    v.as_str().map_or_else(|| v.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(name: &str, spec: Value) -> Value {
        with_defaults(json!({"metadata": {"name": name}, "spec": spec}))
    }

    #[test]
    fn defaults_are_written_out() {
        let p = pool("p", json!({"cidr": "10.244.0.0/16", "ipipMode": "Always", "natOutgoing": true}));
        assert_eq!(
            p["spec"],
            json!({"cidr": "10.244.0.0/16", "ipipMode": "Always", "natOutgoing": true, "vxlanMode": "Never", "blockSize": 26, "nodeSelector": "all()",
                "allowedUses": ["Workload", "Tunnel"], "assignmentMode": "Automatic"})
        );
        let p = pool("p", json!({"cidr": "FD00:0::/48", "blockSize": 124, "allowedUses": ["Tunnel"]}));
        assert_eq!(
            (&p["spec"]["cidr"], &p["spec"]["blockSize"], &p["spec"]["allowedUses"]),
            (&json!("fd00::/48"), &json!(124), &json!(["Tunnel"]))
        );
        assert_eq!(pool("p", json!({"cidr": "fd00::/48"}))["spec"]["blockSize"], 122);
    }

    #[test]
    fn what_others_forbid() {
        let texts = |faults: Vec<Fault>| faults.iter().map(Fault::to_string).collect::<Vec<_>>();
        let p = pool("p", json!({"cidr": "10.244.0.0/16"}));
        let q = pool("q", json!({"cidr": "10.244.64.0/18"}));
        assert_eq!(
            texts(check(&p, None, &[p.clone(), q.clone()], &[])),
            ["error with field spec.cidr = '10.244.0.0/16' (overlaps with IPPool(q) CIDR 10.244.64.0/18)"]
        );
        let block = json!({"spec": {"cidr": "10.244.0.64/28"}});
        assert_eq!(
            texts(check(&p, None, &[], &[block])),
            [
                "error with field spec.blockSize = '26' (conflicts with existing allocations that use a different blockSize: block 10.244.0.64/28)"
            ]
        );
        let changed = pool("p", json!({"cidr": "10.245.0.0/16", "blockSize": 24}));
        assert_eq!(
            texts(check(&changed, Some(&p), &[q], &[])),
            [
                "error with field spec.cidr = '10.245.0.0/16' (cannot be modified: it is 10.244.0.0/16 and there may be addresses in use; make another pool)",
                "error with field spec.blockSize = '24' (cannot be modified: it is 26 and there may be blocks in use; make another pool)"
            ]
        );
        let balancer = pool("p", json!({"cidr": "10.244.0.0/16", "allowedUses": ["LoadBalancer"]}));
        assert_eq!(check(&p, Some(&balancer), &[], &[]).len(), 1);
    }
}
