//! Owns the schemas that receivers want and this database does not have: which are due, and what the registry has said.
//!
//! Runs in: a relay's main thread, in a transaction; sessions look.

use event_outbox_policy::registry::answer::Found;
use event_outbox_policy::registry::failure::{self, Failure};
use event_outbox_policy::registry::request::SchemaType;
use pgrx::prelude::*;

use super::as_owner;
use super::registrations::interval;
use super::wanted;
use crate::pg::compat;
use crate::pg::spi::{Access, Statement};

const TEXT: pg_sys::Oid = pg_sys::TEXTOID;
const INT: pg_sys::Oid = pg_sys::INT4OID;

/// The most schemas that the registry does not have and that are remembered: whoever writes to a topic can make up ids.
const MAX_MISSING: i64 = 1000;

/// How long a receiver waits, in microseconds, for a schema while the registry does not answer.
const PATIENCE: i64 = 5 * 60 * 1_000_000;

static WANT: Statement = Statement::new(
    c"INSERT INTO outbox.schema_fetch (registry, id, state) \
      SELECT $1, w.id, 'waiting' FROM pg_catalog.unnest($2) AS w (id) \
       WHERE NOT EXISTS (SELECT FROM outbox.schema_registry_id AS i \
                          WHERE i.registry OPERATOR(pg_catalog.=) $1 AND i.id OPERATOR(pg_catalog.=) w.id) \
      ON CONFLICT DO NOTHING",
    &[TEXT, pg_sys::INT4ARRAYOID],
);

static TRIM: Statement = Statement::new(
    c"DELETE FROM outbox.schema_fetch AS f WHERE (f.registry, f.id) IN ( \
          SELECT o.registry, o.id FROM outbox.schema_fetch AS o WHERE o.state OPERATOR(pg_catalog.=) 'missing' \
           ORDER BY o.wanted_at DESC OFFSET $1)",
    &[pg_sys::INT8OID],
);

static DUE: Statement = Statement::new(
    c"SELECT f.id, f.refusals FROM outbox.schema_fetch AS f \
       WHERE f.registry OPERATOR(pg_catalog.=) $1 \
         AND (f.retry_at IS NULL OR f.retry_at OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp()) \
       ORDER BY f.refusals, f.wanted_at LIMIT $2",
    &[TEXT, pg_sys::INT8OID],
);

static NEXT: Statement = Statement::new(
    c"SELECT pg_catalog.min(f.retry_at) FROM outbox.schema_fetch AS f WHERE f.registry OPERATOR(pg_catalog.=) $1",
    &[TEXT],
);

static DEFINITION: Statement = Statement::new(
    c"WITH new AS ( \
          INSERT INTO outbox.schema_definition (format, definition, fingerprint) \
          VALUES ($1, $2, outbox.schema_fingerprint($1, $2)) ON CONFLICT (fingerprint) DO NOTHING RETURNING id) \
      SELECT n.id FROM new AS n \
      UNION ALL \
      SELECT d.id FROM outbox.schema_definition AS d \
       WHERE d.fingerprint OPERATOR(pg_catalog.=) outbox.schema_fingerprint($1, $2)",
    &[TEXT, TEXT],
);

static FETCHED: [Statement; 2] = [
    Statement::new(
        c"INSERT INTO outbox.schema_registry_id (registry, id, schema_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        &[TEXT, INT, INT],
    ),
    Statement::new(
        c"DELETE FROM outbox.schema_fetch AS f \
           WHERE f.registry OPERATOR(pg_catalog.=) $1 AND f.id OPERATOR(pg_catalog.=) $2 AND $3 IS NOT NULL",
        &[TEXT, INT, INT],
    ),
];

static FAILED: Statement = Statement::new(
    c"UPDATE outbox.schema_fetch AS f \
         SET state = $3, error = $4, retry_at = pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) $5, \
             refusals = f.refusals OPERATOR(pg_catalog.+) CASE WHEN $5 IS NULL THEN 0 ELSE 1 END \
       WHERE f.registry OPERATOR(pg_catalog.=) $1 AND f.id OPERATOR(pg_catalog.=) $2 \
         AND (f.error IS DISTINCT FROM $4 OR $5 IS NOT NULL)",
    &[TEXT, INT, TEXT, TEXT, pg_sys::INTERVALOID],
);

static LOOK: Statement = Statement::new(
    c"SELECT f.state, f.error, f.wanted_at FROM outbox.schema_fetch AS f \
       WHERE f.registry OPERATOR(pg_catalog.=) $1 AND f.id OPERATOR(pg_catalog.=) $2",
    &[TEXT, INT],
);

