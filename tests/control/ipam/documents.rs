//! Documents that nobody should have written: refused with a message, or worked with; never a panic.

use super::races::Random;
use super::support::*;
use serde_json::{Value, json};
use tortie::control::ipam::{Affinity, Block, Handle, Holder, Pool, ReleaseRequest, Reservations};
use tortie::control::selector::Selector;

fn junk(random: &Random) -> Value {
    let all = [
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(1),
        json!(3),
        json!(99),
        json!(1e300),
        json!(u64::MAX),
        json!(""),
        json!("x"),
        json!("10.0.0.0/30"),
        json!("10.0.0.1/30"),
        json!("::/0"),
        json!("fd00::/122"),
        json!([]),
        json!([0]),
        json!({}),
        json!({"a": 1}),
        json!([null, 1]),
        json!("é"),
        json!({"handle_id": "h"}),
        json!("host:"),
        json!("2026-01-01T00:00:00Z"),
    ];
    all[random.below(all.len() as u64) as usize].clone()
}

/// Replaces or removes something somewhere.
fn damage(value: &mut Value, random: &Random) {
    if random.below(4) == 0 {
        *value = junk(random);
        return;
    }
    match value {
        Value::Object(o) if !o.is_empty() => {
            let key = o.keys().nth(random.below(o.len() as u64) as usize).unwrap().clone();
            if random.below(8) == 0 { drop(o.remove(&key)) } else { damage(&mut o[&key], random) }
        }
        Value::Array(a) if !a.is_empty() => {
            let index = random.below(a.len() as u64) as usize;
            if random.below(8) == 0 { drop(a.remove(index)) } else { damage(&mut a[index], random) }
        }
        other => *other = junk(random),
    }
}

fn block() -> Value {
    json!({
        "metadata": {"name": "10-0-0-0-30", "resourceVersion": "5"},
        "spec": {
            "affinity": "host:n1", "affinityClaimTime": "2026-01-01T00:00:00Z", "allocations": [0, null, 1, 2],
            "attributes": [
                {"handle_id": "h", "secondary": {"node": "n1", "pod": "p", "namespace": "d"}}, {"handle_id": "g"},
                {"releasedAt": "2026-01-01T00:00:00Z"},
            ],
            "cidr": "10.0.0.0/30", "deleted": false, "sequenceNumber": 9, "sequenceNumberForAllocation": {"0": 3, "2": 4},
            "strictAffinity": false, "unallocated": [1],
        },
    })
}

#[test]
fn damaged_documents() {
    let random = Random::new(1);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..20_000 {
        let mut document = block();
        (0..=random.below(3)).for_each(|_| damage(&mut document, &random));
        let Ok(mut block) = Block::read(&document) else {
            bad += 1;
            continue;
        };
        good += 1;
        let holder = Holder { handle: Some("new".into()), ..Holder::default() };
        let free = block.free(&Reservations::default());
        let got = block.assign_next(2, &holder, &Reservations::default());
        assert_eq!(got.len(), free.min(2));
        block.release_handle("h", now());
        drop(block.release(&[ReleaseRequest::any(ip("10.0.0.2")), ReleaseRequest::any(ip("fd00::1"))], now()));
        block.end_cooldown(now(), jiff::SignedDuration::ZERO);
        let again = Block::read(&block.document()).unwrap_or_else(|e| panic!("{e}: {document}"));
        assert_eq!(again.document(), block.document());
        let kept: Vec<_> = again.allocated().filter(|a| a.attribute.has_handle("new")).map(|a| a.address).collect();
        assert!(got.iter().all(|a| kept.contains(a) || *a == ip("10.0.0.2")), "{document}");
    }
    assert!(good > 2000 && bad > 2000, "{good} read, {bad} refused");
}

#[test]
fn damaged_affinities_handles_and_pools() {
    let random = Random::new(2);
    let originals = [
        json!({"metadata": {"name": "a"}, "spec": {"node": "n1", "cidr": "10.0.0.0/30", "state": "pending", "deleted": "false", "type": "host"}}),
        json!({"metadata": {"name": "h"}, "spec": {"handleID": "h", "block": {"10.0.0.0/30": 1}, "deleted": false}}),
        json!({"metadata": {"name": "p"}, "spec": {"cidr": "10.0.0.0/16", "blockSize": 26, "allowedUses": ["Tunnel"], "nodeSelector": "all()"},
            "status": {"conditions": [{"type": "Allocatable", "status": "True"}]}}),
    ];
    for _ in 0..20_000 {
        let mut documents = originals.clone();
        documents.iter_mut().for_each(|d| damage(d, &random));
        if let Ok(affinity) = Affinity::read(&documents[0]) {
            Affinity::read(&affinity.document()).unwrap();
        }
        if let Ok(mut handle) = Handle::read(&documents[1]) {
            handle.subtract(net("10.0.0.0/30"), 5);
            Handle::read(&handle.document()).unwrap();
        }
        if let Ok(pool) = Pool::of_document(&documents[2]) {
            assert!(pool.block_size >= pool.cidr.prefix_len());
        }
    }
}

#[test]
fn selectors_of_random_words() {
    let words = [
        "a",
        "has(",
        "has",
        "all()",
        "global()",
        "(",
        ")",
        "!",
        "!=",
        "==",
        "=",
        "&&",
        "||",
        "|",
        "in",
        "not in",
        "not",
        "contains",
        "starts with",
        "ends",
        "{",
        "}",
        ",",
        "'v'",
        "\"w\"",
        "'",
        " ",
        "\t",
        "é",
        "x.y/z",
        "",
    ];
    let random = Random::new(3);
    let mut good = 0;
    for _ in 0..200_000 {
        let text: String = (0..1 + random.below(6)).map(|_| words[random.below(words.len() as u64) as usize]).collect::<Vec<_>>().join(" ");
        match text.parse::<Selector>() {
            Ok(selector) => {
                good += 1;
                assert_eq!(selector.to_string().parse::<Selector>().as_ref(), Ok(&selector), "{text}");
            }
            Err(e) => assert!(e.at >= 1 && e.at <= text.chars().count() + 1, "{text}: {e}"),
        }
    }
    assert!(good > 500, "{good}");
}
