//! Two ports joined by a thread that passes every frame from one to the other as it is, and a checksummed TCP
//! transfer to send through.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tortie::frame::{Batch, Csum, FramePool, GsoKind};
use tortie::port::{Port, RxReport, sys};
use tortie::testing::netns::Namespace;

/// What went over a wire, both directions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub frames: u64,
    pub tcp_super: u64,
    pub udp_super: u64,
    pub partial: u64,
    pub longest: usize,
    pub errors: u64,
    pub too_big: u64,
    pub lost: u64,
}

/// The running wire; stops when dropped.
pub struct Wire {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Seen>>,
}

impl Wire {
    pub fn new(a: Box<dyn Port>, b: Box<dyn Port>) -> Wire {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        Wire { stop, thread: Some(std::thread::spawn(move || run(a, b, &flag))) }
    }

    /// Stops and returns what went over; by then every slot was found back in the pool.
    pub fn finish(mut self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("runs until finished").join().expect("wire thread")
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(mut a: Box<dyn Port>, mut b: Box<dyn Port>, stop: &AtomicBool) -> Seen {
    let mut pool = FramePool::new(512, 128).unwrap();
    let mut seen = Seen::default();
    let (mut to_a, mut to_b) = (Batch::new(), Batch::new());
    while !stop.load(Ordering::Relaxed) {
        pass(&mut *a, &mut *b, &mut to_b, &mut pool, &mut seen);
        pass(&mut *b, &mut *a, &mut to_a, &mut pool, &mut seen);
        if to_a.is_empty() && to_b.is_empty() {
            wait(&[a.wait_fd().unwrap(), b.wait_fd().unwrap()], 20);
        }
    }
    pool.give_all(&mut to_a);
    pool.give_all(&mut to_b);
    a.release(&mut pool);
    b.release(&mut pool);
    assert!(pool.is_full(), "slots are missing: {:?} of {:?}", pool.free(), pool.size());
    seen
}

fn pass(from: &mut dyn Port, to: &mut dyn Port, queue: &mut Batch, pool: &mut FramePool, seen: &mut Seen) {
    let before = queue.len();
    let RxReport { truncated, malformed } = from.rx_burst(pool, queue).expect("receive");
    seen.lost += u64::from(truncated + malformed);
    for f in &queue.as_slice()[before..] {
        seen.frames += 1;
        seen.longest = seen.longest.max(f.len());
        seen.partial += u64::from(matches!(f.csum, Csum::Partial { .. }));
        match f.gso.map(|g| g.kind) {
            Some(GsoKind::Udp) => seen.udp_super += 1,
            Some(_) => seen.tcp_super += 1,
            None => {}
        }
    }
    let report = to.tx_burst(pool, queue).expect("send");
    seen.errors += u64::from(report.errors);
    seen.too_big += u64::from(report.too_big);
}

/// Waits until one of the descriptors is readable, at most `ms` milliseconds; whether one is.
pub fn wait(fds: &[BorrowedFd<'_>], ms: i32) -> bool {
    let mut polls: Vec<_> = fds.iter().map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 }).collect();
    // SAFETY: the array is live and of the given length.
    unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, ms) > 0 }
}

/// Sends `bytes` over TCP from one namespace to `address` in the other; panics unless they arrive unchanged.
pub fn transfer(from: &Namespace, to: &Namespace, address: &str, bytes: usize) {
    transfer_at(from.path(), to.path(), address, bytes);
}

/// The same between namespaces given by their files; how many segments the sender sent again (tcp(7), TCP_INFO).
pub fn transfer_at(from: &Path, to: &Path, address: &str, bytes: usize) -> u32 {
    let listener = sys::in_netns(to, || TcpListener::bind(address).expect("listen")).expect("enter the receiver's namespace");
    let server = std::thread::spawn(move || {
        let (mut s, _) = listener.accept().expect("accept");
        s.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut digest = Digest::default();
        let (mut buf, mut left) = (vec![0u8; 1 << 16], bytes);
        while left > 0 {
            let n = s.read(&mut buf).expect("receive");
            assert!(n > 0, "closed with {left} bytes to come");
            digest.add(&buf[..n]);
            left -= n;
        }
        s.write_all(&digest.0.to_ne_bytes()).expect("answer");
    });
    let connect = || TcpStream::connect_timeout(&address.parse().unwrap(), Duration::from_secs(5)).expect("connect");
    let mut client = sys::in_netns(from, connect).expect("enter the sender's namespace");
    client.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut digest = Digest::default();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let (mut buf, mut sent) = (vec![0u8; 1 << 16], 0);
    while sent < bytes {
        for word in buf.chunks_exact_mut(8) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            word.copy_from_slice(&state.to_ne_bytes());
        }
        let n = buf.len().min(bytes - sent);
        client.write_all(&buf[..n]).expect("send");
        digest.add(&buf[..n]);
        sent += n;
    }
    let mut answer = [0u8; 8];
    client.read_exact(&mut answer).expect("the digest of what arrived");
    assert_eq!(u64::from_ne_bytes(answer), digest.0, "the data changed on the way");
    server.join().expect("server");
    retransmitted(&client)
}

/// Segments that the connection has sent more than once.
fn retransmitted(s: &TcpStream) -> u32 {
    // SAFETY: integers only, for which zero is valid.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into `info`, which is live.
    let done = unsafe { libc::getsockopt(s.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut len) };
    sys::check(done).expect("TCP_INFO");
    info.tcpi_total_retrans
}

/// A polynomial hash over all bytes; it does not depend on how they are cut into pieces.
#[derive(Default)]
struct Digest(u64);

impl Digest {
    fn add(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.0 = self.0.wrapping_mul(0x0000_0100_0000_01b3).wrapping_add(u64::from(*b) + 1);
        }
    }
}
