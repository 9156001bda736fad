//! Beside stock Calico: a second allocator, written from what calico-node does to the documents and with nothing of ours,
//! works on the same pool at the same time.

use super::invariants::assert_sound;
use super::races::Random;
use super::support::*;
use serde_json::{Map, Value, json};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use tokio::task::LocalSet;
use tortie::control::datastore::objects::{AccessError, Id, Objects, Preconditions, Resource};
use tortie::testing::objects::MemObjects;

/// calico-node on one node. Blocks are of four addresses in 10.0.0.0/26.
struct Stock {
    store: MemObjects,
    node: &'static str,
}

/// What Go writes for a block: the fields of its struct and no others.
fn go_block(spec: &Value) -> Value {
    let mut out = Map::new();
    for key in ["affinity", "affinityClaimTime"] {
        out.extend(spec.get(key).filter(|v| !v.is_null()).map(|v| (key.to_owned(), v.clone())));
    }
    let attribute = |a: &Value| -> Value {
        let kept = ["handle_id", "secondary"].into_iter().filter_map(|k| Some((k.to_owned(), a.get(k)?.clone())));
        Value::Object(kept.collect())
    };
    for key in ["allocations", "cidr", "deleted", "sequenceNumber", "sequenceNumberForAllocation", "unallocated"] {
        out.insert(key.to_owned(), spec[key].clone());
    }
    out.insert("attributes".to_owned(), spec["attributes"].as_array().unwrap().iter().map(attribute).collect());
    out.insert("strictAffinity".to_owned(), json!(false));
    Value::Object(out)
}

type Step<T> = Result<T, AccessError>;

impl Stock {
    fn block_id(cidr: &str) -> Id {
        Id::cluster(Resource::IpamBlock, cidr.replace(['.', '/'], "-"))
    }

    fn affinity_name(&self, cidr: &str) -> String {
        format!("{}-{}", self.node, cidr.replace(['.', '/'], "-"))
    }

    async fn block(&self, cidr: &str) -> Step<Option<Value>> {
        Ok(self.store.get(&Stock::block_id(cidr)).await?.filter(|b| b["spec"]["deleted"] != true))
    }

    async fn write(&self, resource: Resource, mut object: Value) -> Step<Value> {
        if resource == Resource::IpamBlock {
            let sequence = object["spec"]["sequenceNumber"].as_u64().unwrap();
            object["spec"]["sequenceNumber"] = json!(sequence + 1);
            object["spec"] = go_block(&object["spec"]);
        }
        self.store.update(resource, object).await
    }

    async fn delete(&self, resource: Resource, mut object: Value) -> Step<()> {
        object["spec"]["deleted"] = json!(true);
        let marked = self.write(resource, object).await?;
        self.store.delete(&Id::of(resource, &marked).unwrap(), &Preconditions::same(&marked)).await
    }

    /// Pending affinity, block, confirmed affinity.
    async fn claim(&self, cidr: &str) -> Step<Option<Value>> {
        let spec = json!({"node": self.node, "type": "host", "cidr": cidr, "state": "pending", "deleted": false});
        let affinity = json!({"metadata": {"name": self.affinity_name(cidr)}, "spec": spec});
        let mut affinity = self.store.create(Resource::BlockAffinity, affinity).await?;
        let owner = format!("host:{}", self.node);
        let spec = json!({
            "affinity": owner, "affinityClaimTime": now().to_string(), "allocations": [null, null, null, null], "attributes": [], "cidr": cidr,
            "deleted": false, "sequenceNumber": now().as_nanosecond() as u64, "sequenceNumberForAllocation": {}, "strictAffinity": false,
            "unallocated": [0, 1, 2, 3],
        });
        let block = json!({"metadata": {"name": Stock::block_id(cidr).name}, "spec": spec});
        match self.store.create(Resource::IpamBlock, block).await {
            Ok(block) => {
                affinity["spec"]["state"] = json!("confirmed");
                self.write(Resource::BlockAffinity, affinity).await?;
                Ok(Some(block))
            }
            Err(AccessError::AlreadyExists { .. }) => self.delete(Resource::BlockAffinity, affinity).await.map(|()| None),
            Err(e) => Err(e),
        }
    }

