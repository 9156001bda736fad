//! YAML: the reader, manifests and everything that is calculated from them take any text.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tortie::control::{model, yaml};

fuzz_target!(|text: &str| {
    let documents = yaml::documents(text);
    let manifest = model::parse(text);
    // One reader under the other: text that is not YAML is not a manifest.
    assert!(documents.is_ok() || manifest.is_err());
});
