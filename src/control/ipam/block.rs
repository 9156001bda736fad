//! One IPAMBlock: which of its addresses are in use and by whom. Everything here is computation on a document; what is
//! not understood in it stays as it is.

use super::attribute::{Attribute, Holder, clean_handle};
use super::error::Refusal;
use super::fields;
use super::reservations::Reservations;
use crate::control::yaml::{self, Field, FieldError};
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Blocks are at most this large, in bits of address.
const MAX_BITS: u8 = 12;

/// An address that is to be released, if it is still the one that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseRequest {
    pub address: IpAddr,
    /// Must be the address's handle.
    pub handle: Option<String>,
    /// Must be the sequence number of its allocation.
    pub sequence: Option<u64>,
}

impl ReleaseRequest {
    /// Whoever holds it.
    pub fn any(address: IpAddr) -> ReleaseRequest {
        ReleaseRequest { address, handle: None, sequence: None }
    }
}

/// An address in use, or in cooldown.
#[derive(Clone, Debug)]
pub struct Allocated<'a> {
    pub ordinal: u32,
    pub address: IpAddr,
    pub attribute: &'a Attribute,
    /// Block sequence number at the time of allocation; `None` in old documents.
    pub sequence: Option<u64>,
}

/// What a release did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Addresses that were not in use.
    pub unallocated: Vec<IpAddr>,
    /// How many addresses were released of each handle.
    pub handles: BTreeMap<String, u64>,
    pub count: u64,
}

#[derive(Clone, Debug)]
pub struct Block {
    pub cidr: IpNet,
    /// `host:NODE`, `virtual:NAME`, or nobody's.
    pub affinity: Option<String>,
    pub claimed: Option<Timestamp>,
    pub sequence: u64,
    pub deleted: bool,
    /// Per ordinal the index of its attribute.
    allocations: Vec<Option<usize>>,
    /// Ordinals in the order in which they are given out.
    unallocated: Vec<u32>,
    attributes: Vec<Attribute>,
    sequences: BTreeMap<String, u64>,
    /// The document as it was read.
    document: Value,
}

impl Block {
    /// An empty block of `owner` (`host:NODE`).
    pub fn new(cidr: IpNet, owner: &str, now: Timestamp) -> Block {
        let size = size(cidr);
        Block {
            cidr,
            affinity: Some(owner.to_owned()),
            claimed: Some(fields::seconds(now)),
            // From the clock, so that a block made again at the same place never repeats a number.
            sequence: u64::try_from(now.as_nanosecond()).unwrap_or(0),
            deleted: false,
            allocations: vec![None; size as usize],
            unallocated: (0..size).collect(),
            attributes: Vec::new(),
            sequences: BTreeMap::new(),
            document: json!({
                "metadata": {"name": super::names::block(cidr)},
                "spec": {"strictAffinity": false},
            }),
        }
    }

    pub fn read(document: &Value) -> Result<Block, FieldError> {
        let tree = yaml::Value::of_json(document);
        let spec = Field::root(&tree).get("spec")?;
        let cidr = block_cidr(&spec.get("cidr")?)?;
        let attributes = spec.get("attributes")?.items()?.iter().map(Attribute::read).collect::<Result<Vec<_>, _>>()?;
        let numbers = spec.get("sequenceNumberForAllocation")?.children()?;
        let number = |(key, value): (&str, Field)| Ok((key.to_owned(), fields::u64(&value)?));
        let mut block = Block {
            cidr,
            affinity: spec.get("affinity")?.text()?.filter(|a| !a.is_empty()).map(str::to_owned),
            claimed: fields::time(&spec.get("affinityClaimTime")?)?,
            sequence: fields::u64(&spec.get("sequenceNumber")?)?,
            deleted: fields::flag(&spec.get("deleted")?)?,
            allocations: allocations(&spec.get("allocations")?, cidr, attributes.len())?,
            unallocated: Vec::new(),
            attributes,
            sequences: numbers.into_iter().map(number).collect::<Result<_, FieldError>>()?,
            document: document.clone(),
        };
        block.unallocated = unallocated(&spec.get("unallocated")?, &block.allocations)?;
        for (attribute, raw) in block.attributes.iter_mut().zip(document["spec"]["attributes"].as_array().into_iter().flatten()) {
            attribute.keep_unknown(raw);
        }
        Ok(block)
    }

    /// The document with what has changed; it keeps its revision.
    pub fn document(&self) -> Value {
        let mut document = self.document.clone();
        if !document["spec"].is_object() {
            document["spec"] = Value::Object(Map::new());
        }
        let spec = &mut document["spec"];
        spec["cidr"] = json!(self.cidr);
        set(spec, "affinity", self.affinity.as_ref().map(|a| json!(a)));
        set(spec, "affinityClaimTime", self.claimed.map(|t| json!(t.to_string())));
        spec["allocations"] = json!(self.allocations);
        spec["unallocated"] = json!(self.unallocated);
        spec["attributes"] = self.attributes.iter().map(Attribute::document).collect();
        spec["sequenceNumber"] = json!(self.sequence);
        spec["sequenceNumberForAllocation"] = json!(self.sequences);
        spec["deleted"] = json!(self.deleted);
        document
    }

