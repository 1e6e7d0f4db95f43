//! What a role with only the privilege to emit can do.

use event_outbox_lab::Result;
use postgres::error::SqlState;

use crate::support::database::TestDatabase;
use crate::support::events::emit;
use crate::support::roles::{assert_denied, create_role};

/// The privilege to emit, and no more.
const EMIT: &str =
    "GRANT EXECUTE ON FUNCTION outbox.emit(text, jsonb, text, text, jsonb, uuid, integer) TO ROLE";

#[test]
fn the_right_to_emit_is_enough_to_emit() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("app");
    let role = create_role(&mut db, "app", EMIT)?;
    let mut app = db.connect_as(&role)?;
    emit(&mut app, &topic, 1)?;
    // With every argument, and by COMMIT PREPARED.
    app.execute(
        "SELECT outbox.emit($1, '2', 'k', 't', '{\"h\": 1}', '018f4e9c-7b1a-7000-8000-0123456789ab', 0)",
        &[&topic],
    )?;
    app.batch_execute("BEGIN")?;
    emit(&mut app, &topic, 3)?;
    app.batch_execute(&format!("PREPARE TRANSACTION '{role}'"))?;
    app.batch_execute(&format!("COMMIT PREPARED '{role}'"))?;
    db.promptly(&topic, 3)?;
    assert_eq!(db.drained_values(&topic)?, ["1", "2", "3"]);
    Ok(())
}

#[test]
fn the_right_to_emit_gives_no_other() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let role = create_role(&mut db, "app", EMIT)?;
    let mut app = db.connect_as(&role)?;
    for sql in [
        "SELECT FROM outbox.events",
        "SELECT payload FROM outbox.pending",
        "SELECT last_error FROM outbox.status",
        "SELECT last_error FROM pg_database AS d, outbox.relay_status(d.oid)",
        "INSERT INTO outbox.events (topic, payload) VALUES ('t', '1')",
        "COPY outbox.events (topic, payload) FROM STDIN",
        "UPDATE outbox.events SET last_error = 'x'",
        "DELETE FROM outbox.events",
        "TRUNCATE outbox.events",
        "DO $$ BEGIN LOCK TABLE outbox.events; END $$",
        "SELECT nextval('outbox.events_id_seq')",
        "SELECT setval('outbox.events_id_seq', 1)",
        "SELECT last_value FROM outbox.events_id_seq",
        "SELECT outbox.emit_bytes('t', '1')",
        "SELECT outbox.wait_published('0')",
        "CREATE TABLE outbox.mine ()",
        "CREATE FUNCTION outbox.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "ALTER TABLE outbox.events DISABLE TRIGGER ALL",
        "CREATE TRIGGER mine BEFORE INSERT ON outbox.events FOR EACH ROW EXECUTE FUNCTION tsvector_update_trigger()",
        "DROP EXTENSION event_outbox",
        "SET event_outbox.max_event_bytes = 1",
        "SET event_outbox.kafka_properties = 'client.id=mine'",
        "SHOW event_outbox.kafka_properties",
        "SHOW event_outbox.kafka_properties_file",
        "SET session_replication_role = replica",
    ] {
        assert_denied(&mut app, sql);
    }
    Ok(())
}

#[test]
fn without_grants_nothing_is_open() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let role = format!("nobody_{}", db.database);
    db.client.batch_execute(&format!("CREATE ROLE {role} LOGIN"))?;
    let mut nobody = db.connect_as(&role)?;
    assert_denied(&mut nobody, "SELECT outbox.emit('t', '1')");
    // USAGE on the schema opens no function that writes, waits or reads events.
    db.client.batch_execute(&format!("GRANT USAGE ON SCHEMA outbox TO {role}"))?;
    for sql in [
        "SELECT outbox.emit('t', '1')",
        "SELECT outbox.emit_bytes('t', '1')",
        "SELECT outbox.wait_published('0')",
        "SELECT FROM outbox.status",
        "SELECT outbox.relay_status(oid) FROM pg_database",
        "SELECT FROM outbox.pending",
        "SELECT FROM outbox.events",
    ] {
        assert_denied(&mut nobody, sql);
    }
    Ok(())
}

/// Functions with the owner's privileges are trigger functions or C functions, which cannot be called directly.
#[test]
fn trigger_functions_cannot_be_called_by_hand() -> Result<()> {
    let mut db = TestDatabase::new()?;
    for function in ["before_insert", "check_event", "count_attempt"] {
        let sql = format!("SELECT outbox.{function}()");
        let error = db.client.batch_execute(&sql).expect_err(&sql);
        let code = error.code().map(SqlState::code);
        assert!(matches!(code, Some("0A000" | "39P01")), "{sql}: {error:?}");
    }
    // Nor can they serve a table of one's own, which lacks the columns.
    db.client.batch_execute(
        "CREATE TABLE mine (x int);
         CREATE TRIGGER t BEFORE INSERT ON mine FOR EACH ROW EXECUTE FUNCTION outbox.check_event()",
    )?;
    assert!(db.client.batch_execute("INSERT INTO mine VALUES (1)").is_err());
    db.client.batch_execute("SELECT 1")?;
    Ok(())
}

/// An administrator can grant INSERT on the table; the checks still apply.
#[test]
fn insert_on_the_table_can_be_granted() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("granted");
    let role = format!("loader_{}", db.database);
    db.client.batch_execute(&format!(
        "CREATE ROLE {role} LOGIN;
         GRANT USAGE ON SCHEMA outbox TO {role};
         GRANT INSERT ON outbox.events TO {role}"
    ))?;
    let mut loader = db.connect_as(&role)?;
    loader.execute("INSERT INTO outbox.events (topic, payload) VALUES ($1, '1')", &[&topic])?;
    assert_eq!(db.promptly(&topic, 1)?.len(), 1);
    assert_denied(&mut loader, "SELECT FROM outbox.events");
    assert!(loader.batch_execute("INSERT INTO outbox.events (topic, payload) VALUES ('a b', '1')").is_err());
    Ok(())
}
