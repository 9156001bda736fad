//! Takeovers where pods and uplink are on AF_XDP: rings and memory go along.

use super::daemon::{Node, Pair};
use super::takeover::{ATTEMPTS, Datagrams, Impostor, MAY_LOSE, RATE, nothing_is_lost, take_over, total};
use std::collections::BTreeMap;
use std::time::Duration;
use tortie::control::takeover::{Queue, Reply, Say, VERSION};
use tortie::frame::{FramePool, PortId};
use tortie::port::xsk::{self, RingSizes, XskPort};
use tortie::port::{Handles, Port};

/// Between 64 KB of TCP and the next: rings hold fewer packets than sockets' buffers do.
const LIGHT: Duration = Duration::from_millis(10);
/// Slots of the daemon's pool.
const SLOTS: usize = 8192 + 128;

fn pair() -> Pair {
    let mut p = Pair::new("af-xdp", 1);
    for n in [&p.a, &p.b] {
        let text = std::fs::read_to_string(&n.config).unwrap();
        std::fs::write(&n.config, text.replace("workloads: {driver: auto}", "workloads: {driver: af-xdp}")).unwrap();
    }
    p.start();
    p.expect_both_ways("before");
    p
}

/// What a node's successors said of the slots: free ones, and those that the kernel had.
fn slots(p: &Pair, node: &Node) -> Vec<(usize, usize)> {
    let logs = std::fs::read_dir(p.dir.path()).unwrap().map(|e| e.unwrap().path());
    let logs = logs.filter(|l| {
        let name = l.file_name().unwrap().to_str().unwrap();
        name.starts_with(&format!("{}.", node.index)) && name.ends_with(".log")
    });
    let texts: Vec<String> = logs.map(|l| std::fs::read_to_string(l).unwrap()).collect();
    assert!(texts.iter().all(|t| !t.contains("cannot be passed on") && !t.contains("opened anew")), "{texts:?}");
    let number = |text: &str| text.split([' ', '\n']).next().unwrap().parse().unwrap();
    let line = |t: &String| {
        let text = t.split("worker 0 goes on with ").nth(1)?;
        Some((number(text), number(text.split("the kernel had ").nth(1)?)))
    };
    texts.iter().filter_map(line).collect()
}

#[test]
fn af_xdp_pods_and_uplinks_are_taken_over() {
    let mut p = pair();
    nothing_is_lost(&mut p, 5, LIGHT);
    for node in [&p.a, &p.b] {
        let drivers: Vec<String> = node.client().ports().unwrap().into_iter().filter_map(|r| r.driver).collect();
        assert_eq!(drivers.iter().filter(|d| d.starts_with("af-xdp")).count(), 2, "{drivers:?}");
        let slots = slots(&p, node);
        assert!(slots.len() >= 2, "{slots:?}");
        // The kernel has no more than fits the rings, takeover after takeover: none is forgotten there. An output queue holds
        // 512 at most.
        let most: u32 = [RingSizes::UPLINK, RingSizes::WORKLOAD].iter().map(|r| r.fill + r.completion).sum();
        for (free, kernel) in slots {
            println!("node{}: {free} slots free, {kernel} with the kernel", node.index);
            assert!(kernel <= most as usize && free + kernel <= SLOTS && free + kernel > SLOTS - 600, "{free} {kernel}");
        }
    }
}

