//! What `lab bench` can measure: cases by name, and the runs that yield them.

use super::super::load::Measured;
use super::cpu::Used;

/// A case as `--cases` names it.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub name: &'static str,
    /// Which lab it is measured in, beside the kernel's.
    pub subject: Subject,
}

/// The lab that is measured beside one of kernel nodes only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Engines on both nodes.
    Engines,
    /// The engine on the first node, the kernel's VXLAN device on the second.
    Peer,
    /// One node with an engine and many pods.
    Crowd,
}

/// Every case, in the order of the report.
pub const CASES: [Case; 16] = [
    Case { name: "tcp1", subject: Subject::Engines },
    Case { name: "tcp4", subject: Subject::Engines },
    Case { name: "tcp1-plain-nic", subject: Subject::Engines },
    Case { name: "udp64", subject: Subject::Engines },
    Case { name: "udp64-1000flows", subject: Subject::Engines },
    Case { name: "tcp-rr", subject: Subject::Engines },
    Case { name: "udp-rr", subject: Subject::Engines },
    Case { name: "tcp-rr-busy", subject: Subject::Engines },
    Case { name: "cpu-per-gb", subject: Subject::Engines },
    Case { name: "idle-cpu", subject: Subject::Engines },
    Case { name: "rss", subject: Subject::Engines },
    Case { name: "tcp1-out", subject: Subject::Peer },
    Case { name: "tcp1-in", subject: Subject::Peer },
    Case { name: "udp64-out", subject: Subject::Peer },
    Case { name: "udp64-in", subject: Subject::Peer },
    Case { name: "idle-pods", subject: Subject::Crowd },
];

/// One measurement: it may yield several cases, and a case several rows.
pub struct Run {
    pub name: &'static str,
    pub subject: Subject,
    pub action: Action,
    pub rows: &'static [Row],
}

/// One line of the report.
pub struct Row {
    /// The case that it belongs to.
    pub case: &'static str,
    pub name: &'static str,
    pub unit: &'static str,
    pub better: Better,
    pub value: fn(&Outcome) -> f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    Higher,
    Lower,
}

impl Better {
    pub const fn word(self) -> &'static str {
        match self {
            Better::Higher => "higher",
            Better::Lower => "lower",
        }
    }
}

pub enum Action {
    /// Traffic between the pods of two nodes.
    Exchange(Traffic),
    /// Nothing is sent; the engines' CPU time is watched.
    Idle,
    /// The engines' resident memory is read.
    Resident,
}

/// One traffic pattern.
pub struct Traffic {
    /// Roles of the load generator.
    pub receiver: &'static str,
    pub sender: &'static str,
    /// Connections of bulk TCP, sockets of a UDP blast.
    pub streams: usize,
    pub direction: Direction,
    pub underlay: Underlay,
    pub cores: Cores,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the first node's pod to the second's.
    Out,
    In,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Underlay {
    /// The veths as they are: super-frames travel between nodes whole.
    AsItIs,
    /// Packets no longer than the MTU between nodes, joined at reception: nearer to a plain NIC.
    PlainNic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cores {
    /// Nothing else is to be done.
    Free,
    /// As many threads as there are cores compute all the time.
    Busy,
}

/// What one measurement found. Parts that an action does not concern are zero.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub received: Measured,
    pub sent: Measured,
    pub cpu: Used,
    /// Bytes, of the larger engine.
    pub resident: u64,
}

impl Outcome {
    fn gbit(&self) -> f64 {
        self.received.bytes as f64 * 8.0 / self.received.seconds / 1e9
    }

    fn gigabytes(&self) -> f64 {
        self.received.bytes as f64 / 1e9
    }

    /// What arrived in the time that the sender took: its own rate is not what is asked.
    fn delivered(&self) -> f64 {
        self.received.packets as f64 / self.sent.seconds
    }

