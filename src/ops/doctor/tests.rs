use super::*;
use crate::wire::Mac;
use std::os::unix::fs::symlink;

/// A machine that is well: its files in a folder, its uplink eth0 with an address.
struct Fake {
    dir: tempfile::TempDir,
    machine: Machine,
}

const CONFIG: &str = "node: a\ndatastore: {path: manifests}\nuplink: {interface: eth0}\n";
const UDP_HEAD: &str = "sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode ref pointer drops\n";

impl Fake {
    fn new() -> Fake {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_owned();
        fs::create_dir(root.join("manifests")).unwrap();
        fs::write(root.join("node.yaml"), CONFIG).unwrap();
        let mut view = View::default();
        let link = Link { index: 2, name: "eth0".into(), mac: Some(Mac([2; 6])), mtu: 1500, up: true, running: true };
        view.links.insert(2, link);
        view.addresses.insert((2, "10.0.0.1/24".parse().unwrap()));
        let works = |name| Probe { name, result: Ok(()) };
        let names =
            [probe::TUN_DEVICE, probe::AF_PACKET, probe::AF_XDP, probe::UDP_SEGMENT, probe::UDP_GRO, probe::RAW_IPIP, probe::TUNNEL_GSO];
        let machine = Machine {
            config: Config::load(&root.join("node.yaml"), &Environment::default()),
            config_path: root.join("node.yaml"),
            view,
            daemon: None,
            probes: Ok(names.map(works).to_vec()),
            clock: Some(true),
            uplink: Some("eth0".into()),
            driver: Some("virtio_net".into()),
            root,
        };
        let f = Fake { dir, machine };
        f.put("proc/self/status", "Name:\tx\nCapEff:\t000001ffffffffff\n");
        f.put("proc/self/limits", "Max locked memory         65536                65536                bytes\n");
        f.put("proc/sys/net/ipv4/ip_forward", "1\n");
        f.put("proc/sys/kernel/osrelease", "6.18.0\n");
        f.put("proc/cpuinfo", "processor\t: 0\nprocessor\t: 1\n");
        f.put("proc/sys/net/ipv4/conf/all/rp_filter", "0\n");
        f.put("proc/self/net/udp", UDP_HEAD);
        f.put("proc/self/net/tcp", UDP_HEAD);
        f
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn process(&self, pid: u32, name: &str, socket: Option<u64>) {
        self.put(&format!("proc/{pid}/comm"), &format!("{name}\n"));
        let fds = self.dir.path().join(format!("proc/{pid}/fd"));
        fs::create_dir_all(&fds).unwrap();
        if let Some(inode) = socket {
            symlink(format!("socket:[{inode}]"), fds.join("7")).unwrap();
        }
    }

    fn find(&self, check: &str) -> Vec<Finding> {
        examine(&self.machine).into_iter().filter(|f| f.check == check).collect()
    }

    /// State, finding and remedy of the worst line of a check.
    fn worst(&self, check: &str) -> (State, String, String) {
        let f = self.find(check).into_iter().max_by_key(|f| f.state).unwrap_or_else(|| panic!("no {check}"));
        (f.state, f.found, f.remedy.unwrap_or_default())
    }
}

#[test]
fn a_machine_that_is_well_has_nothing_to_say_about() {
    let all = examine(&Fake::new().machine);
    assert!(all.len() >= 20, "{}", all.len());
    assert!(all.iter().all(|f| f.state <= State::Note && f.remedy.is_none()), "{all:#?}");
}

#[test]
fn every_warning_and_failure_has_a_remedy() {
    let mut f = Fake::new();
    f.put("proc/self/status", "CapEff:\t0000000000000000\n");
    f.put("proc/sys/net/ipv4/ip_forward", "0");
    f.put("proc/cpuinfo", "processor\t: 0\n");
    f.put("node.yaml", &format!("{CONFIG}workers: 2\n"));
    f.machine.config = Config::load(&f.machine.config_path, &Environment::default());
    fs::remove_dir(f.dir.path().join("manifests")).unwrap();
    f.machine.view = View::default();
    f.machine.clock = Some(false);
    f.machine.probes = f.machine.probes.map(|all| all.into_iter().map(|p| Probe { result: Err("no".into()), ..p }).collect());
    let all = examine(&f.machine);
    let bad: Vec<&Finding> = all.iter().filter(|f| f.state >= State::Warning).collect();
    assert!(bad.iter().all(|f| f.remedy.is_some()), "{bad:#?}");
    for check in ["rights", "ip_forward", "workers", "datastore", "uplink", "clock", "locked memory", "TUN and TAP", "UDP_SEGMENT"] {
        assert!(bad.iter().any(|f| f.check == check), "{check}: {all:#?}");
    }
    assert_eq!(f.worst("AF_XDP").0, State::Note, "sockets do without");
}

#[test]
fn capabilities_by_their_bits() {
    let f = Fake::new();
    for (held, state, want) in [
        ("0000000000203000", State::Ok, "all capabilities"),
        ("0000008000003000", State::Warning, "CAP_SYS_ADMIN is missing"),
        ("0000000000003000", State::Warning, "CAP_BPF is missing"),
        ("0000000000202000", State::Failure, "CAP_NET_ADMIN is missing"),
    ] {
        f.put("proc/self/status", &format!("CapEff:\t{held}\n"));
        let found = f.find("rights");
        assert_eq!(found.iter().map(|r| r.state).max(), Some(state), "{held}: {found:?}");
        assert!(found.iter().any(|r| r.found.starts_with(want)), "{held}: {found:?}");
    }
}

#[test]
fn configurations() {
    let mut f = Fake::new();
    f.machine.config = Config::load(Path::new("/nonexistent"), &Environment::default());
    assert_eq!(f.worst("configuration").0, State::Warning, "before installing there is none");
    f.put("node.yaml", "nodes: a\n");
    f.machine.config = Config::load(&f.machine.config_path, &Environment::default());
    let (state, found, _) = f.worst("configuration");
    assert!(state == State::Failure && found.contains("nodes: unknown key"), "{found}");
}

#[test]
fn ports_name_who_has_them() {
    let f = Fake::new();
    let row =
        |port: u16, state: u8, inode: u64| format!("   0: 00000000:{port:04X} 00000000:0000 {state:02X} 0:0 00:0 0 0 0 {inode} 2 0 0\n");
    f.put("proc/self/net/udp", &(UDP_HEAD.to_owned() + &row(4789, 7, 900)));
    let (state, found, remedy) = f.worst("VXLAN port");
    assert!(state == State::Failure && found.contains("the kernel") && remedy.contains("vxlanPort"), "{found}");
    f.process(55, "flannel", Some(900));
    assert!(f.worst("VXLAN port").1.contains("flannel (pid 55)"));
    f.process(55, "tortie", None);
    assert_eq!(f.worst("VXLAN port").0, State::Ok);
    // A connection from port 9091 is not a listener.
    f.put("proc/self/net/tcp6", &(UDP_HEAD.to_owned() + &row(9091, 1, 901)));
    assert_eq!(f.worst("metrics port").0, State::Ok);
    f.put("proc/self/net/tcp6", &(UDP_HEAD.to_owned() + &row(9091, 10, 901)));
    assert_eq!(f.worst("metrics port").0, State::Warning);
}

#[test]
fn managers_are_content_with_the_files_that_are_shipped() {
    let f = Fake::new();
    f.process(10, "NetworkManager", None);
    f.process(11, "systemd-network", None);
    assert_eq!((f.worst("NetworkManager").0, f.worst("systemd-networkd").0), (State::Warning, State::Warning));
    let shipped = |name: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/host").join(name)).unwrap();
    f.put("etc/NetworkManager/conf.d/tortie.conf", &shipped("NetworkManager-tortie.conf"));
    f.put("etc/systemd/network/05-tortie.network", &shipped("networkd-tortie.network"));
    assert!(f.worst("systemd-networkd").1.ends_with("not told to keep routes that others made"));
    f.put("etc/systemd/networkd.conf.d/tortie.conf", &shipped("networkd-tortie.conf"));
    assert_eq!((f.worst("NetworkManager").0, f.worst("systemd-networkd").0), (State::Ok, State::Ok));
    // A process of another network namespace is none of ours.
    fs::create_dir_all(f.dir.path().join("proc/10/ns")).unwrap();
    fs::create_dir_all(f.dir.path().join("proc/self/ns")).unwrap();
    symlink("net:[1]", f.dir.path().join("proc/10/ns/net")).unwrap();
    symlink("net:[2]", f.dir.path().join("proc/self/ns/net")).unwrap();
    assert_eq!(f.worst("NetworkManager").1, "not running");
}

#[test]
fn mtu_arithmetic_and_the_kernels_devices() {
    let mut f = Fake::new();
    assert!(f.worst("MTU").1.starts_with("1500 on eth0: pods have at most 1450 in VXLAN, 1480 in IP-in-IP"));
    f.machine.daemon = Some(StatusRow {
        node: "a".into(),
        version: "0".into(),
        pid: 1,
        in_sync: true,
        generation: 1,
        workers: 1,
        uplink: "eth0".into(),
        address: None,
        tunnel_address: None,
        pod_mtu: Some(1450),
        problems: vec!["x: y".into()],
    });
    f.put("var/lib/calico/mtu", "1500");
    assert!(f.worst("MTU").2.contains("write 1450 into it"));
    assert_eq!(f.worst("problem").1, "x: y");
    let link = |index, name: &str, up| Link { index, name: name.into(), mac: None, mtu: 1450, up, running: up };
    f.machine.view.links.insert(7, link(7, "tunl0", true));
    assert_eq!(f.worst("kernel tunnels").0, State::Note);
    f.machine.view.addresses.insert((7, "10.244.0.1/32".parse().unwrap()));
    assert_eq!(f.worst("kernel tunnels").0, State::Warning);
    f.machine.view.links.insert(8, link(8, "vxlan.calico", true));
    assert_eq!(f.worst("kernel tunnels").0, State::Failure);
}
