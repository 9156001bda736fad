//! The node's own tunnel address.

use super::support::*;
use serde_json::{Value, json};
use std::net::IpAddr;
use tortie::control::datastore::objects::Resource;
use tortie::control::ipam::{AssignIp, Holder, Tunnel};
use tortie::testing::objects::MemObjects;

/// The Node with this VXLAN tunnel address in its annotations.
fn name(store: &MemObjects, address: Value) {
    let annotations = json!({Tunnel::Vxlan.annotation(): address});
    store.put(Resource::Node, json!({"metadata": {"name": "n1", "labels": {"name": "n1"}, "annotations": annotations}}));
}

async fn ensure(store: &MemObjects) -> Option<IpAddr> {
    ipam(store, "n1").ensure_tunnel_address(Tunnel::Vxlan).await.unwrap()
}

fn vxlan() -> MemObjects {
    cluster(&["n1"], json!({"cidr": "10.0.0.0/28", "blockSize": 29, "vxlanMode": "CrossSubnet"}))
}

#[tokio::test]
async fn the_first_address_of_the_first_block_with_calico_s_record() {
    let store = vxlan();
    let address = ensure(&store).await.unwrap();
    assert_eq!(address, blocks(&store)[0].cidr.network());
    let want = json!([{"handle_id": "vxlan-tunnel-addr-n1", "secondary": {"node": "n1", "type": "vxlanTunnelAddress"}}]);
    assert_eq!(store.all(Resource::IpamBlock)[0]["spec"]["attributes"], want);
    assert_eq!(ipam(&store, "n1").ensure_tunnel_address(Tunnel::Ipip).await.unwrap(), None);
}

#[tokio::test]
async fn a_valid_one_is_kept_and_a_forgotten_one_replaced() {
    let store = vxlan();
    let address = ensure(&store).await.unwrap();
    name(&store, json!(address));
    assert_eq!(ensure(&store).await, Some(address));
    name(&store, json!(format!("{address}/32")));
    assert_eq!(ensure(&store).await, Some(address));
    for lost in [Value::Null, json!(""), json!("junk"), json!("10.0.0.200")] {
        name(&store, lost.clone());
        let new = ensure(&store).await.unwrap();
        assert_eq!(in_use(&store), [(new, "vxlan-tunnel-addr-n1".to_owned())], "{lost}");
    }
}

#[tokio::test]
async fn another_s_address_is_left_alone() {
    let store = vxlan();
    let one = ipam(&store, "n1");
    let taken = assign(&one, "a").await.unwrap();
    name(&store, json!(taken));
    let new = ensure(&store).await.unwrap();
    assert_ne!(new, taken);
    assert!(in_use(&store).contains(&(taken, "k8s-pod-network.a".to_owned())));
    // The same where the record has a handle only.
    let bare = AssignIp { address: ip("10.0.0.5"), holder: Holder { handle: Some("h".into()), ..Holder::default() }, usage: None };
    one.assign_ip(&bare).await.unwrap();
    name(&store, json!("10.0.0.5"));
    assert_ne!(ensure(&store).await.unwrap(), ip("10.0.0.5"));
    assert!(in_use(&store).contains(&(ip("10.0.0.5"), "h".to_owned())));
}

#[tokio::test]
async fn one_of_old_times_gets_a_record() {
    let store = vxlan();
    let one = ipam(&store, "n1");
    one.assign_ip(&AssignIp { address: ip("10.0.0.3"), holder: Holder::default(), usage: None }).await.unwrap();
    name(&store, json!("10.0.0.3"));
    assert_eq!(ensure(&store).await, Some(ip("10.0.0.3")));
    assert_eq!(in_use(&store), [(ip("10.0.0.3"), "vxlan-tunnel-addr-n1".to_owned())]);
}

#[tokio::test]
async fn pools_decide() {
    let store = vxlan();
    let address = ensure(&store).await.unwrap();
    name(&store, json!(address));
    pool(&store, "q", json!({"cidr": "10.1.0.0/28", "blockSize": 32, "vxlanMode": "Always", "allowedUses": ["Tunnel"]}));
    pool(&store, "p", json!({"cidr": "10.0.0.0/28", "blockSize": 29, "vxlanMode": "Never"}));
    let moved = ensure(&store).await.unwrap();
    assert!(net("10.1.0.0/28").contains(&moved) && in_use(&store).len() == 1, "{moved}");
    name(&store, json!(moved));
    for gone in [
        json!({"cidr": "10.1.0.0/28", "blockSize": 32, "vxlanMode": "Always", "nodeSelector": "name == 'n2'"}),
        json!({"cidr": "10.1.0.0/28", "blockSize": 32, "vxlanMode": "Always", "disabled": true}),
        json!({"cidr": "10.1.0.0/28", "blockSize": 32, "vxlanMode": "Always", "allowedUses": ["Workload"]}),
    ] {
        pool(&store, "q", gone);
        assert_eq!(ensure(&store).await, None);
        assert!(in_use(&store).is_empty());
    }
}

#[tokio::test]
async fn without_its_handle_it_is_released_by_address() {
    let store = vxlan();
    let address = ensure(&store).await.unwrap();
    name(&store, json!(address));
    let other = cluster(&["n1"], json!({"cidr": "10.0.0.0/28", "blockSize": 29, "vxlanMode": "Always"}));
    for resource in [Resource::Node, Resource::IpamBlock, Resource::BlockAffinity] {
        store.all(resource).into_iter().for_each(|o| other.put(resource, o));
    }
    ipam(&other, "n1").release_tunnel_address(Tunnel::Vxlan).await.unwrap();
    assert!(in_use(&other).is_empty());
}
