//! Congestion marks across a tunnel (RFC 6040).

use crate::drop::DropReason;
use crate::wire::ipv4::ECN_MASK;

const NOT_ECT: u8 = 0b00;
const ECT1: u8 = 0b01;
const CE: u8 = 0b11;

/// The outer congestion bits for an inner TOS byte: copied (RFC 6040, 4.1, normal mode). Linux's tunnels still
/// send ECT(0) over an inner CE; every receiver by RFC 6040 ends with CE in both cases.
#[inline(always)]
pub const fn encap(inner_tos: u8) -> u8 {
    inner_tos & ECN_MASK
}

/// The inner congestion bits after decapsulation (RFC 6040, figure 4); both arguments are TOS bytes.
#[inline(always)]
pub const fn decap(outer_tos: u8, inner_tos: u8) -> Result<u8, DropReason> {
    let (outer, inner) = (outer_tos & ECN_MASK, inner_tos & ECN_MASK);
    match (outer, inner) {
        (CE, NOT_ECT) => Err(DropReason::EcnInvalid),
        (_, NOT_ECT) => Ok(NOT_ECT),
        (CE, _) => Ok(CE),
        (ECT1, 0b10) => Ok(ECT1),
        _ => Ok(inner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc6040_figure_4() {
        const ECT0: u8 = 0b10;
        // Rows: inner; columns: outer Not-ECT, ECT(0), ECT(1), CE.
        let table = [
            (NOT_ECT, [Ok(NOT_ECT), Ok(NOT_ECT), Ok(NOT_ECT), Err(DropReason::EcnInvalid)]),
            (ECT0, [Ok(ECT0), Ok(ECT0), Ok(ECT1), Ok(CE)]),
            (ECT1, [Ok(ECT1), Ok(ECT1), Ok(ECT1), Ok(CE)]),
            (CE, [Ok(CE), Ok(CE), Ok(CE), Ok(CE)]),
        ];
        for (inner, row) in table {
            for (outer, want) in [NOT_ECT, ECT0, ECT1, CE].into_iter().zip(row) {
                assert_eq!(decap(outer | 0xb8, inner | 0x20), want, "inner {inner:02b} outer {outer:02b}");
            }
        }
    }
}
