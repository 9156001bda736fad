//! One worker goes on where another has paused: what waits for a neighbour goes along, and no count goes back.

use super::{ME, from_pod};
use std::sync::mpsc::sync_channel;
use tortie::drop::DropReason;
use tortie::port::{Medium, mem};
use tortie::testing::bed::{Bed, Delta};
use tortie::testing::build::Ip4;
use tortie::testing::net::{POD_MTU, Setup};
use tortie::worker::{Carried, Command, FlowState, Paused, PortTotals, Reasons};

#[test]
fn held_packets_and_counts_go_to_the_next_worker() {
    let mut s = Setup::new(ME);
    let a = s.pod(1);
    let b = s.pod_with(2, None, mem::caps(Medium::Ethernet, u32::from(POD_MTU)));
    let (mut old, mut new) = (Bed::new(&s), Bed::new(&s));
    for i in 0..3 {
        old.send(a, from_pod(1, &Ip4::new(ME.pod(1), ME.pod(2)).id(i).udp(1, 2, b"x")));
    }
    // Dropped as spoofed, so that there is a reason to carry.
    old.send(a, from_pod(1, &Ip4::new(ME.pod(9), ME.pod(2)).udp(1, 2, b"x")));
    old.turn();
    old.delta();
    let (answer, paused) = sync_channel::<Paused>(1);
    old.command(Command::Pause(answer));
    // What comes from now on is not this worker's to take.
    old.send(a, from_pod(1, &Ip4::new(ME.pod(1), ME.pod(2)).id(9).udp(1, 2, b"x")));
    assert!(!old.turn() && !old.turn());
    let flows = paused.recv().unwrap().flows;
    assert_eq!((flows.held.len(), old.delta()), (3, Delta::default()));
    let text = serde_json::to_vec(&flows).unwrap();
    let flows: FlowState = serde_json::from_slice(&text).unwrap();

    let (answer, totals) = sync_channel(1);
    old.command(Command::HandOver(Vec::new(), answer));
    old.turn();
    let totals = totals.recv().unwrap();
    assert_eq!((totals.received, totals.dropped.values().sum::<u64>(), old.slots_in_use()), (4, 1, 0));
    // Its books are closed.
    std::mem::forget(old);

    let before = new.counters().port(a).rx_frames.get();
    let port = PortTotals { rx_frames: 4, ..PortTotals::default() };
    let reasons = Reasons::from([("source-spoofed".to_owned(), 1)]);
    let (answer, resumed) = sync_channel(1);
    new.command(Command::Resume(flows, answer));
    let carried = Carried { totals: totals.clone(), ports: vec![(a, port)], reasons: vec![(a, reasons.clone())], ..Carried::default() };
    new.command(Command::Carry(Box::new(carried)));
    new.turn();
    resumed.recv().unwrap();
    assert_eq!(new.counters().port(a).rx_frames.get() - before, 4);
    assert_eq!(new.counters().totals().dropped, totals.dropped);
    assert_eq!(new.counters().port(a).reason_totals(), reasons);
    assert_eq!(new.counters().held.get(), 3);
    new.drain(b);
    s.learn(b, ME.pod_mac(2));
    new.publish(&s);
    new.turn();
    let got: Vec<_> = new.drain(b).iter().map(|w| super::delivered(2, w)).collect();
    assert_eq!(got.iter().map(|p| p.header.identification).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(got.iter().all(|p| p.ttl() == 63), "the TTL goes down once");
}

#[test]
fn a_reason_that_is_not_known_here_keeps_the_law() {
    let mut s = Setup::new(ME);
    let a = s.pod(1);
    let mut bed = Bed::new(&s);
    let mut totals = bed.counters().totals();
    totals.received += 7;
    totals.dropped.insert("moonshine".into(), 4);
    totals.punted.insert("sunshine".into(), 3);
    let reasons = vec![(a, Reasons::from([("moonshine".to_owned(), 4)]))];
    bed.command(Command::Carry(Box::new(Carried { totals, reasons, ..Carried::default() })));
    bed.turn();
    assert_eq!(bed.delta(), Delta::received(7).dropped(DropReason::WorkerRestart, 7));
    assert_eq!(bed.counters().port(a).reason_totals(), Reasons::from([("worker-restart".to_owned(), 4)]));
}
