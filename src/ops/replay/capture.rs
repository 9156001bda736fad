//! Captures: pcapng out; pcapng and classic pcap in. What a file format has no field for (an unfinished checksum, the
//! segment size of a super-frame, the sender that a socket names) stands in the packet's comment, so that a frame
//! read back is the frame that was written.

use crate::frame::Gso;
use crate::ops::trace::{kind_name, kind_of};
use crate::port::mem::Wired;
use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption};
use pcap_file::pcapng::{Block, PcapNgReader, PcapNgWriter};
use pcap_file::{DataLink, PcapError};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::time::Duration;

/// Starts the part of a comment that is for this program.
const MARK: &str = "tortie:";
/// First bytes of a pcapng file.
const PCAPNG: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
/// Direction bits of the packet flags (pcapng, 4.3.1).
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// Why a capture cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error("not a capture that can be read: {0}")]
    Format(#[from] PcapError),
    #[error("cannot read: {0}")]
    Io(#[from] std::io::Error),
    #[error("packet {packet}: the capture does not name its interface; say which one with --port")]
    NoInterface { packet: usize },
    #[error("packet {packet}: cut to {captured} of {original} bytes; capture with the whole length (tcpdump -s 0)")]
    Truncated { packet: usize, captured: usize, original: usize },
    #[error("packet {packet}: link type {found}; Ethernet (1) and raw IP (101) are read")]
    LinkType { packet: usize, found: u32 },
}

/// Which way a frame went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    In,
    Out,
}

/// One frame of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub interface: String,
    /// Since the epoch.
    pub at: Duration,
    pub direction: Option<Direction>,
    pub frame: Wired,
}

/// All frames of a capture that may have entered: those marked as outbound are left out. `interface` goes over
/// the names in the file.
pub fn read(mut input: impl Read, interface: Option<&str>) -> Result<Vec<Record>, CaptureError> {
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes)?;
    let all = if bytes.starts_with(&PCAPNG) { read_pcapng(&bytes, interface)? } else { read_pcap(&bytes, interface)? };
    Ok(all.into_iter().filter(|r| r.direction != Some(Direction::Out)).collect())
}

fn read_pcapng(bytes: &[u8], interface: Option<&str>) -> Result<Vec<Record>, CaptureError> {
    let mut reader = PcapNgReader::new(bytes)?;
    let mut out = Vec::new();
    // Names and units of time by number, kept here: the reader lends its own only between blocks.
    let mut interfaces: Vec<(DataLink, Option<String>, u64)> = Vec::new();
    let mut packet = 0;
    while let Some(block) = reader.next_block() {
        match block? {
            Block::SectionHeader(_) => interfaces.clear(),
            Block::InterfaceDescription(i) => interfaces.push(described(&i)),
            Block::EnhancedPacket(p) => {
                packet += 1;
                let Some((link, name, units)) = interfaces.get(p.interface_id as usize) else {
                    return Err(CaptureError::NoInterface { packet });
                };
                checked(packet, *link, p.data.len(), p.original_len)?;
                let interface = interface.or(name.as_deref()).ok_or(CaptureError::NoInterface { packet })?;
                out.push(record(interface, in_units(p.timestamp, *units), &p));
            }
            _ => {}
        }
    }
    Ok(out)
}

/// Link type, name, and units of its time stamps in a second.
fn described(i: &InterfaceDescriptionBlock) -> (DataLink, Option<String>, u64) {
    let (mut name, mut units) = (None, 1_000_000);
    for option in &i.options {
        match option {
            InterfaceDescriptionOption::IfName(n) => name = Some(n.to_string()),
            InterfaceDescriptionOption::IfTsResol(r) if r & 0x80 == 0 => units = 10u64.saturating_pow(u32::from(*r)),
            InterfaceDescriptionOption::IfTsResol(r) => units = 1u64.checked_shl(u32::from(r & 0x7f)).unwrap_or(u64::MAX),
            _ => {}
        }
    }
    (i.linktype, name, units)
}

