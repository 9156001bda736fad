use super::*;

const NOW: i64 = 1_800_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(NOW + seconds).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn holder(handle: &str) -> Holder {
    Holder { handle: Some(handle.into()), attributes: [("node".to_owned(), "n1".to_owned())].into() }
}

fn block() -> Block {
    Block::new("10.0.0.0/30".parse().unwrap(), "host:n1", at(0))
}

fn none() -> Reservations {
    Reservations::default()
}

/// `allocations unallocated`, as numbers.
fn shape(b: &Block) -> String {
    let slots: Vec<String> = b.allocations.iter().map(|a| a.map_or("-".into(), |i| i.to_string())).collect();
    let free: Vec<String> = b.unallocated.iter().map(u32::to_string).collect();
    format!("{} {}", slots.join(""), free.join(""))
}

/// Writes and reads, as the datastore does.
fn stored(b: &Block) -> Block {
    Block::read(&b.document()).unwrap()
}

const ANY: SignedDuration = SignedDuration::ZERO;

#[test]
fn a_new_block_is_calico_s() {
    let b = block();
    let want = json!({
        "metadata": {"name": "10-0-0-0-30"},
        "spec": {
            "affinity": "host:n1", "affinityClaimTime": "2027-01-15T08:00:00Z", "allocations": [null, null, null, null],
            "attributes": [], "cidr": "10.0.0.0/30", "deleted": false, "sequenceNumber": 1_800_000_000_000_000_000u64,
            "sequenceNumberForAllocation": {}, "strictAffinity": false, "unallocated": [0, 1, 2, 3],
        },
    });
    assert_eq!(b.document(), want);
}

#[test]
fn addresses_go_out_first_in_first_out() {
    let mut b = block();
    assert_eq!(b.assign_next(2, &holder("a"), &none()), [ip("10.0.0.0"), ip("10.0.0.1")]);
    assert_eq!(b.assign_next(1, &holder("b"), &none()), [ip("10.0.0.2")]);
    assert_eq!(shape(&b), "001- 3");
    b.release(&[ReleaseRequest::any(ip("10.0.0.0"))], at(1)).unwrap();
    b.end_cooldown(at(1), ANY);
    assert_eq!(shape(&b), "-01- 30");
    assert_eq!(b.assign_next(5, &holder("c"), &none()), [ip("10.0.0.3"), ip("10.0.0.0")]);
    assert!(b.assign_next(1, &holder("d"), &none()).is_empty());
    assert_eq!((shape(&b).as_str(), b.free(&none())), ("2012 ", 0));
}

#[test]
fn equal_attributes_share_an_index_and_go_with_the_last_address() {
    let mut b = block();
    b.assign_next(1, &holder("a"), &none());
    b.assign_next(1, &holder("b"), &none());
    b.assign_next(1, &holder("a"), &none());
    assert_eq!((shape(&b).as_str(), b.attributes.len()), ("010- 3", 2));
    b = stored(&b);
    b.release(&[ReleaseRequest::any(ip("10.0.0.0"))], at(0)).unwrap();
    b.end_cooldown(at(0), ANY);
    assert_eq!((shape(&b).as_str(), b.attributes.len()), ("-10- 30", 2));
    assert_eq!(b.release_handle("a", at(0)), 1);
    b.end_cooldown(at(0), ANY);
    assert_eq!((shape(&b).as_str(), b.attributes.len()), ("-0-- 302", 1));
    assert_eq!(b.attributes[0].handle.as_deref(), Some("b"));
}