    /// The node that the block belongs to.
    pub fn node(&self) -> Option<&str> {
        self.affinity.as_deref()?.strip_prefix("host:")
    }

    pub fn size(&self) -> u32 {
        size(self.cidr)
    }

    /// Addresses that can be given out.
    pub fn free(&self, reservations: &Reservations) -> usize {
        self.unallocated.iter().filter(|o| !reservations.contains(self.address(**o))).count()
    }

    /// In use or in cooldown, in order of address.
    pub fn allocated(&self) -> impl Iterator<Item = Allocated<'_>> {
        (0..).zip(&self.allocations).filter_map(|(ordinal, index)| {
            let attribute = self.attributes.get((*index)?)?;
            let sequence = self.sequences.get(&ordinal.to_string()).copied();
            Some(Allocated { ordinal, address: self.address(ordinal), attribute, sequence })
        })
    }

    /// Whether nothing is in use but what Windows nodes set aside.
    pub fn is_empty(&self) -> bool {
        self.allocated().all(|a| a.attribute.is_windows_reserved())
    }

    pub fn holder(&self, address: IpAddr) -> Option<Allocated<'_>> {
        let ordinal = self.ordinal(address)?;
        self.allocated().find(|a| a.ordinal == ordinal)
    }

    pub fn addresses_of(&self, handle: &str) -> Vec<IpAddr> {
        self.allocated().filter(|a| a.attribute.has_handle(handle)).map(|a| a.address).collect()
    }

    /// Gives out up to `count` addresses, those first that have been free longest.
    pub fn assign_next(&mut self, count: usize, holder: &Holder, reservations: &Reservations) -> Vec<IpAddr> {
        let wanted = |block: &Block, o: &u32| !reservations.contains(block.address(*o));
        let ordinals: Vec<u32> = self.unallocated.iter().copied().filter(|o| wanted(self, o)).take(count).collect();
        ordinals.iter().map(|o| self.take(*o, holder)).collect()
    }

    /// Gives out one address.
    pub fn assign(&mut self, address: IpAddr, holder: &Holder) -> Result<(), Refusal> {
        let ordinal = self.ordinal(address).ok_or(Refusal::NotInBlock { address, block: self.cidr })?;
        if let Some(held) = self.holder(address) {
            let handle = held.attribute.handle.clone().unwrap_or_default();
            return Err(if held.attribute.released.is_some() {
                Refusal::InCooldown { address }
            } else {
                Refusal::InUse { address, handle }
            });
        }
        self.take(ordinal, holder);
        Ok(())
    }

    fn take(&mut self, ordinal: u32, holder: &Holder) -> IpAddr {
        let same = self.attributes.iter().position(|a| a.is_of(holder));
        let index = same.unwrap_or_else(|| {
            self.attributes.push(Attribute::of(holder));
            self.attributes.len() - 1
        });
        self.allocations[ordinal as usize] = Some(index);
        self.unallocated.retain(|o| *o != ordinal);
        self.sequences.insert(ordinal.to_string(), self.sequence);
        self.address(ordinal)
    }

    /// Releases addresses of this block; none of them if one is not what its request says. They can be given out again
    /// after [`Block::end_cooldown`].
    pub fn release(&mut self, requests: &[ReleaseRequest], now: Timestamp) -> Result<Released, Refusal> {
        let mut released = Released::default();
        let mut ordinals = Vec::new();
        for request in requests {
            let address = request.address;
            let ordinal = self.ordinal(address).ok_or(Refusal::NotInBlock { address, block: self.cidr })?;
            if ordinals.contains(&ordinal) || released.unallocated.contains(&address) {
                continue;
            }
            match self.check(request)? {
                None => released.unallocated.push(address),
                Some(handle) => {
                    ordinals.push(ordinal);
                    if !handle.is_empty() {
                        *released.handles.entry(handle).or_default() += 1;
                    }
                }
            }
        }
        ordinals.sort_unstable();
        released.count = ordinals.len() as u64;
        self.mark_released(&ordinals, now);
        Ok(released)
    }

    /// The handle of the address that a request means; `None` if it is not in use.
    fn check(&self, request: &ReleaseRequest) -> Result<Option<String>, Refusal> {
        let address = request.address;
        let held = self.holder(address).filter(|held| held.attribute.released.is_none());
        let Some(held) = held else { return Ok(None) };
        if let Some(wanted) = request.sequence.filter(|s| *s != held.sequence.unwrap_or(0)) {
            return Err(Refusal::OtherAllocation { address, wanted, found: held.sequence.unwrap_or(0) });
        }
        let found = held.attribute.handle.as_deref().map(clean_handle).unwrap_or_default().to_owned();
        match request.handle.as_deref().map(clean_handle) {
            Some(wanted) if !wanted.is_empty() && wanted != found => {
                Err(Refusal::OtherHandle { address, wanted: wanted.to_owned(), found })
            }
            _ => Ok(Some(found)),
        }
    }

    /// Releases every address of a handle; how many there were.
    pub fn release_handle(&mut self, handle: &str, now: Timestamp) -> u64 {
        let ordinals: Vec<u32> = self.allocated().filter(|a| a.attribute.has_handle(handle)).map(|a| a.ordinal).collect();
        self.mark_released(&ordinals, now);
        ordinals.len() as u64
    }

    fn mark_released(&mut self, ordinals: &[u32], now: Timestamp) {
        if ordinals.is_empty() {
            return;
        }
        let index = self.attributes.len();
        self.attributes.push(Attribute::released_at(fields::seconds(now)));
        ordinals.iter().for_each(|o| self.allocations[*o as usize] = Some(index));
        self.drop_unused_attributes();
    }

    /// Puts the addresses that were released at least `cooldown` ago at the end of the queue of free ones.
    pub fn end_cooldown(&mut self, now: Timestamp, cooldown: SignedDuration) {
        let over = |a: &Attribute| a.released.is_some_and(|at| now.duration_since(at) >= cooldown);
        let ordinals: Vec<u32> = self.allocated().filter(|a| over(a.attribute)).map(|a| a.ordinal).collect();
        for ordinal in &ordinals {
            self.allocations[*ordinal as usize] = None;
            self.unallocated.push(*ordinal);
            self.sequences.remove(&ordinal.to_string());
        }
        if !ordinals.is_empty() {
            self.drop_unused_attributes();
        }
    }

    fn drop_unused_attributes(&mut self) {
        let mut used = vec![false; self.attributes.len()];
        self.allocations.iter().flatten().for_each(|i| used[*i] = true);
        let mut next = 0;
        let number = |used: &bool| {
            next += usize::from(*used);
            next.saturating_sub(1)
        };
        let new: Vec<usize> = used.iter().map(number).collect();
        self.allocations.iter_mut().flatten().for_each(|i| *i = new[*i]);
        let mut keep = used.into_iter();
        self.attributes.retain(|_| keep.next().unwrap_or(false));
    }

    fn ordinal(&self, address: IpAddr) -> Option<u32> {
        if !self.cidr.contains(&address) {
            return None;
        }
        match (address, self.cidr.network()) {
            (IpAddr::V4(a), IpAddr::V4(first)) => Some(u32::from(a) - u32::from(first)),
            (IpAddr::V6(a), IpAddr::V6(first)) => u32::try_from(u128::from(a) - u128::from(first)).ok(),
            _ => None,
        }
    }

    fn address(&self, ordinal: u32) -> IpAddr {
        match self.cidr.network() {
            IpAddr::V4(first) => Ipv4Addr::from(u32::from(first) + ordinal).into(),
            IpAddr::V6(first) => Ipv6Addr::from(u128::from(first) + u128::from(ordinal)).into(),
        }
    }
}

