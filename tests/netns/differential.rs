//! The same packets through the kernel's VXLAN device, set up as Calico sets it up, and through this crate's
//! forwarding: the same bytes must come out. Free by specification are the outer identification, the outer
//! UDP source port within its range, and whether the outer UDP checksum is present. All other differences
//! are named here, each with its reason.

use crate::kernel_node::{KernelNode, MemoryNode, Outcome, Outer, POD, REMOTE_BLOCK, Side, encapsulate, from_pod, inner, node_vtep};
use crate::random_packets::{Rng, Shape, has_written_options, packet};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use tortie::drop::DropReason;
use tortie::wire::{Mac, be16, ipv4, l4, put16, vxlan};

const SEED: u64 = 0x00ca_11c0_0001;
const CE: u8 = 0b11;
const ECT0: u8 = 0b10;
/// What a VXLAN packet has in front of the inner packet: 14 + 20 + 8 + 8 + 14.
const HEADERS: usize = 64;

fn remote(rng: &mut Rng) -> Ipv4Addr {
    (u32::from(REMOTE_BLOCK) + rng.within(0, 255) as u32).into()
}

fn hex(p: &[u8]) -> String {
    p.iter().map(|b| format!("{b:02x}")).collect()
}

/// Panics with all that is needed to see the difference.
fn fail(what: &str, seed: u64, frame: &[u8], kernel: &Outcome, ours: &Outcome, dropped: Option<DropReason>) -> ! {
    let show = |o: &Outcome| {
        let lines = |name: &str, frames: &[Vec<u8>]| frames.iter().map(|f| format!("\n    {name} {}", hex(f))).collect::<String>();
        format!("{}{}", lines("pod", &o.pod), lines("underlay", &o.underlay))
    };
    panic!("{what}\n  seed {seed:#x}\n  in {}\n  kernel:{}\n  tortie ({dropped:?}):{}", hex(frame), show(kernel), show(ours));
}

/// The packet with the fields blanked that two routers may set differently.
fn normal_packet(p: &mut [u8]) {
    if is_our_error(p) {
        // Which of its addresses a router answers from, and the identification, are its own choice. Linux copies
        // an ECT(0) of the offender into its errors along with the TOS bits; tortie does not, since nothing but
        // an ECN-capable transport may set it (RFC 3168, 6.1).
        p[1] &= !3;
        put16(p, 4, 0);
        p[12..16].fill(0);
        put16(p, 10, 0);
    } else if has_written_options(p) {
        // The kernel records route and time where a packet asks for it. A router may leave these options alone
        // (RFC 7126, 4.6 and 4.7), and tortie does.
        let header = ipv4::header_len(p);
        p[ipv4::HEADER..header].fill(0);
        put16(p, 10, 0);
    }
}

/// Whether the packet is an ICMP error by the router under test: precedence 6 is on no random packet's error.
fn is_our_error(p: &[u8]) -> bool {
    ipv4::proto(p) == 1 && !ipv4::is_fragment(p) && p[1] >> 5 == 6 && p.len() > 28 && matches!((p[20], p[21]), (11, 0) | (3, 4))
}

/// A frame for a pod with all its headers checked and the free fields blanked.
fn normal_pod(f: &[u8]) -> Result<Vec<u8>, String> {
    let mut f = f.to_vec();
    ipv4::validate(&f[14..]).map_err(|e| format!("to the pod: {e}"))?;
    normal_packet(&mut f[14..]);
    Ok(f)
}

/// A VXLAN frame with all its headers checked and the free fields blanked. `ce` is what the sender puts
/// outside over an inner CE.
fn normal_vxlan(f: &[u8], ce: u8) -> Result<Vec<u8>, String> {
    let mut f = f.to_vec();
    let ip = &f[14..];
    if ipv4::validate(ip) != Ok(ip.len()) || ip.len() < HEADERS - 14 || ipv4::header_len(ip) != 20 {
        return Err("outer header".into());
    }
    if !(32768..=60999).contains(&be16(ip, 20)) || be16(ip, 22) != vxlan::PORT {
        return Err(format!("UDP ports {} to {}", be16(ip, 20), be16(ip, 22)));
    }
    if !l4::verify(ip, ip.len()) {
        return Err("outer UDP checksum".into());
    }
    let p = &f[HEADERS..];
    ipv4::validate(p).map_err(|e| format!("inner: {e}"))?;
    let want = if p[1] & 3 == CE { ce } else { p[1] & 3 };
    if f[15] != want {
        return Err(format!("outer TOS {:#04x} over inner {:#04x}", f[15], p[1]));
    }
    if p[1] & 3 == CE || is_our_error(p) {
        f[15] = 0;
    }
    for at in [18, 24, 34, 40] {
        put16(&mut f, at, 0);
    }
    normal_packet(&mut f[HEADERS..]);
    Ok(f)
}