    async fn count(&self, handle: &str, cidr: &str, change: i64) -> Step<()> {
        loop {
            let stored = self.store.get(&Id::cluster(Resource::IpamHandle, handle)).await?;
            let new = json!({"metadata": {"name": handle}, "spec": {"handleID": handle, "block": {}, "deleted": false}});
            let mut object = stored.clone().unwrap_or(new);
            let count = object["spec"]["block"][cidr].as_i64().unwrap_or(0) + change;
            let blocks = object["spec"]["block"].as_object_mut().unwrap();
            if count > 0 {
                blocks.insert(cidr.to_owned(), json!(count))
            } else {
                blocks.remove(cidr)
            };
            let empty = blocks.is_empty();
            let result = match (stored, empty) {
                (None, _) => self.store.create(Resource::IpamHandle, object).await.map(drop),
                (_, true) => self.delete(Resource::IpamHandle, object).await,
                _ => self.write(Resource::IpamHandle, object).await.map(drop),
            };
            match result {
                Err(e) if e.is_conflict() => {}
                result => return result,
            }
        }
    }

    /// The first free address of a block, its ordinal taken from the head of the queue.
    async fn assign_from(&self, mut block: Value, name: &str) -> Step<Option<IpAddr>> {
        let cidr = block["spec"]["cidr"].as_str().unwrap().to_owned();
        loop {
            let spec = &mut block["spec"];
            if spec["unallocated"].as_array().unwrap().is_empty() {
                return Ok(None);
            }
            let ordinal = spec["unallocated"].as_array_mut().unwrap().remove(0).as_u64().unwrap() as usize;
            let secondary = json!({"namespace": "default", "node": self.node, "pod": name, "timestamp": "2026-01-01 00:00:00 +0000 UTC"});
            let attributes = spec["attributes"].as_array_mut().unwrap();
            attributes.push(json!({"handle_id": name, "secondary": secondary}));
            let index = attributes.len() - 1;
            spec["allocations"][ordinal] = json!(index);
            let sequence = spec["sequenceNumber"].clone();
            spec["sequenceNumberForAllocation"][ordinal.to_string()] = sequence;
            self.count(name, &cidr, 1).await?;
            match self.write(Resource::IpamBlock, block).await {
                Ok(_) => {
                    let first: Ipv4Addr = cidr.split('/').next().unwrap().parse().unwrap();
                    return Ok(Some(Ipv4Addr::from(u32::from(first) + ordinal as u32).into()));
                }
                Err(e) => {
                    self.count(name, &cidr, -1).await?;
                    if !e.is_conflict() {
                        return Err(e);
                    }
                    match self.block(&cidr).await? {
                        Some(now) => block = now,
                        None => return Ok(None),
                    }
                }
            }
        }
    }

    /// From its own blocks, from a new one, from any.
    async fn assign(&self, name: &str) -> Step<Option<IpAddr>> {
        let cidrs: Vec<String> = (0..16).map(|i| format!("10.0.0.{}/30", i * 4)).collect();
        let owner = format!("host:{}", self.node);
        for cidr in &cidrs {
            if let Some(block) = self.block(cidr).await?.filter(|b| b["spec"]["affinity"] == json!(owner))
                && let Some(address) = self.assign_from(block, name).await?
            {
                return Ok(Some(address));
            }
        }
        for cidr in &cidrs {
            if self.block(cidr).await?.is_none()
                && let Ok(Some(block)) = self.claim(cidr).await
                && let Some(address) = self.assign_from(block, name).await?
            {
                return Ok(Some(address));
            }
        }
        for cidr in &cidrs {
            if let Some(block) = self.block(cidr).await?
                && let Some(address) = self.assign_from(block, name).await?
            {
                return Ok(Some(address));
            }
        }
        Ok(None)
    }

