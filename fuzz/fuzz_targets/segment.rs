//! Software segmentation: segments are valid packets and their payloads are the super-frame's.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tortie::encap::segment::{Segmented, Segments, segment_into};
use tortie::frame::{FramePool, Gso, GsoKind};
use tortie::wire::{ipv4, l4};

fuzz_target!(|data: &[u8]| {
    let Some((knobs, packet)) = data.split_first_chunk::<3>() else { return };
    let kind = [GsoKind::Tcp4, GsoKind::Tcp6, GsoKind::Udp][usize::from(knobs[0] % 3)];
    let gso = Gso { kind, size: u16::from_be_bytes([knobs[1], knobs[2]]) };
    let mut packet = packet.to_vec();
    tortie_fuzz::repair(&mut packet, 0);
    let mut pool = FramePool::new(64, 2).expect("memory");
    let mut f = pool.take_for(packet.len()).expect("libFuzzer's inputs fit a slot");
    pool.room_mut(&f)[..packet.len()].copy_from_slice(&packet);
    pool.set_len(&mut f, packet.len());
    f.gso = Some(gso);
    let plan = Segments::new(&packet, gso);
    let mut out = Vec::new();
    match segment_into(&mut pool, f, |s| out.push(s)) {
        Ok(Segmented { made, lost }) => {
            let plan = plan.expect("the plan agrees with the split");
            assert_eq!((made as usize, (made + lost) as usize), (out.len(), plan.count()));
            let mut joined = Vec::new();
            for s in &out {
                let p = pool.data(s);
                assert_eq!(ipv4::total_len(p), p.len());
                assert!(l4::verify(p, p.len()));
                joined.extend_from_slice(&p[plan.header_len()..]);
            }
            assert!(packet[plan.header_len()..].starts_with(&joined));
        }
        Err(_) => assert!(plan.is_err() && out.is_empty()),
    }
    out.drain(..).for_each(|s| pool.give(s));
    assert!(pool.is_full());
});
