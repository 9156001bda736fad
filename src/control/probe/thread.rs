//! The thread that measures: sockets around a [`Field`]. It has nothing to wait for but them, so that a control plane
//! that is busy or stuck does not show in what is measured.

use super::field::{LOSSES, Wire};
use super::packet::ICMP_TYPE;
use super::{Board, Orders, train};
use crate::drop::DropReason;
use crate::port::icmp::{Receiver, Sender, SuperSender, wait};
use crate::worker::{Counters, Waker};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Packets that are taken from one socket at one waking; if there were more, the thread rests before the next, so that
/// a flood of forged packets costs no more than this.
const AT_ONCE: usize = 64;
const REST: Duration = Duration::from_millis(10);
/// Counters of drops are looked at this often at least.
const LOOK: u64 = 1_000_000_000;
/// Longest packet.
const LONGEST: usize = 65_535;

struct Shared {
    board: Arc<Board>,
    orders: Mutex<Option<Orders>>,
    waker: Waker,
    stop: AtomicBool,
}

/// The running thread; dropping this ends it.
pub struct Prober {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// What was ordered last.
    last: Option<Orders>,
}

impl Prober {
    /// Starts it, in the calling thread's network namespace. `counters`: of each worker. Errors: no thread, no eventfd.
    pub fn start(board: Arc<Board>, counters: Vec<Arc<Counters>>) -> io::Result<Prober> {
        let shared = Arc::new(Shared { board, orders: Mutex::new(None), waker: Waker::new()?, stop: AtomicBool::new(false) });
        let own = shared.clone();
        let run = move || Runner { shared: own, counters, sockets: None, next_look: 0, buffer: vec![0; LONGEST] }.run();
        let thread = std::thread::Builder::new().name("probes".into()).spawn(run)?;
        Ok(Prober { shared, thread: Some(thread), last: None })
    }

    /// What is to be measured from now on.
    pub fn order(&mut self, orders: Orders) {
        if self.last.as_ref() == Some(&orders) {
            return;
        }
        self.last = Some(orders.clone());
        *self.shared.orders.lock().unwrap_or_else(PoisonError::into_inner) = Some(orders);
        self.shared.waker.wake();
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Sockets {
    /// The interfaces they were opened for.
    at: [Option<u32>; 2],
    sender: Sender,
    /// By way of the host device, where there is one.
    supers: Option<SuperSender>,
    /// Where probes come in.
    devices: [Option<Receiver>; 2],
    answers: Receiver,
}

struct Runner {
    shared: Arc<Shared>,
    counters: Vec<Arc<Counters>>,
    sockets: Option<Sockets>,
    next_look: u64,
    buffer: Vec<u8>,
}

struct Out<'a> {
    sender: &'a Sender,
    supers: Option<&'a SuperSender>,
    board: &'a Board,
}

impl Wire for Out<'_> {
    fn send(&mut self, packet: &[u8], to: Ipv4Addr) -> io::Result<()> {
        self.sender.send(packet, to)
    }

    fn send_super(&mut self, packet: &[u8], segment: u16) -> io::Result<()> {
        self.supers.map_or_else(|| Err(io::ErrorKind::NotConnected.into()), |s| s.send(packet, segment))
    }

    fn now(&self) -> u64 {
        self.board.now()
    }
}

impl Runner {
    fn run(mut self) {
        let mut until = 0;
        while !self.shared.stop.load(Ordering::Acquire) {
            let now = self.shared.board.now();
            let ms = until_ms(now, until);
            let s = self.sockets.as_ref();
            let device = |i: usize| s.and_then(|s| s.devices[i].as_ref()).map(Receiver::as_fd);
            let fds = [Some(self.shared.waker.as_fd()), device(0), device(1), s.map(|s| s.answers.as_fd())];
            let [woken, ready @ ..] = wait(fds, ms).unwrap_or_else(|_| {
                std::thread::sleep(REST);
                [true; 4]
            });
            if woken {
                self.shared.waker.clear();
            }
            self.obey();
            if self.receive(ready) {
                std::thread::sleep(REST);
            }
            until = self.turn();
        }
    }

