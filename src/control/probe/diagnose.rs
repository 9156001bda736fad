//! From what was measured to what it means and what to do. Pure.

use super::packet::Losses;
use super::target::{Path, Target};
use std::fmt::Write;
use std::net::Ipv4Addr;

/// From this share of lost packets on, in percent, a path is a problem.
const LOSSY: f64 = 10.0;

/// How a peer is doing; what is no problem first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    Up,
    /// Reached, but it does not answer probes.
    NoProbes,
    /// Too little is known yet.
    Measuring,
    Lossy,
    Damaged,
    SmallOnly,
    OneWay,
    OtherKey,
    WrongVni,
    Filtered,
    NotListening,
    Down,
    /// This host does not let the probes out.
    NotSent,
}

impl State {
    pub const ALL: [State; 13] = [
        State::Up,
        State::NoProbes,
        State::Measuring,
        State::Lossy,
        State::Damaged,
        State::SmallOnly,
        State::OneWay,
        State::OtherKey,
        State::WrongVni,
        State::Filtered,
        State::NotListening,
        State::Down,
        State::NotSent,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            State::Up => "up",
            State::NoProbes => "no-probes",
            State::Measuring => "measuring",
            State::Lossy => "lossy",
            State::Damaged => "damaged",
            State::SmallOnly => "small-only",
            State::OneWay => "one-way",
            State::OtherKey => "other-key",
            State::WrongVni => "wrong-vni",
            State::Filtered => "filtered",
            State::NotListening => "not-listening",
            State::Down => "down",
            State::NotSent => "not-sent",
        }
    }

    pub const fn is_problem(self) -> bool {
        !matches!(self, State::Up | State::NoProbes | State::Measuring)
    }
}

/// An answer that says why the peer was not reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreachable {
    pub by: Ipv4Addr,
    pub code: u8,
}

/// What the peer said of us last, in a packet of its own that came lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Theirs {
    /// Whether it has heard of us lately.
    pub hears_us: bool,
    pub losses: Losses,
}

/// What is known of a peer. `None`: not tried, or too early to say.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    pub target: &'a Target,
    /// Whether small and full probes were answered lately.
    pub small: Option<bool>,
    pub full: Option<bool>,
    /// Whether ICMP echo is answered: through the tunnel, small and full, and by the node itself.
    pub echo: Option<bool>,
    pub echo_full: Option<bool>,
    pub echo_node: Option<bool>,
    pub ever: bool,
    pub theirs: Option<Theirs>,
    /// Probes with another key came from it lately.
    pub other_key: bool,
    pub unreachable: Option<Unreachable>,
    /// The kernel's neighbour entry says FAILED.
    pub neighbour_failed: bool,
    /// What this node has dropped lately, whoever sent it.
    pub losses: Losses,
    /// VNI of this node.
    pub vni: u32,
    /// Largest packet that passes; `None` while it is looked for.
    pub largest: Option<u16>,
    /// Damaged packets lately: ours as the peer received them, and the peer's.
    pub damaged: (bool, bool),
    /// Whether super-frames arrive; of the last one, bytes that arrived as sent and bytes sent; whether one arrived changed
    /// lately.
    pub trains: Option<bool>,
    pub train: Option<(u16, u16)>,
    pub train_damaged: bool,
    /// Percent.
    pub loss: f64,
    /// Why the last packet could not be sent.
    pub unsent: Option<&'a str>,
}

/// What it comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub state: State,
    pub diagnosis: Option<String>,
    pub remedy: Option<String>,
}

impl Verdict {
    fn plain(state: State) -> Verdict {
        Verdict { state, diagnosis: None, remedy: None }
    }

    fn of(state: State, diagnosis: impl Into<String>, remedy: impl Into<String>) -> Verdict {
        Verdict { state, diagnosis: Some(diagnosis.into()), remedy: Some(remedy.into()) }
    }
}

/// The most likely cause.
pub fn judge(e: &Evidence) -> Verdict {
    if let Some(why) = e.unsent {
        let remedy = "this host refuses its own packets: look at its packet filter (chain OUTPUT) and its routes to the pods' networks";
        return Verdict::of(State::NotSent, format!("probes cannot be sent: {why}"), remedy);
    }
    match (e.small, e.full) {
        (Some(true), Some(false)) => small_only(e),
        (Some(true), _) | (_, Some(true)) => reached(e),
        (Some(false), _) => silent(e),
        (None, _) => Verdict::plain(State::Measuring),
    }
}

