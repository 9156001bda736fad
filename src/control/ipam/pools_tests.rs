use super::*;
use crate::control::yaml::documents;

fn pool(name: &str, spec: &str) -> Pool {
    read(name, spec).unwrap_or_else(|e| panic!("{e}"))
}

fn read(name: &str, spec: &str) -> Result<Pool, String> {
    let docs = documents(&format!("metadata: {{name: {name}}}\nspec: {{{spec}}}")).unwrap();
    Pool::read(name, &Field::root(&docs[0])).map_err(|e| e.to_string())
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn chosen(pools: &[Pool], version: u8, usage: Use, wanted: &[&str], zone: &str, team: Option<&str>) -> Result<Vec<String>, String> {
    let wanted: Vec<String> = wanted.iter().map(|p| (*p).to_owned()).collect();
    let (node_labels, namespace) = (labels(&[("zone", zone)]), team.map(|t| labels(&[("team", t)])));
    let wanted = Wanted { version, usage, pools: &wanted, node: "n1", node_labels: &node_labels, namespace_labels: namespace.as_ref() };
    choose(pools, &wanted).map(|pools| pools.into_iter().map(|p| p.name).collect()).map_err(|e| e.to_string())
}

#[test]
fn which_pools_serve_a_request() {
    let pools = [
        pool("east", "cidr: 10.0.0.0/16, nodeSelector: zone == 'east'"),
        pool("manual", "cidr: 10.1.0.0/16, assignmentMode: Manual"),
        pool("off", "cidr: 10.2.0.0/16, disabled: true"),
        pool("red", "cidr: 10.3.0.0/16, namespaceSelector: team == 'red', allowedUses: [Workload]"),
        pool("six", "cidr: 'fd00::/48'"),
        pool("tunnels", "cidr: 10.4.0.0/24, blockSize: 32, allowedUses: [Tunnel]"),
    ];
    let any = |usage, zone: &str, team| chosen(&pools, 4, usage, &[], zone, team).unwrap().join(" ");
    assert_eq!(any(Use::Workload, "east", Some("red")), "east red");
    assert_eq!(any(Use::Workload, "east", None), "east");
    assert_eq!(any(Use::Workload, "west", Some("red")), "red");
    assert_eq!(any(Use::Tunnel, "east", None), "east tunnels");
    assert_eq!(chosen(&pools, 6, Use::Workload, &[], "east", None).unwrap(), ["six"]);
    let asked = |pools_asked: &[&str]| chosen(&pools, 4, Use::Workload, pools_asked, "west", None);
    assert_eq!(asked(&["10.0.0.0/16", "manual"]).unwrap(), ["east", "manual"], "selectors do not count for pools that are asked for");
    assert_eq!(asked(&["off"]).unwrap_err(), "the IPPool off that was asked for does not exist, is disabled, or is not IPv4");
    assert_eq!(asked(&["tunnels"]).unwrap_err(), "no IPv4 IPPool for node n1 has Workload among its allowedUses");
    assert!(chosen(&pools[..1], 4, Use::Workload, &[], "west", None).unwrap_err().contains("nodeSelector"));
    assert!(chosen(&pools[2..3], 4, Use::Workload, &[], "west", None).unwrap_err().starts_with("there is no enabled IPv4 IPPool"));
    let services = [pool("lb", "cidr: 10.5.0.0/24, allowedUses: [LoadBalancer]")];
    assert!(chosen(&services, 4, Use::LoadBalancer, &[], "x", None).is_err(), "no node's");
    let broken = [pool("b", "cidr: 10.0.0.0/16, nodeSelector: zone = 'x'")];
    let e = chosen(&broken, 4, Use::Workload, &[], "x", None).unwrap_err();
    assert!(e.starts_with("IPPool b: spec.nodeSelector: \"zone = 'x'\" is not a selector"), "{e}");
}

#[test]
fn fields() {
    let p = pool("a", "cidr: 10.0.0.0/16, vxlanMode: CrossSubnet, ipipMode: Never, nodeSelector: all()");
    assert_eq!((p.block_size, p.enabled, p.vxlan, p.ipip, p.manual), (26, true, true, false, false));
    assert_eq!(p.uses, [Use::Workload, Use::Tunnel]);
    assert_eq!(p.block_of("10.0.1.77".parse().unwrap()).to_string(), "10.0.1.64/26");
    assert_eq!(pool("a", "cidr: 'fd00::/48'").block_size, 122);
    let e = read("a", "cidr: 10.0.0.0/28").unwrap_err();
    assert_eq!(e, "spec.blockSize: blocks of /26 do not fit into the pool 10.0.0.0/28; set a larger number");
    assert!(read("a", "cidr: 10.0.0.0/16, blockSize: 19").unwrap_err().starts_with("spec.blockSize: blocks of /19 are too large"));
    assert!(read("a", "cidr: 10.0.0.0/28, blockSize: 26").unwrap_err().starts_with("spec.blockSize: blocks of /26 do not fit"));
    assert!(read("a", "cidr: 10.0.0.0/24, allowedUses: [Pod]").unwrap_err().starts_with("spec.allowedUses[0]: \"Pod\" is not one of"));
}

#[test]
fn pools_on_their_way_out_are_not_used() {
    for more in ["metadata: {deletionTimestamp: '2026-01-01T00:00:00Z'}", "status: {conditions: [{type: Allocatable, status: 'False'}]}"] {
        let docs = documents(&format!("spec: {{cidr: 10.0.0.0/16}}\n{more}")).unwrap();
        assert!(!Pool::read("a", &Field::root(&docs[0])).unwrap().enabled, "{more}");
    }
    let docs = documents("spec: {cidr: 10.0.0.0/16}\nstatus: {conditions: [{type: Allocatable, status: 'True'}]}").unwrap();
    assert!(Pool::read("a", &Field::root(&docs[0])).unwrap().enabled);
}

#[test]
fn whose_wish_for_pools_counts() {
    let list = |name: &str| Some(vec![name.to_owned()]);
    assert_eq!(precedence(list("pod"), list("namespace"), list("conf")), ["pod"]);
    assert_eq!(precedence(None, list("namespace"), list("conf")), ["namespace"]);
    assert_eq!(precedence(Some(vec![]), None, list("conf")), ["conf"]);
    assert!(precedence(None, None, None).is_empty());
}
