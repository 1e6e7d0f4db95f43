//! Owns `outbox.capture()` and `outbox.uncapture()`, which make and drop the triggers of captured tables.
//!
//! They act as their caller, who must own the table: the condition of a capture is parsed, and its triggers are made, with
//! the caller's rights and search path, as by `CREATE TRIGGER`.
//!
//! Runs in: client backends.

use std::ffi::{CStr, CString};

use event_outbox_policy::event::capture::definition::{Definition, Mode, Operation};
use event_outbox_policy::event::capture::{change, template};
use pgrx::prelude::*;

use super::request::Request;
use super::snapshot;
use super::table::{command, identifier, no_table, open, ours, qualified};
use crate::outbox::emit::{naming, topic_grants};
use crate::outbox::table::EVENTS;
use crate::pg::function::{Arguments, sql_function};
use crate::pg::relation::OpenRelation;
use crate::pg::user_context::Owner;
use crate::pg::user_error::UserError;
use crate::pg::{catalog, spi, varlena};

sql_function!(outbox_capture, pg_finfo_outbox_capture, capture);
sql_function!(outbox_uncapture, pg_finfo_outbox_uncapture, uncapture);
sql_function!(outbox_capture_definition, pg_finfo_outbox_capture_definition, capture_definition);

/// The lock that CREATE TRIGGER takes.
const LOCK: pg_sys::LOCKMODE = pg_sys::ShareRowExclusiveLock as pg_sys::LOCKMODE;

/// The trigger for each row.
const ROW_TRIGGER: &str = "outbox_capture";

fn capture(arguments: &Arguments) -> Option<pg_sys::Datum> {
    let Some(table) = arguments.oid(0) else { no_table() };
    let opened = open(table, LOCK);
    require_capturable(&opened);
    let request = Request::read(arguments, &opened);
    require_mode(&opened, &request.definition);
    check_names(&request.definition);
    let events = Owner::of(EVENTS);
    topic_grants::check_of(Owner::of_open(&opened).role(), &request.definition.topic, events);
    let drops = drops(&opened);
    let creations = creations(&opened, &request);
    drop(opened);
    spi::connected(|| {
        drops.iter().for_each(|command| spi::run(command));
        creations.iter().for_each(|command| spi::run(command));
    });
    require_only_ours(&open(table, LOCK), &request);
    if request.snapshot {
        snapshot::emit_at_once(&open(table, LOCK));
    }
    request.definition.topic.into_datum()
}

fn uncapture(arguments: &Arguments) -> Option<pg_sys::Datum> {
    let Some(table) = arguments.oid(0) else { no_table() };
    let opened = open(table, LOCK);
    let drops = drops(&opened);
    drop(opened);
    spi::connected(|| drops.iter().for_each(|command| spi::run(command)));
    (!drops.is_empty()).into_datum()
}

/// The definition in the arguments of a trigger, if they are one.
fn capture_definition(arguments: &Arguments) -> Option<pg_sys::Datum> {
    let text = arguments.bytes(0)?.strip_suffix(b"\0")?;
    Definition::parse(std::str::from_utf8(text).ok()?)?;
    // json has the storage format of bytea.
    Some(varlena::filled(text.len(), |bytes| bytes.copy_from_slice(text)))
}

fn require_capturable(table: &OpenRelation) {
    let (class, oid) = (table.class(), table.data().rd_id);
    let kind = class.relkind as u8;
    if kind != pg_sys::RELKIND_RELATION && kind != pg_sys::RELKIND_PARTITIONED_TABLE {
        refuse(
            "only tables can be captured",
            "The relation is a view, a foreign table or the like.",
            "Capture the tables behind it.",
        );
    }
    if catalog::is_of_extension(oid) {
        refuse(
            "a table of an extension cannot be captured",
            "Events of the outbox's own tables would make further events.",
            "Capture tables of the application.",
        );
    }
    if ours(table).any(|trigger| trigger.tgisclone) {
        refuse(
            "the partition is captured with the table that it is a partition of",
            "Each change would become two events.",
            "Capture either the whole table, or single partitions of it.",
        );
    }
    if kind == pg_sys::RELKIND_RELATION && class.relhassubclass {
        notice!("rows of tables that inherit from {} are not captured with it", qualified(table));
    }
}

/// Statement triggers fire for the table that a statement names, and so miss what is written to partitions directly.
fn require_mode(table: &OpenRelation, definition: &Definition) {
    let class = table.class();
    let is_divided = class.relkind as u8 == pg_sys::RELKIND_PARTITIONED_TABLE || class.relispartition;
    if definition.mode == Mode::Statement && (is_divided || class.relhassubclass) {
        refuse(
            "partitions and tables with children cannot be captured by statement",
            "A trigger for statements misses what a statement writes through another table.",
            "Pass mode => 'row'.",
        );
    }
}

