//! What is known of one peer, in a fixed amount of memory. Pure: time is handed in, packets are described and not sent.
//!
//! A round is one small and one full probe; now and then a train goes before them. One that is not answered in time is followed by others at short notice,
//! with ICMP echo beside them, until it is clear that something is wrong; then the peer gets its rounds at the
//! common interval again.

use super::diagnose::{Evidence, State, Theirs, Unreachable, Verdict, judge};
use super::packet::{self, Arrival, Key, Kind, Losses, NEVER, Probe, SMALL};
use super::rounds::{DOUBT, RECENT, Rounds, Times};
use super::search::Search;
use super::target::{Path, Target};
use super::train::{Arriving, Piece, Trains};
use crate::ops::view::PeerRow;
use std::net::Ipv4Addr;

pub const MILLISECOND: u64 = 1_000_000;
pub const SECOND: u64 = 1000 * MILLISECOND;
/// What is due within so long is done together.
pub const GRID: u64 = 50 * MILLISECOND;
/// Between rounds while a peer is in doubt.
pub const FAST: u64 = 250 * MILLISECOND;
/// How long an answer may take: four times the mean, within these.
const PATIENCE_MIN: u64 = 300 * MILLISECOND;
const PATIENCE_MAX: u64 = SECOND;
/// The sizes that do not pass are found out again this often while full probes fail.
const SEARCH_AGAIN: u64 = 30 * SECOND;
/// Shortest time that a round of the search waits for answers.
const SEARCH_MIN: u64 = 100 * MILLISECOND;
/// A damaged packet counts as lately for so long; so do errors and what the peer said.
const DAMAGE_LATELY: u64 = 30 * SECOND;
const LATELY: u64 = 5 * SECOND;

/// Length of the small echo request. No two packets of a round have one length, and they go out in ascending order, so that
/// none becomes part of a super-frame.
pub const ECHO_SMALL: u16 = SMALL + 4;

/// What a round is to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Round {
    pub seq: u32,
    /// Whether it has a small probe; a full one that is answered says that small ones are.
    pub small: bool,
    /// Whether ICMP echo is asked for, too: through the tunnel, small and full, and of the node.
    pub echo: bool,
    /// Whether a train goes before all of these.
    pub train: bool,
}

/// What there is room for.
#[derive(Clone, Copy, Debug)]
pub struct Allowed {
    /// A round without a small probe where nothing is in doubt.
    pub lean: bool,
    pub fast: bool,
    pub search: bool,
    pub train: bool,
}

/// What is to be done for a peer now.
#[derive(Debug, Default)]
pub struct Work {
    pub round: Option<Round>,
    /// Whether the round is out of turn.
    pub fast: bool,
    pub search: Option<(u32, Vec<u16>)>,
    /// When to look again.
    pub next: u64,
}

/// What the peer said in the last packet of its own, and when.
#[derive(Clone, Copy, Debug)]
struct Said {
    at: u64,
    heard: u16,
    losses: Losses,
    takes_trains: bool,
}

/// The process at the other end, to know what is old.
#[derive(Clone, Copy, Debug, Default)]
struct Process {
    instance: u64,
    sent_ns: u64,
    /// When it asked last.
    at: u64,
}

#[derive(Debug)]
pub struct Peer {
    pub target: Target,
    seq: u32,
    rounds: Rounds,
    times: Times,
    /// Whether it was reached when that was looked at last.
    reached: bool,
    ever: bool,
    answered_at: Option<u64>,
    heard_at: Option<u64>,
    said: Option<Said>,
    process: Process,
    /// The one before.
    last_instance: u64,
    search: Option<Search>,
    largest: Option<u16>,
    searched_at: Option<u64>,
    /// Packets that the peer received damaged, and that we did.
    pub damaged_there: u64,
    pub damaged_here: u64,
    damaged_at: [Option<u64>; 2],
    other_key_at: Option<u64>,
    unreachable: Option<(u64, Unreachable)>,
    unsent: Option<String>,
    /// Ours, and the peer's last.
    trains: Trains,
    arriving: Option<Arriving>,
}

