//! Owns what `outbox.capture()` is asked for: its arguments, and the definition made of them.
//!
//! Runs in: client backends.

use std::ffi::CStr;

use event_outbox_policy::event::capture::definition::{Definition, MAX_BYTES, Mode, Operation, Style};
use event_outbox_policy::event::capture::template::{self, Value};
use event_outbox_policy::event::topic;
use pgrx::prelude::*;

use super::table::primary_key;
use crate::pg::function::Arguments;
use crate::pg::relation::OpenRelation;
use crate::pg::user_error::UserError;
use crate::pg::{backend, catalog, varlena};
use crate::settings::events;

/// The positions of the arguments.
mod at {
    pub const STYLE: usize = 1;
    pub const TOPIC: usize = 2;
    pub const KEY: usize = 3;
    pub const OPERATIONS: usize = 4;
    pub const WHEN: usize = 5;
    pub const COLUMNS: usize = 6;
    pub const EXCEPT: usize = 7;
    pub const EVENT_TYPE: usize = 8;
    pub const MODE: usize = 9;
    pub const REPLICATED: usize = 10;
    pub const SNAPSHOT: usize = 11;
}

/// What is asked for.
pub struct Request {
    /// The definition.
    pub definition: Definition,
    /// An SQL expression: only rows for which it is true are captured.
    pub when: Option<String>,
    /// Whether changes that a subscription applies are captured, too.
    pub replicated: bool,
    /// Whether the rows that are there become events, too.
    pub snapshot: bool,
}

impl Request {
    /// Reads the arguments of a call, for a table.
    #[must_use]
    pub fn read(arguments: &Arguments, table: &OpenRelation) -> Self {
        require_moderate_sizes(arguments);
        let mode = word(arguments.text(at::MODE), "mode", Mode::parse, Mode::ALL, Mode::word);
        let style = word(arguments.text(at::STYLE), "style", Style::parse, Style::ALL, Style::word);
        let when = arguments.text(at::WHEN).map(str::to_owned);
        let names = Names::of(table);
        let definition = Definition {
            style,
            mode,
            topic: names.topic(arguments.text(at::TOPIC)),
            event_type: names.event_type(arguments.text(at::EVENT_TYPE)),
            key: key(arguments, table),
            columns: columns(arguments, table, at::COLUMNS, "columns"),
            except: columns(arguments, table, at::EXCEPT, "except").unwrap_or_default(),
            operations: operations(arguments),
        };
        if let Some(column) = definition.key.iter().find(|column| definition.except.contains(column)) {
            invalid(
                format!("column \"{column}\" is excepted, but belongs to the key"),
                "Every event carries the key of its row.",
                "Pass another key, or except other columns.",
            );
        }
        if mode == Mode::Statement && when.is_some() {
            invalid(
                "a condition requires the mode row".into(),
                "PostgreSQL evaluates the condition for each row before it calls the trigger.",
                "Pass mode => 'row', or leave out the condition.",
            );
        }
        let replicated = arguments.boolean(at::REPLICATED).unwrap_or(false);
        let snapshot = arguments.boolean(at::SNAPSHOT).unwrap_or(false);
        Self { definition, when, replicated, snapshot }
    }
}

/// Arguments become Rust's strings, whose allocation must not fail.
fn require_moderate_sizes(arguments: &Arguments) {
    for at in at::STYLE..=at::MODE {
        // SAFETY: the arguments up to the mode are texts or lists of them.
        let bytes = arguments.datum(at).map_or(0, |value| unsafe { varlena::length(value) });
        if bytes > MAX_BYTES / 8 {
            UserError {
                code: PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                message: format!("argument {} of outbox.capture() is too long", at + 1),
                detail: format!("It has {bytes} bytes; {} are allowed.", MAX_BYTES / 8),
                hint: "Put a long condition into a function.".into(),
            }
            .raise();
        }
    }
}

fn invalid(message: String, detail: &str, hint: &str) -> ! {
    let code = PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE;
    UserError { code, message, detail: detail.into(), hint: hint.into() }.raise()
}

fn word<T: Copy>(
    text: Option<&str>,
    what: &str,
    parse: impl Fn(&str) -> Option<T>,
    all: &[T],
    word: impl Fn(T) -> &'static str,
) -> T {
    let given = text.unwrap_or_default();
    parse(given).unwrap_or_else(|| {
        let known: Vec<_> = all.iter().map(|known| word(*known)).collect();
        invalid(
            format!("invalid {what} of a capture: \"{given}\""),
            &format!("It is one of: {}.", known.join(", ")),
            "For example: outbox.capture('orders', 'fat').",
        )
    })
}

/// What names in templates stand for.
struct Names {
    namespace: String,
    database: String,
    schema: String,
    resource: String,
}

