//! Who reaches whom, by real pings.

use super::spec::{Plan, netns_path};
use super::sys;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::Mutex;

/// Pings that run at the same time.
const PARALLEL: usize = 8;

/// Someone who pings and is pinged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub name: String,
    pub netns: String,
    pub address: Ipv4Addr,
}

/// Round-trip times in milliseconds, by row (from) and column (to). `None`: no answer. The diagonal is not
/// measured.
#[derive(Clone, Debug)]
pub struct Matrix {
    pub places: Vec<Place>,
    pub rtt: Vec<Vec<Option<f64>>>,
}

/// All pods, then all nodes.
pub fn places(plan: &Plan) -> Vec<Place> {
    let pods = plan.pods().map(|(_, p)| Place { name: p.name.clone(), netns: p.netns.clone(), address: p.address });
    let nodes = plan.nodes.iter().map(|n| Place { name: n.name.clone(), netns: n.netns.clone(), address: n.address.addr() });
    pods.chain(nodes).collect()
}

/// Pings from everyone to everyone else.
pub fn measure(plan: &Plan) -> Matrix {
    let places = places(plan);
    let n = places.len();
    let pairs: Vec<_> = (0..n).flat_map(|a| (0..n).map(move |b| (a, b))).filter(|(a, b)| a != b).collect();
    let (todo, rtt) = (Mutex::new(pairs.into_iter()), Mutex::new(vec![vec![None; n]; n]));
    // A panicking thread poisons nothing that matters: what is left is still a list and a table.
    let next = || todo.lock().unwrap_or_else(|e| e.into_inner()).next();
    std::thread::scope(|s| {
        for _ in 0..PARALLEL {
            s.spawn(|| {
                while let Some((a, b)) = next() {
                    let answer = ping(&places[a].netns, places[b].address);
                    rtt.lock().unwrap_or_else(|e| e.into_inner())[a][b] = answer;
                }
            });
        }
    });
    Matrix { places, rtt: rtt.into_inner().unwrap_or_else(|e| e.into_inner()) }
}

impl Matrix {
    /// Pairs without an answer.
    pub fn failures(&self) -> Vec<(&str, &str)> {
        let n = self.places.len();
        let pairs = (0..n).flat_map(|a| (0..n).map(move |b| (a, b)));
        pairs
            .filter(|(a, b)| a != b && self.rtt[*a][*b].is_none())
            .map(|(a, b)| (self.places[a].name.as_str(), self.places[b].name.as_str()))
            .collect()
    }
}

/// The shortest round-trip time of two pings, in milliseconds; `None` if neither was answered. The first may
/// have to wait for ARP on the underlay.
pub fn ping(netns: &str, to: Ipv4Addr) -> Option<f64> {
    let mut command = Command::new("ping");
    command.args(["-n", "-q", "-c", "2", "-i", "0.2", "-W", "2", &to.to_string()]);
    command.env("LC_ALL", "C").stdin(Stdio::null()).stderr(Stdio::null());
    sys::enter(&mut command, &netns_path(netns)).ok()?;
    let output = command.output().ok()?;
    if output.status.success() { shortest(&String::from_utf8_lossy(&output.stdout)) } else { None }
}

/// The minimum in ping's summary line: `rtt min/avg/max/mdev = 0.045/0.050/0.056/0.005 ms`.
fn shortest(output: &str) -> Option<f64> {
    output.lines().find_map(|l| l.strip_prefix("rtt "))?.split(" = ").nth(1)?.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_pings_summary() {
        let text = "2 packets transmitted, 2 received, 0% packet loss, time 201ms\nrtt min/avg/max/mdev = 0.045/0.050/0.056/0.005 ms\n";
        assert_eq!(shortest(text), Some(0.045));
        assert_eq!(shortest("2 packets transmitted, 0 received, 100% packet loss"), None);
    }

    #[test]
    fn failures_leave_the_diagonal_out() {
        let place = |n: &str| Place { name: n.into(), netns: n.into(), address: Ipv4Addr::LOCALHOST };
        let m = Matrix { places: vec![place("a"), place("b")], rtt: vec![vec![None, Some(0.1)], vec![None, None]] };
        assert_eq!(m.failures(), [("b", "a")]);
    }
}
