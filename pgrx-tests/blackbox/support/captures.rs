//! Reads what captured tables emitted.

use event_outbox_lab::Result;
use postgres::Client;
use postgres::error::SqlState;

/// The events so far, as `type key payload`, in the order of their publication. They are taken out of the outbox.
pub fn taken(client: &mut Client) -> Result<Vec<String>> {
    let sql = "WITH gone AS (DELETE FROM outbox.events RETURNING *)
               SELECT concat_ws(' ', event_type, coalesce(convert_from(key, 'UTF8'), '-'), convert_from(payload, 'UTF8'))
                 FROM gone ORDER BY id";
    Ok(client.query(sql, &[])?.iter().map(|row| row.get(0)).collect())
}

/// Runs the commands; returns the events that they made.
pub fn events_of(client: &mut Client, sql: &str) -> Result<Vec<String>> {
    client.batch_execute(sql)?;
    taken(client)
}

/// The code and the message of the error that a command fails with.
pub fn refusal(client: &mut Client, sql: &str) -> (SqlState, String) {
    let error = client.batch_execute(sql).expect_err(sql);
    let error = error.as_db_error().unwrap_or_else(|| panic!("{sql}: no error of the server"));
    assert!(
        error.hint().is_some() || error.message().starts_with("permission denied"),
        "{sql}: {error:?} has no hint"
    );
    (error.code().clone(), error.message().to_owned())
}
