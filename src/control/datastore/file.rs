//! A folder of manifests as the datastore: `*.yaml`, `*.yml` and `*.json` below it, watched by inotify.
//!
//! A thread of its own watches, reads and validates; whole states come out, newest first. A file that is
//! being written is read when its writer closes it, so a state never shows half a file. Renames over a file,
//! links swapped as a ConfigMap's are, and the folder itself being replaced are all seen; a slow look at
//! everything catches what inotify may have missed.

use super::folder::Folder;
use super::{OpenError, Problem};
use crate::control::cluster::Cluster;
use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long events must be quiet before the folder is read, and for how long that may put it off.
const QUIET: Duration = Duration::from_millis(3);
const QUIET_MAX: Duration = Duration::from_millis(15);
/// A file is read when it is closed, or this long after its last write if its writer keeps it open.
const WRITER_PATIENCE: Duration = Duration::from_millis(300);
/// The look at everything, with and without inotify's help.
const POLL: Duration = Duration::from_secs(2);
const POLL_ONLY: Duration = Duration::from_millis(500);

struct State {
    cluster: Cluster,
    problems: Vec<Problem>,
}

enum Wake {
    Event(notify::Result<Event>),
    Rescan,
    Stop,
}

/// A watched folder. Dropping it ends its thread.
pub struct FileStore {
    states: watch::Receiver<Arc<State>>,
    current: Arc<State>,
    wake: Sender<Wake>,
    thread: Option<JoinHandle<()>>,
}

impl FileStore {
    /// Reads the folder completely, and watches it from then on. Files and objects with faults do not fail
    /// it; they are in [`FileStore::problems`].
    pub fn open(path: &Path) -> Result<(FileStore, Cluster), OpenError> {
        let fault = |source| OpenError::Read { path: path.into(), source };
        let root = std::path::absolute(path).map_err(fault)?;
        match std::fs::read_dir(&root) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(OpenError::Missing { path: root }),
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => return Err(OpenError::NotAFolder { path: root }),
            Err(e) => return Err(fault(e)),
        }
        let (wake, events) = mpsc::channel();
        let mut keeper = Keeper { folder: Folder::new(root.clone()), watcher: Watch::new(root, wake.clone()), writing: BTreeMap::new() };
        let first = Arc::new(keeper.read());
        let (sender, states) = watch::channel(first.clone());
        report(&first.problems, &[]);
        let thread = thread::Builder::new().name("datastore".into()).spawn(move || keeper.run(&events, &sender)).map_err(fault)?;
        let cluster = first.cluster.clone();
        Ok((FileStore { states, current: first, wake, thread: Some(thread) }, cluster))
    }

    /// The next state, once the objects in force or the problems differ from what was returned last. Several
    /// changes may have come together. Cancel-safe.
    pub async fn next(&mut self) -> Cluster {
        if self.states.changed().await.is_err() {
            // The thread ends only with this value.
            std::future::pending::<()>().await;
        }
        self.current = self.states.borrow_and_update().clone();
        self.current.cluster.clone()
    }

    /// What was wrong as of the state returned last, in order of file and line.
    pub fn problems(&self) -> &[Problem] {
        &self.current.problems
    }

    /// Looks at all files now.
    pub fn rescan(&self) {
        // Fails only if the thread is gone, which `next` deals with.
        let _ = self.wake.send(Wake::Rescan);
    }
}

