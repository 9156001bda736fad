//! Releasing nodes and blocks.

use super::support::*;
use serde_json::json;
use tortie::control::datastore::objects::Resource;
use tortie::control::ipam::{AutoAssign, ReleaseRequest};

#[tokio::test]
async fn affinities_of_a_node() {
    let store = cluster(&["n1", "n2"], json!({"cidr": "10.0.0.0/28", "blockSize": 30}));
    let one = ipam(&store, "n1");
    let a = AutoAssign { count: 5, ..AutoAssign::one(4, pod("a", "n1")) };
    let a = one.auto_assign(&a).await.unwrap().addresses;
    one.release(&[ReleaseRequest::any(a[4])]).await.unwrap();
    one.release_host_affinities("n1", true).await.unwrap();
    assert_eq!((owners(&store).len(), affinities(&store).len()), (1, 1), "the block in use stays");
    one.release_host_affinities("n1", false).await.unwrap();
    assert_eq!(owners(&store), [format!("{} -", blocks(&store)[0].cidr)]);
    assert!(affinities(&store).is_empty() && store.all(Resource::IpamBlock)[0]["spec"].get("affinityClaimTime").is_none());
    assert_eq!(one.release_by_handle("k8s-pod-network.a").await.unwrap(), 4);
    assert!(blocks(&store).is_empty() && handles(&store).is_empty(), "an empty block of nobody goes");
}

#[tokio::test]
async fn everything_of_a_node() {
    let store = cluster(&["n1", "n2"], json!({"cidr": "10.0.0.0/29", "blockSize": 30}));
    let (one, two) = (ipam(&store, "n1"), ipam(&store, "n2"));
    assign(&two, "keep").await.unwrap();
    for i in 0..6 {
        assign(&one, &format!("a{i}")).await.unwrap();
    }
    assert_eq!(two.release_node("n1").await.unwrap(), 6, "two of them borrowed from n2");
    assert_eq!((in_use(&store).len(), blocks(&store).len(), handles(&store).len()), (1, 1, 1));
    assert_eq!(affinities(&store).len(), 1);
    assert_eq!(two.release_node("n1").await.unwrap(), 0);
}

#[tokio::test]
async fn addresses_of_handles() {
    let store = cluster(&["n1"], json!({"cidr": "10.0.0.0/28", "blockSize": 30}));
    let one = ipam(&store, "n1");
    let request = AutoAssign { count: 5, ..AutoAssign::one(4, pod("a", "n1")) };
    let mut got = one.auto_assign(&request).await.unwrap().addresses;
    got.sort();
    let mut found = one.addresses_of_handle("k8s-pod-network.a").await.unwrap();
    found.sort();
    assert_eq!(found, got);
    assert!(one.addresses_of_handle("k8s-pod-network.b").await.unwrap().is_empty());
    let free =
        one.release(&[ReleaseRequest::any(got[0]), ReleaseRequest::any(got[4]), ReleaseRequest::any(ip("10.0.0.200"))]).await.unwrap();
    assert_eq!(free, [ip("10.0.0.200")]);
    assert_eq!(handles(&store)[0].blocks.values().sum::<u64>(), 3);
}

/// A handle is a container's: upper-case letters of it are in its ID, not in its object's name.
#[tokio::test]
async fn handles_keep_their_case() {
    let store = cluster(&["n1"], json!({"cidr": "10.0.0.0/28", "blockSize": 30}));
    let one = ipam(&store, "n1");
    assign(&one, "AbC").await.unwrap();
    let stored = &store.all(Resource::IpamHandle)[0];
    assert_eq!((&stored["metadata"]["name"], &stored["spec"]["handleID"]), (&json!("k8s-pod-network.abc"), &json!("k8s-pod-network.AbC")));
    assert_eq!(one.release_by_handle("k8s-pod-network.AbC").await.unwrap(), 1);
    assert!(in_use(&store).is_empty());
}
