//! An engine that is killed and started again, and interfaces that go and come back.

use super::lab::{Lab, TORTIE, spec};
use super::traffic::ping;
use std::net::{SocketAddrV4, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tortie::lab::spec::{Uplink, Workload, Xdp};

/// A pod asks another every few milliseconds, whatever becomes of the questions.
struct Stream {
    /// Number of the last question, and the highest that was answered.
    asked: Arc<AtomicU64>,
    answered: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Stream {
    fn start(lab: &Lab, from: &str, to: &str) -> Stream {
        let far = lab.inside(to, || UdpSocket::bind(SocketAddrV4::new(lab.address(to), 7)).unwrap());
        let near = lab.inside(from, || UdpSocket::bind(SocketAddrV4::new(lab.address(from), 0)).unwrap());
        let peer = far.local_addr().unwrap();
        let (asked, answered, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        far.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        near.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        let halt = stop.clone();
        let echo = move || {
            let mut buf = [0; 64];
            while !halt.load(Ordering::Relaxed) {
                if let Ok((n, from)) = far.recv_from(&mut buf) {
                    let _ = far.send_to(&buf[..n], from);
                }
            }
        };
        let (halt, question, answer) = (stop.clone(), asked.clone(), answered.clone());
        let ask = move || {
            let mut buf = [0; 8];
            while !halt.load(Ordering::Relaxed) {
                let number = question.fetch_add(1, Ordering::Relaxed) + 1;
                // Not connected: errors that come back by ICMP are not this stream's business.
                let _ = near.send_to(&number.to_be_bytes(), peer);
                // Late answers to earlier questions may come first.
                while near.recv(&mut buf).is_ok_and(|n| n == 8) {
                    answer.fetch_max(u64::from_be_bytes(buf), Ordering::Relaxed);
                    if u64::from_be_bytes(buf) == number {
                        std::thread::sleep(Duration::from_millis(2));
                        break;
                    }
                }
            }
        };
        Stream { asked, answered, stop, threads: vec![std::thread::spawn(echo), std::thread::spawn(ask)] }
    }

    /// Time until a question asked from now on is answered.
    fn until_answered(&self, lab: &Lab, limit: Duration) -> Duration {
        let (start, before) = (Instant::now(), self.asked.load(Ordering::Relaxed));
        while self.answered.load(Ordering::Relaxed) <= before {
            assert!(start.elapsed() < limit, "no answer within {limit:?}\n{}", lab.story());
            std::thread::sleep(Duration::from_millis(1));
        }
        start.elapsed()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for t in self.threads.drain(..) {
            let _ = t.join();
        }
    }
}

/// An engine that this test started; the lab ends it, this only collects it.
struct Engine(Child);

impl Engine {
    fn start(lab: &Lab, node: &str) -> Engine {
        let config = lab.node(node).dir(&lab.plan.spec.name).join("config.yaml");
        let mut c = Command::new("ip");
        c.args(["netns", "exec", lab.netns(node), TORTIE, "run", "--config"]).arg(config);
        Engine(c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn killed_and_back(workload: Workload, uplink: Uplink, xdp: Xdp) {
    let lab = Lab::up(spec(workload, uplink, xdp));
    ping(&lab, "n1-p1", "n2-p1");
    let stream = Stream::start(&lab, "n1-p1", "n2-p1");
    stream.until_answered(&lab, Duration::from_secs(30));
    let mut engines = Vec::new();
    for round in 0..3 {
        let pid = lab.client("n1").status().unwrap().pid;
        lab.sh("n1", &format!("kill -9 {pid}"));
        // The port is free of its owner only when the process is gone altogether.
        lab.wait("the engine is dead", Duration::from_secs(30), || lab.client("n1").status().is_err());
        std::thread::sleep(Duration::from_millis(100));
        engines.push(Engine::start(&lab, "n1"));
        let outage = stream.until_answered(&lab, Duration::from_secs(30));
        println!("{workload:?} {uplink:?}, round {round}: back after {outage:?}");
        assert!(outage < Duration::from_secs(3), "round {round}: back after {outage:?}\n{}", lab.story());
    }
    drop(stream);
    // One of everything: nothing of the dead is left beside what the living made.
    // With sockets there are two more devices, for super-frames, as far as the kernel has what they need.
    let devices = lab.sh("n1", "ip -o link show type tun");
    let known = [": tunl-tortie: ", ": tunl-tortie-gso: ", ": tunl-tortie-ip4: "];
    let unknown = devices.lines().filter(|l| !known.iter().any(|k| l.contains(k))).count();
    assert!(unknown == 0 && devices.contains(": tunl-tortie: "), "{devices}");
    assert_eq!(lab.sh("n1", "ip route show 10.244.0.0/16").lines().count(), 1);
    for (from, to) in [("n1-p1", "n2-p1"), ("n2-p1", "n1-p1"), ("n1", "n2-p1"), ("n1-p1", "n1")] {
        ping(&lab, from, to);
    }
    lab.expect_balance("n1");
}

#[test]
fn killed_with_sockets() {
    killed_and_back(Workload::AfPacket, Uplink::Socket, Xdp::Auto);
}

#[test]
fn killed_with_af_xdp() {
    killed_and_back(Workload::AfXdp, Uplink::AfXdp, Xdp::Native);
}

#[test]
fn killed_with_generic_af_xdp() {
    killed_and_back(Workload::AfXdp, Uplink::AfXdp, Xdp::Generic);
}

#[test]
fn killed_with_taps() {
    killed_and_back(Workload::Tap, Uplink::Socket, Xdp::Auto);
}

/// Waits for the state of the node's port with that role.
fn expect_port(lab: &Lab, role: &str, up: bool) {
    lab.wait(&format!("{role} up={up}"), Duration::from_secs(30), || {
        let ports = lab.client("n1").ports().unwrap();
        ports.iter().any(|p| p.role == role) && ports.iter().filter(|p| p.role == role).all(|p| (p.state == "up") == up)
    });
}

fn lost_and_regained(workload: Workload, uplink: Uplink) {
    let lab = Lab::up(spec(workload, uplink, Xdp::Auto));
    ping(&lab, "n1-p1", "n2-p1");
    let stream = Stream::start(&lab, "n1-p1", "n2-p1");
    let (host, pod, address) = (lab.interface("n1-p1"), lab.netns("n1-p1"), lab.address("n1-p1"));
    let remake = || {
        lab.sh("n1", &format!("ip link del {host}"));
        expect_port(&lab, "workload", false);
        lab.sh("n1", &format!("ip link add {host} mtu 1450 type veth peer name eth0 mtu 1450 netns {pod} && ip link set {host} up"));
        let routes = "ip route add 169.254.1.1 dev eth0; ip route add default via 169.254.1.1";
        lab.sh("n1-p1", &format!("ip addr add {address}/32 dev eth0; ip link set eth0 up; {routes}"));
    };
    let back = |what: &str| {
        expect_port(&lab, what, true);
        stream.until_answered(&lab, Duration::from_secs(30));
    };
    lab.sh("n1", "ip link set eth0 down");
    expect_port(&lab, "uplink", false);
    lab.sh("n1", "ip link set eth0 up");
    back("uplink");
    // A new name means that it is not the interface of the configuration, until it has the old one again.
    lab.sh("n1", "ip link set eth0 down; ip link set eth0 name eth9 up");
    expect_port(&lab, "uplink", false);
    lab.sh("n1", "ip link set eth9 down; ip link set eth9 name eth0 up");
    back("uplink");
    lab.sh("n1", &format!("ip link set {host} down"));
    expect_port(&lab, "workload", false);
    lab.sh("n1", &format!("ip link set {host} up"));
    back("workload");
    remake();
    back("workload");
    drop(stream);
    ping(&lab, "n2-p1", "n1-p1");
    // A new veth has a new MAC. A pod that has not spoken yet is asked for it.
    remake();
    expect_port(&lab, "workload", true);
    ping(&lab, "n2-p1", "n1-p1");
    lab.expect_balance("n1");
}

#[test]
fn regained_with_sockets() {
    lost_and_regained(Workload::AfPacket, Uplink::Socket);
}

#[test]
fn regained_with_af_xdp() {
    lost_and_regained(Workload::AfXdp, Uplink::AfXdp);
}
