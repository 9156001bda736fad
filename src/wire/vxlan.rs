//! VXLAN (RFC 7348): an 8-byte header between UDP and the inner Ethernet frame.

use super::{be32, put32};
use crate::drop::DropReason;

/// Length of the header, bytes.
pub const HEADER: usize = 8;
/// The I flag: the VNI is valid. All other bits are reserved and ignored on receipt.
pub const FLAG_VNI: u8 = 0x08;
/// IANA's port for VXLAN.
pub const PORT: u16 = 4789;

/// A 24-bit VXLAN network identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct Vni(u32);

impl Vni {
    /// Calico's default.
    pub const CALICO: Vni = Vni(4096);

    /// `None` when the value needs more than 24 bits.
    pub const fn new(v: u32) -> Option<Vni> {
        if v < 1 << 24 { Some(Vni(v)) } else { None }
    }

    #[inline(always)]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// Writes the header.
pub fn write(b: &mut [u8], vni: Vni) {
    put32(b, 0, u32::from(FLAG_VNI) << 24);
    put32(b, 4, vni.0 << 8);
}

/// The VNI of a header of at least 8 bytes.
#[inline(always)]
pub fn parse(b: &[u8]) -> Result<Vni, DropReason> {
    if b.len() < HEADER {
        return Err(DropReason::VxlanTruncated);
    }
    if b[0] & FLAG_VNI == 0 {
        return Err(DropReason::VxlanFlags);
    }
    Ok(Vni(be32(b, 4) >> 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_header() {
        let mut b = [0xaa; 8];
        write(&mut b, Vni::CALICO);
        assert_eq!(b, [0x08, 0, 0, 0, 0x00, 0x10, 0x00, 0x00]);
        assert_eq!(parse(&b), Ok(Vni::CALICO));
        b[0] = 0;
        assert_eq!(parse(&b), Err(DropReason::VxlanFlags));
        assert_eq!(parse(&b[..7]), Err(DropReason::VxlanTruncated));
        assert_eq!(Vni::new(1 << 24), None);
    }
}