    /// Takes up new orders.
    fn obey(&mut self) {
        let orders = self.shared.orders.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(orders) = orders else { return };
        let mut field = self.shared.board.lock();
        let on = orders.off.is_none();
        let devices = orders.devices;
        field.adopt(self.shared.board.now(), orders);
        self.sockets = self.sockets.take().filter(|s| on && s.at == devices);
        field.set_fault(None);
        if on && self.sockets.is_none() {
            match open(devices, field.echo()) {
                Ok(sockets) => self.sockets = Some(sockets),
                Err(e) => field.set_fault(Some(format!("sockets for probes cannot be opened: {e}"))),
            }
        }
    }

    /// Takes what came in by the sockets that are ready: devices and answers. True if that was as much as may be taken at
    /// once.
    fn receive(&mut self, ready: [bool; 3]) -> bool {
        let Some(Sockets { devices, answers, .. }) = &self.sockets else { return false };
        let board = &*self.shared.board;
        let mut field = board.lock();
        let mut most = 0;
        for device in devices.iter().zip(ready).filter(|(_, ready)| *ready).filter_map(|(d, _)| d.as_ref()) {
            let mut taken = 0;
            // An interface that is down or gone has nothing; orders come when it is back.
            while taken < AT_ONCE
                && let Ok(Some(packet)) = device.receive(&mut self.buffer)
            {
                field.take(board.now(), packet);
                taken += 1;
            }
            most = most.max(taken);
        }
        let mut taken = 0;
        while ready[2]
            && taken < AT_ONCE
            && let Ok(Some(packet)) = answers.receive(&mut self.buffer)
        {
            field.take_other(board.now(), packet);
            taken += 1;
        }
        most.max(taken) == AT_ONCE
    }

    /// Answers, asks, and says when there is something to do next.
    fn turn(&mut self) -> u64 {
        let board = &*self.shared.board;
        let now = board.now();
        let Some(Sockets { sender, supers, .. }) = &self.sockets else { return now + LOOK };
        let mut field = board.lock();
        if now >= self.next_look {
            self.next_look = now + LOOK;
            field.note_drops(now, drops(&self.counters));
        }
        let mut out = Out { sender, supers: supers.as_ref(), board };
        if field.answer_at().is_some_and(|at| at <= now) {
            field.answer(&mut out);
        }
        let next = field.turn(&mut out);
        field.answer_at().map_or(next, |at| at.min(next))
    }
}

/// Milliseconds to wait, rounded up.
fn until_ms(now: u64, until: u64) -> i32 {
    i32::try_from(until.saturating_sub(now).div_ceil(1_000_000)).unwrap_or(i32::MAX)
}

fn open(devices: [Option<u32>; 2], echo: u16) -> io::Result<Sockets> {
    let at = |device: Option<u32>| device.map(|index| Receiver::at_device(index, ICMP_TYPE, train::DISCARD)).transpose();
    let receivers = [at(devices[0])?, at(devices[1])?];
    let supers = devices[0].map(SuperSender::at_device).transpose()?;
    Ok(Sockets { at: devices, sender: Sender::open()?, supers, devices: receivers, answers: Receiver::of_answers(echo)? })
}

/// In the order of [`LOSSES`].
fn drops(counters: &[Arc<Counters>]) -> [u64; LOSSES.len()] {
    const REASONS: [DropReason; LOSSES.len()] = [
        DropReason::VxlanVni,
        DropReason::OuterUdpChecksum,
        DropReason::TunnelSenderUnknown,
        DropReason::VxlanInnerMac,
        DropReason::OuterFragment,
        DropReason::IpChecksum,
    ];
    REASONS.map(|r| counters.iter().map(|c| c.dropped[r.index()].get()).sum())
}