fn size(cidr: IpNet) -> u32 {
    1 << (cidr.max_prefix_len() - cidr.prefix_len()).min(MAX_BITS)
}

fn set(spec: &mut Value, key: &str, value: Option<Value>) {
    match (value, spec.as_object_mut()) {
        (Some(value), _) => spec[key] = value,
        (None, Some(spec)) => {
            spec.remove(key);
        }
        _ => {}
    }
}

fn block_cidr(f: &Field) -> Result<IpNet, FieldError> {
    let cidr = fields::cidr(f)?;
    let least = cidr.max_prefix_len() - MAX_BITS;
    if cidr.prefix_len() < least {
        return Err(f.error(format!("{cidr} is larger than any block; /{least} is the largest")));
    }
    Ok(cidr)
}

/// One entry per address. A short list is an old document's: what it leaves out is free.
fn allocations(f: &Field, cidr: IpNet, attributes: usize) -> Result<Vec<Option<usize>>, FieldError> {
    let (items, size) = (f.items()?, size(cidr) as usize);
    if items.len() > size {
        return Err(f.error(format!("{} entries, but {cidr} has {size} addresses", items.len())));
    }
    let mut out = vec![None; size];
    for (slot, item) in out.iter_mut().zip(&items) {
        *slot = item.number::<usize>(0, u32::MAX)?;
        if slot.is_some_and(|index| index >= attributes) {
            return Err(item.error(format!("{} is not an index into the {attributes} attributes", slot.unwrap_or_default())));
        }
    }
    Ok(out)
}

/// Ordinals of free addresses, each once.
fn unallocated(f: &Field, allocations: &[Option<usize>]) -> Result<Vec<u32>, FieldError> {
    let mut out = Vec::new();
    for item in f.items()? {
        let ordinal = item.number::<u32>(0, u32::MAX)?.ok_or_else(|| item.error("missing; a whole number is required"))?;
        match allocations.get(ordinal as usize) {
            None => return Err(item.error(format!("{ordinal} is not an address of a block of {}", allocations.len()))),
            Some(Some(_)) => return Err(item.error(format!("{ordinal} is in allocations, too; an address is free or in use"))),
            Some(None) if out.contains(&ordinal) => return Err(item.error(format!("{ordinal} is listed twice"))),
            Some(None) => out.push(ordinal),
        }
    }
    Ok(out)
}

#[cfg(test)]
#[path = "block_tests.rs"]
mod tests;
