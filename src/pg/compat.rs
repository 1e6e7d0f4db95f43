//! Owns the differences between the supported versions of Postgres, and the functions that pgrx's bindings
//! lack.
//!
//! Runs in: any process.

use std::ffi::{CStr, c_int, c_void};

use pgrx::prelude::*;

/// Microseconds from the Unix epoch to Postgres' own, 2000-01-01 UTC.
const EPOCH_SHIFT: i64 = 946_684_800_000_000;

/// The right to read a relation. Its type is wider from 16 on.
#[allow(clippy::unnecessary_cast)]
pub const ACL_SELECT: pg_sys::AclMode = pg_sys::ACL_SELECT as pg_sys::AclMode;

/// Settings that only later versions have and that could end a background worker, each with a value that
/// cannot.
#[cfg(not(any(feature = "pg17", feature = "pg18")))]
pub const LATER_SETTINGS: [(&CStr, &CStr); 0] = [];
/// Settings that only later versions have and that could end a background worker, each with a value that
/// cannot.
#[cfg(any(feature = "pg17", feature = "pg18"))]
pub const LATER_SETTINGS: [(&CStr, &CStr); 1] = [(c"transaction_timeout", c"0")];

/// A Postgres timestamp as microseconds since 1970-01-01 UTC.
#[must_use]
pub const fn unix_micros(timestamp: pg_sys::TimestampTz) -> i64 {
    timestamp.saturating_add(EPOCH_SHIFT)
}

/// Microseconds since 1970-01-01 UTC as a Postgres timestamp.
#[must_use]
pub const fn pg_timestamp(micros: i64) -> pg_sys::TimestampTz {
    micros.saturating_sub(EPOCH_SHIFT)
}

/// The number of the wait event that `pg_stat_activity.wait_event` shows under this name. Before version 17
/// all extensions share one name.
#[cfg(any(feature = "pg17", feature = "pg18"))]
#[must_use]
pub fn wait_event(name: &CStr) -> u32 {
    // SAFETY: a C string, which is copied; a known name returns its number.
    unsafe { pg_sys::WaitEventExtensionNew(name.as_ptr()) }
}
/// The number of the wait event that `pg_stat_activity.wait_event` shows under this name. Before version 17
/// all extensions share one name.
#[cfg(not(any(feature = "pg17", feature = "pg18")))]
#[must_use]
pub fn wait_event(_name: &CStr) -> u32 {
    pg_sys::PG_WAIT_EXTENSION
}

// The bindings of pgrx lack commands/async.h.
mod r#async {
    use std::ffi::{c_char, c_int};

    unsafe extern "C-unwind" {
        pub fn AtAbort_Notify();
        pub fn Async_Listen(channel: *const c_char);
        pub fn ProcessNotifyInterrupt(flush: bool);
    }

    unsafe extern "C" {
        pub static notifyInterruptPending: c_int;
    }
}

// They lack commands/sequence.h, too.
mod sequence {
    use pgrx::pg_sys;

    unsafe extern "C-unwind" {
        pub fn nextval_internal(sequence: pg_sys::Oid, check_permissions: bool) -> i64;
    }
}

/// The next value of a sequence that an identity column owns. It does not check the right to use the
/// sequence.
#[must_use]
pub fn next_value(sequence: pg_sys::Oid) -> i64 {
    // SAFETY: in a transaction; an ERROR if there is no such sequence.
    unsafe { guarded(|| sequence::nextval_internal(sequence, false)) }
}

/// The sequence of an identity column; invalid if the column has no identity.
///
/// # Safety
/// The table is open and has the column.
#[must_use]
pub unsafe fn identity_sequence(table: pg_sys::Relation, column: pg_sys::AttrNumber) -> pg_sys::Oid {
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    // SAFETY: as promised by the caller.
    unsafe {
        pg_sys::getIdentitySequence((*table).rd_id, column, true)
    }
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    // SAFETY: as promised by the caller.
    unsafe {
        pg_sys::getIdentitySequence(table, column, true)
    }
}

