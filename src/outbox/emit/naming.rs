//! Owns the check of the naming convention, if `event_outbox.naming` asks for it: by `emit()`, and by `capture()` for the events
//! of a table.
//!
//! Runs in: client backends.

use event_outbox_policy::event::naming;
use pgrx::prelude::*;

use crate::pg::function::{Arguments, sql_function};
use crate::pg::spi::{self, Access, Statement};
use crate::pg::user_error::UserError;
use crate::settings::naming::{self as settings, Naming};

/// How much of a type a message shows.
const SHOWN: usize = 100;

const PATTERN_HINT: &str = "Name it as event_outbox.naming_pattern says, or ask who has set it.";
const CONVENTION_HINT: &str =
    "Name the entity and what has happened to it, such as order.placed or OrderPlaced.";

/// Whether a type matches the pattern. Postgres compiles an expression once per session, and its search can be
/// interrupted.
static MATCHES: Statement = Statement::new(
    c"SELECT ($1 COLLATE pg_catalog.\"C\") OPERATOR(pg_catalog.~) $2",
    &[pg_sys::TEXTOID, pg_sys::TEXTOID],
);

sql_function!(outbox_naming_breach, pg_finfo_outbox_naming_breach, naming_breach);

/// How a type breaks the convention, for `outbox.lint()`; NULL if it keeps it.
fn naming_breach(arguments: &Arguments) -> Option<pg_sys::Datum> {
    breach(arguments.text(0)?).and_then(|(detail, _)| detail.into_datum())
}

/// Warns of a type that breaks the convention, or refuses it. A type that is missing is the topic's name.
pub fn check(event_type: Option<&str>, topic: &str) {
    let naming = settings::naming();
    if naming == Naming::Off {
        return;
    }
    let name = event_type.unwrap_or(topic);
    let Some((detail, hint)) = breach(name) else { return };
    let error = UserError {
        code: PgSqlErrorCode::ERRCODE_INVALID_NAME,
        message: format!(
            "event type \"{}\" breaks the naming convention",
            name.chars().take(SHOWN).collect::<String>()
        ),
        detail,
        hint: hint.into(),
    };
    if naming == Naming::Error { error.raise() } else { error.log(PgLogLevel::WARNING) }
}

/// How a name breaks the convention, and what can be done.
fn breach(name: &str) -> Option<(String, &'static str)> {
    let pattern = settings::pattern();
    if pattern.is_empty() {
        return naming::check(name).err().map(|breach| (breach.detail().into(), CONVENTION_HINT));
    }
    let matches = spi::connected(|| {
        let rows = MATCHES.execute(&[name.into_datum(), pattern.as_str().into_datum()], Access::Read, 1);
        rows.iter().next().and_then(|row| row.get(1))
    });
    (matches != Some(true))
        .then(|| (format!("It does not match the pattern {pattern} of this database."), PATTERN_HINT))
}
