//! What differs between the supported versions of Postgres, and what its bindings leave out.

use std::ffi::{CStr, c_int, c_void};

use pgrx::prelude::*;

/// Microseconds from the Unix epoch to Postgres' own, 2000-01-01 UTC.
const EPOCH_SHIFT: i64 = 946_684_800_000_000;

/// The right to read a relation. Its type is wider from 16 on.
#[allow(clippy::unnecessary_cast)]
pub const ACL_SELECT: pg_sys::AclMode = pg_sys::ACL_SELECT as pg_sys::AclMode;

/// Settings that must not end a background worker and that only later versions have, with values that do not.
#[cfg(not(any(feature = "pg17", feature = "pg18")))]
pub const LATER_SETTINGS: [(&CStr, &CStr); 0] = [];
/// Settings that must not end a background worker and that only later versions have, with values that do not.
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

/// A wait of ours under a name of its own, as `pg_stat_activity.wait_event` shows it. Before version 17 all extensions
/// share one.
#[cfg(any(feature = "pg17", feature = "pg18"))]
#[must_use]
pub fn wait_event(name: &CStr) -> u32 {
    // SAFETY: a C string, which is copied; a name that is known already gives the same number.
    unsafe { pg_sys::WaitEventExtensionNew(name.as_ptr()) }
}
/// A wait of ours under a name of its own, as `pg_stat_activity.wait_event` shows it. Before version 17 all extensions
/// share one.
#[cfg(not(any(feature = "pg17", feature = "pg18")))]
#[must_use]
pub fn wait_event(_name: &CStr) -> u32 {
    pg_sys::PG_WAIT_EXTENSION
}

// commands/async.h is not among the bindings of pgrx.
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

// commands/sequence.h is not, either.
mod sequence {
    use pgrx::pg_sys;

    unsafe extern "C-unwind" {
        pub fn nextval_internal(sequence: pg_sys::Oid, check_permissions: bool) -> i64;
    }
}

/// The next number of a sequence that an identity column owns, for which its owner's rights are not asked.
#[must_use]
pub fn next_value(sequence: pg_sys::Oid) -> i64 {
    // SAFETY: in a transaction; an ERROR if there is no such sequence.
    unsafe { guarded(|| sequence::nextval_internal(sequence, false)) }
}

/// The sequence of an identity column; invalid if the column is none.
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
/// As `call` needs it.
pub unsafe fn guarded<R: Copy>(call: impl FnOnce() -> R) -> R {
    // SAFETY: as promised by the caller.
    unsafe { pg_sys::ffi::pg_guard_ffi_boundary(call) }
}

/// Functions that the bindings of pgrx have too, without the guard that those put around each call: for loops where
/// one guard per row is enough, called within [`guarded`]; and where an ERROR is to pass as it is.
pub mod raw {
    use pgrx::pg_sys;
    use std::ffi::{c_char, c_int};

    unsafe extern "C-unwind" {
        /// Puts the scan's next row into the slot.
        pub fn index_getnext_slot(
            scan: pg_sys::IndexScanDesc,
            direction: pg_sys::ScanDirection::Type,
            slot: *mut pg_sys::TupleTableSlot,
        ) -> bool;
        /// What a utility command does where nobody has a hook.
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
        /// Takes so many columns of the slot's row apart.
        pub fn slot_getsomeattrs_int(slot: *mut pg_sys::TupleTableSlot, columns: c_int);
    }
}

/// Puts the row that lies at `tid` into the slot, if the snapshot sees it.
///
/// # Safety
/// Within [`guarded`]; all are alive, and the slot is one of the table's.
pub unsafe fn fetch_row_version(
    table: pg_sys::Relation,
    tid: &mut pg_sys::ItemPointerData,
    snapshot: pg_sys::Snapshot,
    slot: *mut pg_sys::TupleTableSlot,
) -> bool {
    // SAFETY: an open table has its access method, which has all functions but those documented as optional.
    unsafe {
        let methods = &*(*table).rd_tableam;
        methods.tuple_fetch_row_version.is_some_and(|fetch| fetch(table, tid, snapshot, slot))
    }
}

/// Inserts the slot's row, whose place is then in the slot.
///
/// # Safety
/// Within [`guarded`]; both are alive, the table is locked for writing, and the slot is one of the table's.
pub unsafe fn insert_row(
    table: pg_sys::Relation,
    slot: *mut pg_sys::TupleTableSlot,
    command: pg_sys::CommandId,
) {
    // SAFETY: an open table has its access method, which has all functions but those documented as optional.
    unsafe {
        let methods = &*(*table).rd_tableam;
        if let Some(insert) = methods.tuple_insert {
            insert(table, slot, command, 0, std::ptr::null_mut());
        }
    }
}