/// A successor by hand that opens everything: the pool and the ports that live in it, by their number in the running daemon.
fn open(node: &Node, i: &mut Impostor) -> (FramePool, BTreeMap<PortId, XskPort>) {
    let Reply::State(state) = i.reply() else { panic!("no state") };
    let (mut memory, mut handles) = (Vec::new(), Vec::new());
    loop {
        let got = i.0.receive::<Reply>().unwrap().expect("a reply");
        match got.message {
            Reply::Memory(m) => memory.push((m, got.fds.into_iter().next().unwrap())),
            Reply::Queue(Queue { port, driver, notes, fds, .. }) if xsk::is_driver(&driver) => {
                handles.push((port, Handles { driver, notes, fds: fds.into_iter().zip(got.fds).collect() }));
            }
            Reply::Queue(_) => {}
            Reply::End => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(memory.len() == 1 && handles.len() == 2 && state.ports.iter().all(|p| !p.stays), "{:?}", state.ports);
    node.ns.run(|| {
        let (m, fd) = memory.remove(0);
        let pool = FramePool::adopt(fd, m.small, m.big).unwrap();
        let umems = [pool.umem()];
        let adopt = |(port, h): (usize, Handles)| {
            let port = &state.ports[port];
            (port.ids[0], xsk::adopt(&port.interface, &umems, false, vec![h]).unwrap().remove(0))
        };
        (pool, handles.into_iter().map(adopt).collect())
    })
}

/// Successors that end when they have opened the ports, before and after the old one has paused. What is lost.
fn failures(p: &mut Pair) -> usize {
    let datagrams = Datagrams::start(&p.a, &p.b);
    std::thread::sleep(Duration::from_millis(300));
    for pause in [false, true, true] {
        let mut i = Impostor::connect(&p.a);
        i.hello(&p.a, VERSION, "1");
        let (mut pool, mut ports) = open(&p.a, &mut i);
        if pause {
            i.0.send(&Say::Pause, &[]).unwrap();
            let Reply::Paused(paused, _) = i.reply() else { panic!("not paused") };
            let slots = &paused[0].slots;
            assert_eq!(slots.lent.len(), ports.len());
            pool.inherit(&slots.free, slots.lent.iter().map(|(_, l)| &l.slots)).unwrap();
            slots.lent.iter().for_each(|(id, lent)| ports.get_mut(id).unwrap().take_up(lent).unwrap());
        }
        drop((i, ports, pool));
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(p.a.daemon.as_mut().unwrap().child().try_wait().unwrap(), None);
    }
    let (sent, missing) = datagrams.finish();
    println!("{sent} datagrams, {} lost over three successors that ended early", missing.len());
    missing.len()
}

#[test]
fn where_memory_cannot_be_taken_over_ports_are_opened_anew() {
    let mut p = pair();
    p.a.signal("TERM");
    p.a.start_with(&["TORTIE_TEST_BIG_SLOTS=64"]);
    p.expect_both_ways("with another pool");
    let (datagrams, counted) = (Datagrams::start(&p.a, &p.b), total(&p.a).received);
    std::thread::sleep(Duration::from_millis(300));
    let before = p.a.daemon.as_ref().unwrap().id();
    take_over(&mut p.a, || {});
    let text = std::fs::read_to_string(p.a.config.with_extension(format!("{before}.log"))).unwrap();
    assert!(text.contains("cannot be taken over: it has") && text.contains("waiting for the running daemon to end"), "{text}");
    p.expect_both_ways("after");
    let (sent, missing) = datagrams.finish();
    println!("{sent} datagrams, {} lost while ports were opened anew", missing.len());
    // A restart costs more.
    assert!(missing.len() < RATE as usize && total(&p.a).received > counted, "{} of {sent}", missing.len());
}

#[test]
fn a_successor_that_ends_with_the_rings_mapped_costs_nothing() {
    let mut p = pair();
    // A machine on which others work loses packets without it.
    let lost: Vec<usize> = (0..ATTEMPTS).map(|_| failures(&mut p)).take_while(|lost| *lost > MAY_LOSE as usize).collect();
    assert!(lost.len() < ATTEMPTS, "{lost:?}\n{}", p.a.story());
    p.expect_both_ways("after successors that ended early");
    take_over(&mut p.a, || {});
    p.expect_both_ways("after one that did not");
    let t = total(&p.a);
    assert_eq!(t.received + t.generated, t.sent + t.punted + t.dropped + t.coalesced + t.held, "the law: {t:?}");
    assert_eq!(slots(&p, &p.a).len(), 1);
}
