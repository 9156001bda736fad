//! Nodes on a simulated underlay: time, losses and damage are what the test says.

use super::diagnose::State;
use super::field::{Field, LOSSES, ROUNDS, Wire};
use super::packet::{ICMP_TYPE, SMALL};
use super::peer::{MILLISECOND, SECOND};
use super::target::{Path, Target};
use super::{Board, Orders, packet};
use crate::encap::segment::Segments;
use crate::frame::{Gso, GsoKind};
use crate::ops::view::{PeerRow, PeersRow};
use crate::wire::{checksum, ipv4, put16};
use proptest::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

const VXLAN: Path = Path::Vxlan { port: 4789 };
/// One way.
const DELAY: u64 = MILLISECOND;

fn tunnel(i: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 100 + (i / 256) as u8, (i % 256) as u8, 0)
}

fn underlay(i: usize) -> Ipv4Addr {
    Ipv4Addr::new(172, 31 + (i / 256) as u8, (i % 256) as u8, 1)
}

fn orders(me: usize, others: impl Iterator<Item = usize>) -> Orders {
    let target = |i: usize| Target {
        node: format!("n{i}").into(),
        address: underlay(i),
        to: tunnel(i),
        from: tunnel(me),
        path: VXLAN,
        full: 1450,
        vni: None,
    };
    Orders {
        off: None,
        secret: Some((*b"cluster").into()),
        interval: Duration::from_secs(1),
        lean: false,
        devices: [None; 2],
        address: Some(underlay(me)),
        tunnel_address: Some(tunnel(me)),
        vni: 4096,
        targets: others.map(target).collect(),
        failed: [].into(),
    }
}

/// Has a board show so many peers, each of which has answered once.
pub fn measured(board: &Board, peers: usize) {
    let mut field = board.lock();
    let mut line = Line::default();
    line.now.set(board.now());
    field.adopt(line.now.get(), orders(0, 1..peers + 1));
    for _ in 0..peers.div_ceil(ROUNDS as usize) {
        line.now.set(line.now.get() + SECOND);
        field.turn(&mut line);
    }
    let asked = std::mem::take(&mut *line.sent.borrow_mut());
    for sent in asked.into_iter().filter(|s| s.packet[20] == ICMP_TYPE) {
        let to = usize::from(sent.packet[17] - 100) * 256 + usize::from(sent.packet[18]);
        let mut peer = Field::new(1);
        peer.adopt(0, orders(to, [0].into_iter()));
        peer.take(line.now.get(), &sent.packet);
        peer.answer(&mut line);
        let answer = line.sent.borrow_mut().pop_front();
        answer.into_iter().for_each(|a| field.take(line.now.get(), &a.packet));
    }
}

/// A packet on its way.
struct Sent {
    at: u64,
    packet: Vec<u8>,
}

#[derive(Clone, Default)]
struct Line {
    now: Rc<Cell<u64>>,
    sent: Rc<RefCell<VecDeque<Sent>>>,
}

impl Wire for Line {
    fn send(&mut self, packet: &[u8], to: Ipv4Addr) -> io::Result<()> {
        let mut packet = packet.to_vec();
        assert_eq!((ipv4::total_len(&packet), Ipv4Addr::from(ipv4::dst(&packet))), (packet.len(), to));
        ipv4::write_checksum(&mut packet);
        self.sent.borrow_mut().push_back(Sent { at: self.now.get(), packet });
        Ok(())
    }

    fn send_super(&mut self, packet: &[u8], segment: u16) -> io::Result<()> {
        let s = Segments::new(packet, Gso { kind: GsoKind::Tcp4, size: segment }).expect("a super-frame");
        for i in 0..s.count() {
            let mut header = vec![0; s.header_len()];
            s.write_header(i, packet, &mut header);
            let packet = [&header[..], &packet[s.payload(i)]].concat();
            self.sent.borrow_mut().push_back(Sent { at: self.now.get(), packet });
        }
        Ok(())
    }

    fn now(&self) -> u64 {
        self.now.get()
    }
}

/// Whether a packet is a piece of a train.
fn is_piece(packet: &[u8]) -> bool {
    ipv4::proto(packet) == ipv4::PROTO_TCP
}