#[test]
fn sequence_numbers_tell_allocations_apart() {
    let mut b = block();
    b.sequence = 7;
    b.assign(ip("10.0.0.1"), &holder("a")).unwrap();
    b.sequence = 8;
    b.assign(ip("10.0.0.2"), &holder("b")).unwrap();
    let mut b = stored(&b);
    assert_eq!(b.document()["spec"]["sequenceNumberForAllocation"], json!({"1": 7, "2": 8}));
    let request = |handle: Option<&str>, sequence| ReleaseRequest { address: ip("10.0.0.1"), handle: handle.map(str::to_owned), sequence };
    let e = b.release(&[request(None, Some(8))], at(0)).unwrap_err();
    assert_eq!(e, Refusal::OtherAllocation { address: ip("10.0.0.1"), wanted: 8, found: 7 });
    let e = b.release(&[ReleaseRequest::any(ip("10.0.0.2")), request(Some("b"), None)], at(0)).unwrap_err();
    assert_eq!(e, Refusal::OtherHandle { address: ip("10.0.0.1"), wanted: "b".into(), found: "a".into() });
    assert_eq!(shape(&b), "-01- 03", "all or none");
    let released =
        b.release(&[request(Some("a\rjunk"), Some(7)), request(None, None), ReleaseRequest::any(ip("10.0.0.3"))], at(0)).unwrap();
    assert_eq!((released.count, released.handles, released.unallocated), (1, [("a".to_owned(), 1)].into(), vec![ip("10.0.0.3")]));
    b.end_cooldown(at(0), ANY);
    assert_eq!(b.document()["spec"]["sequenceNumberForAllocation"], json!({"2": 8}));
    let e = b.release(&[ReleaseRequest::any(ip("10.0.0.9"))], at(0)).unwrap_err();
    assert_eq!(e.to_string(), "10.0.0.9 is not in block 10.0.0.0/30");
}

#[test]
fn released_addresses_rest() {
    let (mut b, rest) = (block(), SignedDuration::from_secs(60));
    b.assign_next(4, &holder("a"), &none());
    b.release(&[ReleaseRequest::any(ip("10.0.0.2"))], at(0)).unwrap();
    b.end_cooldown(at(59), rest);
    assert_eq!((shape(&b).as_str(), b.is_empty()), ("0010 ", false));
    assert_eq!(b.document()["spec"]["attributes"][1], json!({"releasedAt": "2027-01-15T08:00:00Z"}));
    let mut b = stored(&b);
    assert_eq!(b.assign(ip("10.0.0.2"), &holder("b")).unwrap_err(), Refusal::InCooldown { address: ip("10.0.0.2") });
    assert_eq!(b.assign(ip("10.0.0.3"), &holder("b")).unwrap_err(), Refusal::InUse { address: ip("10.0.0.3"), handle: "a".into() });
    let again = b.release(&[ReleaseRequest::any(ip("10.0.0.2"))], at(30)).unwrap();
    assert_eq!((again.count, again.unallocated), (0, vec![ip("10.0.0.2")]), "a second release does not begin the rest anew");
    b.end_cooldown(at(60), rest);
    assert_eq!((shape(&b).as_str(), b.attributes.len()), ("00-0 2", 1));
}

#[test]
fn reserved_addresses_stay() {
    let docs = crate::control::yaml::documents("spec: {reservedCIDRs: [10.0.0.0/31]}").unwrap();
    let mut reserved = Reservations::default();
    reserved.add(&Field::root(&docs[0])).unwrap();
    let mut b = block();
    assert_eq!(b.free(&reserved), 2);
    assert_eq!(b.assign_next(4, &holder("a"), &reserved), [ip("10.0.0.2"), ip("10.0.0.3")]);
    assert_eq!(shape(&b), "--00 01");
}