/// Names are checked here and not at each change: they are the choice of who captures the table, not of who writes to it.
fn check_names(definition: &Definition) {
    let mut types: Vec<_> = change::possible(&definition.operations, definition.style)
        .into_iter()
        .filter_map(|action| template::expand(&definition.event_type, &[("action", action.word())]).ok())
        .collect();
    types.dedup();
    types.iter().for_each(|event_type| naming::check(Some(event_type), &definition.topic));
}

fn refuse(message: &str, detail: &str, hint: &str) -> ! {
    UserError {
        code: PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
        message: message.into(),
        detail: detail.into(),
        hint: hint.into(),
    }
    .raise()
}

/// The commands that drop the triggers of a capture.
fn drops(table: &OpenRelation) -> Vec<CString> {
    let name = qualified(table);
    let own = ours(table).filter(|trigger| !trigger.tgisclone);
    own.map(|trigger| {
        // SAFETY: the name of a trigger is a C string.
        let trigger = identifier(unsafe { CStr::from_ptr(trigger.tgname) });
        command(format!("DROP TRIGGER {trigger} ON {name}"))
    })
    .collect()
}

/// The triggers of a capture: their names, what they fire for, and for which rows.
fn triggers(request: &Request) -> Vec<(String, String)> {
    let definition = &request.definition;
    let wants = |operation| definition.operations.contains(&operation);
    let mut all = Vec::new();
    let of_rows: Vec<_> = [Operation::Insert, Operation::Update, Operation::Delete]
        .into_iter()
        .filter(|operation| wants(*operation))
        .collect();
    if definition.mode == Mode::Row && !of_rows.is_empty() {
        let events: Vec<_> = of_rows.iter().map(|operation| operation.word()).collect();
        let when = request.when.as_ref().map_or_else(String::new, |when| format!(" WHEN ({when})"));
        all.push((ROW_TRIGGER.to_owned(), format!("{} ON TABLE FOR EACH ROW{when}", events.join(" OR "))));
    }
    if definition.mode == Mode::Statement {
        all.extend(of_rows.iter().map(|operation| {
            let rows = match operation {
                Operation::Insert => "NEW TABLE AS new_rows",
                Operation::Delete => "OLD TABLE AS old_rows",
                _ => "OLD TABLE AS old_rows NEW TABLE AS new_rows",
            };
            let word = operation.word();
            (
                format!("{ROW_TRIGGER}_{word}"),
                format!("{word} ON TABLE REFERENCING {rows} FOR EACH STATEMENT"),
            )
        }));
    }
    if wants(Operation::Truncate) {
        all.push((format!("{ROW_TRIGGER}_truncate"), "truncate ON TABLE FOR EACH STATEMENT".into()));
    }
    all
}

fn creations(table: &OpenRelation, request: &Request) -> Vec<CString> {
    let name = qualified(table);
    let text = command(request.definition.to_text());
    // SAFETY: a C string; so is the result.
    let argument = unsafe { CStr::from_ptr(pg_sys::quote_literal_cstr(text.as_ptr())) }.to_string_lossy();
    let mut commands = Vec::new();
    for (trigger, event) in triggers(request) {
        let event = event.replacen(" ON TABLE ", &format!(" ON {name} "), 1);
        commands.push(command(format!(
            "CREATE TRIGGER {trigger} AFTER {event} EXECUTE FUNCTION outbox.capture_changes({argument})"
        )));
        if request.replicated {
            commands.push(command(format!("ALTER TABLE {name} ENABLE ALWAYS TRIGGER {trigger}")));
        }
    }
    commands
}

/// The condition is text of the caller's, put into a command: nothing but the triggers must have come of it.
fn require_only_ours(table: &OpenRelation, request: &Request) {
    let expected = triggers(request);
    let text = request.definition.to_text();
    let made = ours(table).filter(|trigger| super::cache::argument(trigger) == text).count();
    if made != expected.len() || ours(table).count() != made {
        UserError {
            code: PgSqlErrorCode::ERRCODE_SYNTAX_ERROR,
            message: "the condition of the capture is not an expression".into(),
            detail: "It ends the command that it is a part of.".into(),
            hint: "Pass a boolean expression of NEW and OLD, such as 'NEW.total > 100'.".into(),
        }
        .raise();
    }
}
