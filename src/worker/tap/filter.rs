//! Which packets to look at: an expression in tcpdump's syntax (pcap-filter(7): host, net, port, portrange, less, greater,
//! protocols, src, dst, and, or, not, parentheses), with `pod NAME` and `reason NAME` besides. In a tunnel packet the
//! outer and the inner packet both count.

use super::view::{Layer, View};
use crate::drop::DropReason;
use crate::wire::ipv4;
use std::net::Ipv4Addr;

/// Longest expression, bytes, and deepest nesting: parsing recurses.
const TEXT_MAX: usize = 4096;
const DEPTH_MAX: usize = 64;

/// Why a text is not a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    #[error("filter: {found:?} at word {at}: {expected}")]
    Word { at: usize, found: String, expected: &'static str },
    #[error("filter: ends where {expected}")]
    End { expected: &'static str },
    #[error("filter: no pod {name:?} on this node; pods are named NAMESPACE/NAME")]
    Pod { name: String },
    #[error("filter: {name:?} is not a drop reason; `tortie drops --all` lists them")]
    Reason { name: String },
    #[error("filter: longer than {TEXT_MAX} bytes, or nested deeper than {DEPTH_MAX}")]
    TooLong,
}

/// Which end of a packet a condition is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Src,
    Dst,
    Either,
    Both,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Expr {
    All,
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Not(Box<Expr>),
    Net(End, u32, u32),
    Pod(End, Vec<u32>),
    Port(End, Option<u8>, u16, u16),
    Protocol(u8),
    Arp,
    Ip,
    /// Bytes: at most, at least.
    Less(usize),
    Greater(usize),
    Reason(DropReason),
}

/// A compiled expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(Expr);

impl Filter {
    /// Takes everything.
    pub fn all() -> Filter {
        Filter(Expr::All)
    }

    /// Compiles a text; an empty one takes everything. `pod` tells a pod's addresses by its name.
    pub fn parse(text: &str, pod: &dyn Fn(&str) -> Option<Vec<Ipv4Addr>>) -> Result<Filter, FilterError> {
        if text.len() > TEXT_MAX {
            return Err(FilterError::TooLong);
        }
        let words = words(text);
        if words.is_empty() {
            return Ok(Filter::all());
        }
        let mut parser = Parser { words: &words, at: 0, pod, depth: 0, last: None };
        let expr = parser.expression()?;
        match parser.peek() {
            None => Ok(Filter(expr)),
            Some(_) => Err(parser.unexpected("`and`, `or` or the end")),
        }
    }

    /// Whether the packet can match, before its end is known.
    pub fn may_match(&self, v: &View) -> bool {
        self.0.eval(v, None) != Some(false)
    }

    /// Whether it does. `reason`: why it was dropped, if it was.
    pub fn matches(&self, v: &View, reason: Option<DropReason>) -> bool {
        self.0.eval(v, Some(reason)) == Some(true)
    }
}

impl Expr {
    /// Three-valued: `None` while the answer depends on an end that is not known yet (`reason` is `None`).
    fn eval(&self, v: &View, reason: Option<Option<DropReason>>) -> Option<bool> {
        let any = |f: &dyn Fn(&Layer) -> bool| Some(v.layers().iter().any(f));
        match self {
            Expr::All => Some(true),
            Expr::And(a, b) => match (a.eval(v, reason), b.eval(v, reason)) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            },
            Expr::Or(a, b) => match (a.eval(v, reason), b.eval(v, reason)) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            },
            Expr::Not(e) => e.eval(v, reason).map(|b| !b),
            Expr::Net(end, net, mask) => any(&|l| end.holds(l.src & mask == *net, l.dst & mask == *net)),
            Expr::Pod(end, all) => any(&|l| end.holds(all.contains(&l.src), all.contains(&l.dst))),
            Expr::Port(end, proto, low, high) => any(&|l| {
                let within = |p: u16| (*low..=*high).contains(&p);
                proto.is_none_or(|p| p == l.proto) && l.ports.is_some_and(|(s, d)| end.holds(within(s), within(d)))
            }),
            Expr::Protocol(p) => any(&|l| l.proto == *p),
            Expr::Arp => Some(v.arp),
            Expr::Ip => Some(!v.layers().is_empty()),
            Expr::Less(n) => Some(v.len <= *n),
            Expr::Greater(n) => Some(v.len >= *n),
            Expr::Reason(r) => reason.map(|found| found == Some(*r)),
        }
    }
}