/// Calls a C function that can raise an ERROR, which unwinds from here instead of jumping over Rust
/// frames. The bindings of pgrx do this by themselves.
///
/// # Safety
/// As `call` requires.
pub unsafe fn guarded<R: Copy>(call: impl FnOnce() -> R) -> R {
    // SAFETY: as promised by the caller.
    unsafe { pg_sys::ffi::pg_guard_ffi_boundary(call) }
}

/// Functions that the bindings of pgrx have too, here without the guard around each call: for loops in which
/// one guard per row is enough, within [`guarded`], and where an ERROR must pass unchanged.
pub mod raw {
    use pgrx::pg_sys;
    use std::ffi::{c_char, c_int, c_long};

    unsafe extern "C-unwind" {
        /// Puts the scan's next row into the slot.
        pub fn index_getnext_slot(
            scan: pg_sys::IndexScanDesc,
            direction: pg_sys::ScanDirection::Type,
            slot: *mut pg_sys::TupleTableSlot,
        ) -> bool;
        /// Runs a utility command, as Postgres does without any hook.
        #[allow(clippy::too_many_arguments)]
        pub fn standard_ProcessUtility(
            statement: *mut pg_sys::PlannedStmt,
            query: *const c_char,
            read_only: bool,
            context: pg_sys::ProcessUtilityContext::Type,
            parameters: pg_sys::ParamListInfo,
            environment: *mut pg_sys::QueryEnvironment,
            receiver: *mut pg_sys::DestReceiver,
            completion: *mut pg_sys::QueryCompletion,
        );
        /// Executes a plan.
        pub fn SPI_execute_plan(
            plan: pg_sys::SPIPlanPtr,
            values: *mut pg_sys::Datum,
            nulls: *const c_char,
            read_only: bool,
            limit: c_long,
        ) -> c_int;
        /// Deforms the slot's row up to this column.
        pub fn slot_getsomeattrs_int(slot: *mut pg_sys::TupleTableSlot, columns: c_int);
    }
}

/// Puts the row at `tid` into the slot, if the snapshot sees it.
///
/// # Safety
/// Call it within [`guarded`]. All pointers are alive, and the slot is one of the table's.
pub unsafe fn fetch_row_version(
    table: pg_sys::Relation,
    tid: &mut pg_sys::ItemPointerData,
    snapshot: pg_sys::Snapshot,
    slot: *mut pg_sys::TupleTableSlot,
) -> bool {
    // SAFETY: an open table has an access method, which has all functions that are not documented as
    // optional.
    unsafe {
        let methods = &*(*table).rd_tableam;
        methods.tuple_fetch_row_version.is_some_and(|fetch| fetch(table, tid, snapshot, slot))
    }
}

/// Inserts the slot's row, and sets the slot's `tts_tid` to its place.
///
/// # Safety
/// Call it within [`guarded`]. Both pointers are alive, the table is locked for writing, and the slot is one of the table's.
pub unsafe fn insert_row(
    table: pg_sys::Relation,
    slot: *mut pg_sys::TupleTableSlot,
    command: pg_sys::CommandId,
) {
    // SAFETY: an open table has an access method, which has all functions that are not documented as
    // optional.
    unsafe {
        let methods = &*(*table).rd_tableam;
        if let Some(insert) = methods.tuple_insert {
            insert(table, slot, command, 0, std::ptr::null_mut());
        }
    }
}

/// Inserts the slots' rows, and sets each slot's `tts_tid` to its place.
///
/// # Safety
/// Call it within [`guarded`]. All pointers are alive, the table is locked for writing, and the slots are the table's.
pub unsafe fn insert_rows(
    table: pg_sys::Relation,
    slots: &[*mut pg_sys::TupleTableSlot],
    command: pg_sys::CommandId,
    bulk: pg_sys::BulkInsertState,
) {
    // SAFETY: as above.
    unsafe {
        let methods = &*(*table).rd_tableam;
        if let Some(insert) = methods.multi_insert {
            insert(table, slots.as_ptr().cast_mut(), slots.len() as std::ffi::c_int, command, 0, bulk);
        }
    }
}

