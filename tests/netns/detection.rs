//! The node's address on a host with several interfaces, as the kernel really describes it.

use tortie::control::node::detect::{Method, detect};
use tortie::control::node::read_host;
use tortie::testing::netns::Namespace;

fn found(ns: &Namespace, method: &str) -> Result<String, String> {
    let method = Method::parse(method).unwrap();
    let host = ns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(read_host(&method)).unwrap()
    });
    detect(&method, &host).map(|d| format!("{} {}", d.interface, d.address)).map_err(|e| e.to_string())
}

/// In order of index, each a veth whose other end (`p-...`) stays here.
fn host() -> Namespace {
    let ns = Namespace::new("detect");
    for (name, addresses) in [
        ("eth0", &["10.0.0.5/24", "10.0.0.6/24"][..]),
        ("ens9", &["169.254.3.3/16"]),
        // In another order than that of the numbers: the first one is the primary one.
        ("bond4", &["192.168.7.9/20", "192.168.7.3/20"]),
        ("docker0", &["172.17.0.1/16"]),
        ("br-77", &["172.18.0.1/16"]),
        ("cali12", &["10.9.9.9/32"]),
        ("tunl-tortie", &["10.244.1.0/32"]),
        ("eth5", &[]),
    ] {
        ns.sh(&format!("ip link add {name} type veth peer name p-{name}; ip link set {name} up; ip link set p-{name} up"));
        addresses.iter().for_each(|a| drop(ns.sh(&format!("ip addr add {a} dev {name}"))));
    }
    ns.sh("ip route add 198.51.100.0/24 via 10.0.0.1; ip route add 203.0.113.0/24 dev bond4 src 192.168.7.3");
    ns
}

#[test]
fn every_method_on_a_host_with_many_interfaces() {
    let ns = host();
    for (method, want) in [
        ("first-found", "bond4 192.168.7.9/20"),
        ("skip-interface=bond.*", "eth0 10.0.0.5/24"),
        ("interface=eth.*", "eth0 10.0.0.5/24"),
        ("interface=bond4,eth0", "bond4 192.168.7.9/20"),
        ("interface=^docker0$", "docker0 172.17.0.1/16"),
        ("cidr=172.16.0.0/12", "br-77 172.18.0.1/16"),
        ("cidr=10.0.0.6/32,192.168.7.3/32", "bond4 192.168.7.3/20"),
        ("can-reach=198.51.100.7", "eth0 10.0.0.5/24"),
        ("can-reach=203.0.113.7", "bond4 192.168.7.3/20"),
        ("can-reach=localhost", "lo 127.0.0.1/8"),
    ] {
        assert_eq!(found(&ns, method).as_deref(), Ok(want), "{method}");
    }
    let e = found(&ns, "can-reach=8.8.8.8").unwrap_err();
    assert!(e.starts_with("8.8.8.8 cannot be reached: Network is unreachable"), "{e}");
    let e = found(&ns, "interface=eth5").unwrap_err();
    assert!(e.contains("interface=eth5") && e.contains("docker0"), "{e}");
}

#[test]
fn what_changes_on_the_host_is_seen_the_next_time() {
    let ns = host();
    ns.sh("ip link set bond4 down; ip addr flush dev bond4");
    assert_eq!(found(&ns, "first-found").as_deref(), Ok("eth0 10.0.0.5/24"));
    ns.sh("ip addr add 10.3.0.1/30 dev eth5");
    assert_eq!(found(&ns, "first-found").as_deref(), Ok("eth5 10.3.0.1/30"));
    // Promoted, the second address is the first.
    ns.sh("ip link del eth5; sysctl -qw net.ipv4.conf.eth0.promote_secondaries=1; ip addr del 10.0.0.5/24 dev eth0");
    assert_eq!(found(&ns, "first-found").as_deref(), Ok("eth0 10.0.0.6/24"));
}
