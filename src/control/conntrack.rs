//! What the host's connection tracking knows of translated flows, read once at the start: answers to flows that a
//! daemon before this one kept must not pass the host by.

use crate::flows::{Entry, Flows, Key, Phase};
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::Ipv4Addr;

/// One line per flow (net/netfilter/nf_conntrack_standalone.c). Kernels built without it have no such file.
pub const TABLE: &str = "/proc/net/nf_conntrack";
/// What an entry for fragments gets, milliseconds.
const PAIR_LEFT: u64 = 600_000;

/// Puts the flows that the host translates into the table; how many.
pub fn recover(flows: &Flows, now_ms: u64) -> io::Result<usize> {
    let mut found = 0;
    for line in BufReader::new(File::open(TABLE)?).lines() {
        let Some(entry) = translated(&line?) else { continue };
        let pair = Key::pair(entry.key.src(), entry.key.dst(), entry.key.protocol());
        flows.restore(&entry, now_ms);
        flows.restore(&Entry { key: pair, phase: Phase::Opening, left_ms: PAIR_LEFT }, now_ms);
        found += 1;
    }
    Ok(found)
}

/// One direction as a line has it.
#[derive(Clone, Copy, Default)]
struct Tuple {
    src: Option<Ipv4Addr>,
    dst: Option<Ipv4Addr>,
    /// An ICMP query's identifier is both.
    ports: (u16, u16),
}

/// The answers' direction of a line's flow, if its destination is translated and its source is not: then the engine
/// meets its answers.
fn translated(line: &str) -> Option<Entry> {
    let mut words = line.split_whitespace();
    let (family, _, _) = (words.next()?, words.next()?, words.next()?);
    let (protocol, left): (u8, u64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    if family != "ipv4" {
        return None;
    }
    let mut tuples = [Tuple::default(); 2];
    let (mut at, mut state) = (None, "");
    for word in words {
        let Some((key, value)) = word.split_once('=') else {
            state = if at.is_none() || word == "[UNREPLIED]" { word } else { state };
            continue;
        };
        if key == "src" {
            at = Some(at.map_or(0, |i: usize| i + 1));
        }
        let Some(tuple) = at.and_then(|i| tuples.get_mut(i)) else { break };
        match key {
            "src" => tuple.src = value.parse().ok(),
            "dst" => tuple.dst = value.parse().ok(),
            "sport" => tuple.ports.0 = value.parse().ok()?,
            "dport" => tuple.ports.1 = value.parse().ok()?,
            "id" => tuple.ports = (value.parse().ok()?, value.parse().ok()?),
            _ => {}
        }
    }
    let [asked, answer] = tuples;
    let same_target = (asked.dst?, asked.ports.1) == (answer.src?, answer.ports.0);
    if same_target || answer.dst? != asked.src? {
        return None;
    }
    let phase = match state {
        "ESTABLISHED" => Phase::Open,
        "[UNREPLIED]" | "SYN_SENT" | "SYN_RECV" | "SYN_SENT2" => Phase::Opening,
        "" => Phase::Open,
        _ => Phase::Closing,
    };
    let key = Key::with_ports(answer.src?.into(), answer.dst?.into(), protocol, answer.ports);
    Some(Entry { key, phase, left_ms: left.saturating_mul(1000) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of a kernel 6.18.
    const LINES: &str = "\
ipv4     2 tcp      6 431999 ESTABLISHED src=10.244.1.5 dst=10.96.0.11 sport=40022 dport=80 src=10.244.1.6 dst=10.244.1.5 sport=8080 dport=40022 [ASSURED] mark=0 zone=0 use=2
ipv4     2 udp      17 28 src=10.244.1.5 dst=10.96.0.11 sport=40100 dport=80 [UNREPLIED] src=10.244.1.6 dst=10.244.1.5 sport=8080 dport=40100 mark=0 zone=0 use=2
ipv4     2 udp      17 119 src=10.244.2.5 dst=10.1.0.1 sport=40101 dport=9090 src=10.244.1.6 dst=10.244.2.5 sport=8080 dport=40101 [ASSURED] mark=0 zone=0 use=2
ipv4     2 tcp      6 97 TIME_WAIT src=10.244.1.5 dst=10.96.0.11 sport=40023 dport=80 src=10.244.1.6 dst=10.244.1.5 sport=8080 dport=40023 [ASSURED] mark=0 zone=0 use=1
ipv4     2 tcp      6 431999 ESTABLISHED src=10.1.0.1 dst=10.1.0.2 sport=22 dport=40000 src=10.1.0.2 dst=10.1.0.1 sport=40000 dport=22 [ASSURED] mark=0 zone=0 use=1
ipv4     2 tcp      6 431999 ESTABLISHED src=10.244.1.5 dst=10.96.0.13 sport=40022 dport=80 src=10.244.1.5 dst=10.244.1.0 sport=8080 dport=55001 [ASSURED] mark=0 zone=0 use=2
ipv4     2 icmp     1 29 src=10.244.1.5 dst=10.96.0.11 type=8 code=0 id=77 src=10.244.1.6 dst=10.244.1.5 type=0 code=0 id=77 mark=0 zone=0 use=2
ipv6     10 udp      17 28 src=fe80::1 dst=fe80::2 sport=1 dport=2 src=fe80::2 dst=fe80::1 sport=2 dport=1 mark=0 zone=0 use=2
ipv4     2 tcp
";

    #[test]
    fn translated_flows_are_found() {
        let found: Vec<_> = LINES.lines().filter_map(translated).collect();
        let shown: Vec<_> = found
            .iter()
            .map(|e| {
                (
                    Ipv4Addr::from(e.key.src()).to_string(),
                    Ipv4Addr::from(e.key.dst()).to_string(),
                    e.key.ports().unwrap(),
                    e.phase,
                    e.left_ms,
                )
            })
            .collect();
        let (a, web, there) = ("10.244.1.5".to_owned(), "10.244.1.6".to_owned(), "10.244.2.5".to_owned());
        assert_eq!(
            shown,
            [
                (web.clone(), a.clone(), (8080, 40_022), Phase::Open, 431_999_000),
                (web.clone(), a.clone(), (8080, 40_100), Phase::Opening, 28_000),
                (web.clone(), there, (8080, 40_101), Phase::Open, 119_000),
                (web.clone(), a.clone(), (8080, 40_023), Phase::Closing, 97_000),
                (web, a, (77, 77), Phase::Open, 29_000),
            ]
        );
    }
}
