//! AF_XDP ports: a worker for each queue, frames of several buffers on each of them, busy polling, and what the
//! kernel lost.

use std::time::{Duration, Instant};
use tortie::frame::{Batch, FramePool};
use tortie::port::xsk::{self, RingSizes, Steering, XskMode, XskPort, XskSpec, ZeroCopy};
use tortie::port::{Port, losses};
use tortie::testing::netns::{Namespace, veth};

const LIMIT: Duration = Duration::from_secs(30);

fn open(host: &Namespace, mode: XskMode, busy_poll: u16, workers: usize) -> Vec<(FramePool, XskPort)> {
    host.run(|| {
        let pools: Vec<_> = (0..workers).map(|_| FramePool::new(2048, 16).unwrap()).collect();
        let umems: Vec<_> = pools.iter().map(|p| p.umem()).collect();
        let (steering, zero_copy, rings) = (Steering::All, ZeroCopy::Try, RingSizes::WORKLOAD);
        let ports = xsk::open(&XskSpec { interface: "h0", steering, mode, umems: &umems, zero_copy, busy_poll, rings });
        pools.into_iter().zip(ports.unwrap_or_else(|e| panic!("{e}"))).collect()
    })
}

fn finish(pool: &mut FramePool, port: &mut XskPort) {
    port.release(pool);
    assert!(pool.is_full(), "slots missing: {:?} of {:?}", pool.free(), pool.size());
}

/// Receives until frames of both lengths have come; whether each lay in a big slot.
fn receive(pool: &mut FramePool, port: &mut XskPort, lengths: [usize; 2]) -> [bool; 2] {
    let (start, mut got) = (Instant::now(), Batch::new());
    let mut big = [None; 2];
    loop {
        port.rx_burst(pool, &mut got).unwrap();
        for f in got.as_slice() {
            if let Some(i) = lengths.iter().position(|l| *l == f.len()) {
                big[i] = Some(!pool.in_umem(f));
            }
        }
        pool.give_all(&mut got);
        if let [Some(a), Some(b)] = big {
            return [a, b];
        }
        assert!(start.elapsed() < LIMIT, "frames of {lengths:?} bytes: {big:?}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

#[test]
fn every_worker_receives_jumbo_frames_on_its_queue() {
    let (host, pod) = (Namespace::new("xh"), Namespace::new("xp"));
    let queues = "numrxqueues 2 numtxqueues 2 mtu 9000";
    host.sh(&format!("ip link add h0 {queues} type veth peer name eth0 {queues} netns {} && ip link set h0 up", pod.name()));
    pod.sh("ip link set eth0 up; ip addr add 10.9.0.2/24 dev eth0; ip neigh add 10.9.0.1 lladdr 02:00:00:00:00:09 dev eth0");
    let mut workers = open(&host, XskMode::Native, 0, 2);
    for (i, (pool, port)) in workers.iter_mut().enumerate() {
        assert_eq!((port.queues().collect::<Vec<_>>(), port.caps().mtu), (vec![i as u32], 9000));
        port.rx_burst(pool, &mut Batch::new()).unwrap();
    }
    // A flow's hash chooses the queue: 32 flows miss one of two queues once in 2^31 times. 14 + 20 + 8 bytes of
    // headers: three slots for the longer datagram.
    const LENGTHS: [usize; 2] = [8900, 100];
    pod.run(|| {
        for payload in LENGTHS {
            for _ in 0..32 {
                let socket = std::net::UdpSocket::bind("10.9.0.2:0").unwrap();
                assert_eq!(socket.send_to(&vec![0; payload], "10.9.0.1:9").unwrap(), payload);
            }
        }
    });
    for (i, (pool, port)) in workers.iter_mut().enumerate() {
        assert_eq!(receive(pool, port, LENGTHS.map(|l| l + 42)), [true, false], "worker {i}");
    }
    workers.iter_mut().for_each(|(pool, port)| finish(pool, port));
}

#[test]
fn a_busy_polling_port_receives() {
    for mode in [XskMode::Native, XskMode::Generic] {
        let (host, pod) = (Namespace::new("xh"), Namespace::new("xp"));
        veth(&host, "h0", &pod, "eth0");
        pod.sh("ip addr add 10.9.0.2/24 dev eth0; ip neigh add 10.9.0.1 lladdr 02:00:00:00:00:09 dev eth0");
        let mut workers = open(&host, mode, 50, 1);
        let (pool, port) = &mut workers[0];
        port.rx_burst(pool, &mut Batch::new()).unwrap();
        for payload in [60, 1400] {
            pod.sh(&format!("ping -c 3 -i 0.01 -W 0.01 -s {payload} 10.9.0.1 || true"));
        }
        assert_eq!(receive(pool, port, [102, 1442]), [false, false], "{mode:?}");
        finish(pool, port);
    }
}

#[test]
fn frames_that_find_the_ring_full_are_told() {
    for mode in [XskMode::Native, XskMode::Generic] {
        let (host, pod) = (Namespace::new("xh"), Namespace::new("xp"));
        veth(&host, "h0", &pod, "eth0");
        pod.sh("ip addr add 10.9.0.2/24 dev eth0; ip neigh add 10.9.0.1 lladdr 02:00:00:00:00:09 dev eth0");
        let mut workers = open(&host, mode, 0, 1);
        let (pool, port) = &mut workers[0];
        let readers = port.losses();
        let total = |name| losses::sum(&readers).iter().find(|l| l.0 == name).map(|l| l.1);
        assert_eq!((total("xdp-rx-ring-full"), total("xdp-rx-dropped"), total("xdp-tx-invalid")), (Some(0), Some(0), Some(0)));
        let mut got = Batch::new();
        port.rx_burst(pool, &mut got).unwrap();
        pool.give_all(&mut got);
        const SENT: u64 = 400;
        pod.run(|| {
            let socket = std::net::UdpSocket::bind("10.9.0.2:0").unwrap();
            (0..SENT).for_each(|_| assert_eq!(socket.send_to(b"x", "10.9.0.1:9").unwrap(), 1));
        });
        let start = Instant::now();
        while total("xdp-rx-ring-full") < Some(SENT - u64::from(RingSizes::WORKLOAD.rx)) {
            assert!(start.elapsed() < LIMIT, "{mode:?}: {:?}", losses::sum(&readers));
            std::thread::sleep(Duration::from_millis(1));
        }
        finish(pool, port);
        assert!(losses::sum(&readers).is_empty(), "a closed socket has no counters");
    }
}
