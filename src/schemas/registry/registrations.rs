//! Owns the registrations of schemas: which are due, and what the registry has said.
//!
//! Runs in: a relay's main thread, in a transaction.

use std::time::Duration;

use event_outbox_policy::registry::failure::{self, Failure};
use event_outbox_policy::registry::registration::Referred;
use event_outbox_policy::registry::request::Reference;
use pgrx::prelude::*;

use super::as_owner;
use crate::pg::compat;
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{Access, Row, Statement};
use crate::schemas::references;

const TEXT: pg_sys::Oid = pg_sys::TEXTOID;
const INT: pg_sys::Oid = pg_sys::INT4OID;

/// Versions that are not registered, those first that were never refused, and among these those that others refer to.
static DUE: Statement = Statement::new(
    c"SELECT v.subject, v.version, v.schema_id, d.format, COALESCE(v.source, d.definition), COALESCE(r.refusals, 0), r.id, \
             v.refers_to::pg_catalog.text \
        FROM outbox.schema_version AS v \
        JOIN outbox.schema_definition AS d ON d.id OPERATOR(pg_catalog.=) v.schema_id \
        LEFT JOIN outbox.schema_registration AS r ON r.registry OPERATOR(pg_catalog.=) $1 \
              AND r.subject OPERATOR(pg_catalog.=) v.subject AND r.version OPERATOR(pg_catalog.=) v.version \
       WHERE r.id IS NULL AND (r.retry_at IS NULL OR r.retry_at OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp()) \
       ORDER BY 6, v.registered_at, v.subject, v.version LIMIT $2",
    &[TEXT, pg_sys::INT8OID],
);

/// Versions that are, behind one of them.
static KNOWN: Statement = Statement::new(
    c"SELECT v.subject, v.version, v.schema_id, d.format, COALESCE(v.source, d.definition), r.refusals, r.id, \
             v.refers_to::pg_catalog.text \
        FROM outbox.schema_registration AS r \
        JOIN outbox.schema_version AS v ON v.subject OPERATOR(pg_catalog.=) r.subject AND v.version OPERATOR(pg_catalog.=) r.version \
        JOIN outbox.schema_definition AS d ON d.id OPERATOR(pg_catalog.=) v.schema_id \
       WHERE r.registry OPERATOR(pg_catalog.=) $1 AND r.id IS NOT NULL AND (r.subject, r.version) OPERATOR(pg_catalog.>) ($2, $3) \
       ORDER BY r.subject, r.version LIMIT $4",
    &[TEXT, TEXT, INT, pg_sys::INT8OID],
);

static NEXT: Statement = Statement::new(
    c"SELECT pg_catalog.min(r.retry_at) FROM outbox.schema_registration AS r \
       WHERE r.registry OPERATOR(pg_catalog.=) $1 AND r.id IS NULL",
    &[TEXT],
);

/// Unless the version was dropped meanwhile.
static REGISTERED: Statement = Statement::new(
    c"INSERT INTO outbox.schema_registration AS r (registry, subject, version, state, id) \
      SELECT $1, v.subject, v.version, 'registered', $4 FROM outbox.schema_version AS v \
       WHERE v.subject OPERATOR(pg_catalog.=) $2 AND v.version OPERATOR(pg_catalog.=) $3 FOR KEY SHARE \
      ON CONFLICT (registry, subject, version) DO UPDATE \
         SET state = 'registered', id = excluded.id, refusals = 0, error = NULL, retry_at = NULL, \
             changed_at = excluded.changed_at \
       WHERE r.id IS DISTINCT FROM excluded.id OR r.error IS NOT NULL",
    &[TEXT, TEXT, INT, INT],
);

/// What was refused because it refers to this subject is tried again at once.
static RETRY: Statement = Statement::new(
    c"UPDATE outbox.schema_registration AS r SET retry_at = NULL FROM outbox.schema_version AS v \
       WHERE r.registry OPERATOR(pg_catalog.=) $1 AND r.id IS NULL AND r.retry_at IS NOT NULL \
         AND v.subject OPERATOR(pg_catalog.=) r.subject AND v.version OPERATOR(pg_catalog.=) r.version \
         AND EXISTS (SELECT FROM pg_catalog.jsonb_array_elements(v.refers_to) AS e (reference) \
                      WHERE e.reference OPERATOR(pg_catalog.->>) 'subject' OPERATOR(pg_catalog.=) $2)",
    &[TEXT, TEXT],
);