/// Whether a packet gets through, given the nodes that it goes from and to and whether it takes the tunnel. May change it.
type Rule = Box<dyn FnMut(usize, usize, bool, &mut Vec<u8>) -> bool>;

struct Net {
    line: Line,
    fields: Vec<Field>,
    next: Vec<u64>,
    places: BTreeMap<Ipv4Addr, usize>,
    rule: Rule,
    /// Nodes that know nothing of probes.
    stock: Vec<usize>,
    /// Probes that were sent, by node.
    probes: Vec<u64>,
}

impl Net {
    /// Node 0 measures all others, and they measure it; with `all`, everybody everybody.
    fn new(n: usize, all: bool) -> Net {
        let line = Line::default();
        line.now.set(SECOND);
        let mut fields: Vec<Field> = (0..n).map(|i| Field::new(1000 + i as u64)).collect();
        for (i, f) in fields.iter_mut().enumerate() {
            f.adopt(SECOND, orders(i, (0..n).filter(|j| *j != i && (all || i == 0 || *j == 0))));
        }
        let places = (0..n).flat_map(|i| [(tunnel(i), i), (underlay(i), i)]).collect();
        Net { line, fields, next: vec![0; n], places, rule: Box::new(|_, _, _, _| true), stock: vec![], probes: vec![0; n] }
    }

    fn rule(&mut self, rule: impl FnMut(usize, usize, bool, &mut Vec<u8>) -> bool + 'static) {
        self.rule = Box::new(rule);
    }

    fn run(&mut self, ms: u64) {
        let end = self.line.now.get() + ms * MILLISECOND;
        loop {
            let arrival = self.line.sent.borrow().front().map_or(u64::MAX, |s| s.at + DELAY);
            let (i, turn) = self.next.iter().copied().enumerate().min_by_key(|(_, t)| *t).unwrap();
            let now = arrival.min(turn).max(self.line.now.get());
            if now > end {
                return self.line.now.set(end);
            }
            self.line.now.set(now);
            if arrival <= turn {
                let packet = self.line.sent.borrow_mut().pop_front().unwrap().packet;
                self.deliver(packet);
            } else if self.stock.contains(&i) {
                self.next[i] = u64::MAX;
            } else {
                let mut line = self.line.clone();
                self.next[i] = self.fields[i].turn(&mut line);
            }
        }
    }

    fn deliver(&mut self, mut packet: Vec<u8>) {
        let (src, dst) = (Ipv4Addr::from(ipv4::src(&packet)), Ipv4Addr::from(ipv4::dst(&packet)));
        let (from, to) = (self.places[&src], self.places[&dst]);
        self.probes[from] += u64::from(packet[20] == ICMP_TYPE);
        if !(self.rule)(from, to, dst == tunnel(to), &mut packet) {
            return;
        }
        let now = self.line.now.get();
        if is_piece(&packet) {
            return self.fields[to].take(now, &packet);
        }
        match packet[20] {
            8 => {
                packet[20] = 0;
                packet[12..20].rotate_left(4);
                self.line.sent.borrow_mut().push_back(Sent { at: now, packet });
            }
            ICMP_TYPE if self.stock.contains(&to) => {}
            ICMP_TYPE => {
                self.fields[to].take(now, &packet);
                self.fields[to].answer(&mut self.line.clone());
            }
            _ => self.fields[to].take_other(now, &packet),
        }
    }

    fn rows(&self, node: usize) -> PeersRow {
        self.fields[node].rows(self.line.now.get())
    }

    fn row(&self, node: usize, peer: usize) -> PeerRow {
        self.rows(node).peers.into_iter().find(|p| p.node == format!("n{peer}")).unwrap()
    }

    #[track_caller]
    fn expect(&self, node: usize, peer: usize, state: State) -> PeerRow {
        let row = self.row(node, peer);
        assert_eq!(row.state, state.name(), "{row:?}");
        row
    }
}

