//! Grants topics to roles and revokes them.

use event_outbox_lab::Result;
use postgres::Client;
use postgres::error::SqlState;

use crate::support::database::TestDatabase;

pub fn grant(db: &mut TestDatabase, role: &str, pattern: &str) -> Result<()> {
    db.client.execute("SELECT outbox.grant_topic($1::text::regrole, $2)", &[&role, &pattern])?;
    Ok(())
}

pub fn revoke(client: &mut Client, role: &str, pattern: Option<&str>) -> Result<i64> {
    let sql = "SELECT outbox.revoke_topic($1::text::regrole, $2)";
    Ok(client.query_one(sql, &[&role, &pattern])?.get(0))
}

pub fn code_of(client: &mut Client, sql: &str) -> SqlState {
    let error = client.batch_execute(sql).expect_err(sql);
    let db_error = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error}"));
    assert!(db_error.code().code().starts_with("42501") || db_error.hint().is_some(), "{sql}: no hint");
    db_error.code().clone()
}