/// Both outcomes in a form that must be equal. Over an inner CE Linux sends ECT(0) outside (the limited mode of
/// RFC 3168), tortie CE (the normal mode of RFC 6040, 4.1, which is the rule now): after decapsulation both are CE.
fn compare(kernel: &Outcome, ours: &Outcome) -> Result<(), String> {
    let normal = |o: &Outcome, ce| -> Result<Outcome, String> {
        let pod = o.pod.iter().map(|f| normal_pod(f)).collect::<Result<_, _>>()?;
        Ok(Outcome { pod, underlay: o.underlay.iter().map(|f| normal_vxlan(f, ce)).collect::<Result<_, _>>()? })
    };
    let (k, o) = (normal(kernel, ECT0).map_err(|e| format!("kernel: {e}"))?, normal(ours, CE).map_err(|e| format!("tortie: {e}"))?);
    if (k.pod.len(), k.underlay.len()) != (o.pod.len(), o.underlay.len()) {
        return Err("not the same number of frames".into());
    }
    if k != o { Err("not the same bytes".into()) } else { Ok(()) }
}

/// Source ports per flow, kernel's and ours.
#[derive(Default)]
struct Flows(HashMap<Vec<u8>, (u16, u16)>);

impl Flows {
    /// Both must keep to one port per UDP and TCP flow.
    fn check(&mut self, p: &[u8], kernel: &Outcome, ours: &Outcome) -> Result<(), String> {
        let at = ipv4::header_len(p);
        let known = matches!((p[9], p.len() - at), (6, 20..) | (17, 8..)) && !ipv4::is_fragment(p);
        let ([k], [o], true) = (&kernel.underlay[..], &ours.underlay[..], known) else { return Ok(()) };
        let ports = (be16(k, 34), be16(o, 34));
        let first = *self.0.entry([&p[9..10], &p[12..20], &p[at..at + 4]].concat()).or_insert(ports);
        if first == ports { Ok(()) } else { Err(format!("source ports {ports:?}, for an earlier packet of the flow {first:?}")) }
    }
}

/// What became of a run's packets, so that a run in which nothing happens is no success.
#[derive(Debug, Default)]
struct Tally {
    through: u32,
    fragmented: u32,
    answered: u32,
    silent: u32,
}

impl Tally {
    fn add(&mut self, kernel: &Outcome, side: Side) {
        let (through, back) = match side {
            Side::Pod => (kernel.underlay.len(), kernel.pod.len()),
            Side::Underlay => (kernel.pod.len(), kernel.underlay.len()),
        };
        self.through += u32::from(through == 1);
        self.fragmented += u32::from(through > 1);
        self.answered += u32::from(back > 0);
        self.silent += u32::from(through + back == 0);
    }
}

struct Pair {
    kernel: KernelNode,
    ours: MemoryNode,
    flows: Flows,
}

impl Pair {
    fn new(mtu: u16) -> Pair {
        Pair { kernel: KernelNode::new(mtu), ours: MemoryNode::new(mtu), flows: Flows::default() }
    }

    /// `count` packets from the pod; `change` may damage or replace each.
    fn encap(&mut self, seed: u64, count: u32, shape: &Shape, change: impl Fn(&mut Rng, &mut Vec<u8>)) -> Tally {
        let mut tally = Tally::default();
        let mut rng = Rng(seed);
        for _ in 0..count {
            let at = rng.0;
            let mut p = packet(&mut rng, &Shape { dst: remote(&mut Rng(at)), ..shape.clone() });
            change(&mut rng, &mut p);
            let frame = from_pod(&p);
            let kernel = self.kernel.feed(Side::Pod, &frame);
            let (ours, dropped) = self.ours.feed(Side::Pod, &frame);
            tally.add(&kernel, Side::Pod);
            if let Err(what) = compare(&kernel, &ours).and_then(|()| self.flows.check(&p, &kernel, &ours)) {
                fail(&what, at, &frame, &kernel, &ours, dropped);
            }
        }
        tally
    }
}

fn outgoing() -> Shape {
    Shape { src: POD, dst: REMOTE_BLOCK, len: (20, 1450), ttl: (2, 255), df: None, written_options: true }
}

fn unchanged(_: &mut Rng, _: &mut Vec<u8>) {}

#[test]
fn encapsulation_is_the_kernels() {
    let mut pair = Pair::new(1450);
    let t = pair.encap(SEED, 2000, &outgoing(), unchanged);
    assert_eq!(t.through, 2000, "{t:?}");
    assert!(pair.flows.0.len() > 100);
    // Ethernet padding behind the packet is cut off.
    let t = pair.encap(SEED + 1, 100, &Shape { len: (20, 60), ..outgoing() }, |rng, p| p.extend(vec![0xaa; rng.within(1, 40)]));
    assert_eq!(t.through, 100, "{t:?}");
}