#[test]
fn peers_find_each_other_and_lose_nothing() {
    let mut net = Net::new(3, true);
    net.run(1000);
    net.expect(0, 2, State::Up);
    net.run(20_000);
    for (a, b) in [(0, 1), (1, 0), (1, 2), (2, 1)] {
        let row = net.expect(a, b, State::Up);
        assert_eq!((row.loss_percent, row.full_loss_percent, row.largest_bytes), (Some(0.0), Some(0.0), Some(1450)));
        assert_eq!((row.rtt_min_ms, row.rtt_mean_ms), (Some(2.0), Some(2.0)));
        assert!(row.answered_s.unwrap() < 1.1 && row.heard_s.unwrap() < 1.1, "{row:?}");
    }
    let rows = net.rows(0);
    // Two peers, two sizes, about once a second, and a few more at the start; each asked and answered.
    assert!((80..110).contains(&rows.sent), "{rows:?}");
    assert!(rows.answered + 4 >= rows.sent && rows.stale + rows.unauthenticated + rows.damaged + rows.limited == 0, "{rows:?}");
    assert!(net.fields[0].summary(net.line.now.get()).problems.is_empty());
}

#[test]
fn a_filter_is_found_within_five_seconds_and_forgotten_when_it_goes() {
    let mut net = Net::new(2, true);
    net.run(10_000);
    net.rule(|_, _, tunnel, _| !tunnel);
    net.run(5000);
    let row = net.expect(0, 1, State::Filtered);
    assert!(row.diagnosis.unwrap().contains("UDP 4789") && row.problem);
    let summary = net.fields[0].summary(net.line.now.get());
    assert!(summary.problems[0].starts_with("peer n1 (172.31.1.1): ") && summary.states[&State::Filtered] == 1, "{summary:?}");
    net.run(60_000);
    net.expect(0, 1, State::Filtered);
    net.rule(|_, _, _, _| true);
    net.run(5000);
    let row = net.expect(0, 1, State::Up);
    assert_eq!((row.loss_percent, row.full_loss_percent, row.diagnosis), (Some(0.0), Some(0.0), None));
}

#[test]
fn a_node_that_is_gone_is_down() {
    let mut net = Net::new(2, true);
    net.run(10_000);
    net.rule(|_, _, _, _| false);
    for _ in 0..20 {
        net.run(250);
        let state = net.row(0, 1).state;
        assert!(["up", "measuring", "down"].contains(&state.as_str()), "{state} is not what it is, even for a moment");
    }
    net.expect(0, 1, State::Down);
}

#[test]
fn the_largest_packet_is_found_within_five_seconds() {
    for limit in [1400, 1499, 150, 1500 - 28] {
        let mut net = Net::new(2, true);
        net.run(5000);
        net.rule(move |_, _, tunnel, p| p.len() + if tunnel { 50 } else { 0 } <= limit);
        net.run(5000);
        let row = net.expect(0, 1, State::SmallOnly);
        assert_eq!(row.largest_bytes, Some(limit as u16 - 50), "{row:?}");
        assert!(row.diagnosis.unwrap().contains(&format!("the underlay passes {limit} bytes")));
        assert_eq!(row.loss_percent, Some(0.0));
        net.rule(|_, _, _, _| true);
        net.run(5000);
        assert_eq!(net.expect(0, 1, State::Up).largest_bytes, Some(1450));
    }
}

#[test]
fn one_direction_is_told_from_both() {
    let mut net = Net::new(2, true);
    net.run(10_000);
    net.rule(|from, _, tunnel, _| !tunnel || from != 0);
    net.run(5000);
    // 1 hears nothing of 0, and 0 hears that.
    let row = net.expect(0, 1, State::OneWay);
    assert!(row.diagnosis.unwrap().contains("nothing of ours arrives there"));
    net.expect(1, 0, State::Filtered);
    net.run(30_000);
    net.expect(0, 1, State::OneWay);
}

#[test]
fn a_stock_node_is_no_problem_and_is_measured_by_echo() {
    let mut net = Net::new(3, true);
    net.stock = vec![1];
    net.run(5000);
    let row = net.expect(0, 1, State::NoProbes);
    assert_eq!((row.rtt_min_ms, row.largest_bytes, row.problem), (Some(2.0), Some(1450), false));
    net.run(60_000);
    assert_eq!(net.row(0, 1).loss_percent, Some(0.0));
    net.expect(0, 2, State::Up);
    net.rule(|_, _, tunnel, p| p.len() + if tunnel { 50 } else { 0 } <= 1400);
    net.run(5000);
    net.expect(0, 1, State::SmallOnly);
}