    /// 0 without an engine, for which no time was watched.
    fn idle_percent(&self) -> f64 {
        if self.cpu.seconds > 0.0 { self.cpu.engines / self.cpu.seconds * 100.0 } else { 0.0 }
    }
}

const fn tcp(streams: usize, direction: Direction, underlay: Underlay) -> Action {
    Action::Exchange(Traffic { receiver: "tcp-recv", sender: "tcp-send", streams, direction, underlay, cores: Cores::Free })
}

const fn udp(streams: usize, direction: Direction) -> Action {
    Action::Exchange(Traffic {
        receiver: "udp-sink",
        sender: "udp-blast",
        streams,
        direction,
        underlay: Underlay::AsItIs,
        cores: Cores::Free,
    })
}

const fn ask(receiver: &'static str, sender: &'static str, cores: Cores) -> Action {
    Action::Exchange(Traffic { receiver, sender, streams: 1, direction: Direction::Out, underlay: Underlay::AsItIs, cores })
}

const fn gbit(name: &'static str) -> Row {
    Row { case: name, name, unit: "Gbit/s", better: Better::Higher, value: Outcome::gbit }
}

const fn delivered(name: &'static str) -> Row {
    Row { case: name, name, unit: "packets/s delivered", better: Better::Higher, value: Outcome::delivered }
}

const fn lower(case: &'static str, name: &'static str, unit: &'static str, value: fn(&Outcome) -> f64) -> Row {
    Row { case, name, unit, better: Better::Lower, value }
}

const IDLE: &str = "% of a core, engines, no traffic";
const RESIDENT: &str = "MB resident, larger engine";

/// Every run, in the order of running. Idling and memory come after traffic: what traffic leaves behind counts.
pub const RUNS: [Run; 16] = [
    Run {
        name: "tcp1",
        subject: Subject::Engines,
        action: tcp(1, Direction::Out, Underlay::AsItIs),
        rows: &[
            gbit("tcp1"),
            lower("cpu-per-gb", "cpu-per-gb", "CPU s per GB of tcp1, whole machine", |o| o.cpu.machine / o.gigabytes()),
            lower("cpu-per-gb", "cpu-per-gb-processes", "CPU s per GB of tcp1, engines and load", |o| {
                (o.cpu.engines + o.cpu.load) / o.gigabytes()
            }),
        ],
    },
    Run { name: "tcp4", subject: Subject::Engines, action: tcp(4, Direction::Out, Underlay::AsItIs), rows: &[gbit("tcp4")] },
    Run {
        name: "tcp1-plain-nic",
        subject: Subject::Engines,
        action: tcp(1, Direction::Out, Underlay::PlainNic),
        rows: &[gbit("tcp1-plain-nic")],
    },
    Run { name: "udp64", subject: Subject::Engines, action: udp(1, Direction::Out), rows: &[delivered("udp64")] },
    Run { name: "udp64-1000flows", subject: Subject::Engines, action: udp(1000, Direction::Out), rows: &[delivered("udp64-1000flows")] },
    Run {
        name: "tcp-rr",
        subject: Subject::Engines,
        action: ask("tcp-echo", "tcp-ask", Cores::Free),
        rows: &[lower("tcp-rr", "tcp-rr", "us, p50", |o| o.sent.p50), lower("tcp-rr", "tcp-rr-p99", "us, p99", |o| o.sent.p99)],
    },
    Run {
        name: "udp-rr",
        subject: Subject::Engines,
        action: ask("udp-echo", "udp-ask", Cores::Free),
        rows: &[lower("udp-rr", "udp-rr", "us, p50", |o| o.sent.p50), lower("udp-rr", "udp-rr-p99", "us, p99", |o| o.sent.p99)],
    },
    Run {
        name: "tcp-rr-busy",
        subject: Subject::Engines,
        action: ask("tcp-echo", "tcp-ask", Cores::Busy),
        rows: &[
            lower("tcp-rr-busy", "tcp-rr-busy", "us, p50", |o| o.sent.p50),
            lower("tcp-rr-busy", "tcp-rr-busy-mean", "us, mean", |o| o.sent.seconds * 1e6 / o.sent.packets as f64),
        ],
    },
    Run {
        name: "idle-cpu",
        subject: Subject::Engines,
        action: Action::Idle,
        rows: &[lower("idle-cpu", "idle-cpu", IDLE, Outcome::idle_percent)],
    },
    Run {
        name: "rss",
        subject: Subject::Engines,
        action: Action::Resident,
        rows: &[lower("rss", "rss", RESIDENT, |o| o.resident as f64 / 1e6)],
    },
    Run { name: "tcp1-out", subject: Subject::Peer, action: tcp(1, Direction::Out, Underlay::AsItIs), rows: &[gbit("tcp1-out")] },
    Run { name: "tcp1-in", subject: Subject::Peer, action: tcp(1, Direction::In, Underlay::AsItIs), rows: &[gbit("tcp1-in")] },
    Run { name: "udp64-out", subject: Subject::Peer, action: udp(1, Direction::Out), rows: &[delivered("udp64-out")] },
    Run { name: "udp64-in", subject: Subject::Peer, action: udp(1, Direction::In), rows: &[delivered("udp64-in")] },
    Run {
        name: "idle-pods-cpu",
        subject: Subject::Crowd,
        action: Action::Idle,
        rows: &[lower("idle-pods", "idle-pods-cpu", IDLE, Outcome::idle_percent)],
    },
    Run {
        name: "idle-pods-rss",
        subject: Subject::Crowd,
        action: Action::Resident,
        rows: &[lower("idle-pods", "idle-pods-rss", RESIDENT, |o| o.resident as f64 / 1e6)],
    },
];

/// The names that `--cases` takes.
pub fn names() -> impl Iterator<Item = &'static str> {
    CASES.iter().map(|c| c.name)
}

