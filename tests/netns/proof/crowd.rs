//! One engine and 199 other nodes that are nothing but probes: what measuring them costs.

use super::lab::{Lab, spec};
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tortie::control::probe::field::{Field, Wire};
use tortie::control::probe::{Orders, Path, Target};
use tortie::encap::segment::Segments;
use tortie::frame::{Gso, GsoKind};
use tortie::lab::spec::{Spec, Uplink, Workload, Xdp};

const NODES: u8 = 200;
/// As each node of a cluster of this size has it.
const INTERVAL: Duration = Duration::from_millis(199 * 1000 / 64);
/// Inner Ethernet and VXLAN.
const HEAD: usize = 8 + 14;

fn tunnel(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, n, 0)
}

fn address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 31, 1, n)
}

/// Between two super-frames to this node: each of the others sends four per second to all of its 199 peers.
const TRAIN_INTERVAL: Duration = Duration::from_millis(250);

/// The other ends of all tunnels on one socket.
struct Out<'a> {
    socket: &'a UdpSocket,
    train_at: Duration,
    head: [u8; HEAD],
    started: Instant,
}

impl Wire for Out<'_> {
    fn send(&mut self, packet: &[u8], to: Ipv4Addr) -> io::Result<()> {
        if to != tunnel(1) {
            return Ok(());
        }
        let mut frame = [&self.head[..], packet].concat();
        tortie::wire::ipv4::write_checksum(&mut frame[HEAD..]);
        self.socket.send_to(&frame, (address(1), 4789)).map(drop)
    }

    fn send_super(&mut self, packet: &[u8], segment: u16) -> io::Result<()> {
        if self.started.elapsed() < self.train_at {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.train_at = self.started.elapsed() + TRAIN_INTERVAL;
        let s = Segments::new(packet, Gso { kind: GsoKind::Tcp4, size: segment }).expect("a super-frame");
        for i in 0..s.count() {
            let mut header = vec![0; s.header_len()];
            s.write_header(i, packet, &mut header);
            self.send(&[&header[..], &packet[s.payload(i)]].concat(), tunnel(1))?;
        }
        Ok(())
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }
}

fn orders(lab: &Lab, n: u8) -> Orders {
    let target = Target {
        node: "n1".into(),
        address: address(1),
        to: tunnel(1),
        from: tunnel(n),
        path: Path::Vxlan { port: 4789 },
        full: 1450,
        vni: None,
    };
    Orders {
        off: None,
        secret: Some(format!("tortie-lab-{}", lab.plan.spec.name).as_bytes().into()),
        interval: INTERVAL,
        lean: true,
        address: Some(address(n)),
        tunnel_address: Some(tunnel(n)),
        vni: 4096,
        targets: vec![target],
        ..Orders::default()
    }
}

/// Plays all nodes but the first, until told to stop.
fn play(lab: &Lab, stop: &AtomicBool) {
    let socket = UdpSocket::bind("0.0.0.0:4789").unwrap();
    let mac = lab.node("n1").vtep_mac().0;
    let head: Vec<u8> = [&[8, 0, 0, 0, 0, 16, 0, 0][..], &mac, &[0x66, 0, 0, 0, 0, 9], &[8, 0]].concat();
    let mut out = Out { socket: &socket, train_at: Duration::ZERO, head: head.try_into().unwrap(), started: Instant::now() };
    let mut fields: Vec<Field> = (2..=NODES).map(|n| Field::new(u64::from(n))).collect();
    for (field, n) in fields.iter_mut().zip(2..) {
        // Spread over the interval, as those of nodes that started at different times are.
        field.adopt(u64::from(n) * INTERVAL.as_nanos() as u64 / u64::from(NODES), orders(lab, n));
    }
    let mut next = vec![0; fields.len()];
    let mut frame = vec![0; 1 << 16];
    while !stop.load(Ordering::Relaxed) {
        let now = out.now();
        for (field, next) in fields.iter_mut().zip(&mut next) {
            if *next <= now {
                *next = field.turn(&mut out);
            }
        }
        let wait = next.iter().min().unwrap().saturating_sub(out.now()).clamp(100_000, 100_000_000);
        socket.set_read_timeout(Some(Duration::from_nanos(wait))).unwrap();
        let Ok(n) = socket.recv(&mut frame) else { continue };
        let packet = &frame[HEAD.min(n)..n];
        if let Some(field) = packet.get(18).and_then(|n| fields.get_mut(usize::from(*n).wrapping_sub(2))) {
            field.take(out.now(), packet);
            field.answer(&mut out);
        }
    }
}