/// What holds for all peers.
#[derive(Clone, Copy, Debug)]
pub struct Here {
    pub losses: Losses,
    pub vni: u32,
    pub neighbour_failed: bool,
}

impl Peer {
    pub fn new(target: Target) -> Peer {
        Peer {
            target,
            seq: 0,
            rounds: Rounds::default(),
            times: Times::default(),
            reached: false,
            ever: false,
            answered_at: None,
            heard_at: None,
            said: None,
            process: Process::default(),
            last_instance: 0,
            search: None,
            largest: None,
            searched_at: None,
            damaged_there: 0,
            damaged_here: 0,
            damaged_at: [None; 2],
            other_key_at: None,
            unreachable: None,
            unsent: None,
            trains: Trains::default(),
            arriving: None,
        }
    }

    fn patience(&self) -> u64 {
        self.times.mean().map_or(PATIENCE_MIN, |m| (4 * m).clamp(PATIENCE_MIN, PATIENCE_MAX))
    }

    fn open(&self, now: u64) -> u32 {
        self.rounds.open(now, self.patience())
    }

    /// Rounds without an answer, when they are too few to be sure.
    fn doubtful(missed: u32) -> bool {
        (1..=DOUBT).contains(&missed)
    }

    /// Whether the next rounds are to come soon.
    pub fn in_doubt(&self, now: u64) -> bool {
        let open = self.open(now);
        let missed = |answers| Peer::doubtful(self.rounds.missed(answers, open));
        self.rounds.count <= DOUBT
            || missed(self.rounds.small)
            || missed(self.rounds.full)
            || self.trains.late
            || Peer::doubtful(self.trains.failed)
    }

    /// What is due. `allowed`: whether a round out of turn is, and a round of a search.
    pub fn work(&mut self, now: u64, interval: u64, allowed: Allowed) -> Work {
        let mut work = Work::default();
        let last = self.rounds.at[0];
        let open = self.open(now);
        let missed = self.rounds.missed(self.rounds.small, open);
        let wait = if allowed.fast && self.in_doubt(now) { FAST.min(interval) } else { interval };
        // What is looked at together is sent together.
        if self.rounds.count == 0 || now + GRID / 2 + MILLISECOND >= last + wait {
            work.fast = self.rounds.count > 0 && now + GRID < last + interval;
            if missed >= DOUBT {
                self.reached = false;
            }
            if !self.reached || !self.takes_trains() {
                self.trains.reset();
            }
            let echo = missed > 0 || (self.rounds.count > 0 && !self.reached);
            let sure = self.reached && self.rounds.count > DOUBT && missed == 0 && self.rounds.missed(self.rounds.full, open) == 0;
            let lean = allowed.lean && sure;
            let train = sure && self.takes_trains() && self.trains.due() && (allowed.train || (work.fast && self.trains.failed > 0));
            self.seq = self.seq.wrapping_add(1);
            self.rounds.start(now, echo, lean);
            self.unsent = None;
            work.round = Some(Round { seq: self.seq, small: !lean, echo, train });
            work.next = now + self.patience().min(interval);
        } else {
            work.next = last + wait;
        }
        if allowed.search {
            work.search = self.search_on(now);
        }
        if let Some(s) = &self.search {
            work.next = work.next.min(s.until.max(now + GRID));
        }
        work
    }

    /// Begins, goes on with or ends the search for the largest size.
    fn search_on(&mut self, now: u64) -> Option<(u32, Vec<u16>)> {
        let open = self.open(now);
        let lately = |answers| self.rounds.lately(answers, u64::MAX, open);
        let small_only = lately(self.rounds.small) == Some(true) && lately(self.rounds.full) == Some(false);
        if !small_only {
            if self.search.is_some() || lately(self.rounds.full) == Some(true) {
                (self.search, self.searched_at, self.largest) = (None, None, None);
            }
            return None;
        }
        let until = now + self.times.mean().map_or(SECOND, |m| (8 * m).clamp(SEARCH_MIN, SECOND));
        match &mut self.search {
            None if self.searched_at.is_none_or(|at| now >= at + SEARCH_AGAIN) => {
                self.searched_at = Some(now);
                self.search = Some(Search::new(SMALL, self.target.full));
            }
            None => return None,
            Some(s) if now < s.until && !s.is_answered() => return None,
            Some(s) => match s.repeat(until) {
                Some(again) => return Some(again),
                None => s.conclude(),
            },
        }
        let search = self.search.as_mut()?;
        if let Some(largest) = search.result() {
            (self.largest, self.search) = (Some(largest), None);
            return None;
        }
        Some(search.round(until))
    }

