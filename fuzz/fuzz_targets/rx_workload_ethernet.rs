//! The receive path: rx workload ethernet.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tortie_fuzz::{Entry, receive};

fuzz_target!(|data: &[u8]| receive(Entry::Workload, data));
