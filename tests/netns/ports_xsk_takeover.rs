//! AF_XDP ports that another process goes on with. Both are this process here, with the memory mapped twice.

use super::ports_xsk::{MODES, has_xdp, pair, ping, spec, until};
use std::net::UdpSocket;
use tortie::frame::{Batch, FramePool};
use tortie::port::xsk::{self, XskMode, XskPort, XskSpec};
use tortie::port::{Handles, Lent, Port};
use tortie::testing::netns::{Namespace, veth};
use tortie::wire::be16;

/// Each worker's pool, and its queue of every interface.
type Workers = Vec<(FramePool, Vec<XskPort>)>;

fn open(host: &Namespace, names: &[&str], mode: XskMode, workers: usize) -> Workers {
    host.run(|| {
        let pools = (0..workers).map(|_| (FramePool::shared(2048, 16).unwrap(), Vec::new()));
        add(pools.collect(), names, |name, umems| xsk::open(&XskSpec { umems, ..spec(name, mode) }).unwrap_or_else(|e| panic!("{e}")))
    })
}

fn add(mut to: Workers, names: &[&str], mut open: impl FnMut(&str, &[tortie::frame::Umem]) -> Vec<XskPort>) -> Workers {
    let umems: Vec<_> = to.iter().map(|(pool, _)| pool.umem()).collect();
    for name in names {
        let ports = open(name, &umems);
        assert_eq!(ports.len(), to.len());
        to.iter_mut().zip(ports).for_each(|((_, all), port)| all.push(port));
    }
    to
}

/// What a successor opens beside those that have it open.
fn successor(host: &Namespace, names: &[&str], old: &Workers) -> Workers {
    let memory: Vec<_> = old.iter().map(|(pool, _)| (pool.memory().unwrap().try_clone_to_owned().unwrap(), pool.size())).collect();
    let of = |i: usize| old.iter().map(move |(_, ports)| ports[i].handles().unwrap().expect("Linux 6.4 or newer")).collect();
    let mut handles: Vec<Vec<Handles>> = (0..names.len()).map(of).collect();
    host.run(|| {
        let pools = memory.into_iter().map(|(fd, (small, big))| (FramePool::adopt(fd, small, big).unwrap(), Vec::new()));
        add(pools.collect(), names, |name, umems| xsk::adopt(name, umems, false, handles.remove(0)).unwrap_or_else(|e| panic!("{e}")))
    })
}

/// Goes on where the old ones have stopped; the slots that the kernel has.
fn take_up(old: &Workers, new: &mut Workers) -> usize {
    let mut kernel = 0;
    for ((old_pool, old_ports), (pool, ports)) in old.iter().zip(new) {
        let lent: Vec<Lent> = old_ports.iter().take(ports.len()).map(|p| p.lent().unwrap()).collect();
        pool.inherit(&old_pool.free_slots(), lent.iter().map(|l| &l.slots)).unwrap();
        ports.iter_mut().zip(&lent).for_each(|(p, l)| p.take_up(l).unwrap());
        kernel += lent.iter().map(|l| l.slots.count()).sum::<usize>();
    }
    kernel
}

const SENT: usize = 20;

