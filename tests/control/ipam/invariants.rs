//! What holds for the documents at any moment, whoever writes and whoever dies.

use super::support::*;
use std::collections::BTreeMap;
use tortie::control::datastore::objects::Resource;
use tortie::control::ipam::Reservations;
use tortie::testing::objects::MemObjects;

/// Panics with `context` if something does not hold.
pub fn assert_sound(store: &MemObjects, context: &str) {
    let blocks = blocks(store);
    for (i, a) in blocks.iter().enumerate() {
        let accounted = a.free(&Reservations::default()) + a.allocated().count();
        assert_eq!(accounted, a.size() as usize, "{context}: block {} has lost addresses", a.cidr);
        let overlap = blocks[..i].iter().find(|b| b.cidr.contains(&a.cidr) || a.cidr.contains(&b.cidr));
        assert!(overlap.is_none(), "{context}: {} overlaps {:?}", a.cidr, overlap.map(|b| b.cidr));
    }
    let mut counted = BTreeMap::new();
    for handle in handles(store).iter().filter(|h| !h.deleted) {
        counted.extend(handle.blocks.iter().map(|(cidr, count)| ((handle.id.clone(), *cidr), *count)));
    }
    for block in blocks.iter().filter(|b| !b.deleted) {
        let mut found: BTreeMap<String, u64> = BTreeMap::new();
        for held in block.allocated() {
            *found.entry(held.attribute.handle.clone().unwrap_or_default()).or_default() += 1;
        }
        for (handle, count) in found.into_iter().filter(|(h, _)| !h.is_empty()) {
            let known = counted.get(&(handle.clone(), block.cidr)).copied().unwrap_or(0);
            assert!(known >= count, "{context}: handle {handle} counts {known} of {count} in {}", block.cidr);
        }
    }
    for affinity in store.all(Resource::BlockAffinity) {
        let spec = &affinity["spec"];
        if spec["state"] == "confirmed" && spec["deleted"] != true {
            let (node, cidr) = (spec["node"].as_str().unwrap(), spec["cidr"].as_str().unwrap());
            let owner = blocks.iter().find(|b| b.cidr == net(cidr)).and_then(|b| b.node());
            assert_eq!(owner, Some(node), "{context}: confirmed affinity of {node} for {cidr}");
        }
    }
}
