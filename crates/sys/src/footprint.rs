//! Keeping a program small that lives long and mostly waits.
//!
//! `unsafe`: C calls with integers, and advice about memory by address. Covers `mallopt(3)`, `malloc_trim(3)`, `madvise(2)`.

#![expect(unsafe_code, reason = "mallopt is a C call that rustix does not have; madvise takes addresses")]

use rustix::mm::{Advice, madvise};
use std::ffi::c_void;

/// Blocks of this many bytes or more are mapped alone, and so given back when freed.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 16 << 10;
/// Bytes that may lie free at the end of the heap.
#[cfg(target_env = "gnu")]
const SLACK: libc::c_int = 32 << 10;

/// Has the allocator give memory back early. Costs a system call for each large block. Best called first in `main`.
///
/// [mallopt(3)](https://man7.org/linux/man-pages/man3/mallopt.3.html); nothing happens with a C library that has none.
pub fn keep_heap_small() {
    #[cfg(target_env = "gnu")]
    for (option, value) in
        [(libc::M_MMAP_THRESHOLD, LARGE), (libc::M_TRIM_THRESHOLD, SLACK), (libc::M_TOP_PAD, 4 << 10)]
    {
        // SAFETY: mallopt takes integers and sets parameters of the allocator; any value is allowed.
        unsafe { libc::mallopt(option, value) };
    }
}

/// Has all threads share two arenas of the allocator. By itself glibc makes one for each thread, up to eight a processor, and
/// what a burst of threads leaves lies in all of them. Best called first in `main`.
///
/// [mallopt(3)](https://man7.org/linux/man-pages/man3/mallopt.3.html); nothing happens with a C library that has none.
pub fn share_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: as in `keep_heap_small`.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2)
    };
}

/// Mappings that [`forget_code`] takes at most: code, and the constants before it, of the program and of its libraries.
const PARTS: usize = 32;

/// Gives back to the kernel what can be had again: free pages of the heap, and the pages of this program's code and constants,
/// with which goes what only the beginning needed. What runs next is mapped again from the page cache, 64 KiB at a touch, so
/// the caller best sleeps at once. Does nothing where `/proc` is not mounted.
///
/// Kernel: [madvise(2)](https://man7.org/linux/man-pages/man2/madvise.2.html), `MADV_DONTNEED`.
#[inline(never)]
pub fn forget_code() {
    let mut parts = [(0, 0); PARTS];
    {
        let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
        for (part, found) in parts.iter_mut().zip(maps.lines().filter_map(part_of_file)) {
            *part = found;
        }
    }
    give_back_heap();
    // Nothing in between that would be mapped again.
    for (start, length) in parts {
        let address: *mut c_void = std::ptr::with_exposed_provenance_mut(start);
        // SAFETY: the kernel lists this range as a private mapping of a file that is not writable, and it is code or begins
        // with the file: nothing was ever written to it, as is to constants that are relocated, which lie behind. So the file
        // has the same bytes, and the next access reads them from there. (An empty range is none.) A failure changes nothing.
        unsafe { madvise(address, length, Advice::LinuxDontNeed) }.ok();
    }
}

/// Has the allocator give back its free pages.
fn give_back_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes a number of bytes to keep at the end of the heap, and touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Begin and length of a mapping of a file that cannot be written: of code, or from the file's begin.
fn part_of_file(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, flags, offset, inode) = (fields.next()?, fields.next()?, fields.next()?, fields.nth(1)?);
    let is_code = flags == "r-xp";
    let is_begin = flags == "r--p" && offset.bytes().all(|digit| digit == b'0');
    if inode == "0" || !(is_code || is_begin) {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    Some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    /// One test takes pages away, the other counts them.
    static PAGES: std::sync::Mutex<()> = std::sync::Mutex::new(());

    #[test]
    fn code_runs_on_after_it_was_forgotten() {
        let _alone = PAGES.lock().unwrap();
        super::forget_code();
        assert_eq!("12".parse::<u32>().unwrap() + 1, 13);
        super::forget_code();
        assert_eq!(format!("{:?}", std::time::Duration::from_millis(1)), "1ms");
    }

    #[test]
    fn only_code_and_constants_of_files_are_meant() {
        for (line, expected) in [
            ("55d0-55f0 r-xp 00001000 fe:00 12 /bin/x", Some((0x55d0, 0x20))),
            ("55d0-55f0 r--p 00000000 fe:00 12 /bin/x", Some((0x55d0, 0x20))),
            ("55d0-55f0 r--p 00001000 fe:00 12 /bin/x", None),
            ("55d0-55f0 rw-p 00000000 fe:00 12 /bin/x", None),
            ("55d0-55f0 rwxp 00001000 fe:00 12 /bin/x", None),
            ("7fff0000-7fff1000 r-xp 00000000 00:00 0 [vdso]", None),
            ("", None),
        ] {
            assert_eq!(super::part_of_file(line), expected, "{line}");
        }
    }

    /// Pages.
    fn resident() -> u64 {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        text.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// One after the other: the allocator would make the large block of what the small ones left.
    #[test]
    fn what_is_freed_goes_back() {
        let _alone = PAGES.lock().unwrap();
        super::keep_heap_small();
        let before = resident();
        let block = vec![1_u8; 8 << 20];
        assert!(resident() >= before + 2000);
        drop(block);
        assert!(resident() < before + 500);

        // Too small to be mapped alone, each freed one between two that stay.
        let mut blocks: Vec<Vec<u8>> = (0..8192).map(|_| vec![1_u8; 8 << 10]).collect();
        let mut odd = false;
        blocks.retain(|_| {
            odd = !odd;
            odd
        });
        let before = resident();
        super::forget_code();
        let after = resident();
        assert!(after + 2000 < before, "{after} of {before} pages are still there");
        assert!(blocks.iter().flatten().all(|byte| *byte == 1));
    }
}
