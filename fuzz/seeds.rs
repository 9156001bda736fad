//! Writes a few well-formed inputs per target into fuzz/corpus/, where the fuzzer starts from:
//! `cargo run --all-features --example fuzz-seeds`.

use std::net::Ipv4Addr;
use std::{fs, io, path::Path};
use tortie::testing::build::{ArpFrame, Ip4, ethernet};
use tortie::testing::net::Node;
use tortie::wire::Mac;

const ME: Node = Node(1);
const PEER: Node = Node(2);
const IPIP_PEER: Node = Node(3);

fn main() -> io::Result<()> {
    // Behind ours and the neighbours' addresses: to pods, to nodes, to the host, to nowhere.
    let own = [ME.pod(1), ME.pod(2), ME.pod(9), ME.tunnel_address()];
    let others = [PEER.pod(1), IPIP_PEER.pod(1), Node(4).pod(1), Node(5).pod(1), Node(6).pod(1), Ipv4Addr::new(192, 0, 2, 1)];
    let inward: Vec<Vec<u8>> = own.iter().flat_map(|to| packets(PEER.pod(1), *to)).collect();
    let outward: Vec<Vec<u8>> = others.iter().chain(&own).flat_map(|to| packets(ME.pod(1), *to)).collect();
    let mut frames: Vec<Vec<u8>> = outward.iter().map(|p| ethernet(Mac::GATEWAY, ME.pod_mac(1), p)).collect();
    let request = ArpFrame::request(ME.pod_mac(1), ME.pod(1), Ipv4Addr::new(169, 254, 1, 1)).bytes();
    frames.push(request.clone());
    frames.push(ArpFrame::reply(ME.pod_mac(1), ME.pod(1)).bytes());

    let vxlan = PEER.vxlan_to(ME);
    let ipip = IPIP_PEER.ipip_to(ME);
    let tunnel_frames = inward.iter().flat_map(|p| [vxlan.frame(p), ipip.frame(p)]).collect();
    write("rx_uplink_ethernet", &[0; 4], tunnel_frames)?;
    write("rx_uplink_vxlan_udp", &[0, 1, 0, 0], inward.iter().map(|p| vxlan.payload(p)).collect())?;
    write("rx_uplink_ip", &[0; 4], inward.iter().flat_map(|p| [vxlan.packet(p), ipip.packet(p)]).collect())?;
    write("rx_workload_ethernet", &[0; 4], frames)?;
    write("rx_host_ip", &[0; 4], outward.clone())?;
    write("segment", &[0, 0, 100], outward.clone())?;
    write("fragment", &[0, 100], outward)?;
    write("arp", &[], vec![request])?;
    write("vnet", &[1, 1, 0, 0, 100, 0, 20, 0, 16, 0], inward)?;
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/samples");
    let texts = fs::read_dir(samples)?.map(|e| fs::read(e?.path())).collect::<io::Result<Vec<_>>>()?;
    write("yaml", &[], texts)
}

/// UDP, TCP, ping, short and long, with options, fragmentable and a fragment.
fn packets(from: Ipv4Addr, to: Ipv4Addr) -> Vec<Vec<u8>> {
    let ip = Ip4::new(from, to);
    vec![
        ip.udp(4000, 53, b"question"),
        ip.udp(4000, 4789, &[8; 40]),
        ip.tcp(40_000, 80, 7, &[1; 600]),
        ip.ping(1, 1, &[2; 56]),
        ip.clone().ttl(1).udp(4000, 33_434, &[]),
        ip.clone().may_fragment().udp(4000, 5000, &[3; 1900]),
        ip.clone().fragment(185, true).raw(17, &[4; 64]),
        ip.options(&[1, 1, 1, 0]).udp(4000, 53, &[5; 8]),
    ]
}

fn write(target: &str, knobs: &[u8], inputs: Vec<Vec<u8>>) -> io::Result<()> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    fs::create_dir_all(&dir)?;
    for (i, bytes) in inputs.iter().enumerate() {
        fs::write(dir.join(format!("seed-{i:03}")), [knobs, bytes].concat())?;
    }
    Ok(())
}
