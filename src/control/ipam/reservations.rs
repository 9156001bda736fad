//! IPReservations: addresses that are not given out, though they are in a pool.

use crate::control::yaml::{Field, FieldError};
use ipnet::IpNet;
use std::net::IpAddr;

#[derive(Clone, Debug, Default)]
pub struct Reservations {
    ranges: Vec<IpNet>,
}

impl Reservations {
    pub fn contains(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|r| r.contains(&address))
    }

    /// Whether nothing of a block can be given out.
    pub fn cover(&self, block: IpNet) -> bool {
        self.ranges.iter().any(|r| r.contains(&block))
    }

    /// Addresses of a range that are reserved; ranges that overlap count once.
    pub fn count_in(&self, range: IpNet) -> u128 {
        if self.cover(range) {
            return size(range);
        }
        let inside: Vec<IpNet> = self.ranges.iter().copied().filter(|r| range.contains(r)).collect();
        IpNet::aggregate(&inside).iter().map(|r| size(*r)).sum()
    }

    pub(super) fn add(&mut self, root: &Field) -> Result<(), FieldError> {
        for item in root.at(&["spec", "reservedCIDRs"])?.items()? {
            let range = match item.text()?.and_then(|t| t.parse::<IpAddr>().ok()) {
                Some(address) => Some(IpNet::from(address)),
                None => item.parsed::<IpNet>("a CIDR")?.map(|net| net.trunc()),
            };
            self.ranges.push(range.ok_or_else(|| item.error("missing; a CIDR is required"))?);
        }
        Ok(())
    }
}

pub(super) fn size(range: IpNet) -> u128 {
    1u128.checked_shl(u32::from(range.max_prefix_len() - range.prefix_len())).unwrap_or(u128::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::yaml::documents;

    fn read(ranges: &str) -> Result<Reservations, String> {
        let docs = documents(&format!("spec: {{reservedCIDRs: [{ranges}]}}")).unwrap();
        let mut out = Reservations::default();
        out.add(&Field::root(&docs[0])).map(|()| out).map_err(|e| e.to_string())
    }

    #[test]
    fn ranges_and_addresses() {
        let r = read("10.0.0.0/30, 10.0.0.9, 10.0.0.1/32, 'fd00::/126'").unwrap();
        let holds = |a: &str| r.contains(a.parse().unwrap());
        assert!(holds("10.0.0.3") && holds("10.0.0.9") && holds("fd00::3") && !holds("10.0.0.4") && !holds("fd00::4"));
        assert!(r.cover("10.0.0.0/31".parse().unwrap()) && !r.cover("10.0.0.0/29".parse().unwrap()));
        assert_eq!(r.count_in("10.0.0.0/28".parse().unwrap()), 5, "10.0.0.1 counts once");
        assert_eq!(r.count_in("10.0.0.0/31".parse().unwrap()), 2);
        assert_eq!(read("10.0.0.0/33").unwrap_err(), "spec.reservedCIDRs[0]: \"10.0.0.0/33\" is not a CIDR");
        assert_eq!(read("null").unwrap_err(), "spec.reservedCIDRs[0]: missing; a CIDR is required");
    }
}
