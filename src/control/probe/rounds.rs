//! Which rounds of probes were answered, and how soon: bits and a few times, the oldest overwritten first.

/// So many rounds in a row without an answer are no accident.
pub const DOUBT: u32 = 3;
/// Round-trip times that are kept, and rounds whose time of sending is.
const TIMES: usize = 32;
pub const RECENT: usize = 8;

/// Answers by round, the latest round in the lowest bit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rounds {
    /// Since the peer was reached first, or again; at most 64 are known.
    pub count: u32,
    pub small: u64,
    pub full: u64,
    /// Rounds without a small probe.
    pub lean: u64,
    /// Rounds with echo, and their answers.
    pub echoes: u64,
    pub echo: u64,
    pub echo_full: u64,
    pub echo_node: u64,
    pub at: [u64; RECENT],
}

impl Rounds {
    pub fn start(&mut self, now: u64, echo: bool, lean: bool) {
        let Rounds { small, full, lean: leans, echoes, echo: echo_far, echo_full, echo_node, .. } = self;
        for bits in [small, full, leans, echoes, echo_far, echo_full, echo_node] {
            *bits <<= 1;
        }
        self.echoes |= u64::from(echo);
        self.lean |= u64::from(lean);
        self.at.rotate_right(1);
        self.at[0] = now;
        self.count = self.count.saturating_add(1);
    }

    pub fn known(&self) -> u32 {
        self.count.min(64)
    }

    /// The latest `n` rounds.
    pub fn first(&self, n: u32) -> u64 {
        if n < 64 { (1 << n) - 1 } else { u64::MAX }
    }

    /// How many of the latest rounds may still be answered.
    pub fn open(&self, now: u64, patience: u64) -> u32 {
        let known = self.known() as usize;
        self.at.iter().take(known).take_while(|at| now < *at + patience).count() as u32
    }

    /// Whether something was answered in the last rounds; `None` while there are too few. `asked`: rounds that count.
    pub fn lately(&self, answers: u64, asked: u64, open: u32) -> Option<bool> {
        let asked = asked & self.first(self.known());
        let mut bits = 0u64;
        let mut decided = 0;
        for back in (0..self.known()).filter(|back| asked & 1 << back != 0) {
            if decided == DOUBT {
                break;
            }
            bits |= 1 << back;
            decided += u32::from(back >= open);
        }
        if answers & bits != 0 { Some(true) } else { (decided == DOUBT).then_some(false) }
    }

    /// Rounds without an answer since the last one with, open ones left out.
    pub fn missed(&self, answers: u64, open: u32) -> u32 {
        let decided = self.known().saturating_sub(open);
        if answers & self.first(open) != 0 {
            return 0;
        }
        (answers >> open).trailing_zeros().min(decided)
    }

    /// Percent of the rounds that are answered, or older than the latest `open`.
    pub fn loss(&self, answers: u64, asked: u64, open: u32) -> Option<f64> {
        let asked = self.first(self.known()) & asked & (!self.first(open) | answers);
        let (decided, answered) = (asked.count_ones(), (answers & asked).count_ones());
        (decided > 0).then(|| f64::from(decided - answered) * 100.0 / f64::from(decided))
    }
}

/// Round-trip times, the oldest overwritten first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    ns: [u32; TIMES],
    count: u64,
}

impl Times {
    pub fn add(&mut self, ns: u64) {
        self.ns[(self.count % TIMES as u64) as usize] = u32::try_from(ns).unwrap_or(u32::MAX);
        self.count += 1;
    }

    pub fn all(&self) -> &[u32] {
        &self.ns[..self.count.min(TIMES as u64) as usize]
    }

    pub fn last(&self) -> Option<u32> {
        self.count.checked_sub(1).map(|n| self.ns[(n % TIMES as u64) as usize])
    }

    pub fn mean(&self) -> Option<u64> {
        let all = self.all();
        (!all.is_empty()).then(|| all.iter().map(|t| u64::from(*t)).sum::<u64>() / all.len() as u64)
    }
}