#[test]
fn a_stock_node_is_measured_from_the_first() {
    let mut net = Net::new(2, true);
    net.stock = vec![1];
    net.rule(|_, _, tunnel, _| !tunnel);
    net.run(5000);
    net.expect(0, 1, State::Filtered);
}

#[test]
fn damage_is_counted_at_both_ends() {
    let mut net = Net::new(2, true);
    net.rule(|from, _, _, p| {
        if from == 0 && p.len() > 1000 {
            p[700] ^= 1;
        }
        true
    });
    net.run(5000);
    let (here, there) = (net.expect(0, 1, State::Damaged), net.expect(1, 0, State::Damaged));
    assert!(here.damaged_there > 3 && here.damaged_here == 0, "{here:?}");
    assert!(there.damaged_here > 3 && there.damaged_there == 0, "{there:?}");
    assert!(here.diagnosis.unwrap().contains("from here") && there.remedy.unwrap().contains("on n0"));
}

#[test]
fn super_frames_that_do_not_arrive_are_offload_damage() {
    let mut net = Net::new(3, true);
    net.run(10_000);
    let row = net.expect(0, 1, State::Up);
    assert_eq!((row.super_frame_bytes, row.super_frame_arrived_bytes), (Some(10_575), Some(10_575)));
    // As a card does that cuts wrongly: the first segment is right, the others are nobody's.
    net.rule(|from, to, _, p| from != 0 || to != 1 || !is_piece(p) || p[24..28] == [0; 4]);
    net.run(5000);
    let row = net.expect(0, 1, State::Damaged);
    assert!(row.diagnosis.as_ref().unwrap().starts_with("offload damage: "), "{row:?}");
    assert_eq!((row.super_frame_arrived_bytes, row.damaged_there, row.loss_percent), (Some(1410), 0, Some(0.0)));
    net.expect(1, 0, State::Up);
    net.expect(0, 2, State::Up);
    let before = net.rows(0).super_frames_sent;
    net.run(60_000);
    net.expect(0, 1, State::Damaged);
    // About as often where it fails as where it does not: at every second round.
    let sent = net.rows(0).super_frames_sent - before;
    assert!((60..100).contains(&sent), "{sent}");
    net.rule(|_, _, _, _| true);
    net.run(3000);
    net.expect(0, 1, State::Up);
}

#[test]
fn super_frames_that_arrive_changed_are_offload_damage() {
    let mut net = Net::new(2, true);
    net.run(10_000);
    net.rule(|from, _, _, p| {
        if from == 0 && is_piece(p) {
            p[600] ^= 4;
        }
        true
    });
    net.run(5000);
    let (here, there) = (net.expect(0, 1, State::Damaged), net.expect(1, 0, State::Damaged));
    assert!(here.diagnosis.unwrap().starts_with("offload damage: ") && here.damaged_there > 0, "told by the peer");
    assert!(there.damaged_here > 0 && there.diagnosis.unwrap().contains("its packets arrive here damaged"));
}

#[test]
fn a_lost_segment_is_no_offload_damage() {
    let mut net = Net::new(2, true);
    let mut n = 0;
    net.rule(move |_, _, _, p| {
        n += u64::from(is_piece(p));
        !is_piece(p) || n % 4 != 0
    });
    net.run(60_000);
    let row = net.expect(0, 1, State::Up);
    assert!(row.super_frame_arrived_bytes < row.super_frame_bytes, "{row:?}");
}

#[test]
fn who_knows_no_super_frames_is_sent_none() {
    let mut net = Net::new(2, true);
    net.stock = vec![1];
    net.rule(|_, _, _, p| {
        assert!(!is_piece(p));
        true
    });
    net.run(30_000);
    assert_eq!((net.rows(0).super_frames_sent, net.row(0, 1).super_frame_bytes), (0, None));
}

