//! A lab for one test: brought up under a name of its own, taken down whatever happens.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tortie::lab::spec::{self, Node, Plan, Spec, Uplink, Workload, Xdp};
use tortie::lab::{self};
use tortie::ops::api::Client;
use tortie::ops::view::CounterRow;
use tortie::port::sys;

pub const TORTIE: &str = env!("CARGO_BIN_EXE_tortie");

pub struct Lab {
    pub plan: Plan,
}

impl Lab {
    /// Brings it up; the name and program in `spec` are filled in.
    pub fn up(spec: Spec) -> Lab {
        static SWEPT: Once = Once::new();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        SWEPT.call_once(sweep);
        let name = format!("t{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let spec = Spec { name, program: Some(TORTIE.into()), ..spec };
        Lab { plan: lab::up(spec, &mut |_| {}).unwrap_or_else(|e| panic!("{e}")) }
    }

    pub fn node(&self, name: &str) -> &Node {
        self.plan.nodes.iter().find(|n| n.name == name).expect("a node of the lab")
    }

    /// Address of a pod or node.
    pub fn address(&self, place: &str) -> Ipv4Addr {
        let pod = self.plan.pods().find(|(_, p)| p.name == place).map(|(_, p)| p.address);
        pod.unwrap_or_else(|| self.node(place).address.addr())
    }

    /// Host-side interface of a pod.
    pub fn interface(&self, pod: &str) -> &str {
        &self.plan.pods().find(|(_, p)| p.name == pod).expect("a pod of the lab").1.interface
    }

    /// Name of the namespace of a pod, a node or `underlay`.
    pub fn netns(&self, place: &str) -> &str {
        if place == "underlay" { &self.plan.underlay } else { self.plan.netns_of(place).expect("a place in the lab") }
    }

    pub fn path(&self, place: &str) -> PathBuf {
        spec::netns_path(self.netns(place))
    }

    /// Runs `f` inside a pod, a node or `underlay`; what it opens stays there.
    pub fn inside<T: Send>(&self, place: &str, f: impl FnOnce() -> T + Send) -> T {
        sys::in_netns(&self.path(place), f).unwrap_or_else(|e| panic!("enter {place}: {e}"))
    }

    /// A command line to run inside.
    pub fn command(&self, place: &str, line: &str) -> Command {
        let mut c = Command::new("ip");
        c.args(["netns", "exec", self.netns(place), "sh", "-c", line]).stdin(Stdio::null()).env("LC_ALL", "C");
        c
    }

    /// Whether it succeeds, and all it printed.
    pub fn try_sh(&self, place: &str, line: &str) -> (bool, String) {
        let out = self.command(place, line).output().unwrap_or_else(|e| panic!("run `{line}`: {e}"));
        let text = [out.stdout, out.stderr].concat();
        (out.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// What it printed; panics if it fails.
    pub fn sh(&self, place: &str, line: &str) -> String {
        let (good, text) = self.try_sh(place, line);
        assert!(good, "{place}: `{line}`: {text}\n{}", self.story());
        text
    }

    pub fn client(&self, node: &str) -> Client {
        Client::new(&self.node(node).socket(&self.plan.spec.name))
    }

    /// The folder of manifests that all engines read.
    pub fn datastore(&self) -> PathBuf {
        spec::run_dir(&self.plan.spec.name).join("datastore")
    }

    /// Packets dropped by a node for a reason.
    pub fn dropped(&self, node: &str, reason: &str) -> u64 {
        let rows = self.client(node).drops().unwrap();
        rows.iter().find(|r| r.reason == reason).unwrap_or_else(|| panic!("no reason {reason}")).packets
    }

    /// Waits until a condition holds.
    pub fn wait(&self, what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
        let end = Instant::now() + limit;
        while !holds() {
            assert!(Instant::now() < end, "{what}: not within {limit:?}\n{}", self.story());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The counters law on a node once it is at rest: every packet that came in or was made has one end.
    pub fn expect_balance(&self, node: &str) {
        let mut last = None;
        let at_rest = || {
            let rows = self.client(node).counters().unwrap();
            let now: Vec<_> = rows.iter().map(flow).collect();
            let still = last.as_ref() == Some(&now);
            last = Some(now);
            still && rows.iter().all(|r| r.received + r.generated == r.sent + r.punted + r.dropped + r.coalesced + r.held)
        };
        self.wait(&format!("received + generated = sent + punted + dropped + coalesced + held on {node}"), Duration::from_secs(5), at_rest);
        let total = self.client(node).counters().unwrap().pop().unwrap();
        assert!(total.worker == "total" && total.received > 0 && total.held == 0, "{total:?}");
    }

    /// What the engines say of themselves, for a failing test.
    pub fn story(&self) -> String {
        let mut out = String::new();
        for n in self.plan.nodes.iter().filter(|n| n.kind == spec::Kind::Tortie) {
            let c = self.client(&n.name);
            let drops: Vec<_> =
                c.drops().unwrap_or_default().into_iter().filter(|d| d.packets > 0).map(|d| (d.reason, d.packets)).collect();
            let ports: Vec<_> =
                c.ports().unwrap_or_default().into_iter().map(|p| (p.name, p.driver, p.state, p.rx_frames, p.tx_frames)).collect();
            let total = c.counters().unwrap_or_default().pop();
            out += &format!("{}: {drops:?}\n  {ports:?}\n  {total:?}\n", n.name);
        }
        out
    }
}

fn flow(r: &CounterRow) -> [u64; 4] {
    [r.received, r.generated, r.sent, r.dropped]
}

impl Drop for Lab {
    fn drop(&mut self) {
        let gone = lab::down(&self.plan.spec.name);
        if !std::thread::panicking() {
            assert!(gone.unwrap_or_else(|e| panic!("{e}")), "the lab was there");
        }
    }
}

/// Takes down the labs of test processes that were killed.
fn sweep() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return };
    let names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
    let labs: std::collections::BTreeSet<String> =
        names.filter_map(|n| Some(n.strip_prefix("tortie-t")?.split_once('-')?.0.to_owned())).collect();
    for lab in labs {
        let pid = lab.split_once('x').and_then(|(pid, _)| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = lab::down(&format!("t{lab}"));
        }
    }
}

/// A lab spec by its drivers, one pod per node.
pub fn spec(workload: Workload, uplink: Uplink, xdp: Xdp) -> Spec {
    Spec { workload, uplink, xdp, pods: 1, ..Spec::new("x") }
}
