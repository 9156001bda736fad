//! The worker threads as control sees them: started, woken, listened to, replaced when one panics, stopped.

use crate::control::takeover::Memory;
use crate::frame::{FramePool, Umem};
use crate::snapshot::Reader;
use crate::worker::{Command, Counters, Event, Mailbox, Waker, Worker};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Slots of each worker's pool: rings and queues of an uplink and some dozens of pods, and super-frames in flight.
const SMALL_SLOTS: u32 = 8192;
const BIG_SLOTS: u32 = 128;
/// This many panics within [`PANIC_WINDOW`] are no accident any more.
const PANICS: usize = 3;
const PANIC_WINDOW: Duration = Duration::from_secs(60);

/// In test builds alone a number of big slots in the environment counts, as of another version of this program.
fn slots() -> (u32, u32) {
    let other = if cfg!(feature = "testing") { std::env::var("TORTIE_TEST_BIG_SLOTS").ok() } else { None };
    (SMALL_SLOTS, other.and_then(|n| n.parse().ok()).unwrap_or(BIG_SLOTS))
}

/// All workers.
pub struct Workers {
    /// Of each one's pool: (small, big).
    slots: (u32, u32),
    waker: Arc<Waker>,
    mailboxes: Vec<Arc<Mailbox>>,
    counters: Vec<Arc<Counters>>,
    umems: Vec<Umem>,
    threads: Vec<Option<JoinHandle<()>>>,
    panics: VecDeque<Instant>,
    spin: Duration,
}

impl Workers {
    /// One worker per reader, each looking for packets for `spin` at most before it sleeps. Errors: no memory for pools, no thread.
    /// `paused`: they leave ports alone until `Command::Resume`.
    pub fn start(readers: Vec<Reader>, spin: Duration, paused: bool) -> io::Result<Workers> {
        let mut w = Workers {
            slots: slots(),
            spin,
            waker: Arc::new(Waker::new()?),
            mailboxes: Vec::new(),
            counters: Vec::new(),
            umems: Vec::new(),
            threads: Vec::new(),
            panics: VecDeque::new(),
        };
        for (index, reader) in readers.into_iter().enumerate() {
            w.mailboxes.push(Arc::new(Mailbox::new(w.waker.clone())?));
            w.counters.push(Arc::default());
            let (umem, thread) = w.spawn(index, reader, paused)?;
            w.umems.push(umem);
            w.threads.push(Some(thread));
        }
        Ok(w)
    }

    fn spawn(&self, index: usize, reader: Reader, paused: bool) -> io::Result<(Umem, JoinHandle<()>)> {
        let pool = FramePool::shared(self.slots.0, self.slots.1)?;
        let umem = pool.umem();
        let mut worker = Worker::new(index, pool, reader, self.mailboxes[index].clone(), self.counters[index].clone())?;
        worker.spin(self.spin);
        if paused {
            worker.pause();
        }
        Ok((umem, worker.start()?))
    }

