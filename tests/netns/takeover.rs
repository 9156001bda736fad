//! A daemon takes the place of another while packets flow: 10,000 numbered datagrams a second and a bulk TCP stream.

use super::daemon::{Node, Pair, TORTIE, pool};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::ops::RangeInclusive;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tortie::control::takeover::{Channel, Hello, Reply, Say, VERSION};
use tortie::ops::view::CounterRow;
use tortie::port::sys;
use tortie::testing::build::pattern;
use tortie::testing::netns::ChildGuard;

/// Datagrams per second, sent ten at a time.
const RATE: u64 = 10_000;
const AT_ONCE: u64 = 10;
/// Most that one takeover may cost.
const MAY_LOSE: u64 = 5;
/// What is lost so long before and after the moment is counted as its cost. A machine that is kept busy by others loses
/// packets at other times as well.
const AROUND: Duration = Duration::from_millis(100);
/// A takeover that takes longer than this was kept waiting for a core; milliseconds are usual.
const STARVED: Duration = Duration::from_millis(50);
/// How often it is tried to have a quiet time.
const ATTEMPTS: usize = 4;
/// Leaves workers some time, where a loss would be theirs.
const GENTLE: Duration = Duration::from_millis(2);

/// Numbered datagrams from one pod to the other, until stopped.
struct Datagrams {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    sender: JoinHandle<()>,
    receiver: JoinHandle<Vec<u64>>,
}

impl Datagrams {
    fn start(from: &Node, to: &Node) -> Datagrams {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let at = format!("{}:7000", to.pod_address());
        let rx = to.pod.run(|| UdpSocket::bind(&at).unwrap());
        sys::setsockopt(&rx, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &(64i32 << 20)).unwrap();
        rx.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let tx = from.pod.run(|| UdpSocket::bind(format!("{}:0", from.pod_address())).unwrap());
        tx.connect(&at).unwrap();
        let receiver = std::thread::spawn(move || {
            let mut got = Vec::with_capacity(1 << 20);
            let mut b = [0u8; 256];
            while rx.recv(&mut b).is_ok() {
                got.push(u64::from_le_bytes(b[..8].try_into().unwrap()));
            }
            got
        });
        let (stopped, count) = (stop.clone(), sent.clone());
        let sender = std::thread::spawn(move || {
            let start = Instant::now();
            let mut b = [0u8; 128];
            let mut n = 0u64;
            while !stopped.load(Relaxed) {
                b[..8].copy_from_slice(&n.to_le_bytes());
                tx.send(&b).unwrap();
                n += 1;
                count.store(n, Relaxed);
                if n.is_multiple_of(AT_ONCE) {
                    std::thread::sleep((start + Duration::from_micros(n * 1_000_000 / RATE)).saturating_duration_since(Instant::now()));
                }
            }
        });
        Datagrams { stop, sent, sender, receiver }
    }

    fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// How many were sent, and which of them did not arrive; none may have come twice.
    fn finish(self) -> (u64, Vec<u64>) {
        self.stop.store(true, Relaxed);
        self.sender.join().unwrap();
        let mut got = self.receiver.join().unwrap();
        let (sent, all) = (self.sent.load(Relaxed), got.len());
        got.sort_unstable();
        got.dedup();
        assert_eq!(got.len(), all, "none comes twice");
        let mut missing = Vec::new();
        let mut next = 0;
        for n in got.into_iter().chain([sent]) {
            missing.extend(next..n);
            next = n + 1;
        }
        (sent, missing)
    }
}

/// A TCP stream from one pod to the other, compared byte by byte, until stopped.
struct Bulk {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<u64>,
    receiver: JoinHandle<u64>,
}

impl Bulk {
    /// `pause`: between 64 KB and the next.
    fn start(from: &Node, to: &Node, pause: Duration) -> Bulk {
        let at = format!("{}:7001", to.pod_address());
        let listener = to.pod.run(|| TcpListener::bind(&at).unwrap());
        let stop = Arc::new(AtomicBool::new(false));
        let block = pattern(251 * 256);
        let expected = block.clone();
        let receiver = std::thread::spawn(move || {
            let (mut s, _) = listener.accept().unwrap();
            let (mut b, mut n) = (vec![0u8; expected.len()], 0usize);
            loop {
                let got = s.read(&mut b).expect("no reset");
                if got == 0 {
                    return n as u64;
                }
                let at = n % expected.len();
                let first = got.min(expected.len() - at);
                assert!(b[..first] == expected[at..at + first] && b[first..got] == expected[..got - first], "bytes around {n}");
                n += got;
            }
        });
        let mut s = from.pod.run(|| TcpStream::connect(&at).unwrap());
        let stopped = stop.clone();
        let sender = std::thread::spawn(move || {
            let mut n = 0;
            while !stopped.load(Relaxed) {
                s.write_all(&block).expect("no reset");
                n += block.len() as u64;
                std::thread::sleep(pause);
            }
            n
        });
        Bulk { stop, sender, receiver }
    }

