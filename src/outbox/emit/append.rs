//! Owns the fast path that inserts an event's row into `outbox.events` without the executor.
//!
//! It does what `INSERT` does, with the same access methods. An INSERT spends most of its time on preparation
//! that is the same for each event, and the application waits for it. The fast path requires the table to be
//! as the extension created it. If somebody has added a trigger, a rule, a constraint, a policy, a column or
//! an index, [`Table::append`] declines, and the caller inserts in SQL. `docs/performance.md` shows what it
//! saves.
//!
//! Runs in: client backends.

use std::cell::Cell;
use std::ffi::CStr;

use pgrx::prelude::*;

use super::{backlog, sequences, triggers};
use crate::outbox::relay::registration;
use crate::outbox::table::columns::Column;
use crate::outbox::table::{EVENTS, EVENTS_WATCH, PAUSED};
use crate::pg::relation::{self, OpenRelation};
use crate::pg::user_context::Owner;
use crate::pg::{catalog, compat, varlena};

/// The stored values of the columns [`Column::GIVEN`].
pub type Values = [Option<pg_sys::Datum>; Column::GIVEN.len()];

/// The types of [`Values`].
pub static TYPES: [pg_sys::Oid; Column::GIVEN.len()] = with_time();

/// The types of [`Values`], and of as many times behind them as fit.
pub const fn with_time<const N: usize>() -> [pg_sys::Oid; N] {
    let mut types = [pg_sys::TIMESTAMPTZOID; N];
    let mut at = 0;
    while at < Column::GIVEN.len() {
        types[at] = Column::GIVEN[at].of_type();
        at += 1;
    }
    types
}

/// The triggers that need not fire: this file or `emit()` does their work.
const TRIGGERS: [PgFunction; 2] = [triggers::outbox_before_insert, triggers::outbox_check_event];

/// A C function that Postgres can call.
type PgFunction = unsafe extern "C-unwind" fn(pg_sys::FunctionCallInfo) -> pg_sys::Datum;

/// The positions of the columns, the sequence and the index of a table that is as the extension created it.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    id: usize,
    attempts: usize,
    given: [usize; Column::GIVEN.len()],
    sequence: pg_sys::Oid,
    primary_key: pg_sys::Oid,
}

impl Layout {
    /// The sequence of the ids.
    #[must_use]
    pub fn sequence(&self) -> pg_sys::Oid {
        self.sequence
    }

    /// The index on the id alone.
    #[must_use]
    pub fn primary_key(&self) -> pg_sys::Oid {
        self.primary_key
    }

    /// Puts a new event into a slot.
    ///
    /// # Safety
    /// The slot is empty and made for the table, and has all its columns; the values have the columns' types.
    pub unsafe fn fill(&self, slot: *mut pg_sys::TupleTableSlot, id: i64, values: &Values) {
        // SAFETY: as promised by the caller.
        unsafe {
            let put = |column: usize, value: Option<pg_sys::Datum>| {
                *(*slot).tts_isnull.add(column) = value.is_none();
                *(*slot).tts_values.add(column) = value.unwrap_or(pg_sys::Datum::from(0_usize));
            };
            let columns = (*(*slot).tts_tupleDescriptor).natts as usize;
            (0..columns).for_each(|column| put(column, None));
            put(self.id, id.into_datum());
            put(self.attempts, 0_i32.into_datum());
            self.given.iter().zip(values).for_each(|(column, value)| put(*column, *value));
            pg_sys::ExecStoreVirtualTuple(slot);
        }
    }

    /// The id of the event in a slot.
    ///
    /// # Safety
    /// The slot holds a row of the table.
    #[must_use]
    pub unsafe fn id_in(&self, slot: *mut pg_sys::TupleTableSlot) -> pg_sys::Datum {
        // SAFETY: as promised by the caller.
        unsafe {
            pg_sys::slot_getsomeattrs(slot, self.id as std::ffi::c_int + 1);
            *(*slot).tts_values.add(self.id)
        }
    }
}

/// What this session knows of the table. `layout` is `None` if the table is not as the extension created it.
#[derive(Clone, Copy)]
struct Known {
    table: pg_sys::Oid,
    changes: u64,
    layout: Option<Layout>,
}

thread_local! {
    static KNOWN: Cell<Option<Known>> = const { Cell::new(None) };
}

/// `outbox.events`, open for writing. The lock is held until the end of the transaction.
pub struct Table {
    relation: OpenRelation,
}

