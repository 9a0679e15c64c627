//! The targets of `dataplane/tests/fuzz/targets.rs` under libFuzzer; `FUZZ_TARGET` names the one that runs.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/fuzz/targets.rs"]
mod targets;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let wanted = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET must name a target");
    let found = targets::TARGETS.iter().find(|(name, _)| *name == wanted);
    found.expect("FUZZ_TARGET must name a target").1
});

fuzz_target!(|data: &[u8]| TARGET(data));
