//! The receive path: rx host ip.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tortie_fuzz::{Entry, receive};

fuzz_target!(|data: &[u8]| receive(Entry::Host, data));