/// Deletes the row at `tid`, after waiting for any lock on it. Returns `false` if the row was changed or
/// deleted meanwhile.
///
/// # Safety
/// Call it within [`guarded`]. All pointers are alive, the table is locked for writing, and the snapshot sees the row.
pub unsafe fn delete_row(
    table: pg_sys::Relation,
    tid: &mut pg_sys::ItemPointerData,
    command: pg_sys::CommandId,
    snapshot: pg_sys::Snapshot,
) -> bool {
    let mut failure = pg_sys::TM_FailureData::default();
    let (crosscheck, wait, changing_partition) = (std::ptr::null_mut(), true, false);
    // SAFETY: as above.
    unsafe {
        let methods = &*(*table).rd_tableam;
        methods.tuple_delete.is_some_and(|delete| {
            let result =
                delete(table, tid, command, snapshot, crosscheck, wait, &mut failure, changing_partition);
            result == pg_sys::TM_Result::TM_Ok
        })
    }
}

/// The transaction that wrote the slot's row: the invalid id for a frozen row, `None` if the slot does not
/// say.
///
/// # Safety
/// The slot is alive and holds a row.
pub unsafe fn writer_of(slot: *mut pg_sys::TupleTableSlot) -> Option<pg_sys::TransactionId> {
    // SAFETY: as promised by the caller; a slot with these operations belongs to a heap and points to a tuple
    // with a header.
    unsafe {
        if !std::ptr::eq((*slot).tts_ops, &raw const pg_sys::TTSOpsBufferHeapTuple) {
            return None;
        }
        let header = &*(*(*slot.cast::<pg_sys::HeapTupleTableSlot>()).tuple).t_data;
        let frozen = pg_sys::HEAP_XMIN_FROZEN as u16;
        let is_frozen = header.t_infomask & frozen == frozen;
        Some(if is_frozen { pg_sys::FrozenTransactionId } else { header.t_choice.t_heap.t_xmin })
    }
}

/// The place up to which all required standbys have the log on disk, as of a moment ago.
#[must_use]
pub fn flushed_by_standbys() -> pg_sys::XLogRecPtr {
    const FLUSH: usize = 1;
    // SAFETY: in shared memory as long as the server runs. It is aligned, so one read is consistent; it may
    // grow meanwhile.
    unsafe { (&raw const (*pg_sys::WalSndCtl).lsn[FLUSH]).read_volatile() }
}

/// The index of the table's primary key; invalid if it has no primary key.
///
/// # Safety
/// The table is open.
pub unsafe fn primary_key_index(table: pg_sys::Relation) -> pg_sys::Oid {
    #[cfg(not(feature = "pg18"))]
    // SAFETY: as promised by the caller.
    unsafe {
        pg_sys::RelationGetPrimaryKeyIndex(table)
    }
    #[cfg(feature = "pg18")]
    // SAFETY: as promised by the caller.
    unsafe {
        pg_sys::RelationGetPrimaryKeyIndex(table, false)
    }
}

/// Begins a scan of an index with this number of keys.
///
/// # Safety
/// All are open, and stay open.
pub unsafe fn begin_index_scan(
    table: pg_sys::Relation,
    index: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    keys: c_int,
) -> pg_sys::IndexScanDesc {
    #[cfg(not(feature = "pg18"))]
    // SAFETY: as promised by the caller.
    unsafe {
        pg_sys::index_beginscan(table, index, snapshot, keys, 0)
    }
    #[cfg(feature = "pg18")]
    // SAFETY: as promised by the caller; the searches are not counted.
    unsafe {
        pg_sys::index_beginscan(table, index, snapshot, std::ptr::null_mut(), keys, 0)
    }
}

