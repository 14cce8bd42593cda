//! The counters that `-C passes=sancov-module` with `-sanitizer-coverage-inline-8bit-counters` puts into every branch of
//! a program, for fuzzing with the stable compiler. Only with the feature `coverage`, which no program of ours has.
//!
//! Docs: clang's SanitizerCoverage, "Inline 8bit-counters".

#![allow(
    unsafe_code,
    reason = "the compiler's pass calls a C function of this name and hands over raw addresses"
)]

use std::sync::atomic::{AtomicPtr, AtomicU8, Ordering};

static START: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());
static END: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());

/// Called by a constructor of each object file before `main`, always with the bounds of the program's one section.
// SAFETY: the name belongs to the pass, which calls it with this signature; nothing else defines it.
#[unsafe(no_mangle)]
pub extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, end: *mut u8) {
    START.store(start, Ordering::Relaxed);
    END.store(end, Ordering::Relaxed);
}

/// Hands every counter that is not 0 to `f` with its number, and sets it to 0.
pub fn take(mut f: impl FnMut(usize, u8)) {
    let (start, end) = (START.load(Ordering::Relaxed), END.load(Ordering::Relaxed));
    if start.is_null() {
        return;
    }
    let length = end.addr() - start.addr();
    // SAFETY: the pass gave the bounds of a section of counters that is writable and lives as long as the program. Code
    // that counts writes whole bytes; a count lost between two threads does no harm.
    let counters = unsafe { std::slice::from_raw_parts(start.cast::<AtomicU8>(), length) };
    // Most of a program is not run by one input.
    for (group, eight) in counters.chunks(8).enumerate() {
        if eight.iter().fold(0, |sum, counter| sum | counter.load(Ordering::Relaxed)) == 0 {
            continue;
        }
        for (index, counter) in eight.iter().enumerate() {
            let count = counter.load(Ordering::Relaxed);
            if count != 0 {
                counter.store(0, Ordering::Relaxed);
                f(group * 8 + index, count);
            }
        }
    }
}
