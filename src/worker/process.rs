//! Owns the process of a background worker: its signals, its end, its name, its memory.
//!
//! Runs in: a worker's main thread, and the launcher.

use std::ffi::{CStr, c_char, c_int};
use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::prelude::*;

use crate::pg::backend;
use crate::pg::compat;

static STOP: AtomicBool = AtomicBool::new(false);
static LEAVE: AtomicBool = AtomicBool::new(false);
/// Set at first: a worker has the settings of the moment when it was forked, and ignores the signal until it
/// has its handlers.
static RELOAD: AtomicBool = AtomicBool::new(true);

/// Installs the worker's signal handlers and lets signals in.
pub fn attach_signals() {
    hold_cancels();
    // SAFETY: both handlers do nothing but store atomics and set a latch.
    unsafe {
        compat::install_signal_handler(libc::SIGTERM, on_sigterm);
        compat::install_signal_handler(libc::SIGHUP, on_sighup);
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

/// The same for a helper of a worker, which the worker can ask to end after its transaction.
pub fn attach_signals_of_helper() {
    // SAFETY: as above. Signals are still blocked, so none is missed.
    unsafe { compat::install_signal_handler(LEAVE_SIGNAL, on_leave) };
    attach_signals();
}

/// Asks a helper to end after its transaction.
pub fn ask_to_leave(pid: i32) {
    // SAFETY: no memory is touched. A process that has ended is no error.
    unsafe { libc::kill(pid, LEAVE_SIGNAL) };
}

/// Postgres has no use for this signal in background workers.
const LEAVE_SIGNAL: c_int = libc::SIGUSR2;

unsafe extern "C-unwind" fn on_leave(_signal: c_int) {
    LEAVE.store(true, Ordering::Relaxed);
    // SAFETY: the latch is this process' own.
    unsafe { pg_sys::SetLatch(pg_sys::MyLatch) }
}

/// Whether a helper is to take no further work. Stays true.
pub fn leave_requested() -> bool {
    LEAVE.load(Ordering::Relaxed) || stop_requested()
}

/// Without the guard of other callbacks, which is not safe in a signal handler.
unsafe extern "C-unwind" fn on_sigterm(_signal: c_int) {
    STOP.store(true, Ordering::Relaxed);
    // SAFETY: Postgres' own handlers set these variables; the latch is this process' own. Cancelling the
    // query ends a statement that waits for a lock with an ERROR, which the worker survives.
    unsafe {
        pg_sys::QueryCancelPending = 1;
        pg_sys::InterruptPending = 1;
        pg_sys::SetLatch(pg_sys::MyLatch);
    }
}

unsafe extern "C-unwind" fn on_sighup(_signal: c_int) {
    RELOAD.store(true, Ordering::Relaxed);
    // SAFETY: as above.
    unsafe { pg_sys::SetLatch(pg_sys::MyLatch) }
}

/// Whether the process has been asked to end. Stays true.
pub fn stop_requested() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// Lets the last transactions of a stopping process run; the signal would cancel them.
pub fn shield_from_cancel() {
    // SAFETY: a flag of this process that only its own handlers set.
    unsafe { pg_sys::QueryCancelPending = 0 }
}

/// Holds back cancellation. Outside a transaction there is nothing to cancel, and nothing catches the ERROR:
/// even a line for the log would raise it. An ERROR lifts the hold, so code that catches one must hold again.
pub fn hold_cancels() {
    set_cancel_holds(1);
}

/// Lets a transaction be cancelled.
pub fn admit_cancels() {
    set_cancel_holds(0);
}

fn set_cancel_holds(count: u32) {
    // SAFETY: a counter of this process, which Postgres reads when it looks for interrupts.
    unsafe { pg_sys::QueryCancelHoldoffCount = count }
}

/// Reads the configuration files if the server was told to reload; says whether it did.
pub fn reload_if_asked() -> bool {
    let asked = RELOAD.swap(false, Ordering::Relaxed);
    if asked {
        // SAFETY: called between transactions, as Postgres' own workers do.
        unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) }
    }
    asked
}

/// Whether a signal's request is pending.
pub fn has_orders() -> bool {
    stop_requested() || RELOAD.load(Ordering::Relaxed)
}

/// Processes interrupts: barriers, and whatever else waits for this process. Between transactions, where the
/// cancellation of a query concerns neither the worker nor its next transaction.
pub fn answer_interrupts() {
    shield_from_cancel();
    check_for_interrupts!();
}

/// Sets a setting of this session above all other sources.
pub fn force_setting(name: &CStr, value: &CStr) {
    // SAFETY: name and value are C strings; they are copied.
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_OVERRIDE,
        );
    }
}

/// Registers `callback` for the end of the process, in order or not, before it detaches from shared memory.
pub fn at_exit(callback: unsafe extern "C-unwind" fn(c_int, pg_sys::Datum)) {
    // SAFETY: the callback is a function of this library, which is never unloaded.
    unsafe { pg_sys::before_shmem_exit(Some(callback), pg_sys::Datum::from(0_usize)) }
}

/// Makes the process end without the C library's exit handlers: threads of libraries may still run, and
/// OpenSSL must not be torn down beneath them, since a crash would restart the whole server.
pub fn leave_without_exit_handlers() {
    unsafe extern "C-unwind" fn leave(code: c_int, _argument: pg_sys::Datum) {
        // SAFETY: the callbacks of shared memory have run before those of the process.
        unsafe { libc::_exit(code) }
    }
    // SAFETY: as above; the last one registered is the first to run.
    unsafe { pg_sys::on_proc_exit(Some(leave), pg_sys::Datum::from(0_usize)) }
}

/// How a worker's process ends, as the postmaster sees it. Neither is a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Its work is done: the postmaster does not restart it, and logs nothing.
    Done = 0,
    /// The postmaster restarts it after a while, if it was registered so.
    Again = 1,
}

/// How many bytes of freed memory each thread keeps for the next batch, and up to which size an allocation
/// comes from them: some usual batches, no large ones. Without this the allocator returns the memory of each
/// batch to the system, and takes it again page by page.
#[cfg(target_env = "gnu")]
const KEPT_MEMORY: (c_int, c_int) = (8 << 20, 4 << 20);

/// Keeps freed memory until [`give_memory_back`].
pub fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: two parameters of this process' allocator.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_MEMORY.0);
        libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT_MEMORY.1);
    }
}

/// Gives the memory that is not in use back to the system.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the allocator's own locks are all it needs.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Ends the process.
pub fn exit(how: Exit) -> ! {
    compat::exit_process(how as c_int)
}

/// Shows what this process is in `pg_stat_activity.application_name`.
pub fn show_name(name: &CStr) {
    // SAFETY: a C string, which is copied.
    unsafe { pg_sys::pgstat_report_appname(name.as_ptr()) }
}

/// The cluster's name, or its system identifier if it has none.
#[must_use]
pub fn cluster_name() -> String {
    // SAFETY: cluster_name is a C string that Postgres owns; the identifier is read from shared memory.
    unsafe {
        let name = text(pg_sys::cluster_name);
        if name.is_empty() { pg_sys::GetSystemIdentifier().to_string() } else { name }
    }
}

/// The name of this process' database. To be called in a transaction.
#[must_use]
pub fn database_name() -> String {
    // SAFETY: the result is a C string or null.
    unsafe { text(pg_sys::get_database_name(backend::database())) }
}

/// # Safety
/// `pointer` is null or a C string.
unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: as promised by the caller.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}
