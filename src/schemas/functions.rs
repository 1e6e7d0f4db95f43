//! Owns the checks of `outbox.register_schema()` and `outbox.bind_schema()` (`sql/schemas/functions.sql`).
//!
//! Runs in: client backends.

use event_outbox_policy::registry::answer::Found;
use event_outbox_policy::registry::references::resolve;
use event_outbox_policy::schema::compatibility::{self, Incompatible, Level};
use event_outbox_policy::schema::compiled::{Compiled, Format, Message};
use event_outbox_policy::schema::fault::{Fault, shown};
use event_outbox_policy::schema::interrupt;
use event_outbox_policy::schema::limits::{MAX_DEFINITION_BYTES, MEMORY_PER_BYTE};
use pgrx::prelude::*;

use super::definitions;
use super::encode::sentence;
use super::references;
use crate::pg::function::{Arguments, sql_function};
use crate::pg::user_error::UserError;
use crate::pg::varlena;

sql_function!(outbox_check_schema, pg_finfo_outbox_check_schema, check_schema);
sql_function!(outbox_resolve_schema, pg_finfo_outbox_resolve_schema, resolve_schema);
sql_function!(outbox_check_schema_version, pg_finfo_outbox_check_schema_version, check_schema_version);
sql_function!(outbox_check_schema_message, pg_finfo_outbox_check_schema_message, check_schema_message);

/// Compiles a definition of a format. An ERROR if it is wrong.
fn check_schema(arguments: &Arguments) -> Option<pg_sys::Datum> {
    compiled(arguments);
    None
}

/// Makes one definition of a schema and those that it refers to, with the rights of who calls. Arguments: format, definition,
/// references.
fn resolve_schema(arguments: &Arguments) -> Option<pg_sys::Datum> {
    let format = format(arguments);
    let found = Found {
        id: None,
        version: None,
        schema_type: references::schema_type(format.name()),
        definition: arguments.text(1)?.to_owned(),
        references: references::read(arguments.text(2)?),
    };
    match resolve(found, references::answer) {
        Ok(found) => found.definition.into_datum(),
        Err(failure) => malformed(format.name(), &Fault::new(failure.text)),
    }
}

/// The same, and compares it with an older version. Arguments: format, definition, compatibility, the older definition, its
/// version and subject.
fn check_schema_version(arguments: &Arguments) -> Option<pg_sys::Datum> {
    let level = level(arguments.text(2).unwrap_or_default());
    let new = compiled(arguments);
    let format = new.format();
    let older = Compiled::compile(format, arguments.text(3).unwrap_or_default());
    let compared = match &older {
        Ok(older) => compatibility::check(level, &new, older),
        // What no session can use any more binds nobody.
        Err(_) => Ok(()),
    };
    if let Err(incompatible) = compared {
        refuse(&incompatible, arguments.text(5).unwrap_or_default(), arguments.integer(4).unwrap_or(0));
    }
    None
}

/// Checks that a definition has a message. Arguments: format, definition, the message's name.
fn check_schema_message(arguments: &Arguments) -> Option<pg_sys::Datum> {
    let schema = compiled(arguments);
    if let Err(fault) = schema.indexes(Message::named(arguments.text(2))) {
        UserError {
            code: PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            message: "no such message".into(),
            detail: format!("{}.", sentence(&fault.reason, true)),
            hint: "Pass the name of a message of a Protobuf schema, or NULL for the first one.".into(),
        }
        .raise();
    }
    None
}

/// Arguments: format and definition.
fn compiled(arguments: &Arguments) -> Compiled {
    let format = format(arguments);
    let definition = arguments.text(1).unwrap_or_default();
    Compiled::compile(format, definition).unwrap_or_else(|fault| malformed(format.name(), &fault))
}

/// The format of a definition of which memory can hold what is made. Arguments: format and definition.
fn format(arguments: &Arguments) -> Format {
    interrupt::ask(definitions::answer_interrupts);
    let name = arguments.text(0).unwrap_or_default();
    let format = Format::parse(name).unwrap_or_else(|| wrong_format(name));
    if !format.is_built() {
        UserError {
            code: PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            message: format!("schemas of format {name} are not supported by this build"),
            detail: format!("The cargo feature for {name} was off."),
            hint: "Install a build of event_outbox with it.".into(),
        }
        .raise();
    }
    // SAFETY: an argument of the type text, which lives as long as the call.
    let bytes = arguments.datum(1).map_or(0, |definition| unsafe { varlena::length(definition) });
    if bytes > MAX_DEFINITION_BYTES {
        malformed(
            name,
            &Fault::new(format!("the definition has {bytes} bytes, and {MAX_DEFINITION_BYTES} are allowed")),
        );
    }
    varlena::require_memory(bytes.saturating_mul(MEMORY_PER_BYTE));
    format
}

fn level(name: &str) -> Level {
    Level::parse(name).unwrap_or_else(|| {
        UserError {
            code: PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            message: format!("invalid compatibility {}", shown(name)),
            detail: "It says which versions of a subject must read the payloads of which others.".into(),
            hint: "Pass none, backward, forward or full, the last three also with _transitive for all older versions."
                .into(),
        }
        .raise()
    })
}

fn wrong_format(name: &str) -> ! {
    UserError {
        code: PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        message: format!("invalid schema format {}", shown(name)),
        detail: "Schemas are written in JSON Schema, Avro or Protobuf.".into(),
        hint: "Pass json, avro or protobuf.".into(),
    }
    .raise()
}

fn malformed(format: &str, fault: &Fault) -> ! {
    let place = if fault.place.is_empty() { String::new() } else { format!("At {}: ", fault.place) };
    UserError {
        code: PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        message: format!("invalid {format} schema"),
        detail: format!("{place}{}.", sentence(&fault.reason, place.is_empty())),
        hint: "Fix the definition. Other schemas that it refers to, but for Google's well-known types, are passed as refers_to."
            .into(),
    }
    .raise()
}

fn refuse(incompatible: &Incompatible, subject: &str, version: i32) -> ! {
    let (fault, direction) = match incompatible {
        Incompatible::Backward(fault) => (fault, "The new version cannot read what was written with it"),
        Incompatible::Forward(fault) => (fault, "It cannot read what is written with the new version"),
    };
    let place = if fault.place.is_empty() { String::new() } else { format!("at {}, ", fault.place) };
    UserError {
        code: PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        message: format!("schema is incompatible with version {version} of subject \"{subject}\""),
        detail: format!("{direction}: {place}{}.", fault.reason),
        hint: "Change the definition, use another subject, or pass another compatibility.".into(),
    }
    .raise()
}