fn reached(e: &Evidence) -> Verdict {
    let node = &e.target.node;
    let remedy = |at: &str| {
        format!(
            "turn transmit checksum offload off on {at} and see whether it ends (ethtool -K INTERFACE tx off, for a virtual machine also \
             tx-udp_tnl-segmentation off); if so, update the card's driver or firmware"
        )
    };
    match e.damaged {
        (true, _) => {
            return Verdict::of(State::Damaged, "packets from here arrive damaged: likely by an offload on the way", remedy("this node"));
        }
        (_, true) => return Verdict::of(State::Damaged, "its packets arrive here damaged: likely by an offload on the way", remedy(node)),
        _ => {}
    }
    if let Some(what) = super_frames(e) {
        return Verdict::of(State::Damaged, what, offload_remedy(e.target));
    }
    if e.loss >= LOSSY {
        let remedy = "look for a full or faulty link: `tortie ports` (KERNEL-DROPS) on both nodes, ip -s link, and the switches between";
        return Verdict::of(State::Lossy, format!("{:.0} % of the probes are lost", e.loss), remedy);
    }
    Verdict::plain(State::Up)
}

/// Packets pass by themselves, and not as segments of a super-frame.
fn super_frames(e: &Evidence) -> Option<String> {
    let what = "offload damage: packets from here arrive by themselves, but";
    match (e.train_damaged, e.trains, e.train) {
        (true, ..) => Some(format!("{what} not unchanged when they are cut from TCP super-frames")),
        (_, Some(false), Some((arrived, sent))) => Some(format!("{what} of a TCP super-frame of {sent} bytes only {arrived}")),
        _ => None,
    }
}

/// Which offloads cut super-frames and join what they were cut into.
fn offload_remedy(t: &Target) -> String {
    let cutting = match t.path {
        Path::Vxlan { .. } => "tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off",
        Path::Ipip => "tx-ipxip4-segmentation off",
        Path::Direct => "tso off",
    };
    format!(
        "have this node's card cut no tunnel packets and see whether it ends (ethtool -K INTERFACE {cutting}), then have {}'s join none there \
         (ethtool -K INTERFACE rx-gro-hw off lro off); if so, update the card's driver or firmware. `uplink: {{super-frames: off}}` has them \
         cut by tortie",
        t.node
    )
}

/// Small packets pass and full ones do not.
fn small_only(e: &Evidence) -> Verdict {
    let t = e.target;
    let (overhead, full) = (t.path.overhead(), t.full);
    let need = u32::from(full) + u32::from(overhead);
    let mut text = format!("packets of {full} bytes do not arrive");
    let setting = match t.path {
        Path::Vxlan { .. } => "FelixConfiguration vxlanMTU",
        Path::Ipip => "FelixConfiguration ipipMTU",
        Path::Direct => "the MTU of the uplinks and of the pods",
    };
    let remedy = match e.largest {
        Some(largest) => {
            let passes = u32::from(largest) + u32::from(overhead);
            let _ = write!(text, ", {largest} do: the underlay passes {passes} bytes, and {full} + {overhead} = {need} are needed");
            format!("raise the MTU of the underlay between the nodes to {need}, or set {setting} to {largest}")
        }
        None => {
            let _ = write!(text, ", small ones do; {full} + {overhead} = {need} are needed on the underlay");
            format!("raise the MTU of the underlay between the nodes to {need}, or set {setting} to what it passes, less {overhead}")
        }
    };
    Verdict::of(State::SmallOnly, text, remedy)
}

