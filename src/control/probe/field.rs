//! All peers, and whose turn it is. Packets go out by a [`Wire`] and come in by calls; time is handed in.
//!
//! What a node sends is bounded whatever the number of peers: so many rounds per second in turn, beyond which the
//! interval grows, as many out of turn for peers in doubt, and limits for searches and answers.

use super::diagnose::{State, Unreachable};
use super::packet::{self, Answer, Damage, Key, Kind, Losses, Probe, Received, Refused, SMALL};
use super::peer::{Allowed, ECHO_SMALL, GRID, Here, Peer, Round, SECOND, question};
use super::target::{Path, Target};
use super::train::{self, Piece};
use super::{Orders, limit::Bucket};
use crate::ops::view::{PeerRow, PeersRow};
use crate::wire::ipv4;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

/// Rounds per second that a node begins in turn, over all peers; out of turn as many again.
pub const ROUNDS: u64 = 64;
/// Between two of them.
pub fn turn() -> Duration {
    Duration::from_nanos(SECOND / ROUNDS)
}

/// Packets per second for searches, and answers per second.
const SEARCHES: u64 = 512;
const ANSWERS: u64 = 1024;
/// Trains per second, of some ten kilobytes each; beyond them, peers to which the last one failed get theirs out of turn.
const TRAINS: u64 = 4;
/// How long a kind of drop counts as lately.
const LATELY: u64 = 3 * SECOND;

/// The kinds of drops that are told to peers.
pub const LOSSES: [Losses; 6] =
    [Losses::VNI, Losses::OUTER_CHECKSUM, Losses::SENDER, Losses::INNER_MAC, Losses::FRAGMENT, Losses::INNER_CHECKSUM];

/// Where packets leave by.
pub trait Wire {
    fn send(&mut self, packet: &[u8], to: Ipv4Addr) -> io::Result<()>;
    /// Sends a TCP super-frame, its checksum unfinished, to be cut into segments with so many bytes of payload.
    fn send_super(&mut self, packet: &[u8], segment: u16) -> io::Result<()>;
    /// Nanoseconds since any fixed moment.
    fn now(&self) -> u64;
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub sent: u64,
    pub answered: u64,
    pub answers_sent: u64,
    pub unauthenticated: u64,
    pub stale: u64,
    pub limited: u64,
    pub damaged: u64,
    pub trains_sent: u64,
}

/// A probe of another node, to be answered.
struct Asked {
    at: u64,
    probe: Probe,
    from: Ipv4Addr,
    to: Ipv4Addr,
    heard: u16,
    damage: Damage,
}

/// How many peers are in each state, and the most serious ones in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub states: BTreeMap<State, u64>,
    pub problems: Vec<String>,
}

/// Problems that are listed one by one.
const PROBLEMS: usize = 8;

pub struct Field {
    orders: Orders,
    key: Option<Key>,
    /// Why nothing is measured though it should be.
    fault: Option<String>,
    peers: Vec<Peer>,
    by_probed: HashMap<Ipv4Addr, usize>,
    by_address: HashMap<Ipv4Addr, usize>,
    due: BTreeSet<(u64, usize)>,
    interval: u64,
    instance: u64,
    echo: u16,
    buffer: Vec<u8>,
    train: Vec<u8>,
    /// So that what was put off is not made up for at once.
    rounds: Bucket,
    fast: Bucket,
    searches: Bucket,
    answers: Bucket,
    trains: Bucket,
    asked: Vec<Asked>,
    totals: Totals,
    drops: Option<[u64; LOSSES.len()]>,
    dropped_at: [Option<u64>; LOSSES.len()],
}

impl Field {
    /// `instance`: random.
    pub fn new(instance: u64) -> Field {
        Field {
            orders: Orders::default(),
            key: None,
            fault: None,
            peers: Vec::new(),
            by_probed: HashMap::new(),
            by_address: HashMap::new(),
            due: BTreeSet::new(),
            interval: SECOND,
            instance,
            echo: instance as u16,
            buffer: packet::buffer(usize::from(SMALL)),
            train: Vec::new(),
            rounds: Bucket::new(2 * ROUNDS),
            fast: Bucket::new(ROUNDS),
            searches: Bucket::new(SEARCHES),
            answers: Bucket::new(ANSWERS),
            trains: Bucket::new(TRAINS),
            asked: Vec::new(),
            totals: Totals::default(),
            drops: None,
            dropped_at: [None; LOSSES.len()],
        }
    }

    /// Identifier of our echo requests.
    pub fn echo(&self) -> u16 {
        self.echo
    }

    /// Whether there is anything to send and to answer.
    pub fn is_on(&self) -> bool {
        self.orders.off.is_none() && self.fault.is_none()
    }