    /// Whether the way to it is one of super-frames, and it knows what to do with them.
    fn takes_trains(&self) -> bool {
        self.target.path != Path::Direct && self.said.is_some_and(|s| s.takes_trains)
    }

    /// A train of so many bytes has left with this round, or could not.
    pub fn train_sent(&mut self, seq: u32, bytes: Option<u16>) {
        match bytes {
            Some(bytes) => self.trains.sent(seq, bytes),
            None => self.trains.reset(),
        }
    }

    /// A piece of a train of the peer's. False if it is damaged.
    pub fn train(&mut self, now: u64, piece: &Piece, key: &Key) -> bool {
        if let Some(probe) = piece.beginning(key) {
            // Its questions have told which process it is.
            if probe.instance != self.process.instance || self.arriving.is_some_and(|a| a.is_not_before(&probe)) {
                return true;
            }
            self.arriving = Some(Arriving::new(&probe, piece));
        }
        let intact = self.arriving.as_mut().is_none_or(|a| a.take(piece));
        if !intact {
            self.damaged_here(now);
        }
        intact
    }

    /// What arrived of the peer's last train.
    pub fn arrival(&self) -> Arrival {
        self.arriving.map(|a| a.arrival).unwrap_or_default()
    }

    /// What a probe of ours says besides what it asks.
    pub fn heard(&self, now: u64) -> u16 {
        let tenths = self.heard_at.map(|at| now.saturating_sub(at) / (100 * MILLISECOND));
        tenths.and_then(|t| u16::try_from(t).ok()).unwrap_or(NEVER)
    }

    /// The peer asks; false if it is an old one, which says nothing.
    fn fresh(&mut self, now: u64, p: &Probe) -> bool {
        let silent = self.process.instance == 0 || now >= self.process.at + 2 * SECOND;
        if p.instance == self.process.instance {
            // Packets may overtake one another, by little.
            if p.sent_ns + SECOND < self.process.sent_ns {
                return false;
            }
            self.process = Process { sent_ns: self.process.sent_ns.max(p.sent_ns), at: now, ..self.process };
        } else if p.instance == self.last_instance || !silent {
            return false;
        } else {
            self.last_instance = self.process.instance;
            self.process = Process { instance: p.instance, sent_ns: p.sent_ns, at: now };
        }
        true
    }

    fn note(&mut self, now: u64, p: &Probe) {
        self.heard_at = Some(now);
        self.said = Some(Said { at: now, heard: p.heard, losses: p.losses, takes_trains: p.trains.is_some() });
    }

    /// The peer asks. False if the packet is a repetition of an old one, and not to be answered.
    pub fn asked(&mut self, now: u64, p: &Probe, damaged: bool) -> bool {
        if !self.fresh(now, p) {
            return false;
        }
        self.note(now, p);
        if damaged {
            self.damaged_here(now);
        }
        true
    }