/// Deletes the row that lies at `tid`, waiting for whoever has locked it. `false` if it has been changed or deleted
/// meanwhile.
///
/// # Safety
/// Within [`guarded`]; all are alive, the table is locked for writing, and the snapshot sees the row.
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

/// The transaction that wrote the slot's row, none if all know that it has committed; `None` if the slot does not say which.
///
/// # Safety
/// The slot is alive and holds a row.
pub unsafe fn writer_of(slot: *mut pg_sys::TupleTableSlot) -> Option<pg_sys::TransactionId> {
    // SAFETY: as promised by the caller; a slot with these operations is one of a heap, and points to a tuple with a header.
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

/// The place up to which the log is on the disks of all standbys that are required; as it was a moment ago.
#[must_use]
pub fn flushed_by_standbys() -> pg_sys::XLogRecPtr {
    const FLUSH: usize = 1;
    // SAFETY: in shared memory as long as the server runs. Aligned, so read at once; that it may grow meanwhile is harmless.
    unsafe { (&raw const (*pg_sys::WalSndCtl).lsn[FLUSH]).read_volatile() }
}

/// The table's primary key; invalid if there is none.
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

/// Begins a scan of an index with so many keys.
///
/// # Safety
/// All are open, and stay so.
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
    // SAFETY: as promised by the caller; nobody counts its searches.
    unsafe {
        pg_sys::index_beginscan(table, index, snapshot, std::ptr::null_mut(), keys, 0)
    }
}

/// The description of a column, counted from 0.
///
/// # Safety
/// The descriptor is alive and has so many columns.
pub unsafe fn attribute(descriptor: pg_sys::TupleDesc, at: usize) -> *const pg_sys::FormData_pg_attribute {
    #[cfg(not(feature = "pg18"))]
    // SAFETY: as promised by the caller.
    unsafe {
        (*descriptor).attrs.as_ptr().add(at)
    }
    #[cfg(feature = "pg18")]
    // SAFETY: as promised by the caller; from 18 on the columns stand behind their compact descriptions.
    unsafe {
        pg_sys::TupleDescAttr(descriptor, at as c_int)
    }
}

/// LISTEN, for callers that have no client. In a transaction.
pub fn listen(channel: &CStr) {
    // SAFETY: a C string, which is copied.
    unsafe { guarded(|| r#async::Async_Listen(channel.as_ptr())) }
}

/// Forgets the notifications of the current transaction, whoever made them, as its end without a commit would. Outside a
/// subtransaction, where nobody has said LISTEN.
pub fn forget_notifications() {
    // SAFETY: it only drops what is pending.
    unsafe { guarded(|| r#async::AtAbort_Notify()) }
}

/// Whether notifications have arrived.
pub fn is_notified() -> bool {
    // SAFETY: a flag that a signal handler of this process sets.
    unsafe { std::ptr::read_volatile(&raw const r#async::notifyInterruptPending) != 0 }
}

/// Takes in the notifications that have arrived. Outside a transaction.
pub fn take_notifications() {
    // SAFETY: it makes a transaction of its own.
    unsafe { guarded(|| r#async::ProcessNotifyInterrupt(false)) }
}

/// Ends the process in Postgres' way. To be called between transactions.
#[allow(unreachable_code)]
pub fn exit_process(code: c_int) -> ! {
    // SAFETY: no lock of Postgres is held between transactions.
    unsafe { pg_sys::proc_exit(code) };
    // From 18 on the binding does not say that it never returns.
    std::process::abort()
}

/// A wait event set that lives as long as the process.
///
/// # Safety
/// To be called in a process that is attached to shared memory.
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

/// Memory for a setting's extra, which Postgres frees; null if there is none left.
///
/// # Safety
/// To be given to Postgres by a check hook.
pub unsafe fn allocate_for_setting(bytes: usize) -> *mut c_void {
    #[cfg(feature = "pg15")]
    // SAFETY: 15 frees it by free().
    unsafe {
        libc::malloc(bytes)
    }
    #[cfg(any(feature = "pg16", feature = "pg17", feature = "pg18"))]
    // SAFETY: allocates or answers null, as LOG is no ERROR.
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