    /// Says why nothing can be measured, or that it can.
    pub fn set_fault(&mut self, fault: Option<String>) {
        self.fault = fault;
    }

    /// Takes over what is to be measured from now on; peers that stay keep what is known of them.
    pub fn adopt(&mut self, now: u64, orders: Orders) {
        if self.orders.secret != orders.secret {
            self.key = orders.secret.as_deref().map(Key::new);
        }
        let mut due = vec![now; self.peers.len()];
        std::mem::take(&mut self.due).into_iter().for_each(|(at, i)| due[i] = at);
        let mut known: HashMap<Arc<str>, (Peer, u64)> =
            self.peers.drain(..).zip(due).map(|(p, at)| (p.target.node.clone(), (p, at))).collect();
        let turn = turn().as_nanos() as u64;
        let mut first = now;
        for target in &orders.targets {
            let (peer, at) = match known.remove(&target.node) {
                Some((mut peer, at)) => {
                    peer.retarget(target.clone());
                    (peer, at)
                }
                // New ones one after the other.
                None => {
                    first += turn;
                    (Peer::new(target.clone()), first)
                }
            };
            self.due.insert((at, self.peers.len()));
            self.peers.push(peer);
        }
        let at = |address: fn(&Target) -> Ipv4Addr| self.peers.iter().enumerate().map(|(i, p)| (address(&p.target), i)).collect();
        (self.by_probed, self.by_address) = (at(|t| t.to), at(|t| t.address));
        let longest = orders.targets.iter().map(|t| t.full).max().unwrap_or(0).max(2 * SMALL);
        if usize::from(longest) != self.buffer.len() {
            self.buffer = packet::buffer(longest.into());
            self.train = train::buffer(longest);
        }
        self.interval = (orders.interval.as_nanos() as u64).max(self.peers.len() as u64 * turn);
        self.orders = orders;
    }

    /// Does what is due; when there is something to do next.
    pub fn turn(&mut self, wire: &mut impl Wire) -> u64 {
        let now = wire.now();
        if !self.is_on() {
            return now + SECOND;
        }
        while let Some((at, i)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.due.remove(&(at, i));
            let next = if self.rounds.has(now, 1) { self.attend(i, wire) } else { now + GRID };
            // To the nearest of common moments, so that many are attended to at one waking.
            let next = ((next + GRID / 2) / GRID * GRID).max(now + 1);
            self.due.insert((next, i));
        }
        self.due.first().map_or(now + SECOND, |(at, _)| *at)
    }

    fn attend(&mut self, i: usize, wire: &mut impl Wire) -> u64 {
        let now = wire.now();
        let allowed = Allowed {
            lean: self.orders.lean,
            fast: self.fast.has(now, 1),
            search: self.searches.has(now, 16),
            train: self.trains.has(now, 1),
        };
        let work = self.peers[i].work(now, self.interval, allowed);
        if work.round.is_some() {
            if work.fast { &mut self.fast } else { &mut self.rounds }.take(now, 1);
        }
        if let Some(round) = work.round
            && let Err(e) = self.ask_round(i, round, wire)
        {
            self.peers[i].unsent(e);
        }
        if let Some((round, sizes)) = work.search {
            for size in sizes {
                self.searches.take(now, 1);
                // What does not leave is not answered.
                let _ = self.ask(i, Kind::Search, size, round, wire);
            }
        }
        work.next
    }

    /// A train goes first, so that answers to what follows can tell of it; the rest in ascending order of length.
    fn ask_round(&mut self, i: usize, round: Round, wire: &mut impl Wire) -> Result<(), String> {
        let t = &self.peers[i].target;
        let (from, to, address, full) = (t.from, t.to, t.address, t.full);
        if round.train {
            self.send_train(i, full, round.seq, wire);
        }
        let small = if round.small { self.ask(i, Kind::Small, SMALL, round.seq, wire) } else { Ok(()) };
        if round.echo {
            let own = self.orders.address.unwrap_or(from);
            for (from, to, size) in [(own, address, ECHO_SMALL), (from, to, ECHO_SMALL), (from, to, full - 1)] {
                let packet = packet::write_echo(&mut self.buffer, size, self.echo, round.seq as u16, from, to);
                // What does not leave is not answered.
                let _ = wire.send(packet, to);
            }
        }
        small.and(self.ask(i, Kind::Full, full, round.seq, wire))
    }