impl Names {
    fn of(table: &OpenRelation) -> Self {
        let class = table.class();
        let owned = |name: *const std::ffi::c_char| {
            if name.is_null() {
                return String::new();
            }
            // SAFETY: a C string of Postgres' own.
            unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
        };
        // SAFETY: in a transaction; looks into the catalogs.
        let (database, schema) = unsafe {
            let database = pg_sys::get_database_name(backend::database());
            (owned(database), owned(pg_sys::get_namespace_name(class.relnamespace)))
        };
        let namespace = events::namespace();
        let namespace = if namespace.is_empty() { database.clone() } else { namespace };
        Self { namespace, database, schema, resource: owned(class.relname.data.as_ptr()) }
    }

    fn values(&self) -> [Value<'_>; 4] {
        [
            ("namespace", &self.namespace),
            ("database", &self.database),
            ("schema", &self.schema),
            ("resource", &self.resource),
        ]
    }

    fn topic(&self, template: Option<&str>) -> String {
        let template = template.map_or_else(events::topic_template, str::to_owned);
        let expanded = template::expand(&template, &self.values()).unwrap_or_else(|fault| {
            invalid(
                format!("invalid topic template \"{template}\""),
                &fault.to_string(),
                "A topic may contain {namespace}, {database}, {schema} and {resource}.",
            )
        });
        if !topic::is_valid(&expanded) {
            UserError {
                code: PgSqlErrorCode::ERRCODE_INVALID_NAME,
                message: format!("invalid topic name \"{expanded}\""),
                detail: format!("It is what the template \"{template}\" becomes for this table."),
                hint: "Pass a topic of 1 to 249 letters, digits, dots, underscores and hyphens.".into(),
            }
            .raise();
        }
        expanded
    }

    /// The type, in which the action is left to be named.
    fn event_type(&self, template: Option<&str>) -> String {
        let template = template.unwrap_or("{resource}.{action}");
        let mut values = self.values().to_vec();
        values.push(("action", "{action}"));
        match template::expand(template, &values) {
            Ok(expanded)
                if !expanded.is_empty() && template::expand(&expanded, &[("action", "")]).is_ok() =>
            {
                expanded
            }
            found => invalid(
                format!("invalid template of event types \"{template}\""),
                &found
                    .err()
                    .map_or_else(|| "A type has at least one character.".into(), |fault| fault.to_string()),
                "A type may contain {action}, {namespace}, {database}, {schema} and {resource}.",
            ),
        }
    }
}

fn operations(arguments: &Arguments) -> Vec<Operation> {
    let mut asked: Vec<Operation> = list(arguments, at::OPERATIONS, "operations")
        .unwrap_or_else(|| Operation::ALL.iter().map(|known| known.word().to_owned()).collect())
        .iter()
        .map(|text| word(Some(text), "operation", Operation::parse, Operation::ALL, Operation::word))
        .collect();
    asked.sort_unstable();
    asked.dedup();
    asked
}

/// A list of words or names; `None` if it was left out.
fn list(arguments: &Arguments, at: usize, what: &str) -> Option<Vec<String>> {
    let list: Option<Vec<String>> = arguments.texts(at)?.into_iter().collect();
    Some(list.filter(|list| !list.is_empty()).unwrap_or_else(|| {
        invalid(
            format!("{what} of a capture must not be empty, nor contain null"),
            "The argument is a list of words.",
            "Leave the argument out for its default.",
        )
    }))
}

/// A list of columns that exist; `None` if it was left out.
fn columns(arguments: &Arguments, table: &OpenRelation, at: usize, what: &str) -> Option<Vec<String>> {
    let asked = list(arguments, at, what)?;
    for name in &asked {
        // SAFETY: the relation is open.
        let mut live = unsafe { catalog::columns(table.raw()) };
        if !live.any(|(known, stored)| !stored.attisdropped && known.to_bytes() == name.as_bytes()) {
            UserError {
                code: PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
                message: format!("column \"{name}\" does not exist"),
                detail: format!("It is named in {what}."),
                hint: "Names are written as in the catalog, without quotes.".into(),
            }
            .raise();
        }
    }
    Some(asked)
}

/// The columns that were given, or those of the primary key.
fn key(arguments: &Arguments, table: &OpenRelation) -> Vec<String> {
    if let Some(given) = columns(arguments, table, at::KEY, "key") {
        return given;
    }
    let key = primary_key(table);
    if key.is_empty() {
        invalid(
            "the table has no primary key".into(),
            "Each event tells which row has changed.",
            "Pass the columns that identify a row, such as key => '{id}'.",
        );
    }
    key.iter().map(|name| name.to_string_lossy().into_owned()).collect()
}