    /// The peer answers a packet of ours; false if we do not wait for it.
    pub fn answered(&mut self, now: u64, p: &Probe, damaged: bool) -> bool {
        let taken = match p.kind {
            Kind::Search => {
                let Some(s) = &mut self.search else { return false };
                s.answered(p.seq, p.size);
                true
            }
            Kind::Small | Kind::Full => self.answered_round(p),
            Kind::Train => false,
        };
        let back = self.seq.wrapping_sub(p.seq);
        if !taken {
            return false;
        }
        self.note(now, p);
        self.answered_at = Some(now);
        self.ever = true;
        let rtt = now.saturating_sub(p.sent_ns).saturating_sub(u64::from(p.held_ns));
        if p.kind == Kind::Small || (p.kind == Kind::Full && self.rounds.lean & 1 << back != 0) {
            self.times.add(rtt);
        }
        if p.damage.any() {
            self.damaged_there += 1;
            self.damaged_at[0] = Some(now);
        }
        if let (Kind::Full, Some(arrival)) = (p.kind, p.trains) {
            self.damaged_there += u64::from(self.trains.answered(now, p.seq, arrival));
        }
        if damaged {
            self.damaged_here(now);
        }
        true
    }

    fn answered_round(&mut self, p: &Probe) -> bool {
        let back = self.seq.wrapping_sub(p.seq);
        if back >= self.rounds.known() {
            return false;
        }
        let answers = if p.kind == Kind::Small { &mut self.rounds.small } else { &mut self.rounds.full };
        if *answers & 1 << back != 0 {
            return false;
        }
        *answers |= 1 << back;
        if p.kind == Kind::Full {
            self.rounds.small |= self.rounds.lean & 1 << back;
        }
        if !self.reached {
            // What was lost while it could not be reached is no loss of the path that there is now.
            self.reached = true;
            self.rounds.count = back + 1;
        }
        true
    }

    /// An echo reply came from an address of this peer.
    pub fn echoed(&mut self, now: u64, from: Ipv4Addr, seq: u16, size: u16) {
        let back = u32::from((self.seq as u16).wrapping_sub(seq));
        if back >= self.rounds.known().min(RECENT as u32) {
            return;
        }
        let r = &mut self.rounds;
        if from == self.target.address && size <= ECHO_SMALL {
            r.echo_node |= 1 << back;
        }
        if from == self.target.to {
            if size <= ECHO_SMALL {
                if !self.ever && r.echo & 1 << back == 0 {
                    self.times.add(now.saturating_sub(r.at[back as usize]));
                }
                r.echo |= 1 << back;
            } else {
                r.echo_full |= 1 << back;
            }
        }
    }

    /// A packet from this peer's address came damaged.
    pub fn damaged_here(&mut self, now: u64) {
        self.damaged_here += 1;
        self.damaged_at[1] = Some(now);
    }

    pub fn other_key(&mut self, now: u64) {
        self.other_key_at = Some(now);
    }

    pub fn unreachable(&mut self, now: u64, why: Unreachable) {
        self.unreachable = Some((now, why));
    }

    /// A probe could not be sent.
    pub fn unsent(&mut self, why: String) {
        self.unsent = Some(why);
    }

    /// What is in force of another target's state: nothing but the counts.
    pub fn retarget(&mut self, target: Target) {
        let same = Target { vni: target.vni, ..self.target.clone() } == target;
        if same {
            self.target = target;
        } else {
            *self = Peer { damaged_here: self.damaged_here, damaged_there: self.damaged_there, ..Peer::new(target) };
        }
    }