impl End {
    fn holds(self, src: bool, dst: bool) -> bool {
        match self {
            End::Src => src,
            End::Dst => dst,
            End::Either => src || dst,
            End::Both => src && dst,
        }
    }
}

/// Words, with parentheses and `!`, `&&`, `||` apart.
fn words(text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    for mut rest in text.split_whitespace() {
        while !rest.is_empty() {
            let cut = match rest.as_bytes()[0] {
                b'(' | b')' | b'!' => 1,
                b'&' | b'|' if rest.len() > 1 && rest.as_bytes()[1] == rest.as_bytes()[0] => 2,
                first => rest.find(['(', ')', '!', '&', '|']).unwrap_or(rest.len()).max(if b"&|".contains(&first) { 1 } else { 0 }),
            };
            let (word, after) = rest.split_at(cut);
            out.push(word);
            rest = after;
        }
    }
    out
}

struct Parser<'a> {
    words: &'a [&'a str],
    at: usize,
    pod: &'a dyn Fn(&str) -> Option<Vec<Ipv4Addr>>,
    depth: usize,
    /// The qualifiers of the condition before: `host a or b` is `host a or host b`.
    last: Option<(End, Kind)>,
}

/// What an identifier names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Host,
    Net,
    Port(Option<u8>),
    PortRange(Option<u8>),
    Pod,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.at).copied()
    }

    fn take(&mut self, expected: &'static str) -> Result<&'a str, FilterError> {
        let word = self.peek().ok_or(FilterError::End { expected })?;
        self.at += 1;
        Ok(word)
    }

    fn eat(&mut self, any: &[&str]) -> bool {
        let found = self.peek().is_some_and(|w| any.contains(&w));
        self.at += usize::from(found);
        found
    }

    /// The next word is wrong.
    fn unexpected(&self, expected: &'static str) -> FilterError {
        match self.peek() {
            Some(found) => FilterError::Word { at: self.at + 1, found: found.to_owned(), expected },
            None => FilterError::End { expected },
        }
    }

    /// The word before is wrong.
    fn wrong(&self, expected: &'static str) -> FilterError {
        FilterError::Word { at: self.at, found: self.words[self.at - 1].to_owned(), expected }
    }

    /// `and` and `or` bind alike, from the left, as in pcap-filter(7).
    fn expression(&mut self) -> Result<Expr, FilterError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(FilterError::TooLong);
        }
        let mut left = self.term()?;
        loop {
            if self.eat(&["and", "&&"]) {
                left = Expr::And(left.into(), self.term()?.into());
            } else if self.eat(&["or", "||"]) {
                left = Expr::Or(left.into(), self.term()?.into());
            } else {
                self.depth -= 1;
                return Ok(left);
            }
        }
    }

    fn term(&mut self) -> Result<Expr, FilterError> {
        if self.eat(&["not", "!"]) {
            self.depth += 1;
            if self.depth > DEPTH_MAX {
                return Err(FilterError::TooLong);
            }
            let inner = self.term()?;
            self.depth -= 1;
            return Ok(Expr::Not(inner.into()));
        }
        if self.eat(&["("]) {
            let inner = self.expression()?;
            if !self.eat(&[")"]) {
                return Err(self.unexpected("`)` closes what `(` opened"));
            }
            return Ok(inner);
        }
        self.condition()
    }

    fn condition(&mut self) -> Result<Expr, FilterError> {
        let start = self.at;
        let mut proto = None;
        if let Some(word) = self.peek() {
            match word {
                "arp" => return self.single(Expr::Arp),
                "less" => return self.length(Expr::Less),
                "greater" => return self.length(Expr::Greater),
                "reason" => return self.reason(),
                "ip" => {
                    self.at += 1;
                    if self.peek() != Some("proto") && !self.more_of_condition() {
                        return Ok(Expr::Ip);
                    }
                }
                "tcp" | "udp" | "icmp" => {
                    proto = protocol(word);
                    self.at += 1;
                }
                _ => {}
            }
        }
        if self.eat(&["proto"]) {
            let word = self.take("a protocol follows `proto`")?;
            let number = protocol(word).or_else(|| word.parse().ok());
            return number.map(Expr::Protocol).ok_or_else(|| self.wrong("a protocol's name (tcp, udp, icmp, ipip) or number is required"));
        }
        if let (Some(p), false) = (proto, self.more_of_condition()) {
            return Ok(Expr::Protocol(p));
        }
        let end = self.end()?;
        let kind = self.kind(proto)?;
        let (end, kind) = match (end, kind, self.last) {
            (None, None, Some(last)) if start == self.at => last,
            (end, kind, _) => (end.unwrap_or(End::Either), kind.unwrap_or(Kind::Host)),
        };
        self.last = Some((end, kind));
        let e = self.identifier(end, kind)?;
        Ok(match (proto, kind) {
            (Some(p), Kind::Host | Kind::Net | Kind::Pod) => Expr::And(Expr::Protocol(p).into(), e.into()),
            _ => e,
        })
    }

    /// Whether the next word goes on with a condition that a protocol began.
    fn more_of_condition(&self) -> bool {
        self.peek().is_some_and(|w| ["src", "dst", "host", "net", "port", "portrange", "pod"].contains(&w))
    }

    fn single(&mut self, e: Expr) -> Result<Expr, FilterError> {
        self.at += 1;
        Ok(e)
    }

    fn length(&mut self, make: fn(usize) -> Expr) -> Result<Expr, FilterError> {
        self.at += 1;
        let word = self.take("a number of bytes follows")?;
        word.parse().map(make).map_err(|_| self.wrong("a number of bytes is required"))
    }

    fn reason(&mut self) -> Result<Expr, FilterError> {
        self.at += 1;
        let name = self.take("a drop reason follows `reason`")?;
        let found = DropReason::ALL.iter().find(|r| r.name() == name);
        found.map(|r| Expr::Reason(*r)).ok_or_else(|| FilterError::Reason { name: name.to_owned() })
    }

    /// `src`, `dst`, `src or dst`, `src and dst`.
    fn end(&mut self) -> Result<Option<End>, FilterError> {
        let one = |w: &str| match w {
            "src" => Some(End::Src),
            "dst" => Some(End::Dst),
            _ => None,
        };
        let Some(first) = self.peek().and_then(one) else { return Ok(None) };
        self.at += 1;
        let joined = self.peek().zip(self.words.get(self.at + 1).copied().and_then(one));
        Ok(Some(match joined {
            Some((how @ ("or" | "and"), second)) if second != first => {
                self.at += 2;
                if how == "or" { End::Either } else { End::Both }
            }
            _ => first,
        }))
    }

    fn kind(&mut self, proto: Option<u8>) -> Result<Option<Kind>, FilterError> {
        let kind = match self.peek() {
            Some("host") => Kind::Host,
            Some("net") => Kind::Net,
            Some("port") => Kind::Port(proto),
            Some("portrange") => Kind::PortRange(proto),
            Some("pod") => Kind::Pod,
            _ => return Ok(None),
        };
        self.at += 1;
        Ok(Some(kind))
    }

    fn identifier(&mut self, end: End, kind: Kind) -> Result<Expr, FilterError> {
        match kind {
            Kind::Host => {
                let word = self.take("an address is required")?;
                let address: Ipv4Addr = word.parse().map_err(|_| self.wrong("host, net, port, portrange, pod, tcp, udp, icmp, arp, ip, proto, less, greater, reason, or an IPv4 address is required"))?;
                Ok(Expr::Net(end, address.into(), u32::MAX))
            }
            Kind::Net => {
                let word = self.take("a network is required, like 10.244.0.0/16")?;
                let net: ipnet::Ipv4Net = word.parse().map_err(|_| self.wrong("a network is required, like 10.244.0.0/16"))?;
                Ok(Expr::Net(end, net.network().into(), net.netmask().into()))
            }
            Kind::Port(proto) => {
                let word = self.take("a port number is required")?;
                let port = word.parse().map_err(|_| self.wrong("a port number from 0 to 65535 is required"))?;
                Ok(Expr::Port(end, proto, port, port))
            }
            Kind::PortRange(proto) => {
                let word = self.take("a range of ports is required, like 8000-8080")?;
                let range = word.split_once('-').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
                let (low, high): (u16, u16) = range.ok_or_else(|| self.wrong("a range of ports is required, like 8000-8080"))?;
                Ok(Expr::Port(end, proto, low.min(high), low.max(high)))
            }
            Kind::Pod => {
                let name = self.take("a pod's name is required")?;
                let all = (self.pod)(name).ok_or_else(|| FilterError::Pod { name: name.to_owned() })?;
                Ok(Expr::Pod(end, all.into_iter().map(u32::from).collect()))
            }
        }
    }
}

