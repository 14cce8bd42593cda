//! An allocator for a program that makes a container and is gone: no system call for the first half MiB, which is more than
//! most need, and a few hundred bytes of code. A C library's maps, trims and protects, for programs that live long.
//!
//! Blocks have one of some forty sizes and come off the end of the arena, or from the list of those of their size that were
//! freed. They are never merged or given back, so what a program holds is what it once needed most. Blocks above
//! [`LARGEST`] are mapped alone, grow where they are, and go back at once.
//!
//! Kernel: mmap(2), mremap(2), munmap(2).
#![allow(unsafe_code, reason = "an allocator gives out memory by address")]

use rustix::mm::{MapFlags, MremapFlags, ProtFlags};
use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};

/// Sizes are multiples of this, up to [`SMALL`]; every block is aligned so.
const STEP: usize = 16;
const SMALL: usize = 512;
/// From [`SMALL`] on sizes are powers of two, up to this.
const LARGEST: usize = 64 << 10;
const CLASSES: usize = SMALL / STEP + (LARGEST / SMALL).ilog2() as usize;
/// What is there from the start, untouched, so that it costs nothing before it is used.
const ARENA: usize = 512 << 10;
/// What is mapped when it is used up.
const MORE: usize = 1 << 20;

/// The allocator: `#[global_allocator] static HEAP: Heap = Heap::new();`. There can be one in a program.
#[derive(Debug)]
pub struct Heap {
    locked: AtomicBool,
    state: UnsafeCell<State>,
}

#[derive(Debug)]
struct State {
    /// Where the next new block begins; memory from here to `end` was never used, so it is zero.
    next: *mut u8,
    left: usize,
    /// Freed blocks of each size; the first word of each points to the next.
    free: [*mut u8; CLASSES],
}

#[repr(align(64))]
struct Arena(UnsafeCell<[u8; ARENA]>);

// SAFETY: only reached by the pointer that `State::grow` takes once, for which `Heap::state` is locked.
unsafe impl Sync for Arena {}

static FIRST: Arena = Arena(UnsafeCell::new([0; ARENA]));
static FIRST_TAKEN: AtomicBool = AtomicBool::new(false);

// SAFETY: `state` is only reached through `Heap::with`, one thread at a time.
unsafe impl Sync for Heap {}
// SAFETY: the same; what its pointers lead to belongs to the whole process.
unsafe impl Send for Heap {}

/// The class of blocks that hold `size` bytes and how many they hold; `None` for those mapped alone.
fn class(size: usize) -> Option<(usize, usize)> {
    if size <= SMALL {
        let steps = size.max(1).div_ceil(STEP);
        Some((steps - 1, steps * STEP))
    } else if size <= LARGEST {
        let bytes = size.next_power_of_two();
        Some((SMALL / STEP - 1 + (bytes / SMALL).ilog2() as usize, bytes))
    } else {
        None
    }
}

impl Heap {
    /// An allocator that has given out nothing.
    #[expect(clippy::new_without_default, reason = "there is one in a program, made when it is compiled")]
    pub const fn new() -> Heap {
        let state = State { next: null_mut(), left: 0, free: [null_mut(); CLASSES] };
        Heap { locked: AtomicBool::new(false), state: UnsafeCell::new(state) }
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        // Nobody waits here in a program of one thread; tests have more.
        while self.locked.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            std::thread::yield_now();
        }
        // SAFETY: the lock is ours until the store below, and no reference outlives the call.
        let result = work(unsafe { &mut *self.state.get() });
        self.locked.store(false, Ordering::Release);
        result
    }
}

impl State {
    /// A block, and whether it is zero.
    fn take(&mut self, layout: Layout) -> (*mut u8, bool) {
        let Some((class, size)) = class(layout.size()) else { return (map(layout.size()), true) };
        if layout.align() <= STEP && !self.free[class].is_null() {
            let block = self.free[class];
            // SAFETY: `give` wrote this word into a free block, and nobody has had the block since.
            self.free[class] = unsafe { block.cast::<*mut u8>().read() };
            return (block, false);
        }
        let mut skip = self.next.align_offset(layout.align().max(STEP));
        if self.next.is_null() || self.left < skip.saturating_add(size) {
            if !self.grow() {
                return (null_mut(), false);
            }
            skip = self.next.align_offset(layout.align().max(STEP));
        }
        // SAFETY: skip + size is not above `left`, so this is inside of the arena.
        let block = unsafe { self.next.add(skip) };
        // SAFETY: the same, at most one past its end.
        self.next = unsafe { block.add(size) };
        self.left -= skip + size;
        (block, true)
    }

    /// What is left of the arena is forgotten.
    fn grow(&mut self) -> bool {
        if !FIRST_TAKEN.swap(true, Ordering::Relaxed) {
            (self.next, self.left) = (FIRST.0.get().cast(), ARENA);
            return true;
        }
        let more = map(MORE);
        if !more.is_null() {
            (self.next, self.left) = (more, MORE);
        }
        !more.is_null()
    }