/// The library takes every time stamp for nanoseconds.
fn in_units(stamp: Duration, units: u64) -> Duration {
    let ticks = stamp.as_nanos();
    let nanos = ticks * 1_000_000_000 / u128::from(units.max(1));
    Duration::new((nanos / 1_000_000_000) as u64, (nanos % 1_000_000_000) as u32)
}

fn record(interface: &str, at: Duration, p: &EnhancedPacketBlock) -> Record {
    let mut frame = Wired::from(p.data.to_vec());
    let mut direction = None;
    for option in &p.options {
        match option {
            EnhancedPacketOption::Comment(c) => c.lines().filter_map(|l| l.strip_prefix(MARK)).for_each(|l| apply(&mut frame, l)),
            EnhancedPacketOption::Flags(f) if f & 3 == OUTBOUND => direction = Some(Direction::Out),
            EnhancedPacketOption::Flags(f) if f & 3 == INBOUND => direction = Some(Direction::In),
            _ => {}
        }
    }
    Record { interface: interface.to_owned(), at, direction, frame }
}

fn read_pcap(bytes: &[u8], interface: Option<&str>) -> Result<Vec<Record>, CaptureError> {
    let mut reader = PcapReader::new(bytes)?;
    let link = reader.header().datalink;
    let mut out = Vec::new();
    while let Some(p) = reader.next_packet() {
        let p = p?;
        let packet = out.len() + 1;
        checked(packet, link, p.data.len(), p.orig_len)?;
        let interface = interface.ok_or(CaptureError::NoInterface { packet })?.to_owned();
        out.push(Record { interface, at: p.timestamp, direction: None, frame: p.data.into_owned().into() });
    }
    Ok(out)
}

fn checked(packet: usize, link: DataLink, captured: usize, original: u32) -> Result<(), CaptureError> {
    if !matches!(link, DataLink::ETHERNET | DataLink::RAW) {
        return Err(CaptureError::LinkType { packet, found: link.into() });
    }
    if captured < original as usize {
        return Err(CaptureError::Truncated { packet, captured, original: original as usize });
    }
    Ok(())
}

/// Metadata of a frame as the words of a comment line; empty for an ordinary frame.
fn words(frame: &Wired) -> String {
    let mut words = String::new();
    if let Some((start, offset)) = frame.partial {
        words += &format!(" checksum=unfinished/{start}/{offset}");
    } else if frame.may_be_partial {
        words += " checksum=unknown";
    }
    if let Some(gso) = frame.gso {
        words += &format!(" segments={}/{}", kind_name(gso.kind), gso.size);
    }
    words
}

/// Takes the words of [`words`] back; what is not one of them is left alone.
fn apply(frame: &mut Wired, line: &str) {
    for (key, value) in line.split_whitespace().filter_map(|w| w.split_once('=')) {
        let mut parts = value.split('/');
        let (first, second, third) = (parts.next().unwrap_or(""), parts.next(), parts.next());
        match (key, first) {
            ("checksum", "unfinished") => {
                let numbers = second.and_then(|s| s.parse().ok()).zip(third.and_then(|o| o.parse().ok()));
                frame.partial = numbers.filter(|(start, _): &(u32, u16)| (*start as usize) < frame.bytes.len());
            }
            ("checksum", "unknown") => frame.may_be_partial = true,
            ("segments", kind) => {
                let size = second.and_then(|s| s.parse().ok()).filter(|s: &u16| *s > 0);
                frame.gso = kind_of(kind).zip(size).map(|(kind, size)| Gso { kind, size });
            }
            _ => {}
        }
    }
}

/// Writes a pcapng file: an interface is described when its first frame comes.
pub struct Writer<W: Write> {
    inner: PcapNgWriter<W>,
    interfaces: BTreeMap<String, u32>,
}

impl<W: Write> Writer<W> {
    pub fn new(out: W) -> Result<Writer<W>, CaptureError> {
        Ok(Writer { inner: PcapNgWriter::new(out)?, interfaces: BTreeMap::new() })
    }

