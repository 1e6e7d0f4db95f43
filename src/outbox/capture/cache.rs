//! Owns what a session knows of captures: each definition, with the columns of the table as it is now.
//!
//! Runs in: client backends, and workers that write to captured tables.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CStr;
use std::mem::ManuallyDrop;
use std::rc::Rc;

use event_outbox_policy::event::capture::change::Action;
use event_outbox_policy::event::capture::definition::Definition;
use event_outbox_policy::event::capture::template;
use event_outbox_policy::event::draft::JSON;
use pgrx::prelude::*;

use super::row::Column;
use crate::pg::relation::{self, OpenRelation};
use crate::pg::session_format::CanonicalFormat;
use crate::pg::spi::{self, Access, Statement};
use crate::pg::user_context::Owner;
use crate::pg::user_error::UserError;
use crate::pg::{catalog, watch};

/// How many captures a session remembers.
const REMEMBERED: usize = 1000;

/// The mark of columns that are computed when they are read. Rows that a trigger sees lack their values.
const VIRTUAL: u8 = b'v';

/// The table on which the trigger was made whose copy a partition's trigger is.
static CAPTURED: Statement = Statement::new(
    c"WITH RECURSIVE up (relation, parent) AS ( \
          SELECT t.tgrelid, t.tgparentid FROM pg_catalog.pg_trigger AS t WHERE t.oid OPERATOR(pg_catalog.=) $1 \
          UNION ALL \
          SELECT t.tgrelid, t.tgparentid FROM up JOIN pg_catalog.pg_trigger AS t ON t.oid OPERATOR(pg_catalog.=) up.parent) \
      SELECT up.relation FROM up WHERE up.parent OPERATOR(pg_catalog.=) 0::pg_catalog.oid",
    &[pg_sys::OIDOID],
);

/// A capture, as its table is at present.
pub struct Capture {
    /// What its triggers say.
    pub definition: Definition,
    /// The columns that identify a row.
    pub key: Vec<Column>,
    /// The columns that events carry.
    pub columns: Vec<Column>,
    /// What is the same in all events.
    pub constants: Constants,
    types: [String; Action::ALL.len()],
    /// The table that was captured: this one, or one that it is a partition of.
    captured: pg_sys::Oid,
    depends_on_session: bool,
    source: Source,
    /// Dropped behind the columns, which refer to it.
    _memory: Memory,
}

/// What is the same in all events, as values of Postgres.
pub struct Constants {
    /// The topic.
    pub topic: pg_sys::Datum,
    /// The media type of the payload.
    pub content_type: pg_sys::Datum,
    /// The types, by [`Action::place`].
    pub types: [pg_sys::Datum; Action::ALL.len()],
}

impl Constants {
    /// In the current memory context.
    fn of(definition: &Definition, types: &[String; Action::ALL.len()]) -> Self {
        let value = |text: &str| text.into_datum().unwrap_or(pg_sys::Datum::from(0_usize));
        Self {
            topic: value(&definition.topic),
            content_type: value(JSON),
            types: std::array::from_fn(|at| value(&types[at])),
        }
    }
}

/// What a capture was made from.
#[derive(PartialEq, Eq)]
struct Source {
    relation: pg_sys::Oid,
    changes: u64,
    text: String,
}

/// The memory of what Postgres' functions need.
struct Memory(pg_sys::MemoryContext);

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: a context that nothing else refers to.
        unsafe { pg_sys::MemoryContextDelete(self.0) }
    }
}

thread_local! {
    /// By the oid of the trigger. Not dropped when the process ends: Postgres' memory may be gone by then.
    static KNOWN: RefCell<ManuallyDrop<HashMap<u32, Rc<Capture>>>> =
        RefCell::new(ManuallyDrop::new(HashMap::new()));
}

/// The capture of a trigger on an open table. An ERROR if the trigger says nothing that is understood.
pub fn of_trigger(relation: pg_sys::Relation, trigger: &pg_sys::Trigger) -> Rc<Capture> {
    // SAFETY: the relation is open.
    let table = unsafe { (*relation).rd_id };
    let text = argument(trigger);
    let changes = watch::changes_of(table);
    let id = trigger.tgoid.to_u32();
    let is_fresh = |known: &&Rc<Capture>| {
        let source = &known.source;
        source.changes == changes && source.relation == table && source.text == text
    };
    if let Some(known) = KNOWN.with_borrow(|known| known.get(&id).filter(is_fresh).cloned()) {
        return known;
    }
    let source = Source { relation: table, changes, text: text.to_owned() };
    // SAFETY: the relation is open.
    let capture = Rc::new(read(unsafe { (*relation).rd_att }, trigger, source));
    // What is dropped is dropped after the borrow.
    let _before = KNOWN.with_borrow_mut(|known| {
        let all = (known.len() >= REMEMBERED).then(|| std::mem::take(&mut **known));
        (all, known.insert(id, capture.clone()))
    });
    capture
}

/// The text of the trigger's only argument; empty if there is none.
pub fn argument(trigger: &pg_sys::Trigger) -> &str {
    if trigger.tgnargs != 1 {
        return "";
    }
    // SAFETY: as many C strings as the number says.
    unsafe { CStr::from_ptr(*trigger.tgargs) }.to_str().unwrap_or_default()
}

