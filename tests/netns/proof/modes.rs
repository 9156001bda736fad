//! A pool that changes how its packets travel while a stream runs.

use super::lab::{Lab, spec};
use std::collections::HashSet;
use std::net::{SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tortie::lab::spec::{Spec, Uplink, Workload, Xdp};

/// 200 a second.
const PACE: Duration = Duration::from_millis(5);

/// Changes the pool's modes by replacing the manifest, as an operator's tool would.
fn set_pool(lab: &Lab, vxlan: &str, ipip: &str) {
    let folder = lab.datastore();
    let path = folder.join("cluster.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let lines = text.lines().map(|l| match l.trim_start().split_once(':') {
        Some((key @ ("vxlanMode" | "ipipMode"), _)) => {
            let mode = if key == "vxlanMode" { vxlan } else { ipip };
            format!("{}{key}: {mode}\n", &l[..l.len() - l.trim_start().len()])
        }
        _ => format!("{l}\n"),
    });
    let unfinished = folder.join(".cluster.yaml");
    std::fs::write(&unfinished, lines.collect::<String>()).unwrap();
    std::fs::rename(unfinished, path).unwrap();
}

/// Waits until both nodes send to each other's block that way.
fn expect_kind(lab: &Lab, kind: &str) {
    let block = |node: &str| lab.node(node).block.to_string();
    for (node, other) in [("n1", "n2"), ("n2", "n1")] {
        lab.wait(&format!("{kind} on {node}"), Duration::from_secs(30), || {
            lab.client(node).fib().unwrap().iter().any(|r| r.prefix == block(other) && r.kind == kind)
        });
    }
}

/// Sends numbered datagrams at the pace until told to stop; how many.
fn stream(socket: &UdpSocket, stop: &AtomicBool) -> u32 {
    let (start, mut n) = (Instant::now(), 0u32);
    while !stop.load(Ordering::Relaxed) {
        socket.send(&n.to_be_bytes()).unwrap_or_else(|e| panic!("send {n}: {e}"));
        n += 1;
        std::thread::sleep((start + PACE * n).saturating_duration_since(Instant::now()));
    }
    n
}

/// Receives until nothing has come for a second: numbers that came, and how many came twice.
fn collect(socket: &UdpSocket) -> (HashSet<u32>, usize) {
    let (mut seen, mut twice, mut buf) = (HashSet::new(), 0, [0u8; 4]);
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    while socket.recv(&mut buf).is_ok() {
        twice += usize::from(!seen.insert(u32::from_be_bytes(buf)));
    }
    (seen, twice)
}

fn nothing_is_lost(uplink: Uplink, subnets: u8, steps: &[(&str, &str, &str)]) {
    let lab = Lab::up(Spec { subnets, ..spec(Workload::Veth, uplink, Xdp::Auto) });
    let receiver = lab.inside("n2-p1", || UdpSocket::bind(SocketAddrV4::new(lab.address("n2-p1"), 7000)).unwrap());
    let sender = lab.inside("n1-p1", || UdpSocket::bind("0.0.0.0:0").unwrap());
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    super::traffic::ping(&lab, "n1-p1", "n2-p1");
    let stop = AtomicBool::new(false);
    let (sent, (seen, twice)) = std::thread::scope(|s| {
        let sending = s.spawn(|| stream(&sender, &stop));
        let receiving = s.spawn(|| collect(&receiver));
        // The stream must end whatever becomes of the steps.
        let changed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for (vxlan, ipip, kind) in steps {
                set_pool(&lab, vxlan, ipip);
                expect_kind(&lab, kind);
                std::thread::sleep(Duration::from_millis(400));
            }
        }));
        stop.store(true, Ordering::Relaxed);
        let result = (sending.join().unwrap(), receiving.join().unwrap());
        changed.unwrap_or_else(|e| std::panic::resume_unwind(e));
        result
    });
    let lost: Vec<u32> = (0..sent).filter(|n| !seen.contains(n)).collect();
    assert!(sent > 200, "only {sent} sent");
    assert!(lost.is_empty() && twice == 0, "lost {lost:?} of {sent}, {twice} twice\n{}", lab.story());
}

#[test]
fn in_one_subnet() {
    // CrossSubnet within a subnet is no encapsulation at all.
    let steps =
        [("Never", "Always", "ipip"), ("CrossSubnet", "Never", "direct"), ("Never", "CrossSubnet", "direct"), ("Always", "Never", "vxlan")];
    nothing_is_lost(Uplink::Socket, 1, &steps);
    nothing_is_lost(Uplink::AfXdp, 1, &steps);
}

#[test]
fn across_subnets() {
    let steps =
        [("Never", "Always", "ipip"), ("CrossSubnet", "Never", "vxlan"), ("Never", "CrossSubnet", "ipip"), ("Always", "Never", "vxlan")];
    nothing_is_lost(Uplink::Socket, 2, &steps);
    nothing_is_lost(Uplink::AfXdp, 2, &steps);
}