/// The id by which it is known at present. What an errand took along can be forgotten meanwhile.
static KNOWN_ID: Statement = Statement::new(
    c"SELECT r.id FROM outbox.schema_registration AS r \
       WHERE r.registry OPERATOR(pg_catalog.=) $1 AND r.subject OPERATOR(pg_catalog.=) $2 AND r.version OPERATOR(pg_catalog.=) $3",
    &[TEXT, TEXT, INT],
);

static ID: Statement = Statement::new(
    c"INSERT INTO outbox.schema_registry_id AS i (registry, id, schema_id) VALUES ($1, $2, $3) \
      ON CONFLICT (registry, id) DO UPDATE SET schema_id = excluded.schema_id \
       WHERE i.schema_id OPERATOR(pg_catalog.<>) excluded.schema_id",
    &[TEXT, INT, INT],
);

static FORGET: [Statement; 3] = [
    Statement::new(
        c"UPDATE outbox.schema_registration AS r \
             SET state = 'waiting', id = NULL, refusals = 0, error = NULL, retry_at = NULL, changed_at = pg_catalog.clock_timestamp() \
           WHERE r.registry OPERATOR(pg_catalog.=) $1",
        &[TEXT],
    ),
    Statement::new(c"DELETE FROM outbox.schema_registry_id AS i WHERE i.registry OPERATOR(pg_catalog.=) $1", &[TEXT]),
    Statement::new(c"DELETE FROM outbox.schema_fetch AS f WHERE f.registry OPERATOR(pg_catalog.=) $1", &[TEXT]),
];

/// What is registered stays so: its id is known.
static FAILED: Statement = Statement::new(
    c"INSERT INTO outbox.schema_registration AS r (registry, subject, version, state, refusals, error, retry_at) \
      SELECT $1, v.subject, v.version, $4, CASE WHEN $6 IS NULL THEN 0 ELSE 1 END, $5, pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) $6 \
        FROM outbox.schema_version AS v \
       WHERE v.subject OPERATOR(pg_catalog.=) $2 AND v.version OPERATOR(pg_catalog.=) $3 FOR KEY SHARE \
      ON CONFLICT (registry, subject, version) DO UPDATE \
         SET state = CASE WHEN r.id IS NULL THEN excluded.state ELSE r.state END, error = excluded.error, \
             refusals = r.refusals OPERATOR(pg_catalog.+) excluded.refusals, \
             retry_at = CASE WHEN r.id IS NULL THEN excluded.retry_at END, changed_at = excluded.changed_at \
       WHERE r.error IS DISTINCT FROM excluded.error OR excluded.refusals OPERATOR(pg_catalog.>) 0",
    &[TEXT, TEXT, INT, TEXT, TEXT, pg_sys::INTERVALOID],
);

static STATE: Statement = Statement::new(
    c"SELECT r.state, r.error FROM outbox.schema_registration AS r \
       WHERE r.registry OPERATOR(pg_catalog.=) outbox.schema_registry() AND r.subject OPERATOR(pg_catalog.=) $1 \
         AND r.version OPERATOR(pg_catalog.=) $2",
    &[TEXT, INT],
);

/// Why a version is not registered, in a sentence. In a session.
#[must_use]
pub fn why_not(subject: &str, version: i32) -> String {
    let _snapshot = Snapshot::take_latest();
    let found = as_owner(|| {
        let rows = STATE.execute(&[subject.into_datum(), version.into_datum()], Access::Read, 1);
        rows.iter().next().map(|row| (row.get::<String>(1).unwrap_or_default(), row.get::<String>(2)))
    });
    match found {
        Some((state, Some(error))) if state == "refused" => format!("The registry refuses it: {error}."),
        Some((_, Some(error))) => format!("The relay could not ask the registry: {error}."),
        _ => "The relay has not asked the registry yet.".into(),
    }
}

/// A version of a subject to register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The subject.
    pub subject: String,
    /// The version in this database.
    pub version: i32,
    /// Its definition in this database.
    pub schema_id: i32,
    /// Its format, as the table has it.
    pub format: String,
    /// Its definition.
    pub definition: String,
    /// What it refers to, with the versions of this database.
    pub references: Vec<Reference>,
    /// These schemas, and those that they refer to.
    pub others: Vec<Referred>,
    /// How often the registry has refused it.
    pub refusals: u32,
    /// The id that the registry gave it before, if it did.
    pub id: Option<i32>,
}

