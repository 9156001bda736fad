//! The load generator that `lab bench` runs inside pods: bulk TCP, small UDP datagrams, request and response.
//! Receivers print `ready` once they listen; every role prints one line of JSON when it is done.

use super::sys;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// Bytes per write and read of bulk TCP.
const BULK: usize = 256 * 1024;
/// UDP payload that makes a 64-byte Ethernet frame: 64 less Ethernet header and FCS, IPv4 and UDP headers.
pub const SMALL: usize = 64 - 18 - 20 - 8;
/// Receive buffer of the UDP sink, bytes: room for some tens of milliseconds in which it is not scheduled.
const SINK_BUFFER: libc::c_int = 8 << 20;
/// A request or response.
const MESSAGE: usize = 64;
/// How long a receiver waits for its peer, and a client for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a run counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    pub bytes: u64,
    pub packets: u64,
    pub seconds: f64,
    /// Round-trip times, microseconds: median and 99th percentile.
    pub p50: f64,
    pub p99: f64,
}

fn ready() -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "ready")?;
    out.flush()
}

fn any(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)
}

/// Accepts `streams` connections and reads them to their end; the time runs from the first byte to the last.
pub fn tcp_recv(port: u16, streams: usize) -> io::Result<Measured> {
    let listener = TcpListener::bind(any(port))?;
    ready()?;
    let mut readers = Vec::new();
    for _ in 0..streams {
        let (mut s, _) = listener.accept()?;
        s.set_read_timeout(Some(PATIENCE))?;
        readers.push(std::thread::spawn(move || -> io::Result<(u64, Option<Instant>, Instant)> {
            let mut buffer = vec![0u8; BULK];
            let (mut bytes, mut first, mut last) = (0u64, None, Instant::now());
            loop {
                let n = s.read(&mut buffer)?;
                if n == 0 {
                    return Ok((bytes, first, last));
                }
                last = Instant::now();
                first.get_or_insert(last);
                bytes += n as u64;
            }
        }));
    }
    let (mut bytes, mut first, mut last) = (0, None::<Instant>, None::<Instant>);
    for r in readers {
        let (b, f, l) = r.join().map_err(|_| io::Error::other("a reader panicked"))??;
        bytes += b;
        first = [first, f].into_iter().flatten().min();
        last = Some(last.map_or(l, |x| x.max(l)));
    }
    let seconds = first.zip(last).map_or(0.0, |(f, l)| l.duration_since(f).as_secs_f64());
    Ok(Measured { bytes, seconds, ..Measured::default() })
}

/// Sends on `streams` connections for a time.
pub fn tcp_send(to: SocketAddrV4, streams: usize, time: Duration) -> io::Result<Measured> {
    let end = Instant::now() + time;
    let writers: Vec<_> = (0..streams)
        .map(|_| {
            std::thread::spawn(move || -> io::Result<u64> {
                let mut s = TcpStream::connect_timeout(&to.into(), PATIENCE)?;
                s.set_write_timeout(Some(PATIENCE))?;
                let buffer = vec![0x5au8; BULK];
                let mut bytes = 0;
                while Instant::now() < end {
                    bytes += s.write(&buffer)? as u64;
                }
                Ok(bytes)
            })
        })
        .collect();
    let mut bytes = 0;
    for w in writers {
        bytes += w.join().map_err(|_| io::Error::other("a writer panicked"))??;
    }
    Ok(Measured { bytes, seconds: time.as_secs_f64(), ..Measured::default() })
}