    fn ask(&mut self, i: usize, kind: Kind, size: u16, seq: u32, wire: &mut impl Wire) -> Result<(), String> {
        let Some(key) = &self.key else { return Ok(()) };
        let now = wire.now();
        let losses = self.losses(now);
        let peer = &self.peers[i];
        let probe = Probe { trains: Some(peer.arrival()), ..question(kind, size, seq, self.instance, now, peer.heard(now), losses) };
        let packet = packet::write(&mut self.buffer, key, &probe, peer.target.from, peer.target.to);
        self.totals.sent += 1;
        match wire.send(packet, peer.target.to) {
            Ok(()) => Ok(()),
            // No room now: as good as lost on the way.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock || e.raw_os_error() == Some(libc::ENOBUFS) => Ok(()),
            Err(e) => Err(e.to_string()),
        }
    }

    fn send_train(&mut self, i: usize, full: u16, seq: u32, wire: &mut impl Wire) {
        let Some(key) = &self.key else { return };
        let now = wire.now();
        let losses = Field::losses_of(&self.dropped_at, now);
        let peer = &mut self.peers[i];
        let probe = question(Kind::Train, full, seq, self.instance, now, peer.heard(now), losses);
        let Some(train) = train::write(&mut self.train, key, &probe, peer.target.from, peer.target.to) else { return };
        self.trains.take(now, 1);
        let sent = wire.send_super(train.packet, train.segment).is_ok();
        peer.train_sent(seq, sent.then_some(train.bytes));
        self.totals.trains_sent += u64::from(sent);
    }

    /// A piece of somebody's train, received at `at`.
    fn take_train(&mut self, at: u64, piece: &Piece) {
        let ours = [self.orders.address, self.orders.tunnel_address].contains(&Some(piece.to));
        let (Some(key), Some(i)) = (&self.key, self.by_probed.get(&piece.from).filter(|_| ours)) else { return };
        let intact = self.peers[*i].train(at, piece, key);
        self.totals.damaged += u64::from(!intact);
    }

    /// A packet of the probes' ICMP type or of a train, received at `at`.
    pub fn take(&mut self, at: u64, packet: &[u8]) {
        if let Some(piece) = Piece::read(packet) {
            return self.take_train(at, &piece);
        }
        let Some(key) = &self.key else { return };
        match packet::read(packet, key) {
            // Another's, seen in passing.
            Ok(received) if ![self.orders.address, self.orders.tunnel_address].contains(&Some(received.to)) => {}
            Ok(received) if received.probe.is_answer => self.take_answer(at, &received),
            Ok(received) => self.take_question(at, received),
            Err(Refused::Foreign) => {}
            Err(Refused::Unauthenticated { from }) => {
                self.totals.unauthenticated += 1;
                if let Some(i) = self.by_probed.get(&from) {
                    self.peers[*i].other_key(at);
                }
            }
            Err(Refused::Mangled { from }) => {
                self.totals.damaged += 1;
                if let Some(i) = self.by_probed.get(&from) {
                    self.peers[*i].damaged_here(at);
                }
            }
        }
    }

    fn take_answer(&mut self, at: u64, received: &Received) {
        let Received { probe, from, damage, .. } = received;
        let peer = self.by_probed.get(from).map(|i| &mut self.peers[*i]).filter(|_| probe.instance == self.instance);
        if peer.is_some_and(|peer| peer.answered(at, probe, damage.any())) {
            self.totals.answered += 1;
        } else if probe.kind != Kind::Search {
            self.totals.stale += 1;
        }
        self.totals.damaged += u64::from(damage.any() || probe.damage.any());
    }

    fn take_question(&mut self, at: u64, received: Received) {
        let Received { probe, from, to, damage } = received;
        let peer = self.by_probed.get(&from).map(|i| &mut self.peers[*i]);
        // A node that has just come is answered before this one has heard of it.
        let (fresh, heard) = match peer {
            Some(peer) => (peer.asked(at, &probe, damage.any()), peer.heard(at)),
            None => (true, packet::NEVER),
        };
        self.totals.damaged += u64::from(damage.any());
        if !fresh {
            self.totals.stale += 1;
        } else if !self.answers.has(at, 1) {
            self.totals.limited += 1;
        } else {
            self.answers.take(at, 1);
            self.asked.push(Asked { at, probe, from, to, heard, damage });
        }
    }

    /// When those who have asked are to be answered: together, and with what is to be asked then.
    pub fn answer_at(&self) -> Option<u64> {
        self.asked.first().map(|a| (a.at / GRID + 1) * GRID)
    }