impl Version {
    fn read(row: &Row) -> Option<Self> {
        let references = row.get::<&str>(8).map(references::read).unwrap_or_default();
        Some(Self {
            subject: row.get(1)?,
            version: row.get(2)?,
            schema_id: row.get(3)?,
            format: row.get(4)?,
            definition: row.get(5)?,
            refusals: row.get::<i32>(6)?.unsigned_abs(),
            id: row.get(7),
            others: references::of(&references),
            references,
        })
    }
}

/// The versions that this registry is to be asked to register now; at most `limit`.
#[must_use]
pub fn due(registry: &str, limit: i64) -> Vec<Version> {
    as_owner(|| {
        let rows = DUE.execute(&[registry.into_datum(), limit.into_datum()], Access::Write, 0);
        rows.iter().filter_map(|row| Version::read(&row)).collect()
    })
}

/// The versions that this registry has registered, in their order, behind this one; at most `limit`.
#[must_use]
pub fn known(registry: &str, after: &(String, i32), limit: i64) -> Vec<Version> {
    as_owner(|| {
        let arguments =
            [registry.into_datum(), after.0.as_str().into_datum(), after.1.into_datum(), limit.into_datum()];
        KNOWN.execute(&arguments, Access::Write, 0).iter().filter_map(|row| Version::read(&row)).collect()
    })
}

/// When something that was refused is due again, in microseconds since 1970.
#[must_use]
pub fn next_retry(registry: &str) -> Option<i64> {
    as_owner(|| {
        let rows = NEXT.execute(&[registry.into_datum()], Access::Write, 1);
        rows.iter().next().and_then(|row| row.get::<i64>(1)).map(compat::unix_micros)
    })
}

/// The registry has registered a version under this id. Returns whether it is known by another id: then it is another registry,
/// or has lost its schemas, and all that it was known to have is forgotten.
#[must_use]
pub fn registered(registry: &str, version: &Version, id: i32) -> bool {
    as_owner(|| {
        let known = known_id(registry, version);
        let is_other = known.is_some_and(|known| known != id);
        if is_other {
            forget(registry);
        }
        let arguments = [
            registry.into_datum(),
            version.subject.as_str().into_datum(),
            version.version.into_datum(),
            id.into_datum(),
        ];
        REGISTERED.execute(&arguments, Access::Write, 0);
        ID.execute(
            &[registry.into_datum(), id.into_datum(), version.schema_id.into_datum()],
            Access::Write,
            0,
        );
        if known.is_none() {
            RETRY.execute(&[registry.into_datum(), version.subject.as_str().into_datum()], Access::Write, 0);
        }
        is_other
    })
}

/// The registry does not have what a version refers to. Returns whether it had: then it has lost its schemas, and all that it was
/// known to have is forgotten.
#[must_use]
pub fn lacks_references(registry: &str, version: &Version) -> bool {
    as_owner(|| {
        let has_lost = known_id(registry, version).is_some();
        if has_lost {
            forget(registry);
        }
        has_lost
    })
}

fn known_id(registry: &str, version: &Version) -> Option<i32> {
    let arguments =
        [registry.into_datum(), version.subject.as_str().into_datum(), version.version.into_datum()];
    KNOWN_ID.execute(&arguments, Access::Write, 1).iter().next().and_then(|row| row.get(1))
}

fn forget(registry: &str) {
    for forget in &FORGET {
        forget.execute(&[registry.into_datum()], Access::Write, 0);
    }
}

/// The registry has not registered a version.
pub fn failed(registry: &str, version: &Version, failure: &Failure) {
    let is_refused = !failure.class.is_of_all();
    let pause = is_refused.then(|| interval(failure::pause(version.refusals + 1))).flatten();
    let arguments = [
        registry.into_datum(),
        version.subject.as_str().into_datum(),
        version.version.into_datum(),
        if is_refused { "refused" } else { "waiting" }.into_datum(),
        failure.text.as_str().into_datum(),
        pause,
    ];
    as_owner(|| FAILED.execute(&arguments, Access::Write, 0).len());
}

/// A pause as an interval.
pub(super) fn interval(pause: Duration) -> Option<pg_sys::Datum> {
    pgrx::datum::Interval::from_seconds(pause.as_secs_f64()).into_datum()
}
