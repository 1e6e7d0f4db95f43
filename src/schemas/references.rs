//! Owns what registered schemas refer to: other versions of subjects of this database.
//!
//! Runs in: client backends with the rights of who calls, and a relay's main thread as the owner of the tables; in a
//! transaction, with a connection to SPI or without one.

use event_outbox_policy::registry::answer::{Answer, Found};
use event_outbox_policy::registry::failure::{Class, Failure};
use event_outbox_policy::registry::registration::{self, Referred};
use event_outbox_policy::registry::request::{New, Reference, Request, SchemaType, Version};
use pgrx::prelude::*;

use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{self, Access, Statement};

static SCHEMA: Statement = Statement::new(
    c"SELECT d.format, COALESCE(v.source, d.definition), v.refers_to::pg_catalog.text \
        FROM outbox.schema_version AS v \
        JOIN outbox.schema_definition AS d ON d.id OPERATOR(pg_catalog.=) v.schema_id \
       WHERE v.subject OPERATOR(pg_catalog.=) $1 AND v.version OPERATOR(pg_catalog.=) $2",
    &[pg_sys::TEXTOID, pg_sys::INT4OID],
);

/// References as the table has them.
#[must_use]
pub fn read(text: &str) -> Vec<Reference> {
    serde_json::from_str(text).unwrap_or_default()
}

/// The format that the tables name so.
#[must_use]
pub fn schema_type(name: &str) -> SchemaType {
    match name {
        "avro" => SchemaType::Avro,
        "protobuf" => SchemaType::Protobuf,
        _ => SchemaType::Json,
    }
}

/// The schemas that these lead to, each behind those that it refers to itself.
#[must_use]
pub fn of(references: &[Reference]) -> Vec<Referred> {
    registration::collect(references, find)
}

fn find(reference: &Reference) -> Option<Referred> {
    let _snapshot = Snapshot::take_latest();
    spi::connected(|| {
        let arguments = [reference.subject.as_str().into_datum(), reference.version.into_datum()];
        let rows = SCHEMA.execute(&arguments, Access::Read, 1);
        let row = rows.iter().next()?;
        let schema = New {
            subject: reference.subject.clone(),
            schema_type: schema_type(row.get::<&str>(1)?),
            definition: row.get(2)?,
            references: row.get::<&str>(3).map(read).unwrap_or_default(),
        };
        Some(Referred { version: reference.version, schema })
    })
}

/// Answers for the database as a registry does for itself.
///
/// # Errors
/// There is no such schema.
pub fn answer(request: &Request) -> Result<Answer, Failure> {
    let missing = || Failure::new(Class::NotFound, "there is no such schema");
    let Request::OfSubject { subject, version: Version::Number(version) } = request else {
        return Err(missing());
    };
    let reference = Reference { name: subject.clone(), subject: subject.clone(), version: *version };
    let New { schema_type, definition, references, .. } = find(&reference).ok_or_else(missing)?.schema;
    Ok(Answer::Schema(Found { id: None, version: Some(*version), schema_type, definition, references }))
}
