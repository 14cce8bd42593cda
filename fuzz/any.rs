//! Any target of `crates/fuzz` by libFuzzer, chosen by a variable, so that a new target needs nothing here:
//!
//! ```sh
//! BRIG_FUZZ_TARGET=runtime_config cargo +nightly fuzz run any fuzz/seeds/runtime_config
//! ```

#![no_main]

use std::sync::LazyLock;

static TARGET: LazyLock<fuzz::Target> = LazyLock::new(|| {
    let name = std::env::var("BRIG_FUZZ_TARGET").expect("BRIG_FUZZ_TARGET names the target");
    fuzz::target(&name).expect("a file of crates/fuzz/src/targets has this name")
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| (TARGET.run)(data));
