//! Owns shared memory: arrays whose length a setting determines, and values for pgrx's own types.
//!
//! Runs in: the postmaster, which sets it up; any process uses it.

use std::ffi::CStr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use pgrx::prelude::*;
use pgrx::{AssertPGRXSharedMemory, PgSharedMemoryInitialization};

/// A value for shared memory.
pub fn shareable<T>(value: T) -> AssertPGRXSharedMemory<T> {
    // SAFETY: this extension shares atomics, numbers and bytes, and latches and condition variables with
    // pointers into the main shared memory. Nothing of these belongs to one process.
    unsafe { AssertPGRXSharedMemory::new(value) }
}

/// An array of default values, whose length `length` determines when the server starts. Set it up by
/// `pg_shmem_init!(… = ())`.
pub struct SharedArray<T> {
    name: &'static CStr,
    length: fn() -> usize,
    /// Null, and 0, until the server has set the array up.
    first: AtomicPtr<T>,
    set_up: AtomicUsize,
}

impl<T> SharedArray<T> {
    /// An array of this name, which no other extension may use.
    pub const fn new(name: &'static CStr, length: fn() -> usize) -> Self {
        Self { name, length, first: AtomicPtr::new(std::ptr::null_mut()), set_up: AtomicUsize::new(0) }
    }

    fn bytes(&self) -> usize {
        (self.length)() * size_of::<T>()
    }
}

impl<T: Sync + 'static> SharedArray<T> {
    /// The elements; none before the server has set them up.
    pub fn elements(&self) -> &'static [T] {
        let length = self.set_up.load(Ordering::Acquire);
        if length == 0 {
            return &[];
        }
        // SAFETY: this many elements were written there, in memory that stays mapped as long as the process
        // lives. They are only changed through shared references.
        unsafe { std::slice::from_raw_parts(self.first.load(Ordering::Acquire), length) }
    }
}

/// What the postmaster does each time that it has set up the shared memory, before other processes start. Set it up by
/// `pg_shmem_init!(… = ())`, after the memory that it needs.
pub struct AtStartup(fn());

impl AtStartup {
    /// Has `work` done.
    pub const fn new(work: fn()) -> Self {
        Self(work)
    }
}

impl PgSharedMemoryInitialization for AtStartup {
    type Value = ();

    unsafe fn on_shmem_request(&'static self) {}

    unsafe fn on_shmem_startup(&'static self, (): ()) {
        (self.0)();
    }
}

impl<T: Default + Sync + 'static> PgSharedMemoryInitialization for SharedArray<T> {
    type Value = ();

    unsafe fn on_shmem_request(&'static self) {
        // SAFETY: as promised by the caller.
        unsafe { pg_sys::RequestAddinShmemSpace(self.bytes()) }
    }

    unsafe fn on_shmem_startup(&'static self, (): ()) {
        let mut found = false;
        let length = (self.length)();
        // SAFETY: in the postmaster, before any other process exists. The allocation is aligned for any type
        // and has room for this many elements.
        unsafe {
            let first = pg_sys::ShmemInitStruct(self.name.as_ptr(), self.bytes(), &mut found).cast::<T>();
            if !found {
                (0..length).for_each(|at| first.add(at).write(T::default()));
            }
            self.first.store(first, Ordering::Release);
        }
        self.set_up.store(length, Ordering::Release);
    }
}
