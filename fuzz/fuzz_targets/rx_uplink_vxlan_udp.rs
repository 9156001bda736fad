//! The receive path: rx uplink vxlan udp.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tortie::port::Medium;
use tortie_fuzz::{Entry, receive};

fuzz_target!(|data: &[u8]| receive(Entry::Uplink(Medium::VxlanUdp), data));
