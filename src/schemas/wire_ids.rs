//! Owns the ids of schemas in the wire format: those of a Schema Registry, or without one those of their definitions in this
//! database.
//!
//! Runs in: client backends, and workers that emit.

use std::cell::RefCell;
use std::collections::HashMap;

use pgrx::prelude::*;

use super::catalog;
use super::registry::fetches::{self, Fetching, Prospect};
use crate::pg::spi::{Access, Statement};
use crate::settings::registry;

/// How many ids a session keeps.
const KEPT: usize = 256;

static OF_SCHEMA: Statement = Statement::new(
    c"SELECT i.id FROM outbox.schema_registry_id AS i \
       WHERE i.registry OPERATOR(pg_catalog.=) $1 AND i.schema_id OPERATOR(pg_catalog.=) $2 ORDER BY i.id LIMIT 1",
    &[pg_sys::TEXTOID, pg_sys::INT4OID],
);

static SCHEMA: Statement = Statement::new(
    c"SELECT i.schema_id FROM outbox.schema_registry_id AS i \
       WHERE i.registry OPERATOR(pg_catalog.=) $1 AND i.id OPERATOR(pg_catalog.=) $2",
    &[pg_sys::TEXTOID, pg_sys::INT4OID],
);

/// What is known of an id of the wire format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// It is that of this definition.
    Schema(i32),
    /// The relay is asking the registry.
    Wanted(Fetching),
    /// It is unknown, for this reason.
    Unknown(String),
}

/// The ids of a registry as of the change numbered `age`.
#[derive(Default)]
struct Known {
    age: u64,
    registry: String,
    of_schemas: HashMap<i32, i32>,
    schemas: HashMap<i32, i32>,
}

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::new(Known::default());
}

/// The id in the wire format of a definition; `None` if the registry has given it none yet.
#[must_use]
pub fn of_schema(schema_id: i32) -> Option<i32> {
    let Some(registry) = registry::url() else { return Some(schema_id) };
    find(&registry.to_string(), schema_id, &OF_SCHEMA, |known| &mut known.of_schemas)
}

/// The definition with this id in the wire format. If it is unknown, the relay fetches it.
#[must_use]
pub fn schema(wire_id: i32) -> Meaning {
    let Some(registry) = registry::url() else { return Meaning::Schema(wire_id) };
    let registry = registry.to_string();
    if let Some(schema_id) = find(&registry, wire_id, &SCHEMA, |known| &mut known.schemas) {
        return Meaning::Schema(schema_id);
    }
    match catalog::as_owner(|| fetches::prospect(&registry, wire_id)) {
        Prospect::Wait(fetching) => Meaning::Wanted(fetching),
        Prospect::Unknown(reason) => Meaning::Unknown(reason),
    }
}

/// Looks an id up, first in one of the session's maps. What is not found is looked up again: it can come at any time.
fn find(
    registry: &str,
    id: i32,
    statement: &'static Statement,
    map: impl Fn(&mut Known) -> &mut HashMap<i32, i32>,
) -> Option<i32> {
    let age = catalog::age();
    let kept = KNOWN.with_borrow_mut(|known| {
        if known.age != age || known.registry != registry || map(known).len() > KEPT {
            *known = Known { age, registry: registry.to_owned(), ..Known::default() };
        }
        map(known).get(&id).copied()
    });
    if kept.is_some() {
        return kept;
    }
    let found: Option<i32> = catalog::as_owner(|| {
        let rows = statement.execute(&[registry.into_datum(), id.into_datum()], Access::Read, 1);
        rows.iter().next().and_then(|row| row.get(1))
    });
    if let Some(found) = found {
        KNOWN.with_borrow_mut(|known| {
            if known.age == age && known.registry == registry {
                map(known).insert(id, found);
            }
        });
    }
    found
}
