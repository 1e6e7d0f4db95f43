//! Owns the ids of schemas in the wire format: those that the Schema Registry has given to their definitions, or without a
//! registry those of the definitions in this database.
//!
//! Runs in: client backends, and workers that emit.

use std::cell::RefCell;
use std::collections::HashMap;

use event_outbox_policy::registry::url::RegistryUrl;
use pgrx::prelude::*;

use super::catalog;
use crate::pg::spi::{Access, Statement};
use crate::settings::registry;

/// How many ids a session keeps, and those that are unknown.
const KEPT: usize = 1000;

static OF_SCHEMA: Statement = Statement::new(
    c"SELECT r.id FROM outbox.schema_registry_id AS r \
       WHERE r.registry OPERATOR(pg_catalog.=) $1 AND r.schema_id OPERATOR(pg_catalog.=) $2 ORDER BY r.id",
    &[pg_sys::TEXTOID, pg_sys::INT4OID],
);

static SCHEMA: Statement = Statement::new(
    c"SELECT r.schema_id FROM outbox.schema_registry_id AS r \
       WHERE r.registry OPERATOR(pg_catalog.=) $1 AND r.id OPERATOR(pg_catalog.=) $2",
    &[pg_sys::TEXTOID, pg_sys::INT4OID],
);

/// What is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Question {
    /// The id of a definition.
    OfSchema(i32),
    /// The definition of an id.
    Schema(i32),
}

/// The answers of a registry, as of the change numbered `age`.
struct Known {
    age: u64,
    registry: String,
    answers: HashMap<Question, Option<i32>>,
}

thread_local! {
    static KNOWN: RefCell<Known> =
        RefCell::new(Known { age: u64::MAX, registry: String::new(), answers: HashMap::new() });
}

/// The id in the wire format of a definition; `None` if the registry has not given it one.
#[must_use]
pub fn of_schema(schema_id: i32) -> Option<i32> {
    registry::url().map_or(Some(schema_id), |url| answer(&url, Question::OfSchema(schema_id)))
}

/// The definition with this id in the wire format; `None` if it is unknown.
#[must_use]
pub fn schema(wire_id: i32) -> Option<i32> {
    registry::url().map_or(Some(wire_id), |url| answer(&url, Question::Schema(wire_id)))
}

fn answer(url: &RegistryUrl, question: Question) -> Option<i32> {
    let (age, registry) = (catalog::age(), url.to_string());
    let known = KNOWN.with_borrow_mut(|known| {
        if known.age != age || known.registry != registry || known.answers.len() > KEPT {
            *known = Known { age, registry: registry.clone(), answers: HashMap::new() };
        }
        known.answers.get(&question).copied()
    });
    if let Some(known) = known {
        return known;
    }
    let (statement, id) = match question {
        Question::OfSchema(id) => (&OF_SCHEMA, id),
        Question::Schema(id) => (&SCHEMA, id),
    };
    let found = catalog::as_owner(|| {
        let rows = statement.execute(&[registry.into_datum(), id.into_datum()], Access::Read, 1);
        rows.iter().next().and_then(|row| row.get(1))
    });
    KNOWN.with_borrow_mut(|known| {
        if known.age == age {
            known.answers.insert(question, found);
        }
    });
    found
}
