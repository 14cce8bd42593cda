//! Which program the tests beside are about.

/// The debug build that belongs to them, or what `BRIG_TEST_PROGRAM` names: `cargo xtask conform runtime --release` asks the
/// program that users get.
pub(crate) fn runtime_program() -> String {
    std::env::var("BRIG_TEST_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_brig-runtime").to_owned())
}
