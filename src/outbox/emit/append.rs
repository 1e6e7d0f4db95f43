//! The row of an event put into `outbox.events` without an executor.
//!
//! What `INSERT` would do, by the same access methods; the application waits for it, and most of an INSERT's time goes
//! into preparing what is the same each time. It is done where the table is as the extension made it. Where somebody
//! has given it a trigger, a rule, a constraint, a policy, a column or an index of their own, [`Table::append`]
//! declines, and the caller inserts in SQL. See `docs/performance.md` for what it saves.

use std::cell::Cell;
use std::ffi::CStr;

use pgrx::prelude::*;

use super::triggers;
use crate::outbox::relay::registration;
use crate::outbox::table::{EVENTS, EVENTS_WATCH, PAUSED};
use crate::pg::user_context::Owner;
use crate::pg::{catalog, compat};

/// What an event's author and `emit()` decide, in the order in which the values are given; the rest follows.
const GIVEN: [(&CStr, pg_sys::Oid); 9] = [
    (c"event_id", pg_sys::UUIDOID),
    (c"emitted_at", pg_sys::TIMESTAMPTZOID),
    (c"topic", pg_sys::TEXTOID),
    (c"partition", pg_sys::INT4OID),
    (c"key", pg_sys::BYTEAOID),
    (c"payload", pg_sys::BYTEAOID),
    (c"headers", pg_sys::JSONOID),
    (c"event_type", pg_sys::TEXTOID),
    (c"content_type", pg_sys::TEXTOID),
];

/// What follows: the position, and no attempt so far.
const OWN: [(&CStr, pg_sys::Oid); 2] = [(c"id", pg_sys::INT8OID), (c"attempts", pg_sys::INT4OID)];

/// The values of the given columns, as they are stored.
pub type Values = [Option<pg_sys::Datum>; GIVEN.len()];

/// The types of [`Values`].
pub static TYPES: [pg_sys::Oid; GIVEN.len()] = {
    let mut types = [pg_sys::InvalidOid; GIVEN.len()];
    let mut at = 0;
    while at < types.len() {
        types[at] = GIVEN[at].1;
        at += 1;
    }
    types
};

/// Columns that are null in a row that Kafka has never refused, or always.
const LATER: [&CStr; 5] = [c"next_attempt_at", c"last_error", c"error_class", c"first_refused_at", c"paused"];

/// Columns whose values are never null.
const REQUIRED: [&CStr; 5] = [c"id", c"event_id", c"emitted_at", c"topic", c"attempts"];

/// What the extension's own triggers do on an insertion is done here, or has been done by `emit()`.
const TRIGGERS: [PgFunction; 2] = [triggers::outbox_before_insert, triggers::outbox_check_event];

/// A function as Postgres calls it.
type PgFunction = unsafe extern "C-unwind" fn(pg_sys::FunctionCallInfo) -> pg_sys::Datum;

/// Where things are in a table that is as the extension made it.
#[derive(Debug, Clone, Copy)]
struct Layout {
    id: usize,
    attempts: usize,
    given: [usize; GIVEN.len()],
    sequence: pg_sys::Oid,
    primary_key: pg_sys::Oid,
}

/// What this session has found of the table; `layout` is `None` if it is not as the extension made it.
#[derive(Clone, Copy)]
struct Known {
    table: pg_sys::Oid,
    changes: u64,
    layout: Option<Layout>,
}

thread_local! {
    static KNOWN: Cell<Option<Known>> = const { Cell::new(None) };
}

/// `outbox.events`, open to write. Its lock is kept to the end of the transaction.
pub struct Table {
    relation: pg_sys::Relation,
}

impl Table {
    /// Opens it. An ERROR in a transaction that must not write, and where there is none.
    #[must_use]
    pub fn open() -> Self {
        // SAFETY: in a transaction, whose end releases what an ERROR leaves open; the name is a C string.
        unsafe {
            pg_sys::PreventCommandIfReadOnly(c"INSERT".as_ptr());
            let table = EVENTS.existing();
            Self { relation: pg_sys::table_open(table, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE) }
        }
    }

    /// Whose it is.
    #[must_use]
    pub fn owner(&self) -> Owner {
        // SAFETY: the relation is open.
        unsafe { Owner::of_open(self.relation) }
    }