#[test]
fn long_packets_fare_as_in_the_kernel() {
    let shape = Shape { len: (1451, 1500), written_options: false, ..outgoing() };
    let mut pair = Pair::new(1450);
    let t = pair.encap(SEED + 2, 200, &Shape { df: Some(true), ..shape.clone() }, unchanged);
    assert!(t.answered > 100 && t.answered + t.silent == 200, "{t:?}");
    let t = pair.encap(SEED + 3, 200, &Shape { df: Some(false), ..shape.clone() }, unchanged);
    assert_eq!(t.fragmented, 200, "{t:?}");
    drop(pair);
    // A smaller MTU: more fragments.
    let mut pair = Pair::new(600);
    let t = pair.encap(SEED + 4, 400, &Shape { len: (590, 1500), df: Some(false), ..shape }, unchanged);
    assert!(t.fragmented > 300 && t.through + t.fragmented == 400, "{t:?}");
}

#[test]
fn expired_and_broken_packets_fare_as_in_the_kernel() {
    let mut pair = Pair::new(1450);
    let shape = Shape { written_options: false, ..outgoing() };
    let t = pair.encap(SEED + 5, 300, &Shape { ttl: (0, 1), ..shape.clone() }, unchanged);
    assert!(t.answered > 150 && t.silent > 10 && t.answered + t.silent == 300, "{t:?}");
    let t = pair.encap(SEED + 6, 300, &shape, |rng, p| damage(rng, p));
    assert_eq!(t.silent, 300, "{t:?}");
    // Addresses of the own block that no pod has, and ones that nobody may send to or from.
    let wrong = [(POD, "10.244.1.77"), (POD, "127.0.0.1"), (POD, "0.0.0.0"), (POD, "224.0.0.5"), (POD, "255.255.255.255")];
    for (src, dst) in wrong {
        let t = pair.encap(SEED + 7, 10, &shape, |_, p| readdress(p, src, dst.parse().unwrap()));
        assert_eq!(t.silent, 10, "{dst}: {t:?}");
    }
}

/// Makes the header invalid.
fn damage(rng: &mut Rng, p: &mut [u8]) {
    match rng.within(0, 4) {
        0 => p[10] ^= 1 << rng.within(0, 7),
        1 => p[0] = (p[0] & 0x0f) | 0x50,
        2 => p[0] = 0x44,
        3 => put16(p, 2, 19),
        _ => {
            let beyond = p.len() + rng.within(1, 50);
            put16(p, 2, beyond as u16);
        }
    }
    if p[0] & 0x0f >= 5 && p[0] >> 4 == 5 || be16(p, 2) as usize != p.len() {
        ipv4::write_checksum(p);
    }
}

fn readdress(p: &mut [u8], src: Ipv4Addr, dst: Ipv4Addr) {
    p[12..16].copy_from_slice(&src.octets());
    p[16..20].copy_from_slice(&dst.octets());
    ipv4::write_checksum(p);
}

/// How the two differ on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Same,
    /// The kernel delivers to the pod what tortie drops for this reason.
    TortieDrops(DropReason),
    /// The kernel drops what tortie delivers.
    KernelDrops,
    /// No tunnel packet: it stays with the host stack, which answers or not as it likes.
    HostStack(DropReason),
}

