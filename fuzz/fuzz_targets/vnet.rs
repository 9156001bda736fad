//! The virtio-net header: any bytes are refused or give offload state that lies within the frame.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tortie::frame::{Csum, FramePool};
use tortie::port::vnet;

fuzz_target!(|data: &[u8]| {
    let Some((header, bytes)) = data.split_first_chunk::<{ vnet::LEN }>() else { return };
    let mut pool = FramePool::new(1, 1).expect("memory");
    let Some(mut f) = pool.take_for(bytes.len()) else { return };
    pool.room_mut(&f)[..bytes.len()].copy_from_slice(bytes);
    pool.set_len(&mut f, bytes.len());
    if vnet::parse(header, &mut f).is_ok() {
        if let Csum::Partial { start, offset } = f.csum {
            assert!(start >= f.head() && (start - f.head()) as usize + usize::from(offset) + 2 <= f.len());
        }
        assert!(f.gso.is_none_or(|g| g.size > 0));
        let _ = vnet::emit(&f, pool.data(&f));
    }
    pool.give(f);
});
