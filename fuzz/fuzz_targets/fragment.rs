//! Fragmentation: fragments are valid, fit the MTU, and reassemble.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tortie::encap::fragment::fragment;
use tortie::frame::FramePool;
use tortie::wire::ipv4;

fuzz_target!(|data: &[u8]| {
    let Some((knobs, packet)) = data.split_first_chunk::<2>() else { return };
    let mut packet = packet.to_vec();
    tortie_fuzz::repair(&mut packet, 0);
    let Ok(total) = ipv4::validate(&packet) else { return };
    packet.truncate(total);
    let mtu = usize::from(u16::from_be_bytes(*knobs));
    let mut pool = FramePool::new(256, 2).expect("memory");
    let mut f = pool.take_for(total).expect("a slot");
    pool.room_mut(&f)[..total].copy_from_slice(&packet);
    pool.set_len(&mut f, total);
    let mut parts = Vec::new();
    match fragment(&mut pool, f, mtu, |p| parts.push(p)) {
        Ok(done) => {
            assert_eq!((done.made as usize, done.lost), (parts.len(), 0));
            let mut joined = Vec::new();
            for part in &parts {
                let p = pool.data(part);
                assert_eq!(ipv4::validate(p), Ok(p.len()));
                assert!(p.len() <= mtu);
                joined.extend_from_slice(&p[ipv4::header_len(p)..]);
            }
            assert_eq!(joined, &packet[ipv4::header_len(&packet)..]);
        }
        Err((f, _)) => {
            assert!(parts.is_empty());
            assert_eq!(pool.data(&f), packet);
            pool.give(f);
        }
    }
    parts.drain(..).for_each(|p| pool.give(p));
    assert!(pool.is_full());
});