    /// Has paused workers without ports live in the memory of another daemon's, worker by worker. Errors: it is not as theirs
    /// is, or cannot be mapped; then none does.
    pub fn move_to(&mut self, memories: Vec<(Memory, OwnedFd)>) -> Result<(), String> {
        let own = Memory::new(self.slots);
        if let Some((other, _)) = memories.iter().find(|(m, _)| *m != own) {
            return Err(format!("it has {other:?} and here is {own:?}"));
        }
        if memories.len() != self.mailboxes.len() {
            return Err(format!("it is of {} workers", memories.len()));
        }
        let pools = memories.into_iter().map(|(_, fd)| FramePool::adopt(fd, own.small, own.big));
        let pools = pools.collect::<io::Result<Vec<_>>>().map_err(|e| e.to_string())?;
        for (i, pool) in pools.into_iter().enumerate() {
            self.umems[i] = pool.umem();
            let mut command = Command::MoveTo(Box::new(pool));
            // A full mailbox is being emptied by the worker.
            while let Err(back) = self.mailboxes[i].command(command) {
                command = back;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    pub fn mailboxes(&self) -> Vec<Arc<Mailbox>> {
        self.mailboxes.clone()
    }

    pub fn counters(&self) -> Vec<Arc<Counters>> {
        self.counters.clone()
    }

    /// The memory of each worker's pool, as long as the worker lives.
    pub fn umems(&self) -> &[Umem] {
        &self.umems
    }

    /// Sends a command to every worker and waits for all answers. Errors: a worker did not answer within `limit`.
    pub fn ask<T>(&self, limit: Duration, command: impl Fn(SyncSender<T>) -> Command) -> Result<Vec<T>, String> {
        let end = Instant::now() + limit;
        let silent = |i: usize| format!("worker {i} did not answer within {} ms", limit.as_millis());
        let mut answers = Vec::with_capacity(self.mailboxes.len());
        for (i, mailbox) in self.mailboxes.iter().enumerate() {
            let (sender, answer) = sync_channel(1);
            mailbox.command(command(sender)).map_err(|_| silent(i))?;
            answers.push(answer);
        }
        let wait = |(i, a): (usize, Receiver<T>)| a.recv_timeout(end.saturating_duration_since(Instant::now())).map_err(|_| silent(i));
        answers.into_iter().enumerate().map(wait).collect()
    }

    /// Everything that workers reported since the last call.
    pub fn events(&self) -> Vec<Event> {
        self.waker.clear();
        self.mailboxes.iter().flat_map(|m| std::iter::from_fn(|| m.events.pop())).collect()
    }

    /// Has every worker take up the newest snapshot now.
    pub fn wake(&self) {
        self.mailboxes.iter().for_each(|m| m.worker_waker.wake());
    }

    /// Notes a panic; false when there were too many lately.
    pub fn may_restart(&mut self, now: Instant) -> bool {
        while self.panics.front().is_some_and(|t| now.saturating_duration_since(*t) > PANIC_WINDOW) {
            self.panics.pop_front();
        }
        self.panics.push_back(now);
        self.panics.len() < PANICS
    }

    /// Puts a new worker, with a new pool, in the place of one that died.
    pub fn restart(&mut self, index: usize, reader: Reader) -> io::Result<()> {
        if let Some(thread) = self.threads[index].take() {
            // It has sent its last event already.
            let _ = thread.join();
        }
        // What was meant for the old one is of no use to the new one.
        while self.mailboxes[index].commands.pop().is_some() {}
        let (umem, thread) = self.spawn(index, reader, false)?;
        self.umems[index] = umem;
        self.threads[index] = Some(thread);
        Ok(())
    }

    /// Stops all workers and waits for them; their ports are closed then.
    pub fn stop(&mut self) {
        for (mailbox, thread) in self.mailboxes.iter().zip(&mut self.threads) {
            let Some(thread) = thread.take() else { continue };
            // A full mailbox is being emptied by the worker.
            while mailbox.command(Command::Stop).is_err() && !thread.is_finished() {
                std::thread::sleep(Duration::from_millis(1));
            }
            let _ = thread.join();
        }
    }
}

impl AsFd for Workers {
    /// Readable when [`Workers::events`] has something to return.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waker.as_fd()
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot;

    #[test]
    fn start_restart_stop() {
        let (publisher, readers) = snapshot::channel(2);
        let mut w = Workers::start(readers, Duration::ZERO, false).unwrap();
        assert_eq!((w.mailboxes().len(), w.counters().len(), w.umems().len()), (2, 2, 2));
        // Stands for a worker that died: its thread has ended before it is replaced.
        while w.mailboxes[1].command(Command::Stop).is_err() {}
        w.restart(1, publisher.reader(1)).unwrap_or_else(|e| panic!("{e}"));
        w.stop();
        assert!(w.threads.iter().all(Option::is_none));
    }

    #[test]
    fn other_memory_is_taken_if_it_is_alike() {
        let (_, readers) = snapshot::channel(1);
        let mut w = Workers::start(readers, Duration::ZERO, true).unwrap();
        let pool = FramePool::shared(SMALL_SLOTS, BIG_SLOTS).unwrap();
        let before = w.umems[0].base;
        let memory = |m| vec![(m, pool.memory().unwrap().try_clone_to_owned().unwrap())];
        let own = Memory::new((SMALL_SLOTS, BIG_SLOTS));
        let text = w.move_to(memory(Memory { small: 4096, ..own })).unwrap_err();
        assert!(text.contains("small: 4096") && text.contains("small: 8192"), "{text}");
        assert!(w.move_to(Vec::new()).unwrap_err().contains("0 workers"));
        assert_eq!(w.umems[0].base, before);
        w.move_to(memory(own)).unwrap();
        assert_ne!(w.umems[0].base, before);
    }

    #[test]
    fn three_panics_in_a_minute_are_too_many() {
        let (_, readers) = snapshot::channel(0);
        let mut w = Workers::start(readers, Duration::ZERO, false).unwrap();
        let t = Instant::now();
        assert!(w.may_restart(t) && w.may_restart(t + Duration::from_secs(1)));
        assert!(!w.may_restart(t + Duration::from_secs(2)));
        assert!(w.may_restart(t + Duration::from_secs(70)));
    }
}