    async fn release(&self, address: IpAddr, name: &str) -> Step<()> {
        let IpAddr::V4(v4) = address else { return Ok(()) };
        let ordinal = (u32::from(v4) % 4) as usize;
        let cidr = format!("{}/30", Ipv4Addr::from(u32::from(v4) - ordinal as u32));
        loop {
            let Some(mut block) = self.block(&cidr).await? else { return Ok(()) };
            let spec = &mut block["spec"];
            let Some(index) = spec["allocations"][ordinal].as_u64() else { return Ok(()) };
            assert_eq!(spec["attributes"][index as usize]["handle_id"], json!(name), "{address}");
            spec["allocations"][ordinal] = Value::Null;
            spec["unallocated"].as_array_mut().unwrap().push(json!(ordinal));
            spec["sequenceNumberForAllocation"].as_object_mut().unwrap().remove(&ordinal.to_string());
            let used = |spec: &Value| spec["allocations"].as_array().unwrap().iter().any(|a| a.as_u64() == Some(index));
            if !used(spec) {
                spec["attributes"].as_array_mut().unwrap().remove(index as usize);
                for slot in spec["allocations"].as_array_mut().unwrap() {
                    if let Some(other) = slot.as_u64().filter(|o| *o > index) {
                        *slot = json!(other - 1);
                    }
                }
            }
            let empty = block["spec"]["allocations"].as_array().unwrap().iter().all(Value::is_null);
            let result = match empty && block["spec"].get("affinity").is_none() {
                true => self.delete(Resource::IpamBlock, block).await,
                false => self.write(Resource::IpamBlock, block).await.map(drop),
            };
            match result {
                Err(e) if e.is_conflict() => {}
                result => {
                    result?;
                    return self.count(name, &cidr, -1).await;
                }
            }
        }
    }
}

type Ledger = Rc<RefCell<BTreeMap<IpAddr, String>>>;

fn given(ledger: &Ledger, address: IpAddr, name: &str) {
    let other = ledger.borrow_mut().insert(address, name.to_owned());
    assert_eq!(other, None, "{address} given to {name}");
}

async fn stock_task(stock: Stock, random: Random, ledger: Ledger, number: usize) {
    let mut pods: Vec<(IpAddr, String)> = Vec::new();
    for step in 0..40 {
        if random.below(10) < 6 || pods.is_empty() {
            let name = format!("stock{number}-{step}");
            if let Ok(Some(address)) = stock.assign(&name).await {
                given(&ledger, address, &name);
                pods.push((address, name));
            }
        } else {
            let (address, name) = pods.swap_remove(random.below(pods.len() as u64) as usize);
            ledger.borrow_mut().remove(&address);
            stock.release(address, &name).await.unwrap();
        }
        if step % 4 == 0 {
            assert_sound(&stock.store, &format!("{} {step}", stock.node));
        }
    }
}

async fn our_task(store: MemObjects, node: &'static str, random: Random, ledger: Ledger, number: usize) {
    let ipam = ipam(&store, node);
    let mut pods: Vec<(IpAddr, String)> = Vec::new();
    for step in 0..40 {
        match random.below(10) {
            0..6 => {
                let name = format!("ours{number}-{step}");
                if let Ok(address) = assign(&ipam, &name).await {
                    given(&ledger, address, &name);
                    pods.push((address, name));
                }
            }
            6..9 if !pods.is_empty() => {
                let (address, name) = pods.swap_remove(random.below(pods.len() as u64) as usize);
                ledger.borrow_mut().remove(&address);
                assert_eq!(ipam.release_by_handle(&format!("k8s-pod-network.{name}")).await.unwrap(), 1);
            }
            _ => ipam.release_host_affinities(node, true).await.unwrap(),
        }
        if step % 4 == 0 {
            assert_sound(&store, &format!("{node} {step}"));
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn both_on_one_pool() {
    for seed in 0..12 {
        let store = cluster(&["s1", "s2", "n1", "n2"], json!({"cidr": "10.0.0.0/26", "blockSize": 30}));
        let (random, ledger, tasks) = (Random::new(seed), Ledger::default(), LocalSet::new());
        for (number, node) in ["s1", "s2", "s1"].into_iter().enumerate() {
            let stock = Stock { store: store.clone(), node };
            tasks.spawn_local(fatal(stock_task(stock, random.clone(), ledger.clone(), number)));
        }
        for (number, node) in ["n1", "n2", "n1"].into_iter().enumerate() {
            tasks.spawn_local(fatal(our_task(store.clone(), node, random.clone(), ledger.clone(), number)));
        }
        tasks.await;
        let recorded: BTreeMap<IpAddr, String> =
            in_use(&store).into_iter().map(|(a, h)| (a, h.trim_start_matches("k8s-pod-network.").to_owned())).collect();
        assert_eq!(recorded, *ledger.borrow(), "seed {seed}");
        let counted: u64 = handles(&store).iter().flat_map(|h| h.blocks.values()).sum();
        assert_eq!(counted, recorded.len() as u64, "seed {seed}: without faults handles count exactly");
    }
}

/// A panic in a task fails the test.
async fn fatal(task: impl Future<Output = ()> + 'static) {
    if let Err(e) = tokio::task::spawn_local(task).await {
        std::panic::resume_unwind(e.into_panic());
    }
}
