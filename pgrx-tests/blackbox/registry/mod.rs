//! With a Schema Registry: a real one, and servers in trouble.

mod compatibility;
mod failure;
mod receiving;
mod references;
mod registration;
mod secrets;
mod tls;

use event_outbox_lab::{Result, wait};
use postgres::Client;

use crate::support::database::{DEADLINE, TestDatabase};

/// A schema of a record with one field.
const ORDER: &str = r#"{"type":"record","name":"Order","fields":[{"name":"id","type":"long"}]}"#;

/// A version that readers of [`ORDER`] cannot be without: its new field has no default.
const WITHOUT_DEFAULT: &str = r#"{"type":"record","name":"Order","fields":[{"name":"id","type":"long"},{"name":"sku","type":"string"}]}"#;

/// A database whose schemas are registered at this address.
fn database_with(url: &str) -> Result<TestDatabase> {
    let mut db = TestDatabase::new()?;
    use_registry(&mut db, url)?;
    Ok(db)
}

/// Has the database use a registry; its session sees the setting from then on.
fn use_registry(db: &mut TestDatabase, url: &str) -> Result<()> {
    db.configure("event_outbox.schema_registry_url", url)?;
    db.client = db.connect()?;
    Ok(())
}

/// Registers an Avro schema as the next version of a subject.
fn register(client: &mut Client, subject: &str, definition: &str) -> Result<()> {
    client.execute("SELECT outbox.register_schema($1, 'avro', $2, 'none')", &[&subject, &definition])?;
    Ok(())
}

/// Binds a topic to a subject.
fn bind(client: &mut Client, topic: &str, subject: &str) -> Result<()> {
    client.execute("SELECT outbox.bind_schema($1, NULL, $2)", &[&topic, &subject])?;
    Ok(())
}

/// Waits until the registry has all versions of a subject.
fn wait_registered(client: &mut Client, subject: &str) -> Result<()> {
    let is_registered: bool =
        client.query_one("SELECT outbox.wait_registered($1, '30 seconds')", &[&subject])?.get(0);
    assert!(is_registered, "{}", shown(client)?);
    Ok(())
}

/// The id that the registry gave to a version.
fn id(client: &mut Client, subject: &str, version: i32) -> Result<Option<i32>> {
    let sql = "SELECT registry_id FROM outbox.schemas WHERE subject = $1 AND version = $2";
    Ok(client.query_one(sql, &[&subject, &version])?.get(0))
}

/// Waits until a version is in this state; returns what the registry said.
fn until_state(client: &mut Client, subject: &str, version: i32, state: &str) -> Result<String> {
    let sql = "SELECT coalesce(registry_error, '') FROM outbox.schemas
                WHERE subject = $1 AND version = $2 AND registry_state = $3";
    let found = wait::until_ok(&format!("version {version} of {subject} to be {state}"), DEADLINE, || {
        Ok(client.query_opt(sql, &[&subject, &version, &state])?.map(|row| row.get(0)))
    });
    let shown = shown(client)?;
    found.map_err(|error| error.context(shown))
}

/// What the database shows of the registry, for messages.
fn shown(client: &mut Client) -> Result<String> {
    let sql = "SELECT coalesce((SELECT string_agg(s::text, ' ') FROM outbox.schemas AS s), '') ||
                      coalesce((SELECT string_agg(f::text, ' ') FROM outbox.schema_fetch AS f), '') ||
                      (SELECT coalesce(last_error, '') FROM outbox.status)";
    Ok(client.query_one(sql, &[])?.get(0))
}
