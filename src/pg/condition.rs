//! Owns conditions on which sessions wait for other processes: Postgres' condition variables, in shared
//! memory.
//!
//! Runs in: any process.

use std::ffi::CStr;
use std::time::Duration;

use pgrx::pg_sys;

use super::compat;

/// A condition variable. It guards its inside with a spin lock of its own.
pub struct Condition(pg_sys::ConditionVariable);

impl Default for Condition {
    fn default() -> Self {
        let mut condition = pg_sys::ConditionVariable::default();
        // SAFETY: initialises a value that holds no address of its own, so it may move afterwards.
        unsafe { pg_sys::ConditionVariableInit(&mut condition) };
        Self(condition)
    }
}

impl Condition {
    fn raw(&self) -> *mut pg_sys::ConditionVariable {
        std::ptr::from_ref(&self.0).cast_mut()
    }

    /// Wakes all that wait.
    pub fn broadcast(&self) {
        // SAFETY: initialised, in shared memory.
        unsafe { pg_sys::ConditionVariableBroadcast(self.raw()) }
    }

    /// Begins to wait; shown as `name` in `pg_stat_activity`, where the server can. Check what is waited for
    /// only after this call: a broadcast from now on ends the next sleep.
    #[must_use]
    pub fn wait(&self, name: &CStr) -> Wait<'_> {
        // SAFETY: in shared memory; `drop` pairs with it, and the end of a transaction that fails cancels it,
        // too.
        unsafe { pg_sys::ConditionVariablePrepareToSleep(self.raw()) };
        Wait { condition: self, event: compat::wait_event(name) }
    }
}

/// A process that waits. It ends when this is dropped.
pub struct Wait<'a> {
    condition: &'a Condition,
    event: u32,
}

impl Wait<'_> {
    /// Sleeps until a broadcast, or `timeout` is up, or for no reason. Answers interrupts.
    pub fn sleep(&self, timeout: Duration) {
        let millis = i64::try_from(timeout.as_millis().max(1)).unwrap_or(i64::MAX);
        // SAFETY: the process has prepared to sleep on it.
        unsafe { pg_sys::ConditionVariableTimedSleep(self.condition.raw(), millis, self.event) };
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        // SAFETY: pairs with `wait`.
        unsafe {
            pg_sys::ConditionVariableCancelSleep();
        }
    }
}