fn manifests(lab: &Lab) {
    let mut text = String::new();
    for n in 2..=NODES {
        text += &format!(
            "---\n{{apiVersion: projectcalico.org/v3, kind: Node, metadata: {{name: m{n}}}, spec: {{bgp: {{ipv4Address: {}/24}}, ipv4VXLANTunnelAddr: {}}}}}\n\
             ---\n{{apiVersion: projectcalico.org/v3, kind: IPAMBlock, metadata: {{name: 10-244-{n}-0-26}}, spec: {{cidr: {}/26, affinity: \"host:m{n}\", \
             allocations: [{}], attributes: [], unallocated: [], strictAffinity: false, deleted: false}}}}\n",
            address(n),
            tunnel(n),
            tunnel(n),
            vec!["null"; 64].join(", ")
        );
    }
    std::fs::write(lab.datastore().join("crowd.yaml"), text).unwrap();
}

/// CPU seconds of a process, by thread. schedstat is finer than the ticks of stat, which short wakings fall between.
fn cpu(pid: u32) -> BTreeMap<String, f64> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let seconds = |t: std::fs::DirEntry| {
        let read = |file: &str| std::fs::read_to_string(t.path().join(file)).unwrap_or_default();
        let used: f64 = read("schedstat").split(' ').next()?.parse().ok()?;
        Some((format!("{} {}", read("comm").trim(), t.file_name().display()), used / 1e9))
    };
    threads.filter_map(seconds).collect()
}

#[test]
fn two_hundred_nodes_are_measured_for_little() {
    let lab = Lab::up(Spec { nodes: 1, ..spec(Workload::Veth, Uplink::Auto, Xdp::Auto) });
    let addresses: Vec<String> = (2..=NODES).map(|n| format!("addr add {}/24 dev br1", address(n))).collect();
    lab.sh("underlay", &format!("printf '{}' | ip -b -", addresses.join("\\n")));
    manifests(&lab);
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| lab.inside("underlay", || play(&lab, &stop)));
        let measured = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let up = || lab.client("n1").peers().unwrap().peers.iter().filter(|p| p.state == "up").count();
            lab.wait("all peers are up", Duration::from_secs(20), || up() == usize::from(NODES) - 1);
            let pid = lab.client("n1").status().unwrap().pid;
            // New peers are asked more often at first.
            std::thread::sleep(Duration::from_secs(5));
            let (before, first) = (lab.client("n1").peers().unwrap(), cpu(pid));
            let began = Instant::now();
            std::thread::sleep(Duration::from_secs(15));
            let last = cpu(pid);
            let after = lab.client("n1").peers().unwrap();
            let mut percent = 0.0;
            for (thread, seconds) in &last {
                let used = (seconds - first.get(thread).unwrap_or(&0.0)) / began.elapsed().as_secs_f64() * 100.0;
                percent += used;
                println!("  {thread}: {used:.3} %");
            }
            println!("  {:?}", lab.client("n1").counters().unwrap().pop());
            let sent = (after.sent - before.sent) as f64 / began.elapsed().as_secs_f64();
            let answers = (after.answers_sent - before.answers_sent) as f64 / began.elapsed().as_secs_f64();
            println!(
                "{percent:.2} % of a core; {sent:.0} probes sent and {answers:.0} answered per second, interval {} ms",
                after.interval_ms
            );
            assert_eq!(after.interval_ms, INTERVAL.as_millis() as u64);
            assert!((50.0..100.0).contains(&sent) && (50.0..100.0).contains(&answers), "{sent} {answers}");
            let bad: Vec<_> = after.peers.iter().filter(|p| p.state != "up").collect();
            assert_eq!(up(), usize::from(NODES) - 1, "{bad:#?}");
            // On a machine that does other work too; docs/architecture.md has what it is on a quiet one.
            assert!(percent < 5.0, "{percent} % of a core");
        }));
        stop.store(true, Ordering::Relaxed);
        measured.unwrap_or_else(|e| std::panic::resume_unwind(e));
    });
}