#[test]
fn loss_is_measured() {
    let mut net = Net::new(2, true);
    let mut n = 0;
    net.rule(move |from, _, _, p| {
        n += u64::from(from == 0 && p[20] == ICMP_TYPE && p[21] == 0);
        // The small one of every fourth round.
        from != 0 || p.len() != usize::from(SMALL) || p[21] != 0 || p[20] != ICMP_TYPE || n % 8 != 1
    });
    net.run(90_000);
    let row = net.expect(0, 1, State::Lossy);
    let loss = row.loss_percent.unwrap();
    assert!((10.0..30.0).contains(&loss), "{loss}");
}

#[test]
fn another_key_is_named() {
    let mut net = Net::new(2, true);
    let other = Orders { secret: Some((*b"other").into()), ..orders(1, [0].into_iter()) };
    net.fields[1].adopt(SECOND, other);
    net.run(5000);
    net.expect(0, 1, State::OtherKey);
    let rows = net.rows(0);
    assert!(rows.unauthenticated > 3 && rows.answers_sent == 0 && rows.answered == 0, "{rows:?}");
}

#[test]
fn drops_here_name_the_vni() {
    let mut net = Net::new(2, true);
    net.rule(|_, _, tunnel, _| !tunnel);
    for n in 0..5 {
        let now = net.line.now.get();
        net.fields[0].note_drops(now, std::array::from_fn(|i| if i == 0 { n } else { 0 }));
        net.run(1000);
    }
    assert_eq!(LOSSES[0], packet::Losses::VNI);
    net.expect(0, 1, State::WrongVni);
    net.expect(1, 0, State::Filtered);
}

#[test]
fn a_repeated_packet_is_not_answered() {
    let mut net = Net::new(2, true);
    let seen = Rc::new(RefCell::new(Vec::new()));
    let log = seen.clone();
    net.rule(move |from, _, tunnel, p| {
        if from == 1 && tunnel && p[20] == ICMP_TYPE {
            log.borrow_mut().push(p.clone());
        }
        true
    });
    net.run(10_000);
    let before = net.rows(0);
    let heard = net.row(0, 1).heard_s;
    let old: Vec<_> = seen.borrow().iter().take(8).cloned().collect();
    for p in &old {
        net.fields[0].take(net.line.now.get(), p);
    }
    net.fields[0].answer(&mut net.line.clone());
    let after = net.rows(0);
    assert_eq!((after.answers_sent, after.answered), (before.answers_sent, before.answered));
    assert_eq!(after.stale, before.stale + old.len() as u64);
    assert_eq!(net.row(0, 1).heard_s, heard);
}

#[test]
fn a_peer_that_starts_again_is_known_again() {
    let mut net = Net::new(2, true);
    net.run(10_000);
    net.fields[1] = Field::new(77);
    let now = net.line.now.get();
    net.fields[1].adopt(now, orders(1, [0].into_iter()));
    net.run(5000);
    net.expect(0, 1, State::Up);
    net.expect(1, 0, State::Up);
}

#[test]
fn two_hundred_peers_stay_within_bounds_and_faults_are_found() {
    let mut net = Net::new(201, false);
    let now = net.line.now.get();
    net.fields[0].adopt(now, Orders { lean: true, ..orders(0, 1..201) });
    net.run(20_000);
    let (before, rows) = (net.probes[0], net.rows(0));
    assert!(rows.peers.iter().all(|p| p.state == "up"), "{:?}", rows.peers.iter().find(|p| p.state != "up"));
    assert_eq!(rows.interval_ms, 200 * 1000 / ROUNDS);
    let asked = rows.sent;
    net.run(10_000);
    let sent = net.rows(0).sent - asked;
    assert!((10 * ROUNDS - 100..10 * ROUNDS + 100).contains(&sent), "{sent} in 10 s");
    assert!(net.probes[0] - before < 10 * 1000, "with the answers, as others ask at their own pace");
    assert!(rows.peers.iter().all(|p| p.loss_percent == Some(0.0) && p.rtt_last_ms == Some(2.0)));
    net.rule(|from, to, tunnel, p| !tunnel || (from != 7 && to != 7 && (p.len() < 1400 || (from != 9 && to != 9))));
    net.run(5000);
    net.expect(0, 7, State::Filtered);
    net.expect(0, 8, State::Up);
    assert_eq!(net.expect(0, 9, State::SmallOnly).loss_percent, Some(0.0));
}