impl Table {
    /// Opens the table. An ERROR in a read-only transaction, or if the table does not exist.
    #[must_use]
    pub fn open() -> Self {
        // SAFETY: the name is a C string.
        unsafe { pg_sys::PreventCommandIfReadOnly(c"INSERT".as_ptr()) };
        Self { relation: OpenRelation::open(EVENTS.existing(), relation::WRITE) }
    }

    /// The table's owner.
    #[must_use]
    pub fn owner(&self) -> Owner {
        Owner::of_open(&self.relation)
    }

    /// The table, open as long as `self`.
    #[must_use]
    pub fn raw(&self) -> pg_sys::Relation {
        self.relation.raw()
    }

    /// Inserts a row with these values, and wakes the relay at commit. Returns `false`, and does nothing, if
    /// the table requires an INSERT in SQL.
    #[must_use]
    pub fn append(&self, values: &Values) -> bool {
        let Some(layout) = self.layout() else { return false };
        let numbered = numbered(values);
        let values = numbered.as_ref().unwrap_or(values);
        // The transaction needs its id before the event gets one. For an INSERT, the trigger `before_insert`
        // assigns it.
        // SAFETY: in a transaction; this assigns its id if it has none.
        unsafe { pg_sys::GetTopTransactionId() };
        let id = compat::next_value(layout.sequence);
        if id <= 0 {
            return false;
        }
        registration::wake_at_commit();
        backlog::count();
        // SAFETY: the relation is open and locked for writing. The slot is made for it, and has all its
        // columns; the values have the columns' types. The index is its primary key, a b-tree on the id
        // alone.
        unsafe {
            let slot = pg_sys::table_slot_create(self.relation.raw(), std::ptr::null_mut());
            layout.fill(slot, id, values);
            compat::guarded(|| {
                compat::insert_row(self.relation.raw(), slot, pg_sys::GetCurrentCommandId(true))
            });
            self.add_to_index(layout.primary_key, id, &mut (*slot).tts_tid);
            pg_sys::ExecDropSingleTupleTableSlot(slot);
            // Later commands of this transaction see the row.
            pg_sys::CommandCounterIncrement();
        }
        true
    }

    /// # Safety
    /// The index covers the id alone, and the row with this id lies at `tid`.
    unsafe fn add_to_index(&self, index: pg_sys::Oid, id: i64, tid: pg_sys::ItemPointer) {
        let (mut key, mut is_null) = (pg_sys::Datum::from(id), false);
        let index = OpenRelation::open(index, relation::WRITE);
        // SAFETY: as promised by the caller; the relation is open.
        unsafe {
            pg_sys::index_insert(
                index.raw(),
                &mut key,
                &mut is_null,
                tid,
                self.relation.raw(),
                pg_sys::IndexUniqueCheck::UNIQUE_CHECK_YES,
                false,
                pg_sys::BuildIndexInfo(index.raw()),
            );
        }
    }

    /// The table's layout, examined again after each change of the table. `None` if it requires INSERTs in SQL.
    #[must_use]
    pub fn layout(&self) -> Option<Layout> {
        let table = self.relation.data().rd_id;
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
        let at = |wanted: Column| columns.iter().position(|column| *column == Some(wanted));
        let (id, attempts) = (at(Column::Id)?, at(Column::Attempts)?);
        let mut given = [0; Column::GIVEN.len()];
        for (place, column) in given.iter_mut().zip(Column::GIVEN) {
            *place = at(column)?;
        }
        let number = pg_sys::AttrNumber::try_from(id + 1).ok()?;
        // SAFETY: the relation is open.
        let sequence = unsafe { compat::identity_sequence(self.relation.raw(), number) };
        if !self.has_only_our_triggers() || !self.has_only_our_check(number) || sequence == pg_sys::InvalidOid
        {
            return None;
        }
        Some(Layout { id, attempts, given, sequence, primary_key: self.only_index(number)? })
    }