/// Nothing is answered.
fn silent(e: &Evidence) -> Verdict {
    let t = e.target;
    if let Some(theirs) = e.theirs {
        return one_way(t, theirs);
    }
    if e.other_key {
        let remedy = "give all nodes the same key: probes.key-file, or ClusterInformation clusterGUID where none is set";
        return Verdict::of(State::OtherKey, "its probes are made with another key than ours", remedy);
    }
    if e.echo == Some(true) {
        if e.echo_full == Some(false) {
            return small_only(e);
        }
        let before = if e.ever { "any more; " } else { "" };
        let what = format!("does not answer probes {before}but ICMP echo: a stock Calico node, or probes are off there");
        return Verdict { state: State::NoProbes, diagnosis: Some(what), remedy: None };
    }
    if let (Some(theirs), Path::Vxlan { .. }) = (t.vni, t.path) {
        let text = format!("by FelixConfiguration its VNI is {theirs}, and this node's is {}", e.vni);
        return Verdict::of(State::WrongVni, text, "set one vxlanVNI for all nodes, in FelixConfiguration default");
    }
    if let (true, Path::Vxlan { .. }) = (e.losses.has(Losses::VNI), t.path) {
        let text = format!("nothing is answered, and packets with another VNI than {} arrive here (drops: vxlan-vni)", e.vni);
        let remedy = "set one vxlanVNI for all nodes, in FelixConfiguration default; look for FELIX_VXLANVNI in the nodes' environment";
        return Verdict::of(State::WrongVni, text, remedy);
    }
    if e.losses.has(Losses::OUTER_CHECKSUM) {
        let text = "nothing is answered, and tunnel packets with wrong checksums arrive here (drops: outer-udp-checksum)";
        return Verdict::of(State::Damaged, text, format!("turn transmit checksum offload off on {}: ethtool -K INTERFACE tx off", t.node));
    }
    if let Some(u) = e.unreachable {
        return unreachable(t, u);
    }
    if e.neighbour_failed {
        let text = format!("no neighbour {} on the underlay: ARP is not answered", t.address);
        return Verdict::of(State::Down, text, "the node is down, or its link or address is another one: look at the node itself");
    }
    match e.echo_node {
        Some(true) => filtered(t, e.losses),
        Some(false) => {
            let text = format!("nothing comes back, neither through the tunnel nor ICMP echo from {} itself", t.address);
            Verdict::of(State::Down, text, "the node is down, or the underlay does not reach it: look at the node, and at the routes to it")
        }
        None => Verdict::plain(State::Measuring),
    }
}

fn one_way(t: &Target, theirs: Theirs) -> Verdict {
    if theirs.hears_us {
        let text = "it hears us and we hear it, but its answers do not come";
        return Verdict::of(State::OneWay, text, "its answers are limited or lost: look at `tortie peers` and `tortie status` there");
    }
    let mut text = String::from("its probes arrive, but nothing of ours arrives there");
    let remedy = match () {
        () if theirs.losses.has(Losses::VNI) => "it drops packets with another VNI (vxlan-vni): set one vxlanVNI for all nodes".to_owned(),
        () if theirs.losses.has(Losses::SENDER) => {
            "it drops tunnel packets from addresses that are no node's (tunnel-sender-unknown): compare this node's address in the datastore \
             with the source that the underlay shows; there must be no address translation between nodes"
                .to_owned()
        }
        () if theirs.losses.has(Losses::OUTER_CHECKSUM) => {
            "it drops tunnel packets with wrong checksums (outer-udp-checksum): turn transmit checksum offload off on this node".to_owned()
        }
        () if theirs.losses.has(Losses::INNER_MAC) => {
            "it drops packets for another VTEP MAC (vxlan-inner-mac): compare its MAC here (`tortie fdb`) with its own".to_owned()
        }
        () => {
            let _ = write!(text, ": {} is filtered in this direction", t.path.on_the_wire());
            format!("let {} pass from this node to {}", t.path.on_the_wire(), t.address)
        }
    };
    Verdict::of(State::OneWay, text, remedy)
}

/// An ICMP error came back.
fn unreachable(t: &Target, u: Unreachable) -> Verdict {
    let wire = t.path.on_the_wire();
    match u.code {
        // Protocol and port.
        2 | 3 if u.by == t.address => {
            let text = format!("the node answers that nothing takes {wire} there (ICMP unreachable, code {})", u.code);
            Verdict::of(
                State::NotListening,
                text,
                "start the engine there (`tortie run`); if it runs, its VNI is another one, or a packet filter there rejects the packets",
            )
        }
        9 | 10 | 13 => {
            let text = format!("{} rejects {wire} (ICMP unreachable, code {})", u.by, u.code);
            Verdict::of(State::Filtered, text, format!("let {wire} pass between the nodes at {}", u.by))
        }
        _ => {
            let text = format!("{} says that {} cannot be reached (ICMP unreachable, code {})", u.by, t.address, u.code);
            Verdict::of(State::Down, text, "the node is down, or the underlay does not reach it: look at the node, and at the routes to it")
        }
    }
}

