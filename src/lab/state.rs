//! What a lab remembers about itself while it is up, and how everything it made goes away again, whether or
//! not it was ever finished.

use super::LabError;
use super::ip::{ip, namespaces};
use super::spec::{Plan, Spec, netns_prefix, run_dir};
use super::sys;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// A process as it was started: a number that is used again has another start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    /// Clock ticks after boot (proc(5), stat, field 22).
    pub start_time: u64,
}

impl Process {
    /// The process that has this number now.
    pub fn of(pid: u32) -> Option<Process> {
        Some(Process { pid, start_time: stat_field(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?, 22)? })
    }

    /// Whether it still runs; a zombie does not.
    pub fn alive(self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        stat_field::<u64>(&stat, 22) == Some(self.start_time) && stat_field::<char>(&stat, 3) != Some('Z')
    }
}

/// A field of /proc/PID/stat, counted from 1 as in proc(5), from the third on: the second may hold spaces.
pub fn stat_field<T: std::str::FromStr>(stat: &str, n: usize) -> Option<T> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(n.checked_sub(3)?)?.parse().ok()
}

/// One engine that the lab started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    pub node: String,
    pub process: Process,
}

/// The lab's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub spec: Spec,
    /// Whether `up` came to its end.
    pub complete: bool,
    pub daemons: Vec<Daemon>,
}

impl State {
    /// The record of a lab; `None` if there is none or it cannot be read (then only sweeping helps).
    pub fn load(lab: &str) -> Option<State> {
        serde_json::from_slice(&fs::read(run_dir(lab).join("state.json")).ok()?).ok()
    }

    /// Writes the record, whole or not at all.
    pub fn save(&self) -> Result<(), LabError> {
        let path = run_dir(&self.spec.name).join("state.json");
        let unfinished = path.with_extension("new");
        let text = serde_json::to_vec_pretty(self).map_err(|e| LabError::Internal(e.to_string()))?;
        fs::write(&unfinished, text).and_then(|()| fs::rename(&unfinished, &path)).map_err(|source| LabError::file("write", &path, source))
    }

    /// The plan of a lab that is up.
    pub fn plan(lab: &str) -> Result<(State, Plan), LabError> {
        let state = State::load(lab).filter(|s| s.complete).ok_or_else(|| LabError::NotUp(lab.to_owned()))?;
        let plan = Plan::new(state.spec.clone())?;
        Ok((state, plan))
    }
}

/// Held while a lab is being made or removed.
pub struct Lock(File);

impl Lock {
    /// Makes the lab's folder and locks it; errors if another process works on the same lab.
    pub fn take(lab: &str) -> Result<Lock, LabError> {
        let dir = run_dir(lab);
        let open = || -> io::Result<File> {
            fs::create_dir_all(&dir)?;
            File::open(&dir)
        };
        let file = open().map_err(|source| LabError::file("make", &dir, source))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock(file)),
            Err(fs::TryLockError::WouldBlock) => Err(LabError::Busy(lab.to_owned())),
            Err(fs::TryLockError::Error(source)) => Err(LabError::file("lock", &dir, source)),
        }
    }

    /// Lets go without waiting for the end of the scope.
    pub fn release(self) {
        drop(self.0);
    }
}

/// Whether anything of that lab exists.
pub fn exists(lab: &str) -> bool {
    run_dir(lab).exists() || namespaces().iter().any(|n| n.starts_with(&netns_prefix(lab)))
}

/// Removes everything of a lab: its engines, whatever else runs in its namespaces, the namespaces, the files.
/// Works from names and what is found, so that it also cleans up after a lab that was killed half-way.
/// The lab's folder itself stays until [`remove_folder`]: the lock is on it.
pub fn sweep(lab: &str) -> Result<(), LabError> {
    let recorded = State::load(lab).map(|s| s.daemons).unwrap_or_default();
    let own: Vec<String> = namespaces().into_iter().filter(|n| n.starts_with(&netns_prefix(lab))).collect();
    let mut processes: HashSet<Process> = recorded.iter().map(|d| d.process).collect();
    let family = ancestors();
    for n in &own {
        processes.extend(inhabitants(n).into_iter().filter(|p| !family.contains(&p.pid)));
    }
    end(processes.into_iter().collect())?;
    ip(None, &own.iter().map(|n| format!("netns del {n}")).collect::<Vec<_>>())?;
    let dir = run_dir(lab);
    for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        gone.map_err(|source| LabError::file("remove", &path, source))?;
    }
    Ok(())
}

/// The last step of taking a lab down.
pub fn remove_folder(lab: &str, lock: Lock) -> Result<(), LabError> {
    let dir = run_dir(lab);
    let removed = fs::remove_dir(&dir).map_err(|source| LabError::file("remove", &dir, source));
    lock.release();
    removed
}

/// Processes whose network namespace is the named one.
fn inhabitants(netns: &str) -> Vec<Process> {
    let Ok(output) = Command::new("ip").args(["netns", "pids", netns]).output() else { return Vec::new() };
    String::from_utf8_lossy(&output.stdout).split_whitespace().filter_map(|p| Process::of(p.parse().ok()?)).collect()
}

/// This process and those that wait for it: `lab down` typed inside a pod must not end its own shell.
fn ancestors() -> HashSet<u32> {
    let mut found = HashSet::new();
    let mut pid = std::process::id();
    while pid > 1 && found.insert(pid) {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        pid = stat_field(&stat, 4).unwrap_or(0);
    }
    found
}

/// Ends processes: SIGTERM, three seconds of grace, SIGKILL.
fn end(mut processes: Vec<Process>) -> Result<(), LabError> {
    for (signal, grace) in [(libc::SIGTERM, 3), (libc::SIGKILL, 2)] {
        processes.retain(|p| p.alive());
        for p in &processes {
            // It may have ended by itself between the look and the signal.
            let _ = sys::signal(p.pid, signal);
        }
        let deadline = Instant::now() + Duration::from_secs(grace);
        while processes.iter().any(|p| p.alive()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    match processes.iter().find(|p| p.alive()) {
        Some(p) => Err(LabError::Undying(p.pid)),
        None => Ok(()),
    }
}

/// The end of a log file, for error messages.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_behind_the_name() {
        let stat = "12 (a) b (c) S 1 12 12 0 -1 4194560 0 0 0 0 5 6 0 0 20 0 1 0 987654 1 2";
        assert_eq!(stat_field::<char>(stat, 3), Some('S'));
        assert_eq!(stat_field::<u32>(stat, 4), Some(1));
        assert_eq!(stat_field::<u64>(stat, 14), Some(5));
        assert_eq!(stat_field::<u64>(stat, 22), Some(987654));
        assert_eq!(stat_field::<u64>("", 22), None);
        assert_eq!(stat_field::<u64>(stat, 2), None);
    }

    #[test]
    fn only_the_process_that_was_recorded_is_ended() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::of(child.id()).unwrap();
        end(vec![Process { start_time: process.start_time + 1, ..process }]).unwrap();
        assert!(process.alive(), "another start time is another process");
        end(vec![process]).unwrap();
        assert!(!process.alive());
        assert!(child.wait().unwrap().code().is_none());
    }

    #[test]
    fn one_at_a_time() {
        let name = format!("t{}", std::process::id());
        let lock = Lock::take(&name).unwrap();
        assert!(matches!(Lock::take(&name), Err(LabError::Busy(_))));
        remove_folder(&name, lock).unwrap();
        assert!(!run_dir(&name).exists());
    }
}
