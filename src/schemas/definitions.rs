//! Owns the compiled schemas of a session, by the ids of their definitions.
//!
//! Runs in: client backends, and workers that emit.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use event_outbox_policy::schema::compiled::{Compiled, Format};
use event_outbox_policy::schema::interrupt;
use event_outbox_policy::schema::limits::MEMORY_PER_BYTE;
use pgrx::prelude::*;

use super::catalog;
use crate::pg::spi::{Access, Statement};
use crate::pg::varlena;

/// How many schemas a session keeps, and ids that are unknown.
const KEPT: usize = 128;

static DEFINITION: Statement = Statement::new(
    c"SELECT d.format, d.definition FROM outbox.schema_definition AS d WHERE d.id OPERATOR(pg_catalog.=) $1",
    &[pg_sys::INT4OID],
);

/// A schema, or why there is none.
pub type Outcome = Result<Rc<Compiled>, String>;

/// The schemas as of the change numbered `age`.
struct Known {
    age: u64,
    compiled: HashMap<i32, Option<Outcome>>,
}

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::new(Known { age: u64::MAX, compiled: HashMap::new() });
}

/// The schema with this id; `None` if there is none.
#[must_use]
pub fn with_id(id: i32) -> Option<Outcome> {
    interrupt::ask(answer_interrupts);
    let age = catalog::age();
    let kept = KNOWN.with_borrow_mut(|known| {
        if known.age != age || known.compiled.len() > KEPT {
            known.compiled.clear();
            known.age = age;
        }
        known.compiled.get(&id).cloned()
    });
    if let Some(kept) = kept {
        return kept;
    }
    let found = catalog::as_owner(|| {
        let rows = DEFINITION.execute(&[id.into_datum()], Access::Read, 1);
        rows.iter().next().map(|row| compile(row.get(1).unwrap_or_default(), row.get(2).unwrap_or_default()))
    });
    KNOWN.with_borrow_mut(|known| {
        if known.age == age {
            known.compiled.insert(id, found.clone());
        }
    });
    found
}

/// What long work asks. An ERROR unwinds.
pub fn answer_interrupts() {
    pgrx::check_for_interrupts!();
}

fn compile(format: &str, definition: &str) -> Outcome {
    varlena::require_memory(definition.len().saturating_mul(MEMORY_PER_BYTE));
    let format = Format::parse(format).ok_or_else(|| format!("its format {format} is unknown"))?;
    Compiled::compile(format, definition).map(Rc::new).map_err(|fault| fault.to_string())
}