    /// Appends a frame with a comment for people. `ethernet`: whether it starts with an Ethernet header; the same for
    /// all frames of an interface.
    pub fn write(&mut self, r: &Record, ethernet: bool, comment: &str) -> Result<(), CaptureError> {
        let interface_id = self.interface(&r.interface, ethernet)?;
        let mut text = comment.to_owned();
        let words = words(&r.frame);
        if !words.is_empty() {
            text = if text.is_empty() { format!("{MARK}{words}") } else { format!("{text}\n{MARK}{words}") };
        }
        let mut options = Vec::new();
        if !text.is_empty() {
            options.push(EnhancedPacketOption::Comment(Cow::Owned(text)));
        }
        if let Some(direction) = r.direction {
            options.push(EnhancedPacketOption::Flags(if direction == Direction::In { INBOUND } else { OUTBOUND }));
        }
        let block = EnhancedPacketBlock {
            interface_id,
            timestamp: r.at,
            original_len: r.frame.bytes.len() as u32,
            data: Cow::Borrowed(&r.frame.bytes),
            options,
        };
        self.inner.write_pcapng_block(block)?;
        Ok(())
    }

    fn interface(&mut self, name: &str, ethernet: bool) -> Result<u32, CaptureError> {
        if let Some(id) = self.interfaces.get(name) {
            return Ok(*id);
        }
        let id = self.interfaces.len() as u32;
        let mut block = InterfaceDescriptionBlock::new(if ethernet { DataLink::ETHERNET } else { DataLink::RAW }, 0);
        block.options.push(InterfaceDescriptionOption::IfName(Cow::Owned(name.to_owned())));
        block.options.push(InterfaceDescriptionOption::IfTsResol(9));
        self.inner.write_pcapng_block(block)?;
        self.interfaces.insert(name.to_owned(), id);
        Ok(id)
    }

    /// Passes on what the destination holds back.
    pub fn flush(&mut self) -> std::io::Result<()> {
        self.inner.get_mut().flush()
    }

    /// The destination, with everything written to it.
    pub fn into_inner(self) -> W {
        self.inner.into_inner()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::GsoKind;

    fn record(interface: &str, at: u64, bytes: &[u8]) -> Record {
        Record { interface: interface.into(), at: Duration::from_nanos(at), direction: Some(Direction::In), frame: bytes.to_vec().into() }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut super_frame = record("tunl-tortie", 1_700_000_000_123_456_789, &[0x45; 900]);
        super_frame.frame.gso = Some(Gso { kind: GsoKind::Udp, size: 64 });
        super_frame.frame.partial = Some((20, 6));
        let mut veth = record("cali1", 5, &[1, 2, 3]);
        veth.frame.may_be_partial = true;
        let all = [record("eth0", 7, &[9; 61]), super_frame, veth];
        let mut w = Writer::new(Vec::new()).unwrap();
        for (i, r) in all.iter().enumerate() {
            w.write(r, r.interface != "tunl-tortie", if i == 0 { "dropped no-route" } else { "" }).unwrap();
        }
        w.write(&Record { direction: Some(Direction::Out), ..all[0].clone() }, true, "").unwrap();
        let bytes = w.into_inner();
        assert_eq!(read(&bytes[..], None).unwrap(), all);
        assert!(read(&bytes[..], Some("x")).unwrap().iter().all(|r| r.interface == "x"));
    }

    #[test]
    fn damaged_files_are_refused_or_read_up_to_the_damage() {
        let mut w = Writer::new(Vec::new()).unwrap();
        w.write(&record("eth0", 7, &[9; 61]), true, "note").unwrap();
        let bytes = w.into_inner();
        for end in 0..bytes.len() {
            let _ = read(&bytes[..end], None);
        }
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0xff;
            let _ = read(&bad[..], None);
        }
        assert!(read(&b"nonsense, and not short either"[..], None).is_err());
    }

    #[test]
    fn nonsense_in_comments_is_left_alone() {
        let mut f = Wired::from(vec![0; 40]);
        for line in ["", "x", "checksum=unfinished/99/1", "checksum=unfinished/a/b", "segments=tcp4/0", "segments=sctp/9", "segments="] {
            apply(&mut f, line);
            assert_eq!(f, Wired::from(vec![0; 40]), "{line}");
        }
    }
}