/// As calico-node of a Windows node writes it, and one day a newer version with fields of its own.
#[test]
fn what_is_not_known_stays() {
    let document = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "IPAMBlock",
        "metadata": {"name": "10-0-0-0-29", "resourceVersion": "5", "uid": "u", "annotations": {"projectcalico.org/metadata": "{}"}},
        "spec": {
            "affinity": "host:win", "allocations": [0, 0, 0, 1, null, null, null, 0],
            "attributes": [
                {"handle_id": "windows-reserved-ipam-handle", "secondary": {"note": "windows host rsvd"}},
                {"handle_id": "h", "secondary": {"pod": "p"}, "alternate": {"pod": "q"}, "future": [1]},
            ],
            "cidr": "10.0.0.0/29", "deleted": false, "sequenceNumber": 18446744073709551615u64,
            "sequenceNumberForAllocation": {"3": 4}, "strictAffinity": true, "unallocated": [6, 4, 5], "novelty": {"a": 1},
        },
    });
    let mut b = Block::read(&document).unwrap();
    assert_eq!(b.document(), document);
    assert!(!b.is_empty() && b.holder(ip("10.0.0.0")).unwrap().attribute.is_windows_reserved());
    assert_eq!(b.release_handle("h", at(0)), 1);
    b.end_cooldown(at(0), ANY);
    assert!(b.is_empty(), "what Windows set aside is not in use");
    assert_eq!(shape(&b), "000----0 6453");
    assert_eq!((b.document()["spec"]["novelty"]["a"].clone(), b.document()["metadata"].clone()), (json!(1), document["metadata"].clone()));
}

#[test]
fn another_holder_with_an_alternate_shares_nothing() {
    let mut b = block();
    b.assign_next(1, &holder("a"), &none());
    b.attributes[0].alternate.insert("pod".into(), "q".into());
    b.assign_next(1, &holder("a"), &none());
    assert_eq!((shape(&b).as_str(), b.attributes.len()), ("01-- 23", 2));
}

#[test]
fn faults_name_their_field() {
    for (spec, want) in [
        (json!({"cidr": "10.0.0.0/19"}), "spec.cidr: 10.0.0.0/19 is larger than any block; /20 is the largest"),
        (json!({}), "spec.cidr: missing; a CIDR is required"),
        (json!({"cidr": "10.0.0.1/30"}), "spec.cidr: 10.0.0.1/30 has bits beyond its prefix; 10.0.0.0/30 is meant?"),
        (json!({"cidr": "10.0.0.0/30", "allocations": [0]}), "spec.allocations[0]: 0 is not an index into the 0 attributes"),
        (json!({"cidr": "10.0.0.0/30", "allocations": [null, null, null, null, null]}), "spec.allocations: 5 entries"),
        (json!({"cidr": "10.0.0.0/30", "unallocated": [4]}), "spec.unallocated[0]: 4 is not an address of a block of 4"),
        (json!({"cidr": "10.0.0.0/30", "unallocated": [1, 1]}), "spec.unallocated[1]: 1 is listed twice"),
        (
            json!({"cidr": "10.0.0.0/30", "allocations": [0], "attributes": [{}], "unallocated": [0]}),
            "spec.unallocated[0]: 0 is in allocations, too; an address is free or in use",
        ),
        (
            json!({"cidr": "10.0.0.0/30", "sequenceNumber": -1}),
            "spec.sequenceNumber: a whole number from 0 to 18446744073709551615 is required",
        ),
        (json!({"cidr": "10.0.0.0/30", "affinityClaimTime": "noon"}), "spec.affinityClaimTime: \"noon\" is not a time (RFC 3339)"),
        (json!({"cidr": "10.0.0.0/30", "attributes": [{"secondary": {"pod": 1}}]}), "spec.attributes[0].secondary.pod: text is required"),
        (json!({"cidr": "10.0.0.0/30", "deleted": 1}), "spec.deleted: text is required"),
    ] {
        let e = Block::read(&json!({"spec": spec})).unwrap_err().to_string();
        assert!(e.starts_with(want), "{e}\n  wanted {want}");
    }
}

#[test]
fn ipv6_and_single_addresses() {
    let mut b = Block::new("fd00::40/122".parse().unwrap(), "host:n1", at(0));
    assert_eq!(b.assign_next(2, &holder("a"), &none()), [ip("fd00::40"), ip("fd00::41")]);
    assert_eq!(b.document()["metadata"]["name"], "fd00--40-122");
    let mut b = Block::new("10.0.0.7/32".parse().unwrap(), "host:n1", at(0));
    assert_eq!((b.size(), b.assign_next(2, &holder("a"), &none())), (1, vec![ip("10.0.0.7")]));
}
