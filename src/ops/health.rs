//! Health for a kubelet's probes: `/liveness` and `/readiness`, 200 or 503, and why.
//!
//! Live: every worker turns, and the control task turns and has not panicked; else the process must be restarted.
//! Ready: the datastore is in sync, and every worker forwards by what it says. Both are read from counts: a probe asks
//! the control task for nothing.

use super::server::{self, Answer, Handler};
use crate::control::facts::Shared;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A worker that sleeps wakes every second: one that has not turned for so long never will.
const WORKER_LIMIT: Duration = Duration::from_secs(10);
/// The control task's loop turns every second, but a large calculation may hold it up. Felix's default.
const CONTROL_LIMIT: Duration = Duration::from_secs(90);
/// Most that counts for one look. When looks come late, the whole process was stopped or starved: that says nothing about
/// the ones looked at.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// A count that must go on, and how long it has stood still.
#[derive(Clone, Copy, Debug, Default)]
struct Pulse {
    count: u64,
    still: Duration,
}

impl Pulse {
    fn look(&mut self, count: u64, since: Duration) {
        if count == self.count {
            self.still += since;
        } else {
            *self = Pulse { count, still: Duration::ZERO };
        }
    }
}

/// Watches what must not stand still.
#[derive(Debug)]
pub struct Watchdog {
    last: Option<Instant>,
    workers: Vec<Pulse>,
    control: Pulse,
}

impl Watchdog {
    pub fn new(workers: usize) -> Watchdog {
        Watchdog { last: None, workers: vec![Pulse::default(); workers], control: Pulse::default() }
    }

    /// Looks at the daemon's counts now.
    pub fn look(&mut self, shared: &Shared, now: Instant) {
        let turns: Vec<u64> = shared.counters().iter().map(|c| c.turns.get()).collect();
        self.see(&turns, shared.tally().beats.load(Relaxed), now);
    }

    /// `turns` of each worker and `beats` of the control task so far.
    fn see(&mut self, turns: &[u64], beats: u64, now: Instant) {
        let since = self.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last).min(LOOK_MAX));
        self.last = Some(now);
        self.workers.iter_mut().zip(turns).for_each(|(pulse, n)| pulse.look(*n, since));
        self.control.look(beats, since);
    }

    /// What is stuck, one line each.
    pub fn stuck(&self) -> Vec<String> {
        let of = |name: String, p: &Pulse, limit| (p.still >= limit).then(|| format!("{name} has not turned for {} s", p.still.as_secs()));
        let workers = self.workers.iter().enumerate().filter_map(|(i, p)| of(format!("worker {i}"), p, WORKER_LIMIT));
        workers.chain(of("the control task".into(), &self.control, CONTROL_LIMIT)).collect()
    }
}

/// Answers the probes.
pub struct Health {
    shared: Arc<Shared>,
    watchdog: Arc<Mutex<Watchdog>>,
}

impl Health {
    pub fn new(shared: Arc<Shared>, watchdog: Arc<Mutex<Watchdog>>) -> Health {
        Health { shared, watchdog }
    }

    fn unready(&self) -> Vec<String> {
        let mut why = Vec::new();
        if !self.shared.tally().is_in_sync() {
            why.push(format!("not in sync: the datastore has not said yet what node {} is to do", self.shared.node()));
        } else if !self.shared.tally().is_programmed() {
            why.push("the first state is not in force on every worker yet".to_owned());
        }
        why
    }
}

impl Handler for Health {
    fn get(&self, path: &str, _query: Option<&str>) -> Answer {
        let why = match path {
            "/liveness" => {
                let stuck = self.watchdog.lock().unwrap_or_else(PoisonError::into_inner).stuck();
                let panicked = self.shared.tally().panicked.load(Relaxed).then(|| "the control task has panicked".to_owned());
                stuck.into_iter().chain(panicked).collect()
            }
            "/readiness" => self.unready(),
            _ => return Answer::error(server::NOT_FOUND, "no such resource; there are /liveness, /readiness"),
        };
        let status = if why.is_empty() { server::OK } else { server::UNAVAILABLE };
        let body = if why.is_empty() { "ok\n".to_owned() } else { why.join("\n") + "\n" };
        Answer { status, kind: server::TEXT, body: body.into_bytes() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::facts::Facts;
    use crate::worker::Counters;

    fn looks(dog: &mut Watchdog, start: Instant, seconds: std::ops::Range<u64>, mut turns: impl FnMut(u64) -> [u64; 2], beats: u64) {
        for s in seconds {
            dog.see(&turns(s), beats + s, start + Duration::from_secs(s));
        }
    }

    #[test]
    fn a_stuck_worker_is_found_and_named_and_forgiven_when_it_turns() {
        let (mut dog, start) = (Watchdog::new(2), Instant::now());
        looks(&mut dog, start, 0..10, |s| [s, 7], 0);
        assert!(dog.stuck().is_empty(), "nine seconds are not ten: {:?}", dog.stuck());
        looks(&mut dog, start, 10..13, |s| [s, 7], 0);
        assert_eq!(dog.stuck(), ["worker 1 has not turned for 12 s"]);
        looks(&mut dog, start, 13..14, |s| [s, 8], 0);
        assert!(dog.stuck().is_empty());
    }

    #[test]
    fn a_hanging_control_task_is_found() {
        let (mut dog, start) = (Watchdog::new(0), Instant::now());
        (0..91).for_each(|s| dog.see(&[], 5, start + Duration::from_secs(s)));
        assert_eq!(dog.stuck(), ["the control task has not turned for 90 s"]);
    }

    #[test]
    fn a_process_that_was_stopped_is_not_stuck() {
        let (mut dog, start) = (Watchdog::new(1), Instant::now());
        dog.see(&[5], 5, start);
        dog.see(&[5], 5, start + Duration::from_secs(3600));
        assert!(dog.stuck().is_empty(), "{:?}", dog.stuck());
    }

    #[test]
    fn probes_say_why() {
        let (requests, _) = tokio::sync::mpsc::unbounded_channel();
        let facts = Facts { node: "a".into(), ..Facts::default() };
        let shared = Arc::new(Shared::new(facts, vec![Arc::new(Counters::default())], requests));
        let dog = Arc::new(Mutex::new(Watchdog::new(1)));
        let health = Health::new(shared.clone(), dog.clone());
        let get = |path| {
            let a = health.get(path, None);
            (a.status[..3].to_owned(), String::from_utf8(a.body).unwrap())
        };
        assert_eq!(get("/liveness"), ("200".into(), "ok\n".into()));
        assert!(get("/readiness").1.starts_with("not in sync") && get("/readiness").0 == "503");
        shared.tally().set_in_sync();
        assert!(get("/readiness").1.contains("not in force on every worker"));
        shared.tally().set_programmed();
        assert_eq!(get("/readiness"), ("200".into(), "ok\n".into()));
        shared.tally().set_panicked();
        assert_eq!(get("/liveness"), ("503".into(), "the control task has panicked\n".into()));
        shared.tally().panicked.store(false, Relaxed);
        let start = Instant::now();
        (0..12).for_each(|s| dog.lock().unwrap().look(&shared, start + Duration::from_secs(s)));
        assert_eq!(get("/liveness"), ("503".into(), "worker 0 has not turned for 11 s\n".into()));
        assert_eq!(get("/").0, "404");
    }
}