/// A schema to fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetch {
    /// Its id in the registry.
    pub id: i32,
    /// How often the registry did not have it.
    pub refusals: u32,
}

/// What becomes of an event whose schema this database does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prospect {
    /// The relay fetches the schema: the event can be received in a moment.
    Wait(Fetching),
    /// The event cannot be decoded, for this reason.
    Unknown(String),
}

/// A schema that the relay is fetching.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fetching {
    /// Why the registry has not given it yet, if it was asked.
    pub error: Option<String>,
    /// Since when it is wanted, in microseconds since 1970.
    wanted_at: i64,
}

impl Fetching {
    /// Whether the registry has not answered for longer than a receiver waits.
    #[must_use]
    pub fn is_overdue(&self) -> bool {
        self.error.is_some() && crate::pg::now().saturating_sub(self.wanted_at) > PATIENCE
    }
}

/// What becomes of an event of a schema with this id, which no table has. Has the relay fetch it. In a session, with a snapshot.
#[must_use]
pub fn prospect(registry: &str, id: i32) -> Prospect {
    if id < 0 {
        return Prospect::Unknown(format!("no schema has the id {id}"));
    }
    let found = as_owner(|| {
        let rows = LOOK.execute(&[registry.into_datum(), id.into_datum()], Access::Read, 1);
        let row = rows.iter().next()?;
        Some((row.get::<String>(1)?, row.get::<String>(2), compat::unix_micros(row.get::<i64>(3)?)))
    });
    match found {
        Some((state, error, _)) if state == "missing" => {
            Prospect::Unknown(format!("schema {id}: {}", error.unwrap_or_default()))
        }
        Some((_, error, wanted_at)) => Prospect::Wait(Fetching { error, wanted_at }),
        None => {
            wanted::tell(id);
            Prospect::Wait(Fetching::default())
        }
    }
}

/// Notes that these schemas are wanted.
pub fn want(registry: &str, ids: Vec<i32>) {
    as_owner(|| {
        WANT.execute(&[registry.into_datum(), ids.into_datum()], Access::Write, 0);
        TRIM.execute(&[MAX_MISSING.into_datum()], Access::Write, 0);
    });
}

/// The schemas to fetch from this registry now; at most `limit`.
#[must_use]
pub fn due(registry: &str, limit: i64) -> Vec<Fetch> {
    as_owner(|| {
        let rows = DUE.execute(&[registry.into_datum(), limit.into_datum()], Access::Write, 0);
        let fetch = |id, refusals: i32| Fetch { id, refusals: refusals.unsigned_abs() };
        rows.iter().filter_map(|row| Some(fetch(row.get(1)?, row.get(2)?))).collect()
    })
}

/// When the registry is to be asked again for one that it did not have, in microseconds since 1970.
#[must_use]
pub fn next_retry(registry: &str) -> Option<i64> {
    as_owner(|| {
        let rows = NEXT.execute(&[registry.into_datum()], Access::Write, 1);
        rows.iter().next().and_then(|row| row.get::<i64>(1)).map(compat::unix_micros)
    })
}

/// Stores a schema.
pub fn fetched(registry: &str, id: i32, found: &Found) {
    let format = format_name(found.schema_type);
    as_owner(|| {
        let rows = DEFINITION.execute(
            &[format.into_datum(), found.definition.as_str().into_datum()],
            Access::Write,
            0,
        );
        let schema_id = rows.iter().next().and_then(|row| row.get::<i32>(1));
        for statement in &FETCHED {
            let arguments = [registry.into_datum(), id.into_datum(), schema_id.into_datum()];
            statement.execute(&arguments, Access::Write, 0);
        }
    });
}

/// The registry has not given a schema.
pub fn failed(registry: &str, fetch: Fetch, failure: &Failure) {
    let is_missing = !failure.class.is_of_all();
    let pause = is_missing.then(|| interval(failure::pause(fetch.refusals + 1))).flatten();
    let arguments = [
        registry.into_datum(),
        fetch.id.into_datum(),
        if is_missing { "missing" } else { "waiting" }.into_datum(),
        failure.text.as_str().into_datum(),
        pause,
    ];
    as_owner(|| FAILED.execute(&arguments, Access::Write, 0).len());
}

/// The format as the tables name it.
#[must_use]
pub const fn format_name(schema_type: SchemaType) -> &'static str {
    match schema_type {
        SchemaType::Avro => "avro",
        SchemaType::Protobuf => "protobuf",
        SchemaType::Json => "json",
    }
}
