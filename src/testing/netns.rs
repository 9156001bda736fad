//! Network namespaces for tests: made by name, deleted on drop (a panic included), swept when their maker died.
//!
//! Needs root and iproute2. Inside a namespace loopback is up and IPv6 is off, so that no router solicitation
//! or neighbour discovery appears between the frames of a test.

use crate::port::sys;
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const DIR: &str = "/run/netns";
const PREFIX: &str = "tt-";

/// A network namespace that lives as long as the value.
pub struct Namespace {
    name: String,
    path: PathBuf,
}

impl Namespace {
    /// Makes `tt-<pid>-<tag>-<n>`. Panics with the reason if that fails.
    pub fn new(tag: &str) -> Namespace {
        static SWEPT: Once = Once::new();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        SWEPT.call_once(sweep);
        let name = format!("{PREFIX}{}-{tag}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        add(&name);
        let ns = Namespace { path: Path::new(DIR).join(&name), name };
        ns.run(|| {
            for scope in ["all", "default"] {
                match std::fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), "1") {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => panic!("switch IPv6 off in the namespace: {e}"),
                    _ => {}
                }
            }
            sys::Link::new("lo").and_then(|mut lo| lo.set_up()).expect("set lo up");
        });
        ns
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file to pass to setns(2).
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `f` on a fresh thread inside the namespace; its panics are passed on. Sockets and ports opened by
    /// `f` stay in the namespace and may be used from any thread.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        sys::in_netns(&self.path, f).unwrap_or_else(|e| panic!("enter {}: {e}", self.name))
    }

    /// Runs a shell command inside and returns what it printed. Panics with its error output if it fails.
    pub fn sh(&self, command: &str) -> String {
        let out = self.output(&["sh", "-c", command]);
        assert!(out.status.success(), "{}: `{command}`: {}", self.name, String::from_utf8_lossy(&out.stderr).trim());
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// Runs a program inside to its end, whatever its exit status.
    pub fn output(&self, argv: &[&str]) -> Output {
        self.command(argv).stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("run {argv:?}: {e}"))
    }

    /// Starts a program inside; it is killed when the guard is dropped.
    pub fn spawn(&self, argv: &[&str]) -> ChildGuard {
        let child = self.command(argv).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        ChildGuard(child.unwrap_or_else(|e| panic!("start {argv:?}: {e}")))
    }

    /// Sets one of the namespace's own settings, like `net.ipv4.ip_forward`.
    pub fn sysctl(&self, key: &str, value: &str) {
        let file = format!("/proc/sys/{}", key.replace('.', "/"));
        self.run(|| std::fs::write(&file, value)).unwrap_or_else(|e| panic!("{}: {key}={value}: {e}", self.name));
    }

    /// Switches checksum and segmentation offload of an interface on or off, as [`offloads`] does.
    pub fn offloads(&self, dev: &str, on: bool) {
        offloads(&self.path, dev, on);
    }

    fn command(&self, argv: &[&str]) -> Command {
        let mut c = Command::new("ip");
        c.args(["netns", "exec", &self.name]).args(argv);
        c
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        delete(&self.name);
    }
}

/// A running program; killed and reaped on drop.
pub struct ChildGuard(Child);

