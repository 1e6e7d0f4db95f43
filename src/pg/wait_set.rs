//! Owns the sleep of a worker's main thread: until its latch is set, a descriptor becomes readable, the
//! timeout is over, or the postmaster dies.
//!
//! Runs in: a worker's main thread.

use std::ffi::CStr;
use std::os::fd::RawFd;
use std::time::Duration;

use pgrx::prelude::*;

use super::compat;

/// The events that the main thread waits for.
pub struct Sleep {
    set: *mut pg_sys::WaitEventSet,
    name: u32,
}

impl Sleep {
    /// Waits for this process's latch, the postmaster's death, and `wakeup` to become readable.
    /// `pg_stat_activity` shows the wait as `name` from version 17 on.
    #[must_use]
    pub fn new(name: &CStr, wakeup: Option<RawFd>) -> Self {
        // SAFETY: room for as many events as are added; the set lives as long as the process.
        unsafe {
            let set = compat::create_wait_event_set(3);
            let no_data = std::ptr::null_mut();
            pg_sys::AddWaitEventToSet(
                set,
                pg_sys::WL_LATCH_SET,
                pg_sys::PGINVALID_SOCKET,
                pg_sys::MyLatch,
                no_data,
            );
            pg_sys::AddWaitEventToSet(
                set,
                pg_sys::WL_EXIT_ON_PM_DEATH,
                pg_sys::PGINVALID_SOCKET,
                std::ptr::null_mut(),
                no_data,
            );
            if let Some(fd) = wakeup {
                pg_sys::AddWaitEventToSet(set, pg_sys::WL_SOCKET_READABLE, fd, std::ptr::null_mut(), no_data);
            }
            Self { set, name: compat::wait_event(name) }
        }
    }

    /// Sleeps for at most `timeout`, or without limit. It resets the latch before it returns, so the caller
    /// must look for work afterwards.
    pub fn wait(&self, timeout: Option<Duration>) {
        let millis = timeout.map_or(-1, |time| {
            // Rounded up: after an early end the caller would only sleep again. The kernel counts in 32 bits.
            i64::try_from(time.as_micros().div_ceil(1000)).unwrap_or(i64::MAX).min(i32::MAX.into())
        });
        let mut event = pg_sys::WaitEvent::default();
        // SAFETY: the set is alive, and one event has room for one.
        unsafe {
            pg_sys::WaitEventSetWait(self.set, millis, &mut event, 1, self.name);
            pg_sys::ResetLatch(pg_sys::MyLatch);
        }
    }
}
