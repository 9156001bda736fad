//! Floating IPs: reached from everywhere, answered from the floating address, by rules that come and go with them.

use crate::daemon::{Pair, TORTIE, manifest};
use crate::host_flows::{Echo, LISTEN, WEB, bulk, datagram, plug_web};
use std::time::{Duration, Instant};
use tortie::testing::netns::{Namespace, veth};

const PATIENCE: Duration = Duration::from_secs(10);
/// In a pool, so that every node routes it; and outside of all, so that only the pod's node does.
const POOLED: &str = "203.0.113.9";
const OUTSIDE: &str = "198.51.100.7";
/// Behind the other node, which routes its packets to the pod's node.
const FAR: &str = "172.16.0.2";
/// Somebody else's, which must stay.
const FOREIGN: &str = "-A PREROUTING -d 192.0.2.99/32 -p tcp -j DNAT --to-destination 10.1.0.1";

fn wait_for(what: &str, p: &Pair, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is() {
        let nat = p.a.ns.sh("iptables-save -t nat; cat /proc/net/nf_conntrack 2>/dev/null || true");
        assert!(Instant::now() < end, "{what}\n{}\n{}\n{nat}", p.a.story(), p.b.story());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The rules that have to do with us.
fn rules(ns: &Namespace) -> Vec<String> {
    ns.sh("iptables-save -t nat").lines().filter(|l| l.contains("tortie")).map(str::to_owned).collect()
}

/// The pod of the first node, with its floating IPs or without.
fn pod(p: &Pair, floating: bool) {
    let nats = format!(
        "ipNATs: [{{internalIP: 10.244.1.5, externalIP: {POOLED}}}, {{internalIP: 10.244.1.5, externalIP: {OUTSIDE}}}], ipNetworks:"
    );
    p.file("node1.yaml", &if floating { manifest(1).replace("ipNetworks:", &nats) } else { manifest(1) });
}

fn routes(p: &Pair, to: &str) -> [Option<String>; 2] {
    let of = |c: tortie::ops::api::Client| c.fib().unwrap().into_iter().find(|r| r.prefix == format!("{to}/32")).map(|r| r.kind);
    [of(p.a.client()), of(p.b.client())]
}

#[test]
fn floating_ips_are_reached_from_everywhere() {
    let mut p = Pair::new("socket", 1);
    p.file(
        "fips.yaml",
        "{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: fips}, spec: {cidr: 203.0.113.0/28, disabled: true}}\n",
    );
    p.file(
        "felix.yaml",
        "{apiVersion: projectcalico.org/v3, kind: FelixConfiguration, metadata: {name: default}, spec: {floatingIPs: Enabled}}\n",
    );
    pod(&p, true);
    let web = plug_web(&p);
    let far = Namespace::new("far");
    veth(&p.b.ns, "eth1", &far, "eth0");
    far.sh(&format!("ip addr add {FAR}/24 dev eth0; ip route add default via 172.16.0.1"));
    p.b.ns.sh(&format!("ip addr add 172.16.0.1/24 dev eth1; ip route add {OUTSIDE} via 10.1.0.1"));
    p.a.ns.sh("ip route add 172.16.0.0/24 via 10.1.0.2");
    for ns in [&p.a.ns, &p.b.ns] {
        ns.sh("for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 1 > $f; done");
    }
    p.a.ns.sh(&format!("iptables -t nat {FOREIGN}"));
    let _echo = Echo::new(&p.a.pod);
    p.start();
    wait_for("rules", &p, || rules(&p.a.ns).len() == 9);
    let written = rules(&p.a.ns);
    assert_eq!(rules(&p.b.ns), Vec::<String>::new(), "the pod is not there");
    assert_eq!(routes(&p, POOLED), [Some("floating".into()), Some("vxlan".into())]);
    assert_eq!(routes(&p, OUTSIDE), [Some("floating".into()), None]);

    let everyone = |p: &Pair| {
        let clients = [
            ("a pod here", &web, POOLED),
            ("a pod there", &p.b.pod, POOLED),
            ("the pod itself", &p.a.pod, POOLED),
            ("this host", &p.a.ns, POOLED),
            ("another host", &p.b.ns, POOLED),
            ("a pod here", &web, OUTSIDE),
            ("the pod itself", &p.a.pod, OUTSIDE),
            ("this host", &p.a.ns, OUTSIDE),
            ("a host outside", &far, OUTSIDE),
        ];
        for (who, from, to) in clients {
            // Both sockets take answers from the floating address alone.
            wait_for(&format!("{who} to {to}"), p, || datagram(from, to, LISTEN, 100).is_ok());
            bulk(from, to, LISTEN).unwrap_or_else(|e| panic!("{who}: {e}\n{}\n{}", p.a.story(), p.b.story()));
        }
        // The pod's own address is what it was, and what the pod itself sends has it.
        for from in [&web, &p.b.pod] {
            bulk(from, "10.244.1.5", LISTEN).unwrap();
        }
        p.a.expect_ping(&p.b.pod_address(), "the pod's own traffic");
    };
    everyone(&p);

    let explain = |from: &str, to: &str, socket: &std::path::Path| {
        let out = p.a.ns.output(&[TORTIE, "explain", from, to, "--socket", socket.to_str().unwrap()]);
        String::from_utf8(out.stdout).unwrap() + &String::from_utf8_lossy(&out.stderr)
    };
    let here = explain(WEB, POOLED, &p.a.socket);
    assert!(
        here.contains("punted floating-ip") && here.contains(&format!("translates {POOLED} to 10.244.1.5 of pod default/pod")),
        "{here}"
    );
    let there = explain("10.244.2.5", POOLED, &p.b.socket);
    assert!(there.contains("vxlan: pool pool says Always") && there.contains(&format!("translates {POOLED} to 10.244.1.5")), "{there}");

    // A pod may not send from it.
    let spoofed = |p: &Pair| p.a.client().drops().unwrap().iter().find(|d| d.reason == "source-spoofed").map_or(0, |d| d.packets);
    let before = spoofed(&p);
    p.a.pod.sh(&format!("ip addr add {POOLED}/32 dev lo"));
    p.a.pod.output(&["ping", "-c", "1", "-W", "1", "-I", POOLED, &p.b.pod_address()]);
    p.a.pod.sh(&format!("ip addr del {POOLED}/32 dev lo"));
    wait_for("the spoofed packet", &p, || spoofed(&p) > before);

    // Nothing is there twice after a sudden end; what is wrong is put right.
    p.a.signal("KILL");
    p.a.ns.sh("iptables -t nat -D OUTPUT -m comment --comment tortie-floating-ips -j tortie-fip-dnat");
    p.a.start();
    let mut sorted = written.clone();
    sorted.sort();
    wait_for("the same rules", &p, || {
        let mut now = rules(&p.a.ns);
        now.sort();
        now == sorted
    });
    everyone(&p);

    // They go with the floating IPs, and at a clean end.
    pod(&p, false);
    wait_for("no rules", &p, || rules(&p.a.ns).is_empty() && routes(&p, POOLED) == [None, None]);
    pod(&p, true);
    wait_for("rules again", &p, || rules(&p.a.ns).len() == written.len());
    assert_eq!(p.a.signal("TERM"), Some(true));
    assert_eq!(rules(&p.a.ns), Vec::<String>::new());
    assert!(p.a.ns.sh("iptables-save -t nat").contains(FOREIGN), "somebody else's");

    // Without the programs everything else works, and the problem has a name.
    p.a.start_with(&["PATH=/nowhere"]);
    wait_for("the problem", &p, || p.a.client().status().unwrap().problems.iter().any(|l| l.contains("install the package iptables")));
    p.expect_both_ways("without iptables");
}