/// Datagrams of as many flows towards a port.
fn send(pod: &Namespace) {
    pod.run(|| {
        for _ in 0..SENT {
            assert_eq!(UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", "10.9.0.1:9").unwrap(), 1);
        }
    });
}

/// How many of them are received now.
fn receive(pool: &mut FramePool, port: &mut XskPort) -> usize {
    let mut got = Batch::new();
    port.rx_burst(pool, &mut got).unwrap();
    let ours = |f: &&tortie::frame::Frame| f.len() == 43 && be16(pool.data(f), 36) == 9;
    let n = got.as_slice().iter().filter(ours).count();
    pool.give_all(&mut got);
    n
}

/// Every pod pings through the only worker's port to it.
fn ping_all(pods: &[Namespace], workers: &mut Workers) {
    let (pool, ports) = &mut workers[0];
    for (pod, port) in pods.iter().zip(ports) {
        ping(pod, pool, port, "-c 3");
    }
}

fn finish(workers: &mut Workers) {
    for (pool, ports) in workers {
        ports.iter_mut().for_each(|p| p.release(pool));
        assert!(pool.is_full(), "slots missing: {:?} of {:?}", pool.free(), pool.size());
    }
}

#[test]
fn another_process_goes_on_with_the_rings() {
    const NAMES: [&str; 2] = ["h0", "h1"];
    for (mode, driver) in MODES {
        let ((host, pod), other) = (pair(), Namespace::new("xo"));
        veth(&host, "h1", &other, "eth0");
        let pods = [pod, other];
        pods.iter().for_each(|p| {
            p.sh("ip addr add 10.9.0.2/24 dev eth0; ip neigh add 10.9.0.1 lladdr 02:00:00:00:00:09 dev eth0");
        });
        let mut old = open(&host, &NAMES, mode, 1);
        for round in 0..3 {
            ping_all(&pods, &mut old);
            let mut new = successor(&host, &NAMES, &old);
            assert!(new[0].1.iter().all(|p| p.caps().driver == driver && p.caps().mtu == 1500));
            // One that gives up changes nothing, whether it has come that far or not.
            let mut failed = successor(&host, &NAMES, &old);
            let (pool, ports) = &mut failed[0];
            ports.iter_mut().for_each(|p| p.release(pool));
            let mut failed = successor(&host, &NAMES, &old);
            take_up(&old, &mut failed);
            drop(failed);
            // What has arrived and is not received, and a packet that waits, when the old one stops.
            pods.iter().for_each(send);
            let kept = old[0].0.take().unwrap();
            let kernel = take_up(&old, &mut new);
            let (size, free) = (old[0].0.size().0 as usize, old[0].0.free().0);
            assert_eq!((new[0].0.free().0, free + kernel + 1), (free, size), "{driver}, round {round}");
            assert!(new[0].1[0].take_up(&Lent::default()).is_err(), "once");
            drop((kept, old));
            new[0].0.inherit_rest();
            let (pool, ports) = &mut new[0];
            for port in ports {
                let mut got = 0;
                until("what has arrived is received", || {
                    got += receive(pool, port);
                    got == SENT
                });
            }
            old = new;
        }
        ping_all(&pods, &mut old);
        // One that wants only the first port: the old one closes the other, and its slots are free.
        let mut new = successor(&host, &NAMES[..1], &old);
        take_up(&old, &mut new);
        let (mut pool, mut ports) = old.remove(0);
        ports[1].release(&mut pool);
        drop((pool, ports));
        new[0].0.inherit_rest();
        assert!(!has_xdp(&host, "h1"), "closed by the last who had it open");
        ping_all(&pods[..1], &mut new);
        finish(&mut new);
        until("the programs are gone", || NAMES.iter().all(|n| !has_xdp(&host, n)));
    }
}

#[test]
fn each_worker_goes_on_with_its_own_queue() {
    let (host, pod) = (Namespace::new("xh"), Namespace::new("xp"));
    let queues = "numrxqueues 2 numtxqueues 2";
    host.sh(&format!("ip link add h0 {queues} type veth peer name eth0 {queues} netns {} && ip link set h0 up", pod.name()));
    pod.sh("ip link set eth0 up; ip addr add 10.9.0.2/24 dev eth0; ip neigh add 10.9.0.1 lladdr 02:00:00:00:00:09 dev eth0");
    let mut old = open(&host, &["h0"], XskMode::Native, 2);
    for (pool, ports) in &mut old {
        assert_eq!(receive(pool, &mut ports[0]), 0);
    }
    let mut new = successor(&host, &["h0"], &old);
    send(&pod);
    take_up(&old, &mut new);
    drop(old);
    let mut got = [0; 2];
    until("each worker receives its part", || {
        for (n, (pool, ports)) in got.iter_mut().zip(&mut new) {
            *n += receive(pool, &mut ports[0]);
        }
        got.iter().sum::<usize>() == SENT
    });
    // A flow's hash chooses the queue: 20 flows miss one of two once in 2^19 times.
    assert!(got.iter().all(|n| *n > 0), "{got:?}");
    let queues: Vec<Vec<u32>> = new.iter().map(|(_, ports)| ports[0].queues().collect()).collect();
    assert_eq!(queues, [[0], [1]]);
    finish(&mut new);
}