    fn judge(&self, now: u64, interval: u64, here: Here) -> (Verdict, Option<f64>, Option<f64>) {
        let open = self.open(now);
        let r = &self.rounds;
        let lately = |at: &u64, span: u64| now < at + span;
        let by_echo = !self.ever && r.lately(r.echo, r.echoes, open) == Some(true);
        let (small, full) = if by_echo { (r.echo, r.echo_full) } else { (r.small, r.full) };
        // A full probe that is lost does not say what became of a small one.
        let asked = if by_echo { [r.echoes; 2] } else { [!r.lean | r.small, u64::MAX] };
        let missed = r.missed(r.small, open);
        // Echoes of an earlier time of trouble say nothing of this one.
        let echoes = r.echoes & r.first(open + missed);
        let span = LATELY.max(3 * interval);
        // When the second round of those that are missed was sent: what came before may be from before the fault.
        let second = (open + missed).saturating_sub(2) as usize;
        let since = r.at[second.min(RECENT - 1)];
        let theirs = |s: &Said| Theirs {
            hears_us: s.heard != NEVER && s.at.saturating_sub(u64::from(s.heard) * 100 * MILLISECOND) > since,
            losses: s.losses,
        };
        let evidence = Evidence {
            target: &self.target,
            small: r.lately(r.small, u64::MAX, open),
            full: r.lately(r.full, u64::MAX, open),
            echo: r.lately(r.echo, echoes, open),
            echo_full: r.lately(r.echo_full, echoes, open),
            echo_node: r.lately(r.echo_node, echoes, open),
            ever: self.ever,
            theirs: self.said.as_ref().filter(|s| s.at > since && lately(&s.at, span)).map(theirs),
            other_key: self.other_key_at.as_ref().is_some_and(|at| lately(at, span)),
            unreachable: self.unreachable.filter(|(at, _)| lately(at, span)).map(|(_, u)| u),
            neighbour_failed: here.neighbour_failed,
            losses: here.losses,
            vni: here.vni,
            largest: self.largest,
            damaged: (
                self.damaged_at[0].as_ref().is_some_and(|at| lately(at, DAMAGE_LATELY)),
                self.damaged_at[1].as_ref().is_some_and(|at| lately(at, DAMAGE_LATELY)),
            ),
            trains: if self.trains.failed >= DOUBT { Some(false) } else { self.trains.passed.then_some(true) },
            train: self.trains.last,
            train_damaged: self.trains.damaged_at.as_ref().is_some_and(|at| lately(at, DAMAGE_LATELY)),
            // Too few rounds are no measure, and those missed just now are in doubt.
            loss: if r.known() >= 16 { r.loss(small, asked[0], open + missed).unwrap_or(0.0) } else { 0.0 },
            unsent: self.unsent.as_deref(),
        };
        (judge(&evidence), r.loss(small, asked[0], open), r.loss(full, asked[1], open))
    }

    pub fn state(&self, now: u64, interval: u64, here: Here) -> State {
        self.judge(now, interval, here).0.state
    }

    /// What the API shows.
    pub fn row(&self, now: u64, interval: u64, here: Here) -> PeerRow {
        let (verdict, loss, loss_full) = self.judge(now, interval, here);
        let t = &self.target;
        let ms = |ns: u64| (ns / 1000) as f64 / 1000.0;
        let age = |at: Option<u64>| at.map(|at| ms(now.saturating_sub(at)) / 1000.0);
        let open = self.open(now);
        let passes = |bits, asked| self.rounds.lately(bits, asked, open) == Some(true);
        let whole = passes(self.rounds.full, u64::MAX) || (!self.ever && passes(self.rounds.echo_full, self.rounds.echoes));
        PeerRow {
            node: t.node.to_string(),
            address: t.address,
            probed: t.to,
            encapsulation: t.path.name().into(),
            state: verdict.state.name().into(),
            problem: verdict.state.is_problem(),
            loss_percent: loss,
            full_loss_percent: loss_full,
            rtt_last_ms: self.times.last().map(|t| ms(t.into())),
            rtt_min_ms: self.times.all().iter().min().map(|t| ms((*t).into())),
            rtt_mean_ms: self.times.mean().map(ms),
            full_bytes: t.full,
            largest_bytes: if whole { Some(t.full) } else { self.largest },
            super_frame_bytes: self.trains.last.map(|(_, sent)| sent),
            super_frame_arrived_bytes: self.trains.last.map(|(arrived, _)| arrived),
            damaged_there: self.damaged_there,
            damaged_here: self.damaged_here,
            answered_s: age(self.answered_at),
            heard_s: age(self.heard_at),
            diagnosis: verdict.diagnosis,
            remedy: verdict.remedy,
        }
    }
}

/// What a probe of a round or a search asks.
pub fn question(kind: Kind, size: u16, seq: u32, instance: u64, now: u64, heard: u16, losses: Losses) -> Probe {
    let damage = packet::Damage::default();
    Probe { is_answer: false, kind, size, instance, sent_ns: now, seq, held_ns: 0, heard, losses, damage, trains: None }
}