    /// Puts a row in, with these values, and has the relay woken at commit. `false` if the table is not one
    /// for that: then nothing has been done.
    #[must_use]
    pub fn append(&self, values: &Values) -> bool {
        let Some(layout) = self.layout() else { return false };
        // The transaction's id before the event's, as the trigger `before_insert` sees to for an INSERT.
        // SAFETY: in a transaction; assigns its id if it has none.
        unsafe { pg_sys::GetTopTransactionId() };
        let id = compat::next_value(layout.sequence);
        if id <= 0 {
            return false;
        }
        registration::wake_at_commit();
        // SAFETY: the relation is open and locked for writing. The slot is one of it, and has as many columns; the values
        // are of the columns' types. The index is its primary key, a b-tree of the id alone.
        unsafe {
            let slot = pg_sys::table_slot_create(self.relation, std::ptr::null_mut());
            let put = |column: usize, value: Option<pg_sys::Datum>| {
                *(*slot).tts_isnull.add(column) = value.is_none();
                *(*slot).tts_values.add(column) = value.unwrap_or(pg_sys::Datum::from(0_usize));
            };
            let columns = (*(*slot).tts_tupleDescriptor).natts as usize;
            (0..columns).for_each(|column| put(column, None));
            put(layout.id, id.into_datum());
            put(layout.attempts, 0_i32.into_datum());
            layout.given.iter().zip(values).for_each(|(column, value)| put(*column, *value));
            pg_sys::ExecStoreVirtualTuple(slot);
            compat::guarded(|| compat::insert_row(self.relation, slot, pg_sys::GetCurrentCommandId(true)));
            self.add_to_index(layout.primary_key, id, &mut (*slot).tts_tid);
            pg_sys::ExecDropSingleTupleTableSlot(slot);
            // What follows in this transaction sees the row.
            pg_sys::CommandCounterIncrement();
        }
        true
    }

    /// # Safety
    /// The index is one of the id alone, and the row with this id lies at `tid`.
    unsafe fn add_to_index(&self, index: pg_sys::Oid, id: i64, tid: pg_sys::ItemPointer) {
        let (mut key, mut is_null) = (pg_sys::Datum::from(id), false);
        // SAFETY: as promised by the caller; the relation is open.
        unsafe {
            let index = pg_sys::index_open(index, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE);
            pg_sys::index_insert(
                index,
                &mut key,
                &mut is_null,
                tid,
                self.relation,
                pg_sys::IndexUniqueCheck::UNIQUE_CHECK_YES,
                false,
                pg_sys::BuildIndexInfo(index),
            );
            pg_sys::index_close(index, pg_sys::NoLock as pg_sys::LOCKMODE);
        }
    }

    /// Where things are, found anew when the table has changed.
    fn layout(&self) -> Option<Layout> {
        // SAFETY: the relation is open.
        let table = unsafe { (*self.relation).rd_id };
        EVENTS_WATCH.set_table(table);
        let changes = EVENTS_WATCH.changes();
        if let Some(known) = KNOWN.get()
            && known.table == table
            && known.changes == changes
        {
            return known.layout;
        }
        let known = Known { table, changes, layout: self.find_layout() };
        KNOWN.set(Some(known));
        known.layout
    }

    fn find_layout(&self) -> Option<Layout> {
        let columns = self.columns()?;
        let at = |name: &CStr| columns.iter().position(|column| *column == Some(name));
        let (id, attempts) = (at(c"id")?, at(c"attempts")?);
        let mut given = [0; GIVEN.len()];
        for (place, (name, _)) in given.iter_mut().zip(GIVEN) {
            *place = at(name)?;
        }
        let number = pg_sys::AttrNumber::try_from(id + 1).ok()?;
        // SAFETY: the relation is open.
        let sequence = unsafe { compat::identity_sequence(self.relation, number) };
        if !self.has_only_our_triggers() || !self.has_only_our_check(number) || sequence == pg_sys::InvalidOid
        {
            return None;
        }
        Some(Layout { id, attempts, given, sequence, primary_key: self.only_index(number)? })
    }

    /// The names of the columns, `None` for a dropped one; nothing if one is not the extension's or not as it was.
    fn columns(&self) -> Option<Vec<Option<&CStr>>> {
        // SAFETY: the relation is open.
        let columns = unsafe {
            let relation = &*self.relation;
            let class = &*relation.rd_rel;
            if class.relkind as u8 != pg_sys::RELKIND_RELATION
                || class.relispartition
                || class.relrowsecurity
                || !relation.rd_rules.is_null()
            {
                return None;
            }
            catalog::columns(self.relation)
        };
        columns
            .map(|(name, column)| {
                let typed = (name, column.atttypid);
                let is_as_it_was = (GIVEN.contains(&typed) || OWN.contains(&typed)) && column.atttypmod == -1;
                let is_ours = is_as_it_was || LATER.contains(&name);
                let may_be_null = !column.attnotnull || REQUIRED.contains(&name);
                match column.attisdropped {
                    true => Some(None),
                    false => (is_ours && may_be_null && column.attgenerated == 0).then_some(Some(name)),
                }
            })
            .collect()
    }