#[test]
fn thousands_of_silent_peers_cost_no_more() {
    let mut net = Net::new(1, false);
    let at = net.line.now.get();
    net.fields[0].adopt(at, orders(0, 1..5001));
    for i in 1..5001 {
        net.places.insert(tunnel(i), 0);
        net.places.insert(underlay(i), 0);
    }
    net.rule(|_, _, _, _| false);
    net.next[0] = 0;
    net.run(80_000);
    let before = net.rows(0);
    assert!(before.interval_ms == 5000 * 1000 / ROUNDS && before.peers.len() == 5000);
    net.run(20_000);
    let after = net.rows(0);
    // In turn, and out of turn.
    assert!(after.sent - before.sent <= 20 * 2 * 2 * ROUNDS + 400, "{}", after.sent - before.sent);
    assert!(net.fields[0].summary(net.line.now.get()).problems.len() <= 9);
}

#[test]
fn orders_that_change_all_the_time_hold_nobody_up() {
    let mut net = Net::new(201, false);
    for n in 0..40 {
        let now = net.line.now.get();
        // A node that nobody else knows comes and goes.
        let others = (1..201).chain((n % 2 == 0).then_some(300));
        net.fields[0].adopt(now, orders(0, others));
        net.next[0] = 0;
        net.places.insert(tunnel(300), 200);
        net.places.insert(underlay(300), 200);
        net.run(500);
    }
    // Time that was slept through is not made up for.
    let (before, now) = (net.rows(0).sent, net.line.now.get());
    net.line.now.set(now + 60 * SECOND);
    net.run(100);
    assert!(net.rows(0).sent - before <= 2 * 2 * 2 * ROUNDS + 40, "{}", net.rows(0).sent - before);
    net.run(10_000);
    assert!((1..201).all(|i| net.row(0, i).state == "up" && net.row(0, i).answered_s.unwrap() < 4.0));
}

#[test]
fn what_is_switched_off_sends_and_answers_nothing() {
    let mut net = Net::new(2, true);
    net.run(3000);
    let now = net.line.now.get();
    net.fields[1].adopt(now, Orders { off: Some("by the test".into()), secret: None, ..orders(1, [0].into_iter()) });
    let before = net.probes[1];
    net.run(5000);
    assert_eq!(net.probes[1], before);
    net.expect(0, 1, State::NoProbes);
    let rows = net.rows(1);
    assert!(rows.peers.is_empty() && rows.off.as_deref() == Some("by the test"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn nothing_that_comes_in_is_answered_larger_or_breaks_anything(
        packets in proptest::collection::vec((any::<u16>(), any::<u8>(), any::<u8>(), 0usize..1500, any::<bool>()), 1..200),
    ) {
        let mut net = Net::new(2, true);
        let seen = Rc::new(RefCell::new(Vec::new()));
        let log = seen.clone();
        net.rule(move |_, _, _, p| {
            log.borrow_mut().push(p.clone());
            true
        });
        net.run(3000);
        let samples = seen.borrow().clone();
        for (at, value, cut, length, repair) in packets {
            let mut p = samples[usize::from(cut) % samples.len()].clone();
            let at = usize::from(at) % p.len();
            p[at] = value;
            p.truncate(length.max(1));
            // The longest header.
            if repair && p.len() > 60 {
                ipv4::write_checksum(&mut p);
                put16(&mut p, 22, 0);
                let sum = checksum::finish(checksum::sum(&p[20..]));
                put16(&mut p, 22, sum);
            }
            let waiting = net.line.sent.borrow().len();
            net.fields[0].take(net.line.now.get(), &p);
            net.fields[0].answer(&mut net.line.clone());
            net.fields[0].take_other(net.line.now.get(), &p);
            let sent = net.line.sent.borrow();
            prop_assert!(sent.len() <= waiting + 1);
            prop_assert!(sent.len() == waiting || sent.back().is_some_and(|s| s.packet.len() <= p.len()));
        }
        net.run(3000);
        net.expect(0, 1, net_state(&net));
    }
}

/// Damaged packets may have been taken for the peer's; all else must be as before.
fn net_state(net: &Net) -> State {
    if net.row(0, 1).damaged_here + net.row(0, 1).damaged_there > 0 { State::Damaged } else { State::Up }
}