    /// Bytes that arrived.
    fn finish(self) -> u64 {
        self.stop.store(true, Relaxed);
        let sent = self.sender.join().unwrap();
        assert_eq!(self.receiver.join().unwrap(), sent);
        sent
    }
}

/// Starts a successor of the node's daemon, with its log in a file.
fn successor(node: &Node, config: &std::path::Path) -> (ChildGuard, std::path::PathBuf) {
    let log = config.with_extension(format!("{}.log", node.daemon.as_ref().unwrap().id()));
    let command = format!("exec {TORTIE} run --takeover --config {} 2>{}", config.display(), log.display());
    (node.ns.spawn(&["sh", "-c", &command]), log)
}

/// Replaces the node's daemon. How long packets waited; `ended` is called when the old one has ended.
fn take_over(node: &mut Node, ended: impl FnOnce()) -> Duration {
    let (next, log) = successor(node, &node.config);
    let mut before = node.daemon.replace(next).unwrap();
    let text = || std::fs::read_to_string(&log).unwrap_or_default();
    assert_eq!(before.wait(Duration::from_secs(20)), Some(true), "{}", text());
    ended();
    node.ready();
    let pid = node.daemon.as_ref().unwrap().id();
    assert_eq!(std::fs::read_to_string(node.socket.with_extension("sock.lock")).unwrap().trim(), pid.to_string());
    let text = text();
    let waited = text.split("packets waited ").nth(1).and_then(|t| t.split(' ').next()).and_then(|t| t.parse().ok());
    Duration::from_micros(waited.unwrap_or_else(|| panic!("{text}")))
}

fn total(node: &Node) -> CounterRow {
    node.client().counters().unwrap().into_iter().find(|r| r.worker == "total").unwrap()
}

/// Counts that must not go back: of the node, its ports and its routes.
fn counts(node: &Node) -> BTreeMap<String, u64> {
    let (c, t) = (node.client(), total(node));
    let mut all = BTreeMap::from([("received".to_owned(), t.received), ("sent".to_owned(), t.sent), ("dropped".to_owned(), t.dropped)]);
    for p in c.ports().unwrap() {
        // The uplink has several ports of one name.
        *all.entry(format!("{} rx", p.name)).or_default() += p.rx_frames;
        *all.entry(format!("{} tx", p.name)).or_default() += p.tx_frames;
    }
    all.extend(c.fib().unwrap().into_iter().map(|r| (r.prefix, r.packets.unwrap_or(0))));
    for p in c.activity().unwrap().ports {
        p.drops.into_iter().for_each(|d| *all.entry(format!("{} {}", p.name, d.reason)).or_default() += d.packets);
    }
    all
}

/// The node's pod sends to an address that is nobody's until that is counted at its port.
fn drop_one(node: &Node) {
    let nobody = node.pod_address().rsplit_once('.').map(|(net, _)| format!("{net}.40")).unwrap();
    until("a drop at the pod's port", node, || {
        node.pod.output(&["ping", "-c", "1", "-W", "0.05", &nobody]);
        counts(node).iter().any(|(name, n)| name.ends_with(" blackhole") && *n > 0)
    });
}

/// Takeovers on both nodes in turn, while everything flows. A machine on which others work loses packets without them:
/// then it is tried again.
fn nothing_is_lost(p: &mut Pair, times: usize, pause: Duration) {
    for _ in 0..ATTEMPTS {
        if takeovers(p, times, pause) {
            return;
        }
        println!("packets were lost outside of takeovers: once more");
    }
    panic!("this machine is too busy to tell what a takeover costs: {ATTEMPTS} attempts");
}

