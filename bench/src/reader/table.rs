//! The tables of the peers, which are like those of the inbox: a log with the same columns and the same index, and a row of
//! offsets for each batch.

use anyhow::{Result, ensure};
use postgres::Client;

use crate::events::Load;

const TABLES: &str = r#"
DROP TABLE IF EXISTS {name}_log, {name}_progress;
CREATE TABLE {name}_log (
    source_id   integer     NOT NULL,
    lane        smallint    NOT NULL,
    position    bigint      NOT NULL,
    partition   integer     NOT NULL,
    "offset"    bigint      NOT NULL,
    produced_at timestamptz,
    key         bytea,
    value       bytea,
    headers     bytea
) WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
CREATE INDEX ON {name}_log (source_id, lane, position);
CREATE TABLE {name}_progress (
    batch        bigint PRIMARY KEY,
    next_offsets bigint[] NOT NULL,
    stored       bigint NOT NULL
)"#;

const STORED: &str = "SELECT stored FROM {name}_progress ORDER BY batch DESC LIMIT 1";

const CENSUS: &str = r#"
SELECT count(*), count(DISTINCT (partition, "offset")), count(DISTINCT n),
       count(*) FILTER (WHERE key = convert_to(made_key(n), 'UTF8') AND octet_length(value) = $1
                          AND position(convert_to(made_id(n), 'UTF8') IN headers) > 0)
  FROM (SELECT *, substring(convert_from(value, 'UTF8') FROM '"n":(\d+)')::bigint AS n FROM {log}) AS e"#;

/// Creates empty tables of this name.
pub fn create(client: &mut Client, name: &str) -> Result<()> {
    Ok(client.batch_execute(&TABLES.replace("{name}", name))?)
}

/// The number of events that the newest row of offsets counts.
pub fn stored(client: &mut Client, name: &str) -> Result<u64> {
    let row = client.query_opt(&STORED.replace("{name}", name), &[])?;
    Ok(row.map_or(Ok(0), |row| u64::try_from(row.get::<_, i64>(0)))?)
}

/// Fails unless a log has each event of the load exactly once, with its key, its size and its headers.
pub fn ensure_exact(client: &mut Client, log: &str, load: &Load) -> Result<()> {
    let row = client.query_one(&CENSUS.replace("{log}", log), &[&i32::try_from(load.bytes)?])?;
    let counts: [i64; 4] = [row.get(0), row.get(1), row.get(2), row.get(3)];
    let [events, offsets, numbers, right] = counts;
    ensure!(
        counts == [load.count().cast_signed(); 4],
        "{log} has {events} of {} events, at {offsets} offsets, {numbers} of them distinct and {right} of them right",
        load.count()
    );
    Ok(())
}
