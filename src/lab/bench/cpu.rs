//! Who used the processor during a measurement: this machine as a whole, the labs' engines, the load, and others.

use super::super::state::stat_field;
use super::super::sys;
use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

/// `PF_KTHREAD` of a process's flags (linux/sched.h): a thread of the kernel's own.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// CPU time used up to a moment.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    at: Instant,
    /// Busy ticks of all cores: user, nice, system, irq, softirq.
    machine: u64,
    /// Of the measured lab's engines.
    engines: Duration,
    /// Ticks of this process's ended children, which are the load.
    load: u64,
    /// Ticks of processes that are not ours.
    others: u64,
}

/// CPU time used between two readings, seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Used {
    /// Elapsed time.
    pub seconds: f64,
    pub machine: f64,
    pub engines: f64,
    pub load: f64,
    /// Of processes that are not ours: neither an engine of one of the labs, nor this program, nor its load
    /// generators, nor a thread of the kernel (which works for whoever sends).
    pub others: f64,
}

impl Reading {
    /// `engines` are the measured lab's, `labs` those of all labs.
    pub fn now(engines: &[u32], labs: &[u32]) -> Reading {
        let own = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let ours: HashSet<u32> = labs.iter().copied().chain([std::process::id()]).collect();
        Reading {
            at: Instant::now(),
            machine: busy_ticks(&fs::read_to_string("/proc/stat").unwrap_or_default()),
            engines: engines.iter().filter_map(|pid| sys::cpu_time(*pid).ok()).sum(),
            load: ticks(&own, [16, 17]),
            others: others_ticks(stats(), &ours),
        }
    }

    /// What was used since `before`.
    pub fn since(&self, before: &Reading) -> Used {
        let per_second = sys::ticks_per_second();
        let used = |now: u64, then: u64| now.saturating_sub(then) as f64 / per_second;
        Used {
            seconds: self.at.duration_since(before.at).as_secs_f64(),
            machine: used(self.machine, before.machine),
            engines: self.engines.saturating_sub(before.engines).as_secs_f64(),
            load: used(self.load, before.load),
            // Less than before if a process ended that nobody waited for.
            others: used(self.others, before.others),
        }
    }
}

impl Used {
    /// Fraction of one core that others used; `None` if no time was watched.
    pub fn others_share(&self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.others / self.seconds)
    }
}

/// Every process as its number and its line of /proc/PID/stat.
fn stats() -> impl Iterator<Item = (u32, String)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| Some((pid, fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)))
}

/// Ticks of all processes that are not `ours`. Time of children that ended is their parent's from the moment that
/// it waits for them, so what a process used that began and ended between two readings is in the difference.
fn others_ticks(stats: impl IntoIterator<Item = (u32, String)>, ours: &HashSet<u32>) -> u64 {
    let counts = |pid: u32, stat: &str| !ours.contains(&pid) && stat_field::<u64>(stat, 9).is_some_and(|flags| flags & KERNEL_THREAD == 0);
    stats.into_iter().filter(|(pid, stat)| counts(*pid, stat)).map(|(_, stat)| ticks(&stat, [14, 15, 16, 17])).sum()
}

/// Sum of fields of a line of /proc/PID/stat.
fn ticks<const N: usize>(stat: &str, fields: [usize; N]) -> u64 {
    fields.into_iter().filter_map(|f| stat_field::<u64>(stat, f)).sum()
}

/// Busy ticks in the first line of /proc/stat: all but idle, iowait and steal; guest time is in user already.
fn busy_ticks(stat: &str) -> u64 {
    let numbers: Vec<u64> = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    [0, 1, 2, 5, 6].iter().filter_map(|i| numbers.get(*i)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_what_is_not_idle() {
        assert_eq!(busy_ticks("cpu  100 1 20 5000 300 4 2 99 7 0\ncpu0 1 1 1\n"), 127);
        assert_eq!(busy_ticks(""), 0);
    }

    /// A line of /proc/PID/stat with these flags and times.
    fn stat(pid: u32, flags: u64, times: [u64; 4]) -> (u32, String) {
        let [user, system, children_user, children_system] = times;
        let line = format!("{pid} (a b) S 1 1 1 0 -1 {flags} 0 0 0 0 {user} {system} {children_user} {children_system} 20 0 1 0 7 1 2");
        (pid, line)
    }

    #[test]
    fn others_are_neither_ours_nor_the_kernels() {
        let ours = HashSet::from([10, 11]);
        let machine =
            |cargo| vec![stat(10, 0, [900, 0, 0, 0]), stat(11, 0, [0, 900, 0, 0]), stat(3, KERNEL_THREAD | 0x40, [0, 700, 0, 0]), cargo];
        let before = others_ticks(machine(stat(50, 0x40_0000, [1, 2, 3, 4])), &ours);
        assert_eq!(before, 10);
        // A compiler that began and ended in between, and was waited for.
        assert_eq!(others_ticks(machine(stat(50, 0x40_0000, [1, 2, 203, 54])), &ours) - before, 250);
        assert_eq!(others_ticks(vec![(60, "not a stat line".to_owned())], &ours), 0);
    }

    #[test]
    fn a_share_is_of_one_core() {
        assert_eq!(Used { seconds: 4.0, others: 1.0, ..Used::default() }.others_share(), Some(0.25));
        assert_eq!(Used::default().others_share(), None);
    }

    #[test]
    fn work_shows_in_readings() {
        let pid = [std::process::id()];
        let before = Reading::now(&pid, &pid);
        let mut x = 0u64;
        while before.at.elapsed() < Duration::from_millis(50) {
            x = std::hint::black_box(x + 1);
        }
        let used = Reading::now(&pid, &pid).since(&before);
        assert!(used.engines > 0.0 && used.seconds >= 0.05, "{used:?}");
    }
}
