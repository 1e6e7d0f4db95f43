//! Creates roles and checks their privileges.

use event_outbox_lab::Result;
use postgres::Client;
use postgres::error::SqlState;

use crate::support::database::TestDatabase;

/// Creates a role that can use the schema `outbox` and has these rights, in which `ROLE` stands for it; returns
/// its name.
pub fn create_role(db: &mut TestDatabase, name: &str, rights: &str) -> Result<String> {
    let role = format!("{name}_{}", db.database);
    db.client.batch_execute(&format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA outbox TO {role}; {}",
        rights.replace("ROLE", &role)
    ))?;
    Ok(role)
}

pub fn is_superuser(client: &mut Client, role: &str) -> Result<bool> {
    Ok(client.query_one("SELECT rolsuper FROM pg_roles WHERE rolname = $1", &[&role])?.get(0))
}

/// Asserts that the statement fails for lack of a privilege.
pub fn assert_denied(client: &mut Client, sql: &str) {
    let error = client.batch_execute(sql).expect_err(sql);
    assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{sql}: {error:?}");
}

/// Creates a role that can emit in each way, and nothing more; returns its name.
pub fn create_emitter(db: &mut TestDatabase, name: &str) -> Result<String> {
    create_role(
        db,
        name,
        "GRANT EXECUTE ON FUNCTION outbox.emit(text, jsonb, text, text, jsonb, uuid, integer),
             outbox.emit_bytes(text, bytea, bytea, text, jsonb, uuid, integer, text),
             outbox.try_emit(text, text, text, text, text, jsonb, uuid, integer),
             outbox.try_emit(text, text, jsonb, text, text, jsonb, uuid, integer) TO ROLE;
         GRANT INSERT ON outbox.events TO ROLE",
    )
}