/// The capture of a trigger, for rows of a query that are described so and have the table's columns by name. `relation` is
/// the captured table.
pub fn of_rows(relation: pg_sys::Oid, trigger: &pg_sys::Trigger, rows: pg_sys::TupleDesc) -> Capture {
    read(rows, trigger, Source { relation, changes: 0, text: argument(trigger).to_owned() })
}

fn read(rows: pg_sys::TupleDesc, trigger: &pg_sys::Trigger, source: Source) -> Capture {
    let Some(definition) = Definition::parse(&source.text) else { not_understood(trigger) };
    let captured = captured_table(source.relation, trigger);
    let types = Action::ALL.map(|action| {
        template::expand(&definition.event_type, &[("action", action.word())]).unwrap_or_default()
    });
    // SAFETY: in a transaction; the context is deleted with the capture, or by the end of the transaction after an ERROR
    // before that.
    let memory = unsafe {
        pg_sys::AllocSetContextCreateExtended(
            pg_sys::CurTransactionContext,
            c"event_outbox capture".as_ptr(),
            pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
            pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
            pg_sys::ALLOCSET_SMALL_MAXSIZE as usize,
        )
    };
    // SAFETY: the descriptor is alive; the columns are described in memory that lives as long as they do.
    let ((key, columns), constants) = unsafe {
        let before = pg_sys::MemoryContextSwitchTo(memory);
        let found = (find_columns(rows, &definition), Constants::of(&definition, &types));
        pg_sys::MemoryContextSwitchTo(before);
        // Nothing fails from here on.
        pg_sys::MemoryContextSetParent(memory, pg_sys::CacheMemoryContext);
        found
    };
    let depends_on_session = key.iter().chain(&columns).any(|column| column.encoder().depends_on_session());
    Capture {
        definition,
        key,
        columns,
        constants,
        types,
        captured,
        depends_on_session,
        source,
        _memory: Memory(memory),
    }
}

/// The columns of the key, and those that events carry.
///
/// # Safety
/// The descriptor is alive.
unsafe fn find_columns(rows: pg_sys::TupleDesc, definition: &Definition) -> (Vec<Column>, Vec<Column>) {
    // SAFETY: as promised by the caller.
    let live = unsafe { catalog::columns_of(rows) }
        .enumerate()
        .filter(|(_, (_, stored))| !stored.attisdropped && stored.attgenerated as u8 != VIRTUAL);
    let key = definition.key.iter().map(|wanted| {
        let found = live.clone().find(|(_, (name, _))| name.to_bytes() == wanted.as_bytes());
        let Some((at, (name, stored))) = found else { key_is_gone(wanted) };
        Column::of(at, name, stored)
    });
    let key = key.collect();
    let carried = live.filter(|(_, (name, _))| definition.has_column(&name.to_string_lossy()));
    (key, carried.map(|(at, (name, stored))| Column::of(at, name, stored)).collect())
}

fn captured_table(relation: pg_sys::Oid, trigger: &pg_sys::Trigger) -> pg_sys::Oid {
    if !trigger.tgisclone {
        return relation;
    }
    let id = [trigger.tgoid.into_datum()];
    let found = spi::connected(|| CAPTURED.execute(&id, Access::Read, 1).iter().next()?.get(1));
    found.unwrap_or(relation)
}

impl Capture {
    /// The type of an event.
    #[must_use]
    pub fn event_type(&self, action: Action) -> &str {
        &self.types[action.place()]
    }

    /// The owner of the captured table, whose right to the topic counts. `relation` is the table on which the trigger fires.
    #[must_use]
    pub fn owner(&self, relation: pg_sys::Relation) -> Owner {
        if self.captured == self.source.relation {
            // SAFETY: the relation is open.
            return unsafe { Owner::of_raw(relation) };
        }
        Owner::of_open(&OpenRelation::open(self.captured, relation::UNLOCKED))
    }

    /// Values are printed in the same way in every session while this lives.
    #[must_use]
    pub fn format(&self) -> Option<CanonicalFormat> {
        self.depends_on_session.then(CanonicalFormat::set)
    }
}

fn not_understood(trigger: &pg_sys::Trigger) -> ! {
    // SAFETY: the name of a trigger is a C string.
    let name = unsafe { CStr::from_ptr(trigger.tgname) }.to_string_lossy();
    UserError {
        code: PgSqlErrorCode::ERRCODE_INVALID_OBJECT_DEFINITION,
        message: format!("trigger \"{name}\" has no valid definition of a capture"),
        detail: "It was made by hand, or by a later version of event_outbox.".into(),
        hint: "Drop the trigger, and call outbox.capture().".into(),
    }
    .raise()
}

fn key_is_gone(column: &str) -> ! {
    UserError {
        code: PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
        message: format!("column \"{column}\" of the key of a captured table does not exist"),
        detail: "Events are ordered and identified by the key that outbox.capture() was given.".into(),
        hint: "Call outbox.capture() again with another key, or outbox.uncapture().".into(),
    }
    .raise()
}
