//! What is kept back for the moment when there is no more memory.
//!
//! Rust ends a program that gets no memory. Under a limit (`ulimit -v`, `ulimit -d`, a kernel that does
//! not overcommit) whoever opens enough connections could thus end the daemon. So its allocator has a
//! block in hand: when the system says no, the block is given back to it, which is enough for what is
//! under way, and the loop hears of it and lets nobody in until the block could be had again. Memory
//! that the C libraries ask for does not come by here; they cope, and tell by an error.
//!
//! `main` makes [`Allocator`] the program's. Where it is not, in tests say, memory is never short.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// More than a turn of the loop takes when its tables grow. Nothing is ever written to it, so it takes
/// addresses and no memory; and being so large it goes back to the system at once when it is freed.
const BLOCK: Layout = match Layout::from_size_align(2 << 20, 16) {
    Ok(layout) => layout,
    Err(_) => panic!("a valid layout"),
};

/// The block in hand; null: it was given back, or there is none yet.
static IN_HAND: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
static SHORT: AtomicBool = AtomicBool::new(false);

/// True since memory ran out, until [`replenish`] could get the block again.
pub fn is_short() -> bool {
    SHORT.load(Ordering::Relaxed)
}

/// Takes the block in hand. False: there is no memory for it yet.
pub fn replenish() -> bool {
    if IN_HAND.load(Ordering::Relaxed).is_null() {
        // SAFETY: the layout has a size.
        let block = unsafe { System.alloc(BLOCK) };
        if block.is_null() {
            return false;
        }
        IN_HAND.store(block, Ordering::Relaxed);
    }
    SHORT.store(false, Ordering::Relaxed);
    true
}

/// Memory has run out: gives the block back to the system.
pub fn give_way() {
    SHORT.store(true, Ordering::Relaxed);
    let block = IN_HAND.swap(ptr::null_mut(), Ordering::Relaxed);
    if !block.is_null() {
        // SAFETY: it came from the same allocator with the same layout, and the swap left nobody else
        // a way to it.
        unsafe { System.dealloc(block, BLOCK) };
    }
}

/// The system's allocator, with the block behind it.
pub struct Allocator;

// SAFETY: every block comes from the system's allocator and goes back to it with the caller's layout;
// a call that failed left nothing behind and may be made again. `give_way` allocates nothing.
unsafe impl GlobalAlloc for Allocator {
    // SAFETY: callers keep to the rules of the trait, and these are the ones of the system's allocator.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout, which has a size.
        twice(|| unsafe { System.alloc(layout) })
    }

    // SAFETY: as above.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout, which has a size.
        twice(|| unsafe { System.alloc_zeroed(layout) })
    }

    // SAFETY: as above.
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's block, which is as it was if the first try failed.
        twice(|| unsafe { System.realloc(block, layout, size) })
    }

    // SAFETY: as above.
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's block, of the system's allocator.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Tries again once the block is free.
#[inline]
fn twice(allocate: impl Fn() -> *mut u8) -> *mut u8 {
    let block = allocate();
    if !block.is_null() {
        return block;
    }
    give_way();
    allocate()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test, as the block is the process'.
    #[test]
    fn the_block_is_given_and_taken() {
        assert!(!is_short());
        assert!(replenish() && !IN_HAND.load(Ordering::Relaxed).is_null());
        let layout = Layout::new::<u64>();
        // SAFETY: a layout with a size; the block is freed below.
        let block = unsafe { Allocator.alloc(layout) };
        assert!(!block.is_null() && !is_short());
        // SAFETY: just allocated with that layout.
        unsafe { Allocator.dealloc(block, layout) };

        // More than any machine has.
        let huge = Layout::from_size_align(isize::MAX as usize - 4096, 16).unwrap();
        // SAFETY: a layout with a size.
        assert!(unsafe { Allocator.alloc(huge) }.is_null());
        assert!(is_short() && IN_HAND.load(Ordering::Relaxed).is_null());
        give_way();
        assert!(replenish() && !is_short());
    }
}
