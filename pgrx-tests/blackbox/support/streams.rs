//! Appends to streams, and reads them.

use event_outbox_lab::Result;
use postgres::{Client, Error, GenericClient};

/// Appends one event of this type to a stream that is as expected; returns the version.
pub fn append(
    client: &mut impl GenericClient,
    stream: &str,
    expected: &str,
    kind: &str,
) -> Result<i64, Error> {
    let sql = "SELECT event_store.append($1, $2, jsonb_build_object('type', $3::text))";
    Ok(client.query_one(sql, &[&stream, &expected, &kind])?.get(0))
}

/// The types of the events of a stream.
pub fn types(client: &mut impl GenericClient, stream: &str) -> Result<Vec<String>, Error> {
    let rows = client.query("SELECT type FROM event_store.read_stream($1)", &[&stream])?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The SQLSTATE and the detail with which a statement fails.
pub fn refusal(client: &mut Client, sql: &str) -> (String, String) {
    let error = client.batch_execute(sql).expect_err(sql);
    let error = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error}"));
    (error.code().code().into(), error.detail().unwrap_or_default().into())
}