/// The node itself is there, and nothing comes through the tunnel.
fn filtered(t: &Target, losses: Losses) -> Verdict {
    let wire = t.path.on_the_wire();
    let text = format!("{} answers ICMP echo on the underlay, but no {wire} comes back", t.address);
    let remedy = match t.path {
        Path::Vxlan { port } => format!(
            "let UDP {port} pass between the nodes in both directions: packet filters, security groups; on VMware with NSX or vmxnet3, which \
             take this port for their own, set another vxlanPort"
        ),
        Path::Ipip => {
            "let IP protocol 4 pass between the nodes in both directions; where the network cannot (Azure never does), use VXLAN: ipipMode \
             Never and vxlanMode Always in the pool"
                .to_owned()
        }
        Path::Direct => {
            "the underlay drops packets from or to pods' addresses: switch off its check of sources and destinations (AWS source/destination \
             check, OpenStack port security), or use an encapsulation"
                .to_owned()
        }
    };
    let remedy = if losses.has(Losses::FRAGMENT) {
        format!("{remedy}. Fragments of tunnel packets arrive here: raise the MTU of the underlay")
    } else {
        remedy
    };
    Verdict::of(State::Filtered, text, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn target(path: Path) -> Target {
        let full = 1500 - path.overhead();
        Target {
            node: "n2".into(),
            address: [172, 31, 1, 2].into(),
            to: [10, 244, 2, 0].into(),
            from: [10, 244, 1, 0].into(),
            path,
            full,
            vni: None,
        }
    }

    fn silent<'a>(target: &'a Target) -> Evidence<'a> {
        Evidence {
            target,
            small: Some(false),
            full: Some(false),
            echo: Some(false),
            echo_full: Some(false),
            echo_node: Some(true),
            ever: true,
            theirs: None,
            other_key: false,
            unreachable: None,
            neighbour_failed: false,
            losses: Losses::default(),
            vni: 4096,
            largest: None,
            damaged: (false, false),
            trains: None,
            train: None,
            train_damaged: false,
            loss: 100.0,
            unsent: None,
        }
    }

    fn up<'a>(target: &'a Target) -> Evidence<'a> {
        Evidence { small: Some(true), full: Some(true), loss: 0.0, ..silent(target) }
    }

    #[track_caller]
    fn says(e: &Evidence, state: State, diagnosis: &str, remedy: &str) {
        let v = judge(e);
        assert_eq!(v.state, state, "{v:?}");
        assert!(v.diagnosis.as_deref().unwrap_or_default().contains(diagnosis), "{v:?}");
        assert!(v.remedy.as_deref().unwrap_or_default().contains(remedy), "{v:?}");
    }

    #[test]
    fn each_fault_has_its_name_and_remedy() {
        let [vxlan, ipip, direct] = [target(Path::Vxlan { port: 4789 }), target(Path::Ipip), target(Path::Direct)];
        says(&up(&vxlan), State::Up, "", "");
        says(&silent(&vxlan), State::Filtered, "no VXLAN (UDP 4789) comes back", "vmxnet3");
        says(&silent(&ipip), State::Filtered, "no IP-in-IP (protocol 4) comes back", "Azure");
        says(&silent(&direct), State::Filtered, "no unencapsulated packet comes back", "port security");
        let mtu = Evidence { full: Some(false), largest: Some(1350), ..up(&vxlan) };
        says(&mtu, State::SmallOnly, "the underlay passes 1400 bytes, and 1450 + 50 = 1500 are needed", "vxlanMTU to 1350");
        let mtu = Evidence { largest: None, ..mtu };
        says(&mtu, State::SmallOnly, "1450 bytes do not arrive, small ones do", "to 1500");
        says(&Evidence { echo_node: Some(false), ..silent(&vxlan) }, State::Down, "neither through the tunnel nor", "is down");
        says(&Evidence { neighbour_failed: true, ..silent(&vxlan) }, State::Down, "no neighbour 172.31.1.2", "is down");
        let refused = |by: [u8; 4], code| Evidence { unreachable: Some(Unreachable { by: by.into(), code }), ..silent(&vxlan) };
        says(&refused([172, 31, 1, 2], 3), State::NotListening, "nothing takes VXLAN", "tortie run");
        says(&refused([10, 0, 0, 1], 13), State::Filtered, "10.0.0.1 rejects VXLAN", "at 10.0.0.1");
        says(&refused([10, 0, 0, 1], 1), State::Down, "cannot be reached", "routes");
        says(&Evidence { losses: Losses::VNI, ..silent(&vxlan) }, State::WrongVni, "another VNI than 4096", "vxlanVNI");
        let other = Target { vni: Some(5000), ..vxlan.clone() };
        says(&silent(&other), State::WrongVni, "its VNI is 5000, and this node's is 4096", "vxlanVNI");
        says(&Evidence { losses: Losses::OUTER_CHECKSUM, ..silent(&vxlan) }, State::Damaged, "outer-udp-checksum", "tx off");
        says(&Evidence { damaged: (true, false), ..up(&vxlan) }, State::Damaged, "from here arrive damaged", "this node");
        says(&Evidence { damaged: (false, true), ..up(&vxlan) }, State::Damaged, "its packets", "on n2");
        let cut = |target| Evidence { trains: Some(false), train: Some((1410, 10_575)), ..up(target) };
        says(&cut(&vxlan), State::Damaged, "offload damage", "tx-udp_tnl-segmentation off");
        says(&cut(&ipip), State::Damaged, "super-frame of 10575 bytes only 1410", "tx-ipxip4-segmentation off");
        says(&Evidence { train_damaged: true, ..up(&vxlan) }, State::Damaged, "offload damage", "super-frames: off");
        says(&Evidence { trains: Some(true), train: Some((10_575, 10_575)), ..up(&vxlan) }, State::Up, "", "");
        says(&Evidence { full: Some(false), largest: Some(1350), ..cut(&vxlan) }, State::SmallOnly, "1450 bytes", "");
        says(&Evidence { loss: 25.0, ..up(&vxlan) }, State::Lossy, "25 %", "KERNEL-DROPS");
        says(&Evidence { other_key: true, ..silent(&vxlan) }, State::OtherKey, "another key", "key-file");
        says(&Evidence { unsent: Some("Operation not permitted"), ..silent(&vxlan) }, State::NotSent, "not permitted", "OUTPUT");
        let theirs = |hears_us, losses| Evidence { theirs: Some(Theirs { hears_us, losses }), ..silent(&vxlan) };
        says(&theirs(false, Losses::default()), State::OneWay, "nothing of ours arrives there", "let VXLAN (UDP 4789) pass from this node");
        says(&theirs(false, Losses::VNI), State::OneWay, "", "vxlan-vni");
        says(&theirs(false, Losses::SENDER), State::OneWay, "", "address translation");
        says(&theirs(true, Losses::default()), State::OneWay, "its answers do not come", "status");
        let stock = Evidence { echo: Some(true), echo_full: Some(true), ever: false, ..silent(&vxlan) };
        says(&stock, State::NoProbes, "a stock Calico node", "");
        assert!(!judge(&stock).state.is_problem());
        says(&Evidence { echo_full: Some(false), ..stock }, State::SmallOnly, "1450 bytes", "1500");
        says(&Evidence { small: None, full: None, ..silent(&vxlan) }, State::Measuring, "", "");
    }

    proptest! {
        #[test]
        fn every_problem_is_explained(bits in any::<u32>(), losses in any::<u16>(), code in any::<u8>(), path in 0..3) {
            let target = target([Path::Vxlan { port: 4789 }, Path::Ipip, Path::Direct][path as usize]);
            let three = |at: u32| match bits >> at & 3 { 0 => None, 1 => Some(false), _ => Some(true) };
            let e = Evidence {
                small: three(0),
                full: three(2),
                echo: three(4),
                echo_full: three(6),
                echo_node: three(8),
                ever: bits & 1 << 10 != 0,
                theirs: (bits & 1 << 11 != 0).then_some(Theirs { hears_us: bits & 1 << 12 != 0, losses: Losses(losses) }),
                other_key: bits & 1 << 13 != 0,
                unreachable: (bits & 1 << 14 != 0).then_some(Unreachable { by: target.address, code }),
                neighbour_failed: bits & 1 << 15 != 0,
                losses: Losses(losses),
                largest: (bits & 1 << 16 != 0).then_some(1350),
                damaged: (bits & 1 << 17 != 0, bits & 1 << 18 != 0),
                trains: three(20),
                train: Some((0, 10_575)),
                train_damaged: bits & 1 << 22 != 0,
                loss: f64::from(bits >> 25),
                unsent: (bits & 1 << 19 != 0).then_some("x"),
                ..silent(&target)
            };
            let v = judge(&e);
            prop_assert_eq!(v.remedy.is_some(), v.state.is_problem());
            prop_assert!(v.diagnosis.is_some() || !v.state.is_problem());
        }
    }
}