    /// # Safety
    ///
    /// `block` was taken with this layout and is not used any more.
    unsafe fn give(&mut self, block: *mut u8, layout: Layout) {
        match class(layout.size()) {
            Some((class, _)) => {
                // SAFETY: every class has room for a word and its alignment.
                unsafe { block.cast::<*mut u8>().write(self.free[class]) };
                self.free[class] = block;
            }
            None => {
                // SAFETY: it was mapped alone with this size. A failure leaves it mapped.
                let _ = unsafe { rustix::mm::munmap(block.cast(), layout.size()) };
            }
        }
    }
}

/// New memory, or null.
fn map(size: usize) -> *mut u8 {
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping where the kernel likes it replaces nothing.
    let mapped = unsafe { rustix::mm::mmap_anonymous(null_mut(), size, protection, MapFlags::PRIVATE) };
    mapped.map_or(null_mut(), <*mut std::ffi::c_void>::cast)
}

/// Alignment of what [`map`] gives.
const PAGE: usize = 4096;

// SAFETY: blocks are disjoint, large enough for their class, which is not below the size, and aligned to `STEP` or to what was
// asked for; none is given out again before it was freed. Nothing here panics or allocates.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() > PAGE {
            return null_mut();
        }
        self.with(|state| state.take(layout)).0
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.align() > PAGE {
            return null_mut();
        }
        let (block, zero) = self.with(|state| state.take(layout));
        if !zero && !block.is_null() {
            // SAFETY: the block holds that many bytes and is ours.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the same.
        self.with(|state| unsafe { state.give(block, layout) });
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let new = match (class(layout.size()), class(size)) {
            (Some(old), Some(new)) if old == new => return block,
            (None, None) => {
                // SAFETY: it was mapped alone with this size, and the caller uses only what is returned. Where it is moved to
                // the kernel chooses.
                let moved =
                    unsafe { rustix::mm::mremap(block.cast(), layout.size(), size, MremapFlags::MAYMOVE) };
                return moved.map_or(null_mut(), <*mut std::ffi::c_void>::cast);
            }
            // SAFETY: the caller promises that this size with this alignment is a layout.
            _ => unsafe { Layout::from_size_align_unchecked(size, layout.align()) },
        };
        // SAFETY: as promised to us.
        let to = unsafe { self.alloc(new) };
        if !to.is_null() {
            // SAFETY: both hold the smaller of both sizes, and are different blocks.
            unsafe { to.copy_from_nonoverlapping(block, layout.size().min(size)) };
            // SAFETY: as promised to us; its content is in the new one.
            unsafe { self.dealloc(block, layout) };
        }
        to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_hold_what_they_should() {
        let mut last = 0;
        for size in 0..=LARGEST {
            let (index, bytes) = class(size).unwrap();
            assert!(bytes >= size && bytes % STEP == 0 && index < CLASSES, "{size}");
            assert!(index == last || index == last + 1, "{size}");
            last = index;
        }
        assert_eq!(last, CLASSES - 1);
        assert_eq!(class(LARGEST + 1), None);
    }

    /// Blocks of all sizes and alignments, grown, shrunk and freed in an order that looks random; each keeps its own pattern.
    #[test]
    fn blocks_keep_what_is_in_them() {
        let heap = Heap::new();
        let mut live: Vec<(*mut u8, Layout, u8)> = Vec::new();
        let mut random = 1u64;
        let mut next = |below: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(random >> 33).unwrap() % below
        };
        let check = |&(block, layout, mark): &(*mut u8, Layout, u8), length: usize| {
            assert_eq!(block.addr() % layout.align(), 0);
            // SAFETY: the block is live and holds that many bytes, all written.
            let bytes = unsafe { std::slice::from_raw_parts(block, length) };
            assert!(bytes.iter().all(|&byte| byte == mark));
        };
        for round in 0..20_000 {
            let mark = u8::try_from(round % 251).unwrap();
            let most = [16, 100, 600, 5000, 200_000][next(5)];
            let size = 1 + next(most);
            match next(3) {
                0 if !live.is_empty() => {
                    let one = live.swap_remove(next(live.len()));
                    check(&one, one.1.size());
                    // SAFETY: it is live, and forgotten now.
                    unsafe { heap.dealloc(one.0, one.1) };
                }
                1 if !live.is_empty() => {
                    let at = next(live.len());
                    let (block, layout, old) = live[at];
                    // SAFETY: it is live; its place is taken by the new one.
                    let block = unsafe { heap.realloc(block, layout, size) };
                    let layout = Layout::from_size_align(size, layout.align()).unwrap();
                    check(&(block, layout, old), size.min(live[at].1.size()));
                    // SAFETY: it holds that many bytes.
                    unsafe { block.write_bytes(mark, size) };
                    live[at] = (block, layout, mark);
                }
                _ => {
                    let layout = Layout::from_size_align(size, 1 << next(9)).unwrap();
                    // SAFETY: the size is not 0.
                    let block = unsafe { heap.alloc_zeroed(layout) };
                    check(&(block, layout, 0), size);
                    // SAFETY: it holds that many bytes.
                    unsafe { block.write_bytes(mark, size) };
                    live.push((block, layout, mark));
                }
            }
        }
        live.iter().for_each(|one| check(one, one.1.size()));
    }
}