/// Which of the wanted rows a run yields.
pub fn rows<'a>(run: &'a Run, wanted: &'a [&'static str]) -> impl Iterator<Item = &'a Row> {
    run.rows.iter().filter(|r| wanted.contains(&r.case))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_a_run_and_every_row_a_case() {
        for case in CASES {
            let runs: Vec<_> = RUNS.iter().filter(|r| rows(r, &[case.name]).next().is_some()).collect();
            assert!(!runs.is_empty(), "{}", case.name);
            assert!(runs.iter().all(|r| r.subject == case.subject), "{}", case.name);
        }
        let mut rows: Vec<_> = RUNS.iter().flat_map(|r| r.rows).map(|r| r.name).collect();
        assert!(RUNS.iter().flat_map(|r| r.rows).all(|r| names().any(|n| n == r.case)));
        let all = rows.len();
        rows.sort_unstable();
        rows.dedup();
        assert_eq!(rows.len(), all, "two rows of one name");
    }

    #[test]
    fn values_are_in_their_units() {
        let outcome = Outcome {
            received: Measured { bytes: 5_000_000_000, packets: 600, seconds: 4.0, ..Measured::default() },
            sent: Measured { seconds: 3.0, p50: 11.0, p99: 22.0, ..Measured::default() },
            cpu: Used { seconds: 4.0, machine: 10.0, engines: 2.0, load: 3.0, others: 0.0 },
            resident: 12_500_000,
        };
        let value = |name: &str| {
            let row = RUNS.iter().flat_map(|r| r.rows).find(|r| r.name == name).unwrap();
            (row.value)(&outcome)
        };
        assert_eq!(value("tcp1"), 10.0);
        assert_eq!(value("udp64"), 200.0);
        assert_eq!(value("cpu-per-gb"), 2.0);
        assert_eq!(value("cpu-per-gb-processes"), 1.0);
        assert_eq!((value("udp-rr"), value("tcp-rr-p99")), (11.0, 22.0));
        assert_eq!(value("idle-cpu"), 50.0);
        assert_eq!(value("rss"), 12.5);
    }
}
