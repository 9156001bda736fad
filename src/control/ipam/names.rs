//! What IPAM's objects are called, and the labels by which Calico finds a node's affinities.

use ipnet::IpNet;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sha3::Sha3_256;

/// Names of objects are shorter than this, bytes.
const NAME_LIMIT: usize = 253;

/// Of an IPAMBlock: `10-244-56-64-26`.
pub fn block(cidr: IpNet) -> String {
    cidr.to_string().replace(['.', ':', '/'], "-")
}

/// Of a BlockAffinity: node and block; a long node name is cut and a hash put behind.
pub fn affinity(node: &str, cidr: IpNet) -> String {
    let block = block(cidr);
    let name = format!("{node}-{block}");
    if name.len() < NAME_LIMIT {
        return name;
    }
    let hash = hex::encode(Sha256::digest(format!("{node}+{block}")));
    // A node's name is ASCII; if it were not, a cut inside a letter moves to its start.
    let mut end = NAME_LIMIT - 1 - block.len() - 13;
    while !node.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}-{block}-{}", &node[..end], &hash[..11])
}

/// Of an IPAMHandle.
pub fn handle(id: &str) -> String {
    id.to_lowercase()
}

/// The label of a BlockAffinity that says whose it is.
pub const NODE_LABEL: &str = "projectcalico.org/hostname-hash";

/// Its value: a node's name may be longer than a label's value.
pub fn node_label(node: &str) -> String {
    base32(&Sha3_256::digest(node))
}

/// Labels of a BlockAffinity.
pub fn affinity_labels(node: &str, kind: &str, cidr: IpNet) -> Value {
    json!({
        NODE_LABEL: node_label(node),
        "projectcalico.org/affinity-type": kind,
        "projectcalico.org/ip-version": if cidr.addr().is_ipv4() { "4" } else { "6" },
    })
}

/// RFC 4648 without padding.
fn base32(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let bit = |i: usize| bytes.get(i / 8).is_some_and(|b| b >> (7 - i % 8) & 1 == 1);
    let letter = |at: usize| LETTERS[(at..at + 5).fold(0, |value, i| value << 1 | usize::from(bit(i)))];
    (0..bytes.len() * 8).step_by(5).map(|at| char::from(letter(at))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn names() {
        assert_eq!(block(net("10.244.56.64/26")), "10-244-56-64-26");
        assert_eq!(block(net("fd00:10::40/122")), "fd00-10--40-122");
        assert_eq!(affinity("n1.example.com", net("10.244.56.64/26")), "n1.example.com-10-244-56-64-26");
        assert_eq!(handle("k8s-pod-network.ABC"), "k8s-pod-network.abc");
    }

    #[test]
    fn long_names_are_cut_and_stay_apart() {
        let node = |last: char| format!("{}{last}", "n".repeat(240));
        let (a, b) = (affinity(&node('a'), net("10.244.56.64/26")), affinity(&node('b'), net("10.244.56.64/26")));
        assert_eq!((a.len(), b.len()), (252, 252));
        assert_ne!(a, b);
        assert!(a.contains("-10-244-56-64-26-"));
        assert_eq!(affinity(&"n".repeat(236), net("10.244.56.64/26")).len(), 252, "the longest that is not cut");
        assert!(affinity(&"é".repeat(150), net("10.244.56.64/26")).len() < NAME_LIMIT);
    }

    #[test]
    fn labels_fit_and_hash_the_node() {
        assert_eq!(base32(b"foobar"), "MZXW6YTBOI");
        assert_eq!(hex::encode(Sha3_256::digest("")), "a7ffc6f8bf1ed76651c14756a061d662f580ff4de43b49fa82d80a4b80f8434a");
        let labels = affinity_labels("n1", "host", net("10.244.56.64/26"));
        assert_eq!(labels["projectcalico.org/hostname-hash"].as_str().unwrap().len(), 52);
        assert_eq!(labels["projectcalico.org/ip-version"], "4");
        assert_eq!(affinity_labels("n1", "host", net("fd00::/122"))["projectcalico.org/ip-version"], "6");
    }
}
