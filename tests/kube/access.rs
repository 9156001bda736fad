//! Objects read and written one by one, in both groups, against other writers.

use crate::support::{V1, V3, pod, pool};
use serde_json::{Value, json};
use std::future::Future;
use tortie::control::datastore::KubeObjects;
use tortie::control::datastore::kubernetes::open_objects;
use tortie::control::datastore::objects::{AccessError, Id, Objects, Preconditions, Resource, revision, uid};
use tortie::control::ipam::affinity_labels;
use tortie::testing::apiserver::{ApiServer, Fault, Groups, Refusal, Verb};

fn with(groups: Groups, test: impl AsyncFnOnce(&ApiServer, KubeObjects)) {
    let server = ApiServer::start();
    server.set_groups(groups);
    let folder = tempfile::tempdir().unwrap();
    let path = server.kubeconfig(folder.path(), None);
    run(async {
        let objects = open_objects(Some(&path)).await.unwrap();
        test(&server, objects).await;
    });
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

fn affinity(state: &str) -> Value {
    json!({
        "apiVersion": V3, "kind": "BlockAffinity", "metadata": {"name": "n-10-0-0-0-26"},
        "spec": {"cidr": "10.0.0.0/26", "node": "n", "state": state, "type": "host", "deleted": false},
    })
}

fn affinity_id() -> Id {
    Id::cluster(Resource::BlockAffinity, "n-10-0-0-0-26")
}

#[test]
fn an_affinity_lives_and_ends_in_both_groups() {
    for (groups, version, deleted) in [(Groups::V1, V1, json!("true")), (Groups::V3, V3, json!(true))] {
        with(groups, async |server, o| {
            let created = o.create(Resource::BlockAffinity, affinity("pending")).await.unwrap();
            assert_eq!((&created["apiVersion"], &created["spec"]["deleted"]), (&json!(V3), &json!(false)));
            assert!(revision(&created).is_some() && uid(&created).is_some());
            assert!(
                matches!(o.create(Resource::BlockAffinity, affinity("pending")).await, Err(AccessError::AlreadyExists { id }) if id == affinity_id())
            );
            let confirmed = o.patch(&affinity_id(), json!({"spec": {"state": "confirmed"}})).await.unwrap();
            let mut gone = confirmed.clone();
            gone["spec"]["deleted"] = json!(true);
            let gone = o.update(Resource::BlockAffinity, gone).await.unwrap();
            assert_eq!(gone["spec"]["deleted"], json!(true));
            let stored = server.get(version, "blockaffinities", "", "n-10-0-0-0-26").unwrap();
            assert_eq!((&stored["spec"]["deleted"], &stored["spec"]["state"]), (&deleted, &json!("confirmed")));
            assert_eq!(stored["metadata"]["labels"]["projectcalico.org/affinity-type"], "host");
            // As it was read before is not as it is now.
            let conflict = o.delete(&affinity_id(), &Preconditions::same(&confirmed)).await;
            assert_eq!(conflict, Err(AccessError::Conflict { id: affinity_id() }));
            o.delete(&affinity_id(), &Preconditions::same(&gone)).await.unwrap();
            assert_eq!(o.get(&affinity_id()).await, Ok(None));
            assert_eq!(o.delete(&affinity_id(), &Preconditions::default()).await, Err(AccessError::NotFound { id: affinity_id() }));
        });
    }
}

#[test]
fn each_kind_is_found_where_the_group_has_it() {
    for groups in [Groups::V1, Groups::V3] {
        with(groups, async |_, o| {
            let config = json!({"metadata": {"name": "default"}, "spec": {"strictAffinity": false, "autoAllocateBlocks": true}});
            let stored = o.create(Resource::IpamConfiguration, config).await.unwrap();
            assert_eq!((&stored["kind"], &stored["apiVersion"]), (&json!("IPAMConfiguration"), &json!(V3)));
            let handle = json!({"metadata": {"name": "h"}, "spec": {"handleID": "H", "block": {"10.0.0.0/26": 1}, "deleted": false}});
            assert_eq!(o.create(Resource::IpamHandle, handle).await.unwrap()["spec"]["deleted"], false);
            for resource in Resource::ALL {
                let all = o.list(resource, None).await.unwrap_or_else(|e| panic!("{resource}: {e}"));
                assert_eq!(all.len(), usize::from(matches!(resource, Resource::IpamConfiguration | Resource::IpamHandle)), "{resource}");
            }
        });
    }
}

#[test]
fn metadata_survive_the_older_group() {
    with(Groups::V1, async |server, o| {
        let pool = json!({
            "metadata": {"name": "p", "labels": {"a": "b"}, "annotations": {"x": "y"}, "ownerReferences": [{"kind": "Z", "name": "z", "uid": "u"}]},
            "spec": {"cidr": "10.0.0.0/16"},
        });
        let created = o.create(Resource::IpPool, pool).await.unwrap();
        assert_eq!(created["metadata"]["ownerReferences"][0]["name"], "z");
        let stored = server.get(V1, "ippools", "", "p").unwrap();
        assert!(stored["metadata"]["ownerReferences"].is_null() && stored["metadata"]["labels"]["a"] == "b");
        assert!(stored["metadata"]["annotations"]["projectcalico.org/metadata"].as_str().unwrap().contains("\"ownerReferences\""));
        // A patch of what is in the annotation, while somebody else writes.
        let id = Id::cluster(Resource::IpPool, "p");
        server.fault(Verb::Update, "ippools", 2, Fault::ComeFirst(json!({"spec": {"natOutgoing": true}})));
        let patched = o.patch(&id, json!({"metadata": {"ownerReferences": null, "annotations": {"x": null, "v": "w"}}})).await.unwrap();
        assert!(patched["metadata"]["ownerReferences"].is_null());
        assert_eq!((&patched["metadata"]["annotations"], &patched["spec"]["natOutgoing"]), (&json!({"v": "w"}), &json!(true)));
        // One of the kind that the server merges leaves the annotation alone.
        let patched = o.patch(&id, json!({"metadata": {"annotations": {"v": "2"}}, "spec": {"disabled": true}})).await.unwrap();
        assert_eq!(patched["metadata"]["annotations"], json!({"v": "2"}));
        assert_eq!(server.count(Verb::Patch, "ippools"), 1);
    });
}

#[test]
fn writes_are_compare_and_swap() {
    with(Groups::V1, async |server, o| {
        server.put(pool("p", "10.0.0.0/16"));
        let id = Id::cluster(Resource::IpPool, "p");
        let read = o.get(&id).await.unwrap().unwrap();
        server.put(pool("p", "10.0.0.0/17"));
        let conflict = Err(AccessError::Conflict { id: id.clone() });
        assert_eq!(o.update(Resource::IpPool, read.clone()).await, conflict);
        assert_eq!(o.patch(&id, json!({"metadata": {"resourceVersion": revision(&read)}, "spec": {"disabled": true}})).await, conflict);
        assert_eq!(o.delete(&id, &Preconditions::same(&read)).await, conflict.clone().map(drop));
        // Another object of the same name is not the one that was read.
        server.remove(V1, "ippools", "", "p");
        server.put(pool("p", "10.0.0.0/16"));
        let by_uid = Preconditions { uid: uid(&read).map(str::to_owned), revision: None };
        assert_eq!(o.delete(&id, &by_uid).await, conflict.clone().map(drop));
        let mut without_revision = read.clone();
        without_revision["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        assert_eq!(o.update(Resource::IpPool, without_revision.clone()).await, conflict, "its uid is another's");
        // Without either it is replaced in any case, whoever comes first.
        without_revision["metadata"].as_object_mut().unwrap().remove("uid");
        server.fault(Verb::Update, "ippools", 3, Fault::ComeFirst(json!({"spec": {"cidr": "10.1.0.0/16"}})));
        let updated = o.update(Resource::IpPool, without_revision).await.unwrap();
        assert_eq!(updated["spec"]["cidr"], "10.0.0.0/16");
    });
}

#[test]
fn pods_and_nodes_are_annotated_by_their_status() {
    with(Groups::V1, async |server, o| {
        server.put(pod("a", "n1", "10.0.0.1"));
        let id = Id::namespaced(Resource::Pod, "default", "a");
        let patch = json!({"metadata": {"annotations": {"cni.projectcalico.org/podIP": "10.0.0.1/32"}}, "spec": {"nodeName": "other"}});
        let patched = o.patch_status(&id, patch).await.unwrap();
        assert_eq!(patched["metadata"]["annotations"]["cni.projectcalico.org/podIP"], "10.0.0.1/32");
        assert_eq!(patched["spec"]["nodeName"], "n1");
        let patched = o.patch(&id, json!({"status": {"phase": "Failed"}, "metadata": {"labels": {"x": "y"}}})).await.unwrap();
        assert_eq!((&patched["status"]["phase"], &patched["metadata"]["labels"]["x"]), (&json!("Running"), &json!("y")));
        assert_eq!(o.list(Resource::Pod, Some("default")).await.unwrap().len(), 1);
        assert_eq!(o.list(Resource::Pod, Some("elsewhere")).await.unwrap().len(), 0);
    });
}

#[test]
fn status_of_definitions_in_both_groups() {
    for (groups, version) in [(Groups::V1, V1), (Groups::V3, V3)] {
        with(groups, async |server, o| {
            let mut object = pool("p", "10.0.0.0/16");
            object["apiVersion"] = json!(version);
            server.put(object);
            let conditions = json!({"conditions": [{"type": "Allocatable", "status": "True"}]});
            let patched =
                o.patch_status(&Id::cluster(Resource::IpPool, "p"), json!({"status": conditions, "spec": {"cidr": "x"}})).await.unwrap();
            assert_eq!((&patched["status"], &patched["spec"]["cidr"]), (&conditions, &json!("10.0.0.0/16")));
        });
    }
}

#[test]
fn long_lists_come_in_pages_and_whole() {
    with(Groups::V1, async |server, o| {
        server.put_all((0..1100).map(|i| pool(&format!("p{i:04}"), "10.0.0.0/16")));
        let names: Vec<String> =
            o.list(Resource::IpPool, None).await.unwrap().iter().map(|p| p["metadata"]["name"].as_str().unwrap().to_owned()).collect();
        assert_eq!((names.len(), names.is_sorted(), server.count(Verb::List, "ippools")), (1100, true, 3));
        // The second page has expired.
        let expired = Refusal::new(410, "Expired", "The provided continue parameter is too old");
        server.fault(Verb::List, "ippools", 1, Fault::Delay(std::time::Duration::ZERO));
        server.fault(Verb::List, "ippools", 1, Fault::Refuse(expired));
        assert_eq!(o.list(Resource::IpPool, None).await.unwrap().len(), 1100);
    });
}

#[test]
fn refusals_say_what_to_do() {
    with(Groups::V1, async |server, o| {
        server.put(pool("p", "10.0.0.0/16"));
        let id = Id::cluster(Resource::IpPool, "p");
        server.forbid("ippools");
        let text = |e: AccessError| e.to_string();
        let forbidden = text(o.patch(&id, json!({"spec": {"disabled": true}})).await.unwrap_err());
        assert!(forbidden.starts_with("patch IPPool p: no permission: HTTP 403: "), "{forbidden}");
        assert!(forbidden.contains(r#"{apiGroups: ["crd.projectcalico.org"], resources: ["ippools"], verbs: ["patch"]}"#), "{forbidden}");
        server.forbid("nodes");
        let forbidden = text(o.patch_status(&Id::cluster(Resource::Node, "n"), json!({})).await.unwrap_err());
        assert!(forbidden.contains(r#"{apiGroups: [""], resources: ["nodes/status"], verbs: ["patch"]}"#), "{forbidden}");
        let invalid = o.create(Resource::IpamBlock, json!({"metadata": {"name": "b"}, "spec": {"cidr": 7}})).await.unwrap_err();
        assert!(matches!(&invalid, AccessError::Invalid { what, .. } if what == "create IPAMBlock b"), "{invalid}");
        let nameless = o.create(Resource::IpPool, json!({"spec": {}})).await.unwrap_err();
        assert_eq!(text(nameless), "IPPool: refused: metadata.name: missing");
        let elsewhere = o.create(Resource::WorkloadEndpoint, json!({"metadata": {"name": "w", "namespace": "x"}})).await.unwrap_err();
        assert!(text(elsewhere).contains("annotations of its own Nodes and Pods"));
        // A lost answer leaves open whether it was done: not a conflict, and it may be tried again.
        server.fault(Verb::Create, "ipreservations", 1, Fault::LoseAnswer);
        let reservation = json!({"metadata": {"name": "r"}, "spec": {"reservedCIDRs": []}});
        let lost = o.create(Resource::IpReservation, reservation.clone()).await.unwrap_err();
        assert!(matches!(lost, AccessError::Unavailable { .. }), "{lost}");
        assert!(matches!(o.create(Resource::IpReservation, reservation).await, Err(AccessError::AlreadyExists { .. })));
        server.stop();
        let away = text(o.get(&id).await.unwrap_err());
        assert!(away.starts_with("get IPPool p: ") && away.contains("Connection refused"), "{away}");
    });
}

#[test]
fn the_group_is_found_out_once_the_server_answers() {
    with(Groups::V3, async |server, o| {
        let mut object = pool("p", "10.0.0.0/16");
        object["apiVersion"] = json!(V3);
        server.put(object);
        server.fault(Verb::Discover, "", 1, Fault::Refuse(Refusal::new(503, "ServiceUnavailable", "not yet")));
        assert!(matches!(o.list(Resource::IpPool, None).await, Err(AccessError::Unavailable { .. })));
        assert_eq!(o.list(Resource::IpPool, None).await.unwrap().len(), 1);
        assert_eq!(o.list(Resource::IpPool, None).await.unwrap().len(), 1);
        assert_eq!(server.count(Verb::Discover, ""), 2);
    });
}

#[test]
fn configurations_that_cannot_be_used_name_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubeconfig");
    let fault = |path: &std::path::Path| {
        let mut text = String::new();
        run(async { text = open_objects(Some(path)).await.err().map(|e| e.to_string()).unwrap_or_default() });
        text
    };
    let missing = fault(&path);
    assert!(missing.contains(&path.display().to_string()) && missing.contains("datastore.kubeconfig"), "{missing}");
    std::fs::write(&path, "clusters: [").unwrap();
    assert!(fault(&path).contains(&path.display().to_string()));
    let server = ApiServer::start();
    let path = server.kubeconfig(folder.path(), Some("t"));
    std::fs::remove_file(folder.path().join("token")).unwrap();
    assert!(fault(&path).contains("token"), "{}", fault(&path));
    server.kubeconfig(folder.path(), Some("t"));
    std::fs::remove_file(folder.path().join("ca.crt")).unwrap();
    assert!(fault(&path).contains("ca.crt"), "{}", fault(&path));
    let mut text = String::new();
    run(async { text = open_objects(None).await.err().map(|e| e.to_string()).unwrap_or_default() });
    assert!(text.contains("outside a cluster set datastore.kubeconfig"), "{text}");
}

/// One page instead of all.
#[test]
fn what_has_labels_is_selected_by_the_server() {
    for groups in [Groups::V1, Groups::V3] {
        with(groups, async |server, o| {
            for i in 0..600 {
                let labels = affinity_labels(&format!("n{i}"), "host", "10.0.0.0/26".parse().unwrap());
                let spec = json!({"cidr": "10.0.0.0/26", "node": format!("n{i}"), "state": "confirmed", "type": "host", "deleted": false});
                let object = json!({"apiVersion": V3, "kind": "BlockAffinity", "metadata": {"name": format!("a{i}"), "labels": labels}, "spec": spec});
                o.create(Resource::BlockAffinity, object).await.unwrap();
            }
            let label = affinity_labels("n77", "host", "10.0.0.0/26".parse().unwrap());
            let hash = label["projectcalico.org/hostname-hash"].as_str().unwrap();
            let found = o.list_labelled(Resource::BlockAffinity, &[("projectcalico.org/hostname-hash", hash)]).await.unwrap();
            assert_eq!(found.iter().map(|f| f["metadata"]["name"].as_str().unwrap()).collect::<Vec<_>>(), ["a77"]);
            assert_eq!(server.count(Verb::List, "blockaffinities"), 1);
            assert_eq!(o.list(Resource::BlockAffinity, None).await.unwrap().len(), 600);
            assert_eq!(server.count(Verb::List, "blockaffinities"), 3);
        });
    }
}
