//! The underlay's veths as plain NICs: packets no longer than the MTU on the wire, joined where they are received.

use super::super::LabError;
use super::super::spec::{Plan, netns_path};
use super::super::sys;
use std::process::{Command, Stdio};

/// What is switched off: TSO, GSO, USO and their forms inside UDP tunnels, by the names that `ethtool -k` shows.
fn is_segmentation(feature: &str) -> bool {
    feature.starts_with("tx-tcp") && feature.ends_with("-segmentation")
        || feature.starts_with("tx-udp_tnl-")
        || ["generic-segmentation-offload", "tx-udp-segmentation"].contains(&feature)
}

/// What is switched on.
const RECEPTION: &str = "generic-receive-offload";

/// An underlay with its offloads switched, and what they were before; dropping it puts them back.
pub struct PlainNic(Vec<Before>);

/// One end of a pair, and how its switched features were.
struct Before {
    netns: String,
    interface: String,
    /// `feature on|off`, flat, as `ethtool -K` takes them.
    settings: Vec<String>,
}

impl PlainNic {
    /// Switches both ends of every node's pair. Errors: no ethtool, or it refuses.
    pub fn new(plan: &Plan) -> Result<PlainNic, LabError> {
        let ends = plan.nodes.iter().flat_map(|n| [(n.netns.as_str(), "eth0"), (plan.underlay.as_str(), n.name.as_str())]);
        let mut done = PlainNic(Vec::new());
        for (netns, interface) in ends {
            let (wanted, before) = changes(&ethtool(netns, &["-k", interface])?);
            if !wanted.is_empty() {
                done.0.push(Before { netns: netns.to_owned(), interface: interface.to_owned(), settings: before });
                set(netns, interface, &wanted)?;
            }
        }
        Ok(done)
    }

    /// Puts everything back.
    pub fn restore(mut self) -> Result<(), LabError> {
        self.put_back()
    }

    fn put_back(&mut self) -> Result<(), LabError> {
        while let Some(b) = self.0.pop() {
            set(&b.netns, &b.interface, &b.settings)?;
        }
        Ok(())
    }
}

impl Drop for PlainNic {
    fn drop(&mut self) {
        // Left only by a measurement that failed: its lab goes away next, and the first error is the one to report.
        let _ = self.put_back();
    }
}

/// Settings that make a NIC plain and settings that undo them, from what `ethtool -k` prints. Features that are
/// fixed or already as wanted are in neither.
fn changes(shown: &str) -> (Vec<String>, Vec<String>) {
    let (mut wanted, mut before) = (Vec::new(), Vec::new());
    for (feature, state) in shown.lines().filter_map(|l| l.trim().split_once(": ")) {
        let want = match state {
            "on" if is_segmentation(feature) => "off",
            "off" if feature == RECEPTION => "on",
            _ => continue,
        };
        wanted.extend([feature.to_owned(), want.to_owned()]);
        before.extend([feature.to_owned(), state.to_owned()]);
    }
    (wanted, before)
}

fn set(netns: &str, interface: &str, settings: &[String]) -> Result<(), LabError> {
    let args: Vec<&str> = ["-K", interface].into_iter().chain(settings.iter().map(String::as_str)).collect();
    ethtool(netns, &args).map(drop)
}

/// Runs ethtool inside a namespace; what it printed.
fn ethtool(netns: &str, args: &[&str]) -> Result<String, LabError> {
    let run = || {
        let mut command = Command::new("ethtool");
        command.args(args).env("LC_ALL", "C").stdin(Stdio::null());
        sys::enter(&mut command, &netns_path(netns))?;
        command.output()
    };
    let output = run().map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => LabError::Tools { tools: "ethtool".to_owned(), packages: "ethtool".to_owned() },
        _ => LabError::Run { what: "ethtool".to_owned(), source },
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(LabError::Tool { tool: "ethtool", netns: netns.to_owned(), line: args.join(" "), message })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::spec::Spec;

    /// A lab that goes away again.
    struct Up(Plan);

    impl Drop for Up {
        fn drop(&mut self) {
            let _ = crate::lab::down(&self.0.spec.name);
        }
    }

    #[test]
    fn underlays_become_plain_and_what_they_were() {
        let spec = Spec { nodes: 0, kernel_nodes: 2, pods: 0, ..Spec::new(&format!("tf{}", std::process::id() % 10_000)) };
        let lab = Up(crate::lab::up(spec, &mut |_| {}).unwrap());
        let shown = || -> Vec<String> {
            let of = |netns: &str, interface: &str| ethtool(netns, &["-k", interface]).unwrap();
            lab.0.nodes.iter().flat_map(|n| [of(&n.netns, "eth0"), of(&lab.0.underlay, &n.name)]).collect()
        };
        let before = shown();
        let nic = PlainNic::new(&lab.0).unwrap();
        for features in shown() {
            for want in
                ["tx-tcp-segmentation: off", "tx-udp_tnl-segmentation: off", "tx-udp-segmentation: off", "generic-receive-offload: on"]
            {
                assert!(features.contains(want), "{want} in {features}");
            }
            assert_eq!(changes(&features), (vec![], vec![]));
        }
        nic.restore().unwrap();
        assert_eq!(shown(), before);
        let nic = PlainNic::new(&lab.0).unwrap();
        assert_ne!(shown(), before);
        drop(nic);
        assert_eq!(shown(), before);
    }

    const SHOWN: &str = "Features for eth0:
tx-checksumming: on
tcp-segmentation-offload: on
\ttx-tcp-segmentation: on
\ttx-tcp-ecn-segmentation: off
\ttx-tcp6-segmentation: on
generic-segmentation-offload: on
generic-receive-offload: off
tx-fcoe-segmentation: off [fixed]
tx-udp_tnl-segmentation: on
tx-udp_tnl-csum-segmentation: on [fixed]
tx-sctp-segmentation: on
tx-udp-segmentation: on
";

    #[test]
    fn only_what_differs_is_changed_and_undone() {
        let (wanted, before) = changes(SHOWN);
        assert_eq!(
            wanted.join(" "),
            "tx-tcp-segmentation off tx-tcp6-segmentation off generic-segmentation-offload off generic-receive-offload on \
             tx-udp_tnl-segmentation off tx-udp-segmentation off"
        );
        assert_eq!(
            before.join(" "),
            "tx-tcp-segmentation on tx-tcp6-segmentation on generic-segmentation-offload on generic-receive-offload off \
             tx-udp_tnl-segmentation on tx-udp-segmentation on"
        );
        assert_eq!(changes(""), (vec![], vec![]));
    }
}
