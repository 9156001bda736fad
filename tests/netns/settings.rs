//! The daemon's settings and where they come from, and the file that follows the pods' MTU.

use crate::daemon::{Pair, pool};
use std::time::{Duration, Instant};
use tortie::ops::view::ConfigRow;

fn until(what: &str, mut ok: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !ok() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn row<'a>(rows: &'a [ConfigRow], key: &str) -> (&'a str, &'a str) {
    let r = rows.iter().find(|r| r.key == key).unwrap_or_else(|| panic!("{key}: {rows:?}"));
    (&r.value, &r.source)
}

#[test]
fn every_setting_has_its_source_and_the_environment_goes_first() {
    let mut p = Pair::new("socket", 1);
    p.file(
        "felix.yaml",
        "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: default}\nspec: {vxlanVNI: 77, vxlanMTU: 1300}\n",
    );
    std::fs::write(&p.a.config, std::fs::read_to_string(&p.a.config).unwrap().replace("node: node1", "node: other")).unwrap();
    p.a.start_with(&[
        "NODENAME=node1",
        "FELIX_VXLANMTU=1200",
        "FELIX_LOGSEVERITYSCREEN=Info",
        "IP=autodetect",
        "TORTIE_PROBES_INTERVAL=2s",
    ]);
    let rows = p.a.client().config().unwrap();
    let file = |line: u32| format!("{}:{line}", p.a.config.display());
    assert_eq!(row(&rows, "node"), ("node1", "environment NODENAME"));
    assert_eq!(row(&rows, "uplink.interface"), ("eth0", file(3).as_str()));
    assert_eq!(row(&rows, "workers"), ("1", file(5).as_str()));
    assert_eq!(row(&rows, "spin"), ("150", "default"));
    assert_eq!(row(&rows, "uplink.super-frames"), ("auto", "default"));
    assert_eq!(row(&rows, "probes.interval"), ("2s", "environment TORTIE_PROBES_INTERVAL"));
    assert_eq!(row(&rows, "FelixConfiguration vxlanMTU"), ("1200", "environment FELIX_VXLANMTU"));
    assert_eq!(row(&rows, "FelixConfiguration vxlanVNI"), ("77", "FelixConfiguration default"));
    assert_eq!(row(&rows, "FelixConfiguration vxlanPort"), ("4789", "default"));
    assert_eq!(row(&rows, "address"), ("10.1.0.1/24", "the node's object"));
    assert_eq!(row(&rows, "log.level"), ("info", "environment FELIX_LOGSEVERITYSCREEN"));
    assert_eq!(row(&rows, "IP"), ("autodetect", "ignored: nothing is written to a folder of manifests"));
    // It is in force, too.
    assert_eq!(p.a.client().status().unwrap().pod_mtu, Some(1200));
    p.a.reload(|text| text.replace("workers: 1", "\n\nworkers: 1\nspin: 20\nxdp: {busy-poll: 7}"));
    until("the new lines", || p.a.client().config().unwrap().iter().any(|r| r.key == "xdp.busy-poll" && r.source == file(9)));
    assert_eq!(row(&p.a.client().config().unwrap(), "workers"), ("1", file(7).as_str()));
}

#[test]
fn a_value_that_cannot_be_used_ends_the_start() {
    let p = Pair::new("socket", 1);
    let config = p.a.config.to_str().unwrap();
    let out = p.a.ns.output(&["env", "FELIX_VXLANPORT=70000", env!("CARGO_BIN_EXE_tortie"), "run", "--config", config]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        !out.status.success() && said.contains("environment variable FELIX_VXLANPORT=\"70000\": a whole number from 1 to 65535"),
        "{said}"
    );
}

#[test]
fn the_mtu_file_follows_links_and_pools() {
    let mut p = Pair::new("socket", 1);
    p.a.start();
    let file = p.dir.path().join("calico1/mtu");
    let holds = |mtu: &str| std::fs::read_to_string(&file).is_ok_and(|t| t == mtu);
    until("VXLAN on 1500", || holds("1450"));
    p.file("pool.yaml", &pool("Never", "Always"));
    until("IP-in-IP on 1500", || holds("1480"));
    // Another link of the host that counts, and one that does not.
    p.a.ns.sh("ip link add eth7 mtu 1400 type veth peer name other mtu 1300; ip link set eth7 up; ip link set other up");
    until("the smaller link", || holds("1380"));
    p.a.ns.sh("ip link del eth7");
    until("the uplink again", || holds("1480"));
    std::fs::write(&file, "9").unwrap();
    p.a.ns.sh("ip link set eth0 mtu 1450");
    until("a new value over a foreign one", || holds("1430"));
    assert_eq!(p.a.client().status().unwrap().problems, [""; 0]);
}

#[test]
fn without_a_name_the_uplink_is_the_interface_with_the_nodes_address() {
    let mut p = Pair::new("socket", 1);
    let text = std::fs::read_to_string(&p.a.config).unwrap();
    std::fs::write(&p.a.config, text.replace("interface: eth0, ", "")).unwrap();
    p.start();
    p.expect_both_ways("on eth0");
    assert_eq!(row(&p.a.client().config().unwrap(), "uplink.interface"), ("eth0", "detected: it has the node's address"));
    p.a.ns.sh("ip link set eth0 down; ip link set eth0 name wan0; ip link set wan0 up");
    until("the new name", || p.a.client().status().unwrap().uplink == "wan0");
    p.expect_both_ways("on wan0");
    // Without the address it stays, and says what is missing.
    p.a.ns.sh("ip addr del 10.1.0.1/24 dev wan0");
    until("the problem", || p.a.client().status().unwrap().problems.iter().any(|l| l.contains("10.1.0.1 is not on any interface")));
    assert_eq!(p.a.client().status().unwrap().uplink, "wan0");
    p.a.ns.sh("ip addr add 10.1.0.1/24 dev wan0");
    p.expect_both_ways("with its address back");
}
