//! libFuzzer over one way in, which `FUZZ_TARGET` names; what follows on the command line is libFuzzer's.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

#[path = "../targets/mod.rs"]
mod targets;

fn target() -> targets::Target {
    static CHOSEN: OnceLock<targets::Target> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        let found = targets::TARGETS.iter().find(|(known, _)| *known == name);
        found.unwrap_or_else(|| panic!("FUZZ_TARGET names no target: `{name}`")).1
    })
}

fuzz_target!(|input: &[u8]| target()(input));