/// The description of the column at this position, counted from 0.
///
/// # Safety
/// The descriptor is alive and has the column.
pub unsafe fn attribute(descriptor: pg_sys::TupleDesc, at: usize) -> *const pg_sys::FormData_pg_attribute {
    #[cfg(not(feature = "pg18"))]
    // SAFETY: as promised by the caller.
    unsafe {
        (*descriptor).attrs.as_ptr().add(at)
    }
    #[cfg(feature = "pg18")]
    // SAFETY: as promised by the caller; from 18 on the columns follow their compact descriptions.
    unsafe {
        pg_sys::TupleDescAttr(descriptor, at as c_int)
    }
}

/// LISTEN, for processes without a client. Call it in a transaction.
pub fn listen(channel: &CStr) {
    // SAFETY: a C string, which is copied.
    unsafe { guarded(|| r#async::Async_Listen(channel.as_ptr())) }
}

/// Discards the pending notifications of the current transaction, of whatever origin, as a rollback would.
/// Call it outside of subtransactions, in a transaction without LISTEN.
pub fn forget_notifications() {
    // SAFETY: it only discards pending actions.
    unsafe { guarded(|| r#async::AtAbort_Notify()) }
}

/// Whether notifications have arrived.
pub fn is_notified() -> bool {
    // SAFETY: a flag that a signal handler of this process sets.
    unsafe { std::ptr::read_volatile(&raw const r#async::notifyInterruptPending) != 0 }
}

/// Processes the notifications that have arrived. Call it outside of a transaction.
pub fn take_notifications() {
    // SAFETY: it starts a transaction of its own.
    unsafe { guarded(|| r#async::ProcessNotifyInterrupt(false)) }
}

/// Ends the process as Postgres does, with all exit callbacks. Call it between transactions.
#[allow(unreachable_code)]
pub fn exit_process(code: c_int) -> ! {
    // SAFETY: the process holds no lock of Postgres between transactions.
    unsafe { pg_sys::proc_exit(code) };
    // From 18 on the binding lacks the type of a function that never returns.
    std::process::abort()
}

/// A wait event set that lives as long as the process.
///
/// # Safety
/// The process must be attached to shared memory.
pub unsafe fn create_wait_event_set(events: c_int) -> *mut pg_sys::WaitEventSet {
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    // SAFETY: the context lives as long as the process.
    unsafe {
        pg_sys::CreateWaitEventSet(pg_sys::TopMemoryContext, events)
    }
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    // SAFETY: without a resource owner the set lives until it is freed.
    unsafe {
        pg_sys::CreateWaitEventSet(std::ptr::null_mut(), events)
    }
}

/// Memory for a setting's extra, which Postgres frees; null if no memory is left.
///
/// # Safety
/// A check hook must pass it to Postgres.
pub unsafe fn allocate_for_setting(bytes: usize) -> *mut c_void {
    #[cfg(feature = "pg15")]
    // SAFETY: 15 frees it by free().
    unsafe {
        libc::malloc(bytes)
    }
    #[cfg(any(feature = "pg16", feature = "pg17", feature = "pg18"))]
    // SAFETY: returns null instead of raising an ERROR, because the level is LOG.
    unsafe {
        pg_sys::guc_malloc(pg_sys::LOG as c_int, bytes)
    }
}

/// Installs a signal handler.
///
/// # Safety
/// `handler` must be async-signal-safe.
pub unsafe fn install_signal_handler(signal: c_int, handler: unsafe extern "C-unwind" fn(c_int)) {
    #[cfg(not(feature = "pg18"))]
    // SAFETY: as promised by the caller.
    unsafe {
        pg_sys::pqsignal(signal, Some(handler));
    }
    #[cfg(feature = "pg18")]
    // SAFETY: as promised by the caller.
    unsafe {
        pg_sys::pqsignal_be(signal, Some(handler));
    }
}