impl ChildGuard {
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// The process itself: standard output and error are pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Waits for the end and returns whether it was a success; `None` (and the program killed) after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Option<bool> {
        let until = Instant::now() + limit;
        while Instant::now() < until {
            if let Ok(Some(status)) = self.0.try_wait() {
                return Some(status.success());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.0.kill();
        None
    }
}

impl Drop for ChildGuard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Switches checksum and segmentation offload of an interface on or off, like
/// `ethtool -K DEV tx X sg X tso X gso X gro X` in the namespace whose file is given.
pub fn offloads(netns: &Path, dev: &str, on: bool) {
    // include/uapi/linux/ethtool.h: STXCSUM, SSG, STSO, SGSO, SGRO. TSO needs the first two, so order matters.
    const COMMANDS: [u32; 5] = [0x17, 0x19, 0x1f, 0x24, 0x2c];
    let set = || -> io::Result<()> {
        let mut link = sys::Link::new(dev)?;
        COMMANDS.iter().try_for_each(|command| match link.set_offload(*command, u32::from(on)) {
            // What the interface cannot do is off: a native XDP program takes segmentation from a veth's peer.
            Err(e) if !on && e.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
            done => done,
        })
    };
    let done = sys::in_netns(netns, set).and_then(|done| done);
    done.unwrap_or_else(|e| panic!("{}: offloads of {dev}: {e}", netns.display()));
}

/// Joins two namespaces by a veth pair and sets both ends up.
pub fn veth(a: &Namespace, a_dev: &str, b: &Namespace, b_dev: &str) {
    ip(&["link", "add", a_dev, "netns", a.name(), "type", "veth", "peer", "name", b_dev, "netns", b.name()]).expect("make veth pair");
    a.sh(&format!("ip link set {a_dev} up"));
    b.sh(&format!("ip link set {b_dev} up"));
}

/// Deletes the namespaces, and kills what runs in them, of test processes that are gone.
pub fn sweep() {
    let Ok(entries) = std::fs::read_dir(DIR) else { return };
    let names: Vec<String> = entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
    let mut dead = HashSet::new();
    for name in &names {
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()).and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            dead.insert(name);
        }
    }
    for name in dead {
        let pids = ip(&["netns", "pids", name]).unwrap_or_default();
        for pid in pids.split_whitespace() {
            let _ = Command::new("kill").args(["-9", pid]).status();
        }
        delete(name);
    }
}

/// `ip netns add`, repeated while another process prepares `/run/netns` at the same time.
fn add(name: &str) {
    let mut last = String::new();
    for _ in 0..20 {
        match ip(&["netns", "add", name]) {
            Ok(_) => return,
            Err(e) => last = e,
        }
        delete(name);
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("ip netns add {name}: {last} (these tests need root and iproute2)");
}

fn delete(name: &str) {
    let _ = ip(&["netns", "del", name]);
}

/// Runs `ip` and returns its output, or its error text.
fn ip(args: &[&str]) -> Result<String, String> {
    let out = Command::new("ip").args(args).stdin(Stdio::null()).output().map_err(|e| format!("ip: {e}"))?;
    if out.status.success() {
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&out.stderr).trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_namespaces_talk_and_vanish() {
        let (a, b) = (Namespace::new("a"), Namespace::new("b"));
        veth(&a, "eth0", &b, "eth0");
        a.sh("ip addr add 10.9.0.1/24 dev eth0");
        b.sh("ip addr add 10.9.0.2/24 dev eth0");
        let server = b.run(|| std::net::UdpSocket::bind("10.9.0.2:7000").unwrap());
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        a.run(|| std::net::UdpSocket::bind("10.9.0.1:0").unwrap().send_to(b"hello", "10.9.0.2:7000").unwrap());
        let mut buf = [0; 16];
        assert_eq!(server.recv(&mut buf).unwrap(), 5);
        assert!(!a.sh("ip -6 addr").contains("inet6"));
        let paths = [a.path().to_owned(), b.path().to_owned()];
        assert!(paths.iter().all(|p| p.exists()));
        std::mem::drop((a, b));
        assert!(!paths.iter().any(|p| p.exists()));
    }

    #[test]
    fn panics_pass_and_the_namespace_goes() {
        let path = std::sync::Mutex::new(PathBuf::new());
        let caught = std::panic::catch_unwind(|| {
            let ns = Namespace::new("p");
            *path.lock().unwrap() = ns.path().to_owned();
            ns.run(|| panic!("from inside"));
        });
        assert_eq!(caught.unwrap_err().downcast_ref::<&str>(), Some(&"from inside"));
        assert!(!path.lock().unwrap().exists());
    }

    #[test]
    fn leftovers_of_the_dead_are_swept() {
        let mut gone = Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        let name = format!("{PREFIX}{}-left-0", gone.id());
        add(&name);
        sweep();
        assert!(!Path::new(DIR).join(&name).exists());
    }
}
