//! Has the linker put code that few calls need behind the rest: see `cold.ld`.

fn main() {
    println!("cargo::rerun-if-changed=cold.ld");
    // Of the release build only; the same names in a debug build would gain nothing.
    if std::env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "musl") {
        let directory = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
        println!("cargo::rustc-link-arg-bins=-Wl,-T,{directory}/cold.ld");
    }
}