fn protocol(word: &str) -> Option<u8> {
    Some(match word {
        "icmp" => ipv4::PROTO_ICMP,
        "ipip" => ipv4::PROTO_IPIP,
        "tcp" => ipv4::PROTO_TCP,
        "udp" => ipv4::PROTO_UDP,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::PortId;

    fn view(src: [u8; 4], dst: [u8; 4], proto: u8, ports: Option<(u16, u16)>) -> View {
        let mut v = View::new(100, PortId(0));
        v.push(Layer { src: u32::from_be_bytes(src), dst: u32::from_be_bytes(dst), proto, ports, len: 100 });
        v
    }

    fn parse(text: &str) -> Result<Filter, FilterError> {
        Filter::parse(text, &|name| (name == "default/web").then(|| vec![[10, 0, 0, 1].into()]))
    }

    #[test]
    fn what_matches() {
        let v = view([10, 0, 0, 1], [10, 0, 1, 2], 6, Some((4000, 80)));
        for (text, want) in [
            ("", true),
            ("host 10.0.0.1", true),
            ("10.0.1.2", true),
            ("src host 10.0.1.2", false),
            ("dst 10.0.1.2", true),
            ("net 10.0.1.0/24", true),
            ("src net 10.0.1.0/24", false),
            ("src and dst net 10.0.0.0/16", true),
            ("src or dst net 10.0.1.0/24", true),
            ("port 80", true),
            ("src port 80", false),
            ("tcp port 80", true),
            ("udp port 80", false),
            ("tcp and port 81", false),
            ("portrange 79-81", true),
            ("tcp dst portrange 1-79", false),
            ("tcp", true),
            ("not tcp", false),
            ("! icmp", true),
            ("ip proto 6", true),
            ("proto udp", false),
            ("ip", true),
            ("arp", false),
            ("less 100", true),
            ("greater 101", false),
            ("pod default/web", true),
            ("dst pod default/web", false),
            ("host 1.1.1.1 or 10.0.0.1", true),
            ("port 1 or 2 or 80", true),
            // From the left: (udp or tcp) and port 81.
            ("udp or tcp and port 81", false),
            ("udp or (tcp and port 80)", true),
            ("!(udp||tcp)", false),
            ("(host 10.0.0.1&&port 80)", true),
            ("tcp host 10.0.0.1", true),
            ("udp host 10.0.0.1", false),
        ] {
            assert_eq!(parse(text).unwrap().matches(&v, None), want, "{text}");
        }
    }

    #[test]
    fn reasons_are_known_only_at_the_end() {
        let v = view([10, 0, 0, 1], [10, 0, 1, 2], 17, Some((1, 2)));
        for (text, may, ends) in [
            ("reason no-route", true, [true, false]),
            ("not reason no-route", true, [false, true]),
            ("reason no-route and tcp", false, [false, false]),
            ("reason no-route or udp", true, [true, true]),
        ] {
            let f = parse(text).unwrap();
            assert_eq!((f.may_match(&v), f.matches(&v, Some(DropReason::NoRoute)), f.matches(&v, None)), (may, ends[0], ends[1]), "{text}");
        }
    }

    #[test]
    fn inner_and_outer_packets_count() {
        let mut v = view([172, 18, 0, 1], [172, 18, 0, 2], 17, Some((40_000, 4789)));
        v.push(Layer { src: 1, dst: 2, proto: 1, ports: None, len: 50 });
        for text in ["host 172.18.0.1", "icmp", "udp port 4789 and icmp", "host 0.0.0.1"] {
            assert!(parse(text).unwrap().matches(&v, None), "{text}");
        }
    }

    #[test]
    fn what_is_refused() {
        for (text, want) in [
            ("host", "filter: ends where an address is required"),
            ("host x", "filter: \"x\" at word 2: host, net, port"),
            ("port http", "filter: \"http\" at word 2: a port number from 0 to 65535 is required"),
            ("net 10.0.0.0/33", "filter: \"10.0.0.0/33\" at word 2: a network is required"),
            ("tcp tcp", "filter: \"tcp\" at word 2: `and`, `or` or the end"),
            ("(tcp", "filter: ends where `)` closes"),
            ("tcp )", "filter: \")\" at word 2: `and`, `or` or the end"),
            ("pod nobody", "filter: no pod \"nobody\" on this node"),
            ("reason because", "filter: \"because\" is not a drop reason"),
            ("& tcp", "filter: \"&\" at word 1"),
            ("less many", "filter: \"many\" at word 2: a number of bytes is required"),
        ] {
            let got = parse(text).unwrap_err().to_string();
            assert!(got.starts_with(want), "{text}: {got}");
        }
        assert_eq!(parse(&"(".repeat(70)), Err(FilterError::TooLong));
        assert_eq!(parse(&"not ".repeat(70)), Err(FilterError::TooLong));
        assert_eq!(parse(&"x".repeat(5000)), Err(FilterError::TooLong));
    }
}
