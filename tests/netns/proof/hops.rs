//! What a pod sees of the way: routers by TTL, its gateway by ARP.

use super::lab::{Lab, spec};
use super::traffic::{Datagrams, Df, Fate, ping};
use std::net::Ipv4Addr;
use tortie::lab::spec::{Encap, Spec, Uplink, Workload, Xdp};

/// Time exceeded in transit.
fn expired(from: Ipv4Addr) -> Fate {
    Fate::Error { from, kind: 11, code: 0 }
}

fn hops(spec: Spec) {
    let lab = Lab::up(spec);
    let probes = Datagrams::new(&lab, "n1-p1", "n2-p1", Df::Clear);
    for (ttl, fate) in
        [(1, expired(lab.node("n1").tunnel.unwrap())), (2, expired(lab.node("n2").tunnel.unwrap())), (3, Fate::Arrived), (4, Fate::Arrived)]
    {
        probes.ttl(ttl);
        assert_eq!(probes.send(12), fate, "TTL {ttl}\n{}", lab.story());
    }
    // Each node on the way takes one off the answer's 64.
    let answer = lab.sh("n1-p1", &format!("ping -n -c 1 -W 2 {}", lab.address("n2-p1")));
    assert!(answer.contains(" ttl=62 "), "{answer}");
    // The nodes of one subnet have no default route, those of several do: ARP does not ask for it.
    let default = lab.sh("n1", "ip route show default");
    assert_eq!(default.is_empty(), lab.plan.spec.subnets == 1, "{default}");
    let gateway = lab.sh("n1-p1", "ip neigh show 169.254.1.1 dev eth0");
    assert!(gateway.contains("lladdr ee:ee:ee:ee:ee:ee"), "{gateway}");
    lab.expect_balance("n1");
    lab.expect_balance("n2");
}

#[test]
fn over_vxlan() {
    hops(spec(Workload::AfPacket, Uplink::Socket, Xdp::Auto));
}

#[test]
fn over_vxlan_by_af_xdp_and_a_router() {
    hops(Spec { subnets: 2, ..spec(Workload::AfXdp, Uplink::AfXdp, Xdp::Native) });
}

#[test]
fn over_ipip_from_taps() {
    hops(Spec { encap: Encap::Ipip, ..spec(Workload::Tap, Uplink::Socket, Xdp::Auto) });
}

#[test]
fn a_pod_may_ask_for_any_address() {
    let lab = Lab::up(spec(Workload::AfPacket, Uplink::Socket, Xdp::Auto));
    // The pod's own idea of its network does not matter: everything is behind the engine.
    lab.sh("n1-p1", "ip route add 10.244.2.0/24 dev eth0 scope link");
    ping(&lab, "n1-p1", "n2-p1");
    let other = lab.sh("n1-p1", &format!("ip neigh show {} dev eth0", lab.address("n2-p1")));
    assert!(other.contains("lladdr ee:ee:ee:ee:ee:ee"), "{other}");
}
