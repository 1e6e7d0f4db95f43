//! Owns the wakeup of a sleeping process, a worker or the launcher, by any other.
//!
//! Runs in: any process, also at commit.

use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use pgrx::prelude::*;

/// A flag, and the latch of the process that sleeps until the flag is set. Lies in shared memory.
#[derive(Default)]
pub struct Wakeup {
    latch: AtomicPtr<pg_sys::Latch>,
    is_set: AtomicBool,
}

impl Wakeup {
    /// Wakes the sleeper, unless the flag is set already. Safe at commit: an atomic and a latch cannot fail.
    pub fn set(&self) {
        let _ = self.set_first();
    }

    /// Does the same; whether the flag was not set already.
    #[must_use]
    pub fn set_first(&self) -> bool {
        let is_first = !self.is_set.load(Ordering::SeqCst) && !self.is_set.swap(true, Ordering::SeqCst);
        if is_first {
            self.set_latch();
        }
        is_first
    }

    /// Sets the flag and wakes nobody: the sleeper will look again shortly anyway.
    pub fn suppress(&self) {
        self.is_set.store(true, Ordering::SeqCst);
    }

    /// Wakes the sleeper without the flag: for orders that it checks each time it wakes.
    pub fn set_latch(&self) {
        let latch = self.latch.load(Ordering::Acquire);
        if !latch.is_null() {
            // SAFETY: a process latch lies in shared memory as long as the server runs. If its process has
            // ended, another process wakes once for nothing.
            unsafe { pg_sys::SetLatch(latch) }
        }
    }

    /// Clears the flag; whether it was set. Call this before looking for the work, so that whoever adds work
    /// meanwhile sets it again.
    pub fn take(&self) -> bool {
        self.is_set.swap(false, Ordering::SeqCst)
    }

    /// Whether the flag is set.
    pub fn is_set(&self) -> bool {
        self.is_set.load(Ordering::SeqCst)
    }

    /// Makes this process the sleeper.
    pub fn attach(&self) {
        // SAFETY: reads the pointer to this process' latch, which is set before any extension code runs.
        self.latch.store(unsafe { pg_sys::MyLatch }, Ordering::Release);
    }

    /// Leaves no sleeper, when this process ends. The flag stays as it is.
    pub fn detach(&self) {
        self.latch.store(std::ptr::null_mut(), Ordering::Release);
    }
}