/// One attempt; false if what was lost was lost at other times.
fn takeovers(p: &mut Pair, times: usize, pause: Duration) -> bool {
    let pids = [&p.a, &p.b].map(|n| n.daemon.as_ref().unwrap().id());
    [&p.a, &p.b].into_iter().for_each(drop_one);
    let (datagrams, bulk) = (Datagrams::start(&p.a, &p.b), Bulk::start(&p.a, &p.b, pause));
    while datagrams.sent() < RATE / 2 {
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut changes: Vec<(Duration, RangeInclusive<u64>)> = Vec::new();
    for i in 0..times {
        let node = if i % 2 == 0 { &mut p.a } else { &mut p.b };
        let before = counts(node);
        let mut end = 0;
        let waited = take_over(node, || end = datagrams.sent());
        let of = |time: Duration| time.as_micros() as u64 * RATE / 1_000_000;
        changes.push((waited, end.saturating_sub(of(waited + AROUND))..=end + of(AROUND)));
        let after = counts(node);
        for (name, n) in &before {
            assert!(after.get(name).is_some_and(|m| m >= n), "{name} went back from {n}: {after:?}");
        }
        assert!(before["received"] > 10 && before.len() > 8, "{before:?}");
        std::thread::sleep(Duration::from_millis(300));
    }
    let bytes = bulk.finish();
    let (sent, missing) = datagrams.finish();
    println!("{sent} datagrams at {RATE}/s, {} lost; {bytes} bytes of TCP", missing.len());
    let mut prompt = 0;
    let of = |change: &RangeInclusive<u64>| missing.iter().filter(|n| change.contains(n)).count();
    let calm = missing.len() == changes.iter().map(|(_, c)| of(c)).sum::<usize>();
    for (waited, change) in &changes {
        println!("takeover around datagrams {change:?}: packets waited {} us, {} lost", waited.as_micros(), of(change));
        if calm && *waited < STARVED {
            prompt += 1;
            assert!(of(change) as u64 <= MAY_LOSE, "{} lost\n{}\n{}", of(change), p.a.story(), p.b.story());
        }
    }
    let judged = 2 * prompt > times;
    assert!(!judged || (sent > 8_000 && bytes > 10_000_000), "{sent} datagrams, {bytes} bytes");
    for (node, pid) in [&p.a, &p.b].into_iter().zip(pids) {
        assert_ne!(node.daemon.as_ref().unwrap().id(), pid);
        let t = total(node);
        assert_eq!(t.received + t.generated, t.sent + t.punted + t.dropped + t.coalesced + t.held, "the law: {t:?}");
    }
    p.expect_both_ways("after all");
    judged
}

#[test]
fn vxlan_over_sockets_and_veths_is_taken_over() {
    let mut p = Pair::new("socket", 1);
    p.start();
    p.expect_both_ways("before");
    nothing_is_lost(&mut p, 5, Duration::ZERO);
}

#[test]
fn ipip_with_two_workers_is_taken_over() {
    let mut p = Pair::new("socket", 2);
    p.file("pool.yaml", &pool("Never", "Always"));
    p.start();
    p.expect_both_ways("before");
    nothing_is_lost(&mut p, 5, Duration::ZERO);
}

#[test]
fn plain_routing_is_taken_over() {
    let mut p = Pair::new("socket", 1);
    p.file("pool.yaml", &pool("Never", "Never"));
    p.start();
    p.expect_both_ways("before");
    // What comes without encapsulation reaches the daemon through the host's TUN, whose queue is as short as a TAP's.
    nothing_is_lost(&mut p, 3, GENTLE);
}

#[test]
fn taps_are_taken_over() {
    let mut p = Pair::new("socket", 1);
    p.taps();
    p.start();
    p.address_taps();
    p.expect_both_ways("before");
    // A TAP's queue holds 1,000 packets: a worker that shares its core with a stream at full speed, and with other
    // tests, may be away for longer than these last.
    nothing_is_lost(&mut p, 5, GENTLE);
}

/// What a successor does by hand, as far as the test wants.
struct Impostor(Channel);

impl Impostor {
    fn connect(node: &Node) -> Impostor {
        let connect = || UnixStream::connect_addr(&SocketAddr::from_abstract_name("tortie-daemon").unwrap()).unwrap();
        let channel = Channel::new(node.ns.run(connect)).unwrap();
        channel.patience(Duration::from_secs(10)).unwrap();
        Impostor(channel)
    }

    fn hello(&mut self, node: &Node, version: u32, workers: &str) {
        let socket = node.socket.display().to_string();
        let settings = [
            ("node", "node1"),
            ("uplink.interface", "eth0"),
            ("uplink.driver", "socket"),
            ("uplink.super-frames", "auto"),
            ("workloads.driver", "auto"),
            ("host.interface", "tunl-tortie"),
            ("workers", workers),
            ("api.socket", &socket),
            ("xdp.mode", "auto"),
        ];
        let settings = settings.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        self.0.send(&Say::Hello(Hello { version, program: "9.9".into(), settings }), &[]).unwrap();
    }

    fn reply(&mut self) -> Reply {
        self.0.receive::<Reply>().unwrap().expect("a reply").message
    }

    /// Up to the last of the ports.
    fn ports(&mut self) -> usize {
        let Reply::State(state) = self.reply() else { panic!("no state") };
        while self.reply() != Reply::End {}
        state.ports.len()
    }

    fn pause(&mut self) {
        self.0.send(&Say::Pause, &[]).unwrap();
        assert!(matches!(self.reply(), Reply::Paused(..)));
    }
}

#[test]
fn takeovers_that_fail_leave_the_old_one_in_charge() {
    let mut p = Pair::new("socket", 1);
    p.start();
    p.expect_both_ways("before");
    let (datagrams, bulk) = (Datagrams::start(&p.a, &p.b), Bulk::start(&p.a, &p.b, GENTLE));
    let settled = || std::thread::sleep(Duration::from_millis(200));
    // Another version, and another configuration, are told why.
    for (version, workers, why) in
        [(VERSION + 1, "1", "takes over by version 2"), (VERSION, "4", "workers is 1 in the running daemon and 4 here")]
    {
        let mut i = Impostor::connect(&p.a);
        i.hello(&p.a, version, workers);
        let Reply::Refused(text) = i.reply() else { panic!("not refused") };
        assert!(text.contains(why) && text.contains("restart instead"), "{text}");
    }
    // Another user is told nothing.
    let stranger = p.a.ns.run(|| {
        const NOBODY: libc::c_long = 65_534;
        // SAFETY: no pointers. The bare system call changes this thread alone, which ends here.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) }, 0);
        UnixStream::connect_addr(&SocketAddr::from_abstract_name("tortie-daemon").unwrap()).unwrap()
    });
    let mut stranger = Channel::new(stranger).unwrap();
    stranger.patience(Duration::from_secs(10)).unwrap();
    assert!(stranger.receive::<Reply>().unwrap().is_none(), "closed at once");
    let other = p.dir.path().join("other.yaml");
    std::fs::write(&other, std::fs::read_to_string(&p.a.config).unwrap().replace("workers: 1", "workers: 2")).unwrap();
    let out = p.a.ns.output(&[TORTIE, "run", "--takeover", "--config", other.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && text.contains("workers is 1") && text.contains("the running daemon stays in charge"), "{text}");
    // The successor dies: having said nothing, hello, having all ports, with the workers paused.
    drop(Impostor::connect(&p.a));
    settled();
    let mut i = Impostor::connect(&p.a);
    i.hello(&p.a, VERSION, "1");
    drop(i);
    settled();
    for pause in [false, true] {
        let mut i = Impostor::connect(&p.a);
        i.hello(&p.a, VERSION, "1");
        assert!(i.ports() >= 3);
        if pause {
            i.pause();
        }
        drop(i);
        settled();
    }
    // The real program is killed at whatever point it has reached.
    let mut late = 0;
    for ms in [5, 10, 20, 30, 45, 60, 80] {
        let (mut next, _) = successor(&p.a, &p.a.config);
        std::thread::sleep(Duration::from_millis(ms));
        let _ = next.child().kill();
        next.wait(Duration::from_secs(30));
        settled();
        // If it had said that it runs, it was the daemon in charge that was killed.
        if p.a.daemon.as_mut().unwrap().child().try_wait().unwrap().is_some() {
            p.a.start();
            late += 1;
        }
        settled();
        p.a.ready();
    }
    let bytes = bulk.finish();
    let (sent, missing) = datagrams.finish();
    let lost = missing.len() as u64;
    println!("{sent} datagrams, {lost} lost over failed takeovers, {late} of 7 by SIGKILL too late; {bytes} bytes of TCP");
    assert!(
        late < 7 && lost <= 12 * MAY_LOSE + late * RATE / 2 && bytes > 1_000_000,
        "{lost} of {sent} lost, {bytes} bytes\n{}",
        p.a.story()
    );
    // One that hangs with the workers paused costs what does not fit into the kernel's buffers, and no more.
    let mut i = Impostor::connect(&p.a);
    i.hello(&p.a, VERSION, "1");
    i.ports();
    i.pause();
    let Reply::Aborted(why) = i.reply() else { panic!("not aborted") };
    assert!(why.contains("did not say Running in time"), "{why}");
    p.expect_both_ways("after one that hung");
    let t = total(&p.a);
    assert_eq!(t.received + t.generated, t.sent + t.punted + t.dropped + t.coalesced + t.held, "the law: {t:?}");
}

/// The answer to GET of a path at the health port: its first line and its body.
fn health(node: &Node, path: &str) -> String {
    node.ns.run(|| {
        let mut s = TcpStream::connect("127.0.0.1:9099").unwrap();
        s.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        write!(s, "GET {path} HTTP/1.1\r\n\r\n").unwrap();
        let mut text = String::new();
        s.read_to_string(&mut text).unwrap();
        text
    })
}

fn with_health(p: &Pair) {
    let text = std::fs::read_to_string(&p.a.config).unwrap();
    std::fs::write(&p.a.config, text + "health: {enabled: true}\n").unwrap();
}

fn until(what: &str, node: &Node, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !is() {
        assert!(Instant::now() < end, "{what}\n{}", node.story());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_control_plane_that_panics_leaves_packets_flowing_and_is_replaced() {
    let mut p = Pair::new("socket", 1);
    with_health(&p);
    p.start();
    p.expect_both_ways("before");
    until("live", &p.a, || health(&p.a, "/liveness").starts_with("HTTP/1.1 200"));
    let (datagrams, bulk) = (Datagrams::start(&p.a, &p.b), Bulk::start(&p.a, &p.b, GENTLE));
    std::thread::sleep(Duration::from_millis(300));
    p.a.ns.sh(&format!("kill -USR1 {}", p.a.daemon.as_ref().unwrap().id()));
    until("status says so", &p.a, || p.a.client().status().is_ok_and(|s| s.problems.iter().any(|l| l.contains("control plane: panicked"))));
    let answer = health(&p.a, "/liveness");
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("the control task has panicked"), "{answer}");
    let sent = datagrams.sent();
    std::thread::sleep(Duration::from_millis(1000));
    assert!(datagrams.sent() > sent + 5000);
    // Whoever watches replaces it; the health port goes along.
    take_over(&mut p.a, || {});
    until("live again", &p.a, || health(&p.a, "/liveness").starts_with("HTTP/1.1 200"));
    until("ready again", &p.a, || health(&p.a, "/readiness").starts_with("HTTP/1.1 200"));
    assert!(p.a.client().status().unwrap().problems.iter().all(|l| !l.contains("control plane")));
    let bytes = bulk.finish();
    let (sent, missing) = datagrams.finish();
    let lost = missing.len() as u64;
    println!("{sent} datagrams, {lost} lost over a panic and its repair; {bytes} bytes of TCP");
    assert!(lost <= MAY_LOSE, "{lost} of {sent}");
}

#[test]
fn under_a_service_manager_a_panicked_control_plane_replaces_itself() {
    let mut p = Pair::new("socket", 1);
    let name = format!("tortie-notify-{}", std::process::id());
    let manager = p.a.ns.run(|| UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap());
    manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    p.b.start();
    p.a.start_with(&[&format!("NOTIFY_SOCKET=@{name}")]);
    p.expect_both_ways("before");
    let told = |signal: &str, pid: u32| -> u32 {
        p.a.ns.sh(&format!("kill -{signal} {pid}"));
        let mut b = [0; 64];
        let n = manager.recv(&mut b).unwrap();
        std::str::from_utf8(&b[..n]).unwrap().strip_prefix("MAINPID=").unwrap().parse().unwrap()
    };
    let first = p.a.daemon.as_ref().unwrap().id();
    let second = told("USR1", first);
    p.a.ready();
    p.expect_both_ways("after the panic");
    // On request as well: the program that is there now takes over.
    let third = told("USR2", second);
    p.a.ready();
    p.expect_both_ways("after an upgrade");
    assert!(first != second && second != third);
    assert_eq!(std::fs::read_to_string(p.a.socket.with_extension("sock.lock")).unwrap().trim(), third.to_string());
    p.a.ns.sh(&format!("kill {third}"));
    until("it ends and takes its device along", &p.a, || !p.a.ns.sh("ip link").contains("tunl-tortie:"));
}

/// Stops one thread of a process, as nothing but a debugger can, and lets it go on when dropped.
struct Stopped(i32);

impl Stopped {
    fn new(tid: u32) -> Stopped {
        let tid = tid as i32;
        let null = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: no pointer of ours is followed by either request.
        unsafe {
            assert_eq!(libc::ptrace(libc::PTRACE_SEIZE, tid, null, null), 0, "{}", std::io::Error::last_os_error());
            assert_eq!(libc::ptrace(libc::PTRACE_INTERRUPT, tid, null, null), 0);
            assert_eq!(libc::waitpid(tid, std::ptr::null_mut(), libc::__WALL), tid);
        }
        Stopped(tid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let null = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: as above.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, null, null) };
    }
}

#[test]
fn a_control_plane_that_hangs_leaves_packets_flowing() {
    let mut p = Pair::new("socket", 1);
    p.start();
    p.expect_both_ways("before");
    // The main thread is the control plane's.
    let stopped = Stopped::new(p.a.daemon.as_ref().unwrap().id());
    let (datagrams, bulk) = (Datagrams::start(&p.a, &p.b), Bulk::start(&p.a, &p.b, GENTLE));
    until("status says so", &p.a, || {
        p.a.client().status().is_ok_and(|s| s.problems.iter().any(|l| l.contains("control plane: no answer for")))
    });
    std::thread::sleep(Duration::from_millis(500));
    let bytes = bulk.finish();
    let (sent, missing) = datagrams.finish();
    let lost = missing.len() as u64;
    println!("{sent} datagrams, {lost} lost while control hung; {bytes} bytes of TCP");
    assert!(lost <= MAY_LOSE && sent > 5000, "{lost} of {sent}");
    // Such a one hands nothing over, and says what to do instead.
    let out = p.a.ns.output(&[TORTIE, "run", "--takeover", "--config", p.a.config.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && text.contains("its control plane hangs; restart instead"), "{text}");
    drop(stopped);
    until("it goes on", &p.a, || p.a.client().status().is_ok_and(|s| s.problems.is_empty()));
}

#[test]
fn an_af_xdp_uplink_is_opened_anew() {
    let mut p = Pair::new("af-xdp", 1);
    p.start();
    p.expect_both_ways("before");
    let datagrams = Datagrams::start(&p.a, &p.b);
    std::thread::sleep(Duration::from_millis(500));
    let (next, log) = successor(&p.a, &p.a.config);
    let mut before = p.a.daemon.replace(next).unwrap();
    let text = || std::fs::read_to_string(&log).unwrap_or_default();
    assert_eq!(before.wait(Duration::from_secs(20)), Some(true), "{}", text());
    p.a.ready();
    assert!(text().contains("waiting for the running daemon to end"), "{}", text());
    p.expect_both_ways("after");
    let (sent, missing) = datagrams.finish();
    let lost = missing.len() as u64;
    println!("{sent} datagrams, {lost} lost: AF_XDP's memory is not passed on");
    // A restart costs more.
    assert!(lost < RATE / 2, "{lost} of {sent}");
}

#[test]
fn without_a_running_daemon_it_just_starts() {
    let mut p = Pair::new("socket", 1);
    let argv = [TORTIE, "run", "--takeover", "--config", p.a.config.to_str().unwrap()];
    p.a.daemon = Some(p.a.ns.spawn(&argv));
    p.a.ready();
    assert_eq!(p.a.signal("TERM"), Some(true));
}

#[test]
fn process_1_of_a_container_hands_over_to_another_container_alone() {
    let mut p = Pair::new("socket", 1);
    let config = p.a.config.to_str().unwrap().to_owned();
    p.a.daemon = Some(p.a.ns.spawn(&["unshare", "--pid", "--fork", "--mount-proc", TORTIE, "run", "--config", &config]));
    p.a.ready();
    let unshare = p.a.daemon.as_ref().unwrap().id();
    let inner = std::fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children")).unwrap();
    let out = p.a.ns.output(&["nsenter", "--target", inner.trim(), "--pid", TORTIE, "run", "--takeover", "--config", &config]);
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && text.contains("process 1 of its container"), "{text}");
    p.a.ready();
    take_over(&mut p.a, || {});
    p.b.start();
    p.expect_both_ways("after the other container took over");
}