/// Changes one thing about a tunnel packet.
fn mutate(rng: &mut Rng, kind: usize, o: &mut Outer, p: &mut Vec<u8>) -> Expect {
    match kind {
        0 => o.tos = rng.byte(),
        1 => (o.ttl, o.df, o.id) = (rng.within(1, 255) as u8, rng.chance(50), rng.next() as u16),
        2 => (o.check, o.source_port) = (Some(0), rng.within(1, 65_535) as u16),
        3 => o.check = Some(rng.within(1, 65_534) as u16),
        4 => o.ip_check = rng.within(1, 65_534) as u16,
        5 => o.vxlan[4 + rng.within(0, 2)] ^= 1 << rng.within(0, 7),
        6 => o.vxlan[0] &= !vxlan::FLAG_VNI,
        7 => {
            // Reserved bits must be ignored on receipt (RFC 7348, 5); Linux takes them for extensions it
            // does not know and drops the packet.
            match rng.within(0, 2) {
                0 => o.vxlan[0] |= rng.pick(&[0x80, 0x40, 0x20, 0x10, 0x04, 0x02, 0x01]),
                1 => o.vxlan[rng.within(1, 3)] |= 1 << rng.within(0, 7),
                _ => o.vxlan[7] |= 1 << rng.within(0, 7),
            }
            return Expect::KernelDrops;
        }
        8 => o.inner_dst.0[rng.within(1, 5)] ^= 1 << rng.within(0, 7),
        9 => o.inner_dst = rng.pick(&[Mac::BROADCAST, Mac([1, 0, 0x5e, 0, 0, 5])]),
        10 => {
            // Calico guards the tunnel with a host firewall rule; here the tunnel itself knows its senders.
            o.src = Ipv4Addr::new(10, 0, 0, 77);
            return Expect::TortieDrops(DropReason::TunnelSenderUnknown);
        }
        11 => o.udp_length = -(rng.within(1, p.len() + 30) as i32),
        12 => o.udp_length = rng.within(1, 500) as i32,
        13 => o.inner_type = rng.pick(&[0x88b5, 0x8100, 0x0000]),
        14 => {
            o.dest_port = 4790;
            return Expect::HostStack(DropReason::OuterNotOurs);
        }
        15 => damage(rng, p),
        16 => p.truncate(rng.within(0, p.len() - 1)),
        17 => {
            p[8] = rng.within(0, 1) as u8;
            ipv4::write_checksum(p);
        }
        18 => readdress(p, REMOTE_BLOCK, Ipv4Addr::new(10, 244, 1, 200)),
        19 => {
            let src = rng.pick(&["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255"]);
            readdress(p, src.parse().unwrap(), POD);
        }
        20 => {
            // Class E (RFC 1112, 4) and network zero are not to be forwarded (RFC 1812, 5.3.7); Linux does so
            // nevertheless.
            readdress(p, rng.pick(&[Ipv4Addr::new(240, 1, 2, 3), Ipv4Addr::new(0, 1, 2, 3)]), POD);
            return Expect::TortieDrops(DropReason::IpMartian);
        }
        // A loop, or another machine with this node's MAC.
        21 => o.inner_src = node_vtep(),
        22 => {
            let stranger = Mac([2, rng.byte(), rng.byte(), rng.byte(), rng.byte(), rng.byte()]);
            o.inner_src = rng.pick(&[stranger, Mac::default(), Mac::BROADCAST]);
            p.extend(vec![0x55; rng.within(0, 30)]);
        }
        _ => {}
    }
    Expect::Same
}

const MUTATIONS: usize = 24;

#[test]
fn decapsulation_is_the_kernels() {
    let mut pair = Pair::new(1450);
    let mut rng = Rng(SEED + 8);
    let mut tallies: Vec<Tally> = (0..MUTATIONS).map(|_| Tally::default()).collect();
    for i in 0..2400 {
        let (at, kind) = (rng.0, i % MUTATIONS);
        let shape = Shape { src: remote(&mut rng), dst: POD, len: (20, 1400), ttl: (2, 255), df: None, written_options: kind != 17 };
        let mut p = packet(&mut rng, &shape);
        let mut outer = Outer { tos: p[1] & 3, ..Outer::default() };
        let expect = mutate(&mut rng, kind, &mut outer, &mut p);
        let frame = encapsulate(&p, &outer);
        let kernel = pair.kernel.feed(Side::Underlay, &frame);
        let (ours, dropped) = pair.ours.feed(Side::Underlay, &frame);
        tallies[kind].add(&kernel, Side::Underlay);
        if let Err(what) = judge(expect, &frame, &kernel, &ours, dropped) {
            fail(&format!("{what} (mutation {kind}, {expect:?})"), at, &frame, &kernel, &ours, dropped);
        }
    }
    let all = |kinds: &[usize], what: fn(&Tally) -> u32| {
        for k in kinds {
            assert_eq!(what(&tallies[*k]), 100, "mutation {k}: {:?}", tallies[*k]);
        }
    };
    all(&[1, 2, 10, 20, 22, 23], |t| t.through);
    all(&[3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 18, 19, 21], |t| t.silent);
    assert!(tallies[0].through > 50 && tallies[0].silent > 0 && tallies[17].answered > 50, "{tallies:?}");
}

fn judge(expect: Expect, frame: &[u8], kernel: &Outcome, ours: &Outcome, dropped: Option<DropReason>) -> Result<(), String> {
    let nothing = Outcome::default();
    match expect {
        Expect::Same => compare(kernel, ours),
        Expect::TortieDrops(reason) if kernel.pod.len() == 1 && *ours == nothing && dropped == Some(reason) => Ok(()),
        Expect::HostStack(reason) if kernel.pod.is_empty() && *ours == nothing && dropped == Some(reason) => Ok(()),
        Expect::KernelDrops if *kernel == nothing => {
            let [out] = &ours.pod[..] else { return Err("tortie does not deliver".into()) };
            let mut want = inner(frame).ok_or("no inner packet")?.to_vec();
            ipv4::decrement_ttl(&mut want);
            if out[14..] == want[..] { Ok(()) } else { Err("not the inner packet".into()) }
        }
        _ => Err("not the expected difference".into()),
    }
}