/// Counts datagrams until none has come for a second; the time runs from the first to the last. It takes them in
/// batches, from a large buffer: it should not be what limits a measurement.
pub fn udp_sink(port: u16) -> io::Result<Measured> {
    let socket = UdpSocket::bind(any(port))?;
    sys::set_receive_buffer(&socket, SINK_BUFFER)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    ready()?;
    let mut sink = sys::Sink::new();
    let (mut packets, mut bytes) = sink.receive(&socket)?;
    let first = Instant::now();
    let mut last = first;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    loop {
        match sink.receive(&socket) {
            Ok((p, b)) => {
                packets += p;
                bytes += b;
                last = Instant::now();
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => break,
            Err(e) => return Err(e),
        }
    }
    Ok(Measured { bytes, packets, seconds: last.duration_since(first).as_secs_f64(), ..Measured::default() })
}

/// Sends small datagrams as fast as it goes, with one `send` each: that is what applications do, and what they pay
/// is part of the measurement. Flows are connected sockets, each with a source port of its own. With several, each
/// datagram belongs to one chosen at random, as where many clients send independently: successive packets have
/// little in common, neither for a flow cache nor for whoever joins packets. The choice is the same in every run.
pub fn udp_blast(to: SocketAddrV4, flows: usize, time: Duration) -> io::Result<Measured> {
    let flow = |_| {
        let socket = UdpSocket::bind(any(0))?;
        socket.connect(to).map(|()| socket)
    };
    let sockets: Vec<UdpSocket> = (0..flows.max(1)).map(flow).collect::<io::Result<_>>()?;
    let payload = [0x5au8; SMALL];
    let start = Instant::now();
    let (mut packets, mut random) = (0u64, 0x9e37_79b9_7f4a_7c15);
    while start.elapsed() < time {
        for _ in 0..64 {
            random = xorshift(random);
            // The upper half of a product of 32-bit numbers: uniform below the number of flows.
            let pick = ((random >> 32) as usize * sockets.len()) >> 32;
            match sockets[pick].send(&payload) {
                Ok(_) => packets += 1,
                // Full queues on the way: that is what a blast is for.
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOBUFS | libc::EAGAIN)) => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(Measured { packets, bytes: packets * SMALL as u64, seconds: start.elapsed().as_secs_f64(), ..Measured::default() })
}

/// The next of Marsaglia's 64-bit xorshift numbers (13, 7, 17); `x` is not 0.
fn xorshift(mut x: u64) -> u64 {
    x ^= x << 13;
    x ^= x >> 7;
    x ^ (x << 17)
}

/// Answers each message of one TCP connection with one of the same length.
pub fn tcp_echo(port: u16) -> io::Result<Measured> {
    let listener = TcpListener::bind(any(port))?;
    ready()?;
    let (mut s, _) = listener.accept()?;
    s.set_nodelay(true)?;
    s.set_read_timeout(Some(PATIENCE))?;
    let mut message = [0u8; MESSAGE];
    let mut packets = 0;
    loop {
        match s.read_exact(&mut message) {
            Ok(()) => s.write_all(&message)?,
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(Measured { packets, ..Measured::default() }),
            Err(e) => return Err(e),
        }
        packets += 1;
    }
}

/// Asks over one TCP connection, one message at a time.
pub fn tcp_ask(to: SocketAddrV4, time: Duration) -> io::Result<Measured> {
    let mut s = TcpStream::connect_timeout(&to.into(), PATIENCE)?;
    s.set_nodelay(true)?;
    s.set_read_timeout(Some(PATIENCE))?;
    let mut message = [0x5au8; MESSAGE];
    ask(time, || {
        s.write_all(&message)?;
        s.read_exact(&mut message).map(|()| true)
    })
}

/// Answers each datagram until none has come for two seconds.
pub fn udp_echo(port: u16) -> io::Result<Measured> {
    let socket = UdpSocket::bind(any(port))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    ready()?;
    let mut message = [0u8; 2048];
    let mut packets = 0;
    loop {
        match socket.recv_from(&mut message) {
            Ok((n, from)) => socket.send_to(&message[..n], from)?,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Ok(Measured { packets, ..Measured::default() });
            }
            Err(e) => return Err(e),
        };
        if packets == 0 {
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        }
        packets += 1;
    }
}

/// Asks by datagram, one at a time; one that is lost is not counted.
pub fn udp_ask(to: SocketAddrV4, time: Duration) -> io::Result<Measured> {
    let socket = UdpSocket::bind(any(0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut message = [0x5au8; MESSAGE];
    ask(time, || {
        socket.send(&message)?;
        match socket.recv(&mut message) {
            Ok(_) => Ok(true),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Ok(false),
            Err(e) => Err(e),
        }
    })
}

/// Repeats an exchange for a time and keeps its round-trip times.
fn ask(time: Duration, mut exchange: impl FnMut() -> io::Result<bool>) -> io::Result<Measured> {
    let start = Instant::now();
    let mut times = Vec::with_capacity(1 << 20);
    while start.elapsed() < time {
        let asked = Instant::now();
        if exchange()? {
            times.push(asked.elapsed().as_nanos() as u64);
        }
    }
    times.sort_unstable();
    if times.is_empty() {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "no request was answered"));
    }
    Ok(Measured {
        packets: times.len() as u64,
        seconds: start.elapsed().as_secs_f64(),
        p50: percentile(&times, 50) as f64 / 1e3,
        p99: percentile(&times, 99) as f64 / 1e3,
        ..Measured::default()
    })
}

/// The value below which `p` percent of sorted, non-empty `values` lie (nearest rank).
fn percentile(values: &[u64], p: usize) -> u64 {
    values[(values.len() * p).div_ceil(100).clamp(1, values.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_rank() {
        let v: Vec<u64> = (1..=100).collect();
        assert_eq!((percentile(&v, 50), percentile(&v, 99)), (50, 99));
        assert_eq!((percentile(&[7], 50), percentile(&[7], 99)), (7, 7));
    }

    /// A port that was free a moment ago.
    fn free_port() -> u16 {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    #[test]
    fn bulk_counts_what_was_sent() {
        let port = free_port();
        let receiver = std::thread::spawn(move || tcp_recv(port, 2).unwrap());
        let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        while TcpStream::connect(to).map(drop).is_err() {
            std::thread::sleep(Duration::from_millis(5));
        }
        // The probe above took one of the two places and sent nothing.
        let sent = tcp_send(to, 1, Duration::from_millis(100)).unwrap();
        let received = receiver.join().unwrap();
        assert!(sent.bytes > 0 && sent.bytes == received.bytes, "{sent:?} {received:?}");
    }

    #[test]
    fn every_flow_of_a_blast_sends() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        receiver.set_read_timeout(Some(PATIENCE)).unwrap();
        let port = receiver.local_addr().unwrap().port();
        let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        let sender = std::thread::spawn(move || udp_blast(to, 20, Duration::from_millis(300)).unwrap());
        let mut sources = std::collections::HashSet::new();
        let mut buffer = [0; 64];
        while sources.len() < 20 {
            let (n, from) = receiver.recv_from(&mut buffer).unwrap();
            assert_eq!(n, SMALL);
            sources.insert(from.port());
        }
        let sent = sender.join().unwrap();
        assert_eq!(sent.bytes, sent.packets * SMALL as u64);
    }

    #[test]
    fn random_flows_are_evenly_used() {
        let (mut x, mut counts) = (1, [0u32; 10]);
        for _ in 0..10_000 {
            x = xorshift(x);
            counts[((x >> 32) as usize * 10) >> 32] += 1;
        }
        assert!(counts.iter().all(|c| (850..1150).contains(c)), "{counts:?}");
    }

    #[test]
    fn requests_are_answered_and_timed() {
        let port = free_port();
        let server = std::thread::spawn(move || tcp_echo(port).unwrap());
        let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        let result = loop {
            match tcp_ask(to, Duration::from_millis(50)) {
                Ok(r) => break r,
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::thread::sleep(Duration::from_millis(5)),
                Err(e) => panic!("{e}"),
            }
        };
        assert_eq!(server.join().unwrap().packets, result.packets);
        assert!(result.p50 > 0.0 && result.p50 <= result.p99);
    }
}