    /// The columns by position, `None` for a dropped one. No result if a column was added or changed.
    fn columns(&self) -> Option<Vec<Option<Column>>> {
        let (relation, class) = (self.relation.data(), self.relation.class());
        if class.relkind as u8 != pg_sys::RELKIND_RELATION
            || class.relispartition
            || class.relrowsecurity
            || !relation.rd_rules.is_null()
        {
            return None;
        }
        let unchanged = |name: &CStr, stored: &pg_sys::FormData_pg_attribute| {
            let column = Column::named(name)?;
            let has_its_type = stored.atttypid == column.of_type() && stored.atttypmod == -1;
            let may_be_null = !stored.attnotnull || column.is_required();
            ((has_its_type || column.is_null_at_first()) && may_be_null && stored.attgenerated == 0)
                .then_some(Some(column))
        };
        // SAFETY: the relation is open.
        unsafe { catalog::columns(self.relation.raw()) }
            .map(|(name, stored)| if stored.attisdropped { Some(None) } else { unchanged(name, stored) })
            .collect()
    }

    fn has_only_our_triggers(&self) -> bool {
        // SAFETY: the relation is open; `numtriggers` is the length of the array.
        let triggers = unsafe {
            let Some(described) = self.relation.data().trigdesc.as_ref() else { return false };
            std::slice::from_raw_parts(described.triggers, described.numtriggers as usize)
        };
        // The foreign key on `paused` is always null, so its check never has anything to do.
        let paused = PAUSED.oid();
        let mut on_insertion = triggers
            .iter()
            .filter(|trigger| trigger.tgtype as u32 & pg_sys::TRIGGER_TYPE_INSERT != 0)
            .filter(|trigger| !trigger.tgisinternal || trigger.tgconstrrelid != paused);
        let enabled = [pg_sys::TRIGGER_FIRES_ON_ORIGIN, pg_sys::TRIGGER_FIRES_ALWAYS];
        // Compared by the C function: the owner can change names and function bodies.
        let is_ours = |trigger: &pg_sys::Trigger| {
            let calls = called(trigger.tgfoid);
            TRIGGERS.iter().any(|ours| calls.is_some_and(|calls| std::ptr::fn_addr_eq(calls, *ours)))
                && trigger.tgqual.is_null()
                && enabled.contains(&(trigger.tgenabled as u8))
        };
        on_insertion.clone().count() == TRIGGERS.len() && on_insertion.all(is_ours)
    }

    /// Whether the only check constraint is `id > 0`. It holds for each appended row: [`Table::append`]
    /// declines if the sequence returns another number.
    fn has_only_our_check(&self, id: pg_sys::AttrNumber) -> bool {
        // SAFETY: the relation is open; `num_check` is the length of the array, and each check is an
        // expression that Postgres wrote. A node has the type that its tag names, and the list knows its
        // length.
        unsafe {
            let Some(constraints) = (*self.relation.data().rd_att).constr.as_ref() else { return false };
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

    /// The primary key, if it is a b-tree on this column alone and the only index.
    fn only_index(&self, column: pg_sys::AttrNumber) -> Option<pg_sys::Oid> {
        // SAFETY: the relation is open, and the index is closed again.
        unsafe {
            let all = pgrx::PgList::<pg_sys::Oid>::from_pg(pg_sys::RelationGetIndexList(self.relation.raw()));
            let primary_key = all.get_oid(0).filter(|_| all.len() == 1)?;
            let index = OpenRelation::open(primary_key, relation::READ);
            let described = &*index.data().rd_index;
            let is_plain = described.indisprimary
                && described.indimmediate
                && described.indisready
                && described.indisvalid
                && described.indnatts == 1
                && described.indkey.values.as_slice(1) == [column]
                && index.class().relam == pg_sys::BTREE_AM_OID;
            is_plain.then_some(primary_key)
        }
    }
}

/// The values of an event whose topic is numbered, with its number.
#[must_use]
pub fn numbered(values: &Values) -> Option<Values> {
    let at = |wanted| Column::GIVEN.iter().position(|column| *column == wanted);
    let [topic, key, headers] = [at(Column::Topic)?, at(Column::Key)?, at(Column::Headers)?];
    // SAFETY: a text that lives as long as the event.
    let name = unsafe { varlena::text(values[topic]?) };
    let own = sequences::to_headers(name, values[key], values[headers])?;
    let mut numbered = *values;
    numbered[headers] = own;
    Some(numbered)
}

/// The C function that an SQL function calls directly: without a language handler, and without a change of
/// user or settings.
fn called(function: pg_sys::Oid) -> Option<PgFunction> {
    let mut found = pg_sys::FmgrInfo::default();
    // SAFETY: in a transaction; the function is only looked up.
    unsafe { pg_sys::fmgr_info(function, &mut found) };
    found.fn_addr
}
