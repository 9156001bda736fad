//! The folder as last read: per file the objects that are in force, and what is wrong with the rest.

use super::Problem;
use super::manifests;
use super::walk::{Stamp, Walk, read};
use crate::control::cluster::Cluster;
use crate::control::model::{self, Key, Manifest, Object};
use crate::control::yaml::SyntaxError;
use sha1::{Digest, Sha1};
use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};

/// The state of a folder and, through it, of the cluster.
pub(super) struct Folder {
    root: PathBuf,
    /// By path below the root, links followed.
    files: BTreeMap<PathBuf, File>,
    /// The folder itself, or folders in it, that cannot be read now.
    faults: Vec<Problem>,
}

#[derive(Default)]
struct File {
    /// What the file looked like when it was read; `None`: to be read again in any case.
    stamp: Option<Stamp>,
    digest: [u8; 20],
    good: BTreeMap<Key, (u32, Object)>,
    problems: Vec<Problem>,
}

impl Folder {
    pub fn new(root: PathBuf) -> Folder {
        Folder { root, files: BTreeMap::new(), faults: Vec::new() }
    }

    /// Reads what changed since the last time. Files for which `busy` answers yes are being written: they
    /// stay as they were read last. If the folder is not there, everything stays.
    pub fn scan(&mut self, busy: impl Fn(&Path) -> bool) {
        let walk = match Walk::of(&self.root) {
            Ok(walk) => walk,
            Err(e) => {
                let message = format!("{}: {e}; the last state stays in force", self.root.display());
                self.faults = vec![Problem::of(".", message)];
                return;
            }
        };
        let kept = |path: &Path| walk.unreadable.iter().any(|(folder, _)| path.starts_with(folder));
        self.files.retain(|path, _| walk.files.contains_key(path) || kept(path));
        self.faults =
            walk.unreadable.iter().map(|(folder, e)| Problem::of(&name(folder), format!("{e}; what it held stays in force"))).collect();
        for (path, metadata) in walk.files {
            let full = self.root.join(&path);
            if busy(&full) {
                continue;
            }
            if !self.files.entry(path.clone()).or_default().refresh(&path, &full, &metadata) {
                self.files.remove(&path);
            }
        }
    }

    /// The objects in force. The same object in two files: the first by path counts.
    pub fn cluster(&self) -> (Cluster, Vec<Problem>) {
        let mut cluster = Cluster::default();
        let mut problems = self.faults.clone();
        let mut holders: BTreeMap<&Key, &Path> = BTreeMap::new();
        for (path, file) in &self.files {
            problems.extend(file.problems.iter().cloned());
            for (key, (line, object)) in &file.good {
                if let Some(other) = holders.get(key) {
                    let message = format!("{key}: {} holds it too and comes first; this one is ignored", other.display());
                    problems.push(Problem { place: name(path), line: *line, message });
                    continue;
                }
                holders.insert(key, path);
                cluster.insert(key.clone(), object.clone());
            }
        }
        problems.sort();
        (cluster, problems)
    }
}

impl File {
    /// Reads the file if it changed; false if it is not there any more.
    fn refresh(&mut self, path: &Path, full: &Path, metadata: &Metadata) -> bool {
        let stamp = Stamp::of(metadata);
        if self.stamp == Some(stamp) {
            return true;
        }
        let settled = stamp.is_settled();
        let bytes = match read(full, metadata) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return false,
            Err(e) => {
                self.stamp = None;
                self.digest = [0; 20];
                self.problems = vec![Problem::of(&name(path), format!("{e}{}", self.held()))];
                return true;
            }
        };
        self.stamp = settled.then_some(stamp);
        let digest = Sha1::digest(&bytes).into();
        if self.digest != digest {
            self.digest = digest;
            self.take(path, bytes);
        }
        true
    }

    fn take(&mut self, path: &Path, bytes: Vec<u8>) {
        let manifest = String::from_utf8(bytes)
            .map_err(|e| SyntaxError { line: line_of(e.as_bytes(), e.utf8_error().valid_up_to()), message: "not UTF-8".into() })
            .and_then(|text| model::parse(&text));
        match manifest {
            Ok(manifest) => self.apply(path, manifest),
            Err(e) => {
                let message = format!("not YAML: {}{}", e.message, self.held());
                self.problems = vec![Problem { place: name(path), line: e.line, message }];
            }
        }
    }

    fn held(&self) -> &'static str {
        if self.good.is_empty() { "" } else { "; what it held stays in force" }
    }

    /// An object that does not validate keeps its last good state. A document that cannot even be named may
    /// be any of those that are missing now, so they all stay.
    fn apply(&mut self, path: &Path, manifest: Manifest) {
        let mut old = std::mem::take(&mut self.good);
        let mut seen: BTreeMap<Key, u32> = BTreeMap::new();
        self.problems.clear();
        let mut report = |line, message| self.problems.push(Problem { place: name(path), line, message });
        for entry in manifest.entries {
            if let Some(first) = seen.get(&entry.key) {
                report(entry.line, format!("{}: already at line {first}; this one is ignored", entry.key));
                continue;
            }
            seen.insert(entry.key.clone(), entry.line);
            match (entry.object, old.remove(&entry.key)) {
                (Ok(object), _) => drop(self.good.insert(entry.key, (entry.line, object))),
                (Err(e), last) => {
                    let note = if last.is_some() { "; its last good state stays in force" } else { "" };
                    report(e.line, format!("{}: {e}{note}", entry.key));
                    self.good.extend(last.map(|(_, object)| (entry.key, (entry.line, object))));
                }
            }
        }
        for e in &manifest.nameless {
            report(e.line, e.to_string());
        }
        if !manifest.nameless.is_empty() {
            self.good.extend(old);
        }
        for (kind, (line, count)) in manifest.ignored {
            // Kept here for others: the tools, address management.
            if kind.split_once(' ').is_some_and(|(version, kind)| manifests::keeps(version, kind)) {
                continue;
            }
            let objects = if count == 1 { "" } else { &format!(" ({count} objects)") };
            report(line, format!("{kind} is not read here; ignored{objects}"));
        }
    }
}

fn line_of(bytes: &[u8], at: usize) -> u32 {
    1 + bytes[..at].iter().filter(|b| **b == b'\n').count() as u32
}

fn name(path: &Path) -> String {
    path.display().to_string()
}