    /// Answers all who asked. The time that they waited is in the answers.
    pub fn answer(&mut self, wire: &mut impl Wire) {
        let Some(key) = &self.key else { return self.asked.clear() };
        for a in self.asked.drain(..) {
            let now = wire.now();
            let held_ns = u32::try_from(now.saturating_sub(a.at)).unwrap_or(u32::MAX);
            let losses = Field::losses_of(&self.dropped_at, now);
            // As of now: a train on its way to the worker beside the question may have come after it.
            let arrival = self.by_probed.get(&a.from).map(|i| self.peers[*i].arrival());
            let trains = Some(arrival.unwrap_or_default());
            let answer = Probe { is_answer: true, held_ns, heard: a.heard, losses, damage: a.damage, trains, ..a.probe };
            if wire.send(packet::write(&mut self.buffer, key, &answer, a.to, a.from), a.from).is_ok() {
                self.totals.answers_sent += 1;
            }
        }
    }

    /// An answer to something else that we sent: an echo reply, or an error.
    pub fn take_other(&mut self, at: u64, packet: &[u8]) {
        match packet::read_answer(packet) {
            Some(Answer::Echo { from, seq, size }) => {
                let both = [self.by_probed.get(&from), self.by_address.get(&from)];
                let mut seen = None;
                for i in both.into_iter().flatten().copied() {
                    if seen != Some(i) {
                        self.peers[i].echoed(at, from, seq, size);
                    }
                    seen = Some(i);
                }
            }
            Some(Answer::Unreachable { by, to, code, proto, port }) => {
                let Some(peer) = self.by_address.get(&to).map(|i| &mut self.peers[*i]) else { return };
                let ours = match peer.target.path {
                    Path::Vxlan { port: vxlan } => proto == ipv4::PROTO_UDP && port == vxlan,
                    Path::Ipip => proto == ipv4::PROTO_IPIP,
                    Path::Direct => proto == ipv4::PROTO_ICMP,
                };
                // Too long is no matter of reaching it.
                if ours && code != 4 {
                    peer.unreachable(at, Unreachable { by, code });
                }
            }
            None => {}
        }
    }

    /// How often packets were dropped so far, in the order of [`LOSSES`].
    pub fn note_drops(&mut self, now: u64, drops: [u64; LOSSES.len()]) {
        let before = self.drops.replace(drops).unwrap_or(drops);
        for (at, (now_dropped, dropped)) in self.dropped_at.iter_mut().zip(drops.into_iter().zip(before)) {
            if now_dropped > dropped {
                *at = Some(now);
            }
        }
    }

    fn losses(&self, now: u64) -> Losses {
        Field::losses_of(&self.dropped_at, now)
    }

    fn losses_of(dropped_at: &[Option<u64>; LOSSES.len()], now: u64) -> Losses {
        let lately = LOSSES.iter().zip(dropped_at).filter(|(_, at)| at.is_some_and(|at| now < at + LATELY));
        Losses(lately.fold(0, |bits, (l, _)| bits | l.0))
    }

    fn here(&self, now: u64, peer: &Peer) -> Here {
        Here { losses: self.losses(now), vni: self.orders.vni, neighbour_failed: self.orders.failed.contains(&peer.target.address) }
    }

    /// Why nothing is measured, if so.
    pub fn off(&self) -> Option<&String> {
        self.orders.off.as_ref().or(self.fault.as_ref())
    }

    /// What the API shows.
    pub fn rows(&self, now: u64) -> PeersRow {
        let t = &self.totals;
        let on = self.is_on();
        let rows = self.peers.iter().filter(|_| on).map(|p| p.row(now, self.interval, self.here(now, p)));
        PeersRow {
            off: self.off().cloned(),
            interval_ms: self.interval / 1_000_000,
            sent: t.sent,
            answered: t.answered,
            answers_sent: t.answers_sent,
            unauthenticated: t.unauthenticated,
            stale: t.stale,
            limited: t.limited,
            damaged: t.damaged,
            super_frames_sent: t.trains_sent,
            peers: rows.collect(),
        }
    }

    /// All peers by state, and the problems in words.
    pub fn summary(&self, now: u64) -> Summary {
        let mut s = Summary::default();
        let mut bad = 0;
        for p in self.peers.iter().filter(|_| self.is_on()) {
            let here = self.here(now, p);
            let state = p.state(now, self.interval, here);
            *s.states.entry(state).or_default() += 1;
            if state.is_problem() {
                bad += 1;
                if bad <= PROBLEMS {
                    s.problems.push(problem(&p.row(now, self.interval, here)));
                }
            }
        }
        if bad > PROBLEMS {
            s.problems.push(format!("{} more peers have problems: see `tortie peers`", bad - PROBLEMS));
        }
        s
    }
}

/// One line of `tortie status`.
fn problem(row: &PeerRow) -> String {
    let text = row.diagnosis.as_deref().unwrap_or(&row.state);
    let remedy = row.remedy.as_ref().map(|r| format!("; {r}")).unwrap_or_default();
    format!("peer {} ({}): {text}{remedy}", row.node, row.address)
}