    fn has_only_our_triggers(&self) -> bool {
        // SAFETY: the relation is open; it has as many triggers as it says.
        let triggers = unsafe {
            let Some(described) = (*self.relation).trigdesc.as_ref() else { return false };
            std::slice::from_raw_parts(described.triggers, described.numtriggers as usize)
        };
        // The foreign key that always is null refers to this one.
        let paused = PAUSED.oid();
        let mut on_insertion = triggers
            .iter()
            .filter(|trigger| trigger.tgtype as u32 & pg_sys::TRIGGER_TYPE_INSERT != 0)
            .filter(|trigger| !trigger.tgisinternal || trigger.tgconstrrelid != paused);
        let enabled = [pg_sys::TRIGGER_FIRES_ON_ORIGIN, pg_sys::TRIGGER_FIRES_ALWAYS];
        // By what it does: names, and the bodies of functions, are the owner's to change.
        let is_ours = |trigger: &pg_sys::Trigger| {
            let calls = called(trigger.tgfoid);
            TRIGGERS.iter().any(|ours| calls.is_some_and(|calls| std::ptr::fn_addr_eq(calls, *ours)))
                && trigger.tgqual.is_null()
                && enabled.contains(&(trigger.tgenabled as u8))
        };
        on_insertion.clone().count() == TRIGGERS.len() && on_insertion.all(is_ours)
    }

    /// Whether its one check is `id > 0`: the sequence gives positive numbers only, or [`Table::append`] declines.
    fn has_only_our_check(&self, id: pg_sys::AttrNumber) -> bool {
        // SAFETY: the relation is open; it has as many checks as it says, each an expression as Postgres writes it. A node
        // is what its tag says, and the list has as many as it says.
        unsafe {
            let Some(constraints) = (*(*self.relation).rd_att).constr.as_ref() else { return false };
            if constraints.num_check != 1 {
                return false;
            }
            let check = pg_sys::stringToNode((*constraints.check).ccbin);
            if !pgrx::is_a(check.cast(), pg_sys::NodeTag::T_OpExpr) {
                return false;
            }
            let comparison = &*check.cast::<pg_sys::OpExpr>();
            let sides = pgrx::PgList::<pg_sys::Node>::from_pg(comparison.args);
            let (Some(left), Some(right)) = (sides.get_ptr(0), sides.get_ptr(1)) else { return false };
            pg_sys::get_opcode(comparison.opno).to_u32() == pg_sys::F_INT84GT
                && pgrx::is_a(left, pg_sys::NodeTag::T_Var)
                && (*left.cast::<pg_sys::Var>()).varattno == id
                && pgrx::is_a(right, pg_sys::NodeTag::T_Const)
                && !(*right.cast::<pg_sys::Const>()).constisnull
                && (*right.cast::<pg_sys::Const>()).constvalue.value() == 0
        }
    }

    /// The primary key, if it is a b-tree of this column alone, and there is no other index.
    fn only_index(&self, column: pg_sys::AttrNumber) -> Option<pg_sys::Oid> {
        // SAFETY: the relation is open; what is opened is closed again.
        unsafe {
            let all = pgrx::PgList::<pg_sys::Oid>::from_pg(pg_sys::RelationGetIndexList(self.relation));
            let primary_key = all.get_oid(0).filter(|_| all.len() == 1)?;
            let index = pg_sys::index_open(primary_key, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            let described = &*(*index).rd_index;
            let is_plain = described.indisprimary
                && described.indimmediate
                && described.indisready
                && described.indisvalid
                && described.indnatts == 1
                && described.indkey.values.as_slice(1) == [column]
                && (*(*index).rd_rel).relam == pg_sys::BTREE_AM_OID;
            pg_sys::index_close(index, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            is_plain.then_some(primary_key)
        }
    }
}

/// The C function behind a function of SQL, where nothing stands between: no language, and no other user or settings.
fn called(function: pg_sys::Oid) -> Option<PgFunction> {
    let mut found = pg_sys::FmgrInfo::default();
    // SAFETY: in a transaction; what is looked up is not called.
    unsafe { pg_sys::fmgr_info(function, &mut found) };
    found.fn_addr
}

impl Drop for Table {
    fn drop(&mut self) {
        // When an ERROR unwinds, the end of the transaction closes it.
        if !std::thread::panicking() {
            // SAFETY: pairs with `open`; the lock is kept.
            unsafe { pg_sys::table_close(self.relation, pg_sys::NoLock as pg_sys::LOCKMODE) }
        }
    }
}