impl Drop for FileStore {
    fn drop(&mut self) {
        let _ = self.wake.send(Wake::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Each problem is logged when it comes up, not again while it lasts.
fn report(now: &[Problem], before: &[Problem]) {
    let known: BTreeSet<&Problem> = before.iter().collect();
    for problem in now.iter().filter(|p| !known.contains(p)) {
        tracing::warn!("datastore: {problem}");
    }
}

/// The thread's own: the folder, its watch, and the files being written with the time of their last write.
struct Keeper {
    folder: Folder,
    watcher: Watch,
    writing: BTreeMap<PathBuf, Instant>,
}

impl Keeper {
    fn run(mut self, events: &Receiver<Wake>, states: &watch::Sender<Arc<State>>) {
        while self.wait(events) {
            let next = self.read();
            let last = states.borrow().clone();
            if next.cluster != last.cluster || next.problems != last.problems {
                report(&next.problems, &last.problems);
                states.send_replace(Arc::new(next));
            }
        }
    }

    /// Until the folder should be read; false at the end.
    fn wait(&mut self, events: &Receiver<Wake>) -> bool {
        let now = Instant::now();
        let writer = self.writing.values().map(|last| *last + WRITER_PATIENCE).min();
        let idle = now + if self.watcher.works() { POLL } else { POLL_ONLY };
        let mut until = writer.map_or(idle, |w| w.min(idle));
        let mut latest = None;
        loop {
            match events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
                Err(RecvTimeoutError::Timeout) => return true,
                Ok(Wake::Rescan) => return true,
                Ok(Wake::Event(event)) => {
                    if self.note(event) {
                        let now = Instant::now();
                        until = (now + QUIET).min(*latest.get_or_insert(now + QUIET_MAX));
                    }
                }
            }
        }
    }

    /// Whether the event is a reason to read.
    fn note(&mut self, event: notify::Result<Event>) -> bool {
        // An error may mean lost events (a full queue): look at everything.
        let Ok(event) = event else { return true };
        if !event.need_rescan() && !event.paths.iter().any(|p| self.watcher.concerns(p)) {
            return false;
        }
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => {
                event.paths.iter().for_each(|p| {
                    self.writing.remove(p);
                });
                true
            }
            // Reading the files causes these.
            EventKind::Access(_) => false,
            EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Any) => {
                self.writing.extend(event.paths.into_iter().map(|p| (p, Instant::now())));
                true
            }
            _ => true,
        }
    }

    fn read(&mut self) -> State {
        self.watcher.renew();
        self.writing.retain(|_, last| last.elapsed() < WRITER_PATIENCE);
        self.folder.scan(|path| self.writing.contains_key(path));
        let (cluster, mut problems) = self.folder.cluster();
        problems.extend(self.watcher.fault.clone());
        State { cluster, problems }
    }
}

/// inotify on the folder, and on the one above it so that the folder's own coming and going is seen.
struct Watch {
    root: PathBuf,
    wake: Sender<Wake>,
    watcher: Option<RecommendedWatcher>,
    /// Device and inode of the folder that is watched.
    watched: Option<(u64, u64)>,
    fault: Option<Problem>,
}

impl Watch {
    fn new(root: PathBuf, wake: Sender<Wake>) -> Watch {
        Watch { root, wake, watcher: None, watched: None, fault: None }
    }

    fn works(&self) -> bool {
        self.watcher.is_some() && self.watched.is_some()
    }

    fn concerns(&self, path: &Path) -> bool {
        path.starts_with(&self.root)
    }

    /// Watches the folder that is at the path now, if that is another one than before.
    fn renew(&mut self) {
        let now = std::fs::metadata(&self.root).ok().map(|m| (m.dev(), m.ino()));
        if self.watcher.is_some() && self.watched == now {
            return;
        }
        self.watched = now;
        match self.start(now.is_some()) {
            Ok(watcher) => (self.watcher, self.fault) = (Some(watcher), None),
            Err(e) => {
                let message = format!(
                    "cannot watch {}: {e}; changes are seen every {} ms instead (fs.inotify.max_user_watches and max_user_instances may be too low)",
                    self.root.display(),
                    POLL_ONLY.as_millis()
                );
                (self.watcher, self.fault) = (None, Some(Problem::of(".", message)));
            }
        }
    }

    fn start(&self, exists: bool) -> notify::Result<RecommendedWatcher> {
        let wake = self.wake.clone();
        // Fails only at the end, when nobody waits for events any more.
        let mut watcher = notify::recommended_watcher(move |event| drop(wake.send(Wake::Event(event))))?;
        if let Some(above) = self.root.parent().filter(|p| p.is_dir()) {
            watcher.watch(above, RecursiveMode::NonRecursive)?;
        }
        if exists {
            watcher.watch(&self.root, RecursiveMode::Recursive)?;
        }
        Ok(watcher)
    }
}
