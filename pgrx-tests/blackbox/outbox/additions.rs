//! Triggers, constraints and columns that the owner adds to `outbox.events` apply to `emit()`, too, which appends to a
//! table without additions directly: from the next call on, also in sessions that have emitted before.

use event_outbox_lab::Result;
use postgres::Client;
use postgres::error::SqlState;
use serde_json::json;

use crate::support::database::TestDatabase;
use crate::support::events::Event;

/// A session that has emitted, and one of the owner. Nothing is published.
fn prepared() -> Result<(TestDatabase, Client, String)> {
    let mut db = TestDatabase::new()?;
    db.configure("event_outbox.enabled", "off")?;
    let mut session = db.connect()?;
    let topic = db.topic("additions");
    emit_one(&mut session, &topic)?;
    Ok((db, session, topic))
}

fn emit_one(session: &mut Client, topic: &str) -> Result<(), postgres::Error> {
    Event::new(topic, json!({})).key("k").emit(session).map(drop)
}

fn code(result: Result<(), postgres::Error>) -> SqlState {
    let error = result.expect_err("it was not refused");
    error.code().unwrap_or_else(|| panic!("{error:?}")).clone()
}

/// A column of the newest row, as text.
fn newest(session: &mut Client, column: &str) -> Result<Option<String>> {
    let sql = format!("SELECT ({column})::text FROM outbox.events ORDER BY id DESC LIMIT 1");
    Ok(session.query_one(&sql, &[])?.get(0))
}

fn count(session: &mut Client, table: &str) -> Result<i64> {
    Ok(session.query_one(&format!("SELECT count(*) FROM {table}"), &[])?.get(0))
}

#[test]
fn triggers() -> Result<()> {
    let (mut db, mut session, topic) = prepared()?;
    db.client.batch_execute(
        "CREATE TABLE seen (id bigint);
         CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN NEW.content_type := ''stamped''; RETURN NEW; END';
         CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN INSERT INTO seen VALUES (NEW.id); RETURN NULL; END';
         CREATE FUNCTION see_all() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN INSERT INTO seen SELECT id FROM new_events; RETURN NULL; END';
         CREATE TRIGGER stamp BEFORE INSERT ON outbox.events FOR EACH ROW EXECUTE FUNCTION stamp()",
    )?;
    emit_one(&mut session, &topic)?;
    assert_eq!(newest(&mut session, "content_type")?.as_deref(), Some("stamped"));
    db.client.batch_execute(
        "DROP TRIGGER stamp ON outbox.events;
         CREATE TRIGGER see AFTER INSERT ON outbox.events FOR EACH ROW EXECUTE FUNCTION see()",
    )?;
    emit_one(&mut session, &topic)?;
    assert_eq!(newest(&mut session, "content_type")?.as_deref(), Some("application/json"));
    assert_eq!(count(&mut session, "seen")?, 1);
    db.client.batch_execute(
        "DROP TRIGGER see ON outbox.events;
         CREATE TRIGGER see_all AFTER INSERT ON outbox.events REFERENCING NEW TABLE AS new_events
             FOR EACH STATEMENT EXECUTE FUNCTION see_all()",
    )?;
    emit_one(&mut session, &topic)?;
    assert_eq!(count(&mut session, "seen")?, 2);
    db.client.batch_execute("DROP TRIGGER see_all ON outbox.events")?;
    emit_one(&mut session, &topic)?;
    assert_eq!(count(&mut session, "seen")?, 2);
    Ok(())
}

#[test]
fn constraints() -> Result<()> {
    let (mut db, mut session, topic) = prepared()?;
    db.client
        .batch_execute("ALTER TABLE outbox.events ADD CONSTRAINT short CHECK (length(key) > 1) NOT VALID")?;
    assert_eq!(code(emit_one(&mut session, &topic)), SqlState::CHECK_VIOLATION);
    db.client.batch_execute("ALTER TABLE outbox.events DROP CONSTRAINT short")?;
    emit_one(&mut session, &topic)?;
    db.client
        .batch_execute("TRUNCATE outbox.events; ALTER TABLE outbox.events ALTER event_type SET NOT NULL")?;
    assert_eq!(code(emit_one(&mut session, &topic)), SqlState::NOT_NULL_VIOLATION);
    db.client.batch_execute("ALTER TABLE outbox.events ALTER event_type DROP NOT NULL")?;
    emit_one(&mut session, &topic)?;
    Ok(())
}

#[test]
fn constraints_of_the_same_transaction() -> Result<()> {
    let (_db, mut session, topic) = prepared()?;
    let mut transaction = session.transaction()?;
    let sql = "SELECT outbox.emit($1, '{}', key => 'k')";
    transaction.execute(sql, &[&topic])?;
    transaction.batch_execute("ALTER TABLE outbox.events ADD CHECK (topic <> key::text) NOT VALID")?;
    transaction.execute(sql, &[&topic])?;
    transaction.batch_execute("ALTER TABLE outbox.events ADD CHECK (length(key) > 1) NOT VALID")?;
    let refused = transaction.execute(sql, &[&topic]).map(|_| ());
    assert_eq!(code(refused), SqlState::CHECK_VIOLATION);
    transaction.rollback()?;
    emit_one(&mut session, &topic)?;
    assert_eq!(count(&mut session, "outbox.events")?, 2);
    Ok(())
}

#[test]
fn columns() -> Result<()> {
    let (mut db, mut session, topic) = prepared()?;
    db.client.batch_execute(
        "ALTER TABLE outbox.events ADD region text NOT NULL DEFAULT 'eu',
             ADD bytes integer GENERATED ALWAYS AS (length(payload)) STORED",
    )?;
    emit_one(&mut session, &topic)?;
    assert_eq!(newest(&mut session, "region || ' ' || bytes")?.as_deref(), Some("eu 2"));
    db.client.batch_execute("ALTER TABLE outbox.events DROP region, DROP bytes")?;
    emit_one(&mut session, &topic)?;
    let whole = newest(&mut session, "(topic, convert_from(key, 'UTF8'), attempts, last_error)")?;
    assert_eq!(whole, Some(format!("({topic},k,0,)")));
    // Behind the dropped columns.
    db.client.batch_execute("ALTER TABLE outbox.events ADD region text DEFAULT 'us'")?;
    emit_one(&mut session, &topic)?;
    assert_eq!(newest(&mut session, "region")?.as_deref(), Some("us"));
    Ok(())
}

/// The extension's view and trigger fix the types of the columns that they name, until they are dropped.
#[test]
fn types_of_columns() -> Result<()> {
    let (mut db, mut session, topic) = prepared()?;
    db.client.batch_execute(
        "ALTER EXTENSION event_outbox DROP VIEW outbox.pending; DROP VIEW outbox.pending CASCADE;
         DROP TRIGGER check_change ON outbox.events;
         TRUNCATE outbox.events; ALTER TABLE outbox.events ALTER topic TYPE varchar(5)",
    )?;
    assert!(topic.len() > 5);
    assert_eq!(code(emit_one(&mut session, &topic)), SqlState::STRING_DATA_RIGHT_TRUNCATION);
    db.client.batch_execute("ALTER TABLE outbox.events ALTER topic TYPE text, ALTER headers TYPE jsonb")?;
    session.execute("SELECT outbox.emit($1, '{}', headers => '{\"a\": [1]}')", &[&topic])?;
    assert_eq!(newest(&mut session, "headers -> 'a' -> 0")?.as_deref(), Some("1"));
    Ok(())
}

#[test]
fn indexes() -> Result<()> {
    let (mut db, mut session, topic) = prepared()?;
    db.client.batch_execute("CREATE INDEX CONCURRENTLY by_key ON outbox.events (key)")?;
    emit_one(&mut session, &topic)?;
    db.client.batch_execute("SET enable_seqscan = off")?;
    let found = "outbox.events WHERE key = 'k'::bytea";
    assert_eq!(count(&mut db.client, found)?, 2, "the index has it");
    db.client.batch_execute("DROP INDEX outbox.by_key; CREATE UNIQUE INDEX ON outbox.events (event_id)")?;
    let twice = "SELECT outbox.emit($1, '{}', event_id => '00000000-0000-7000-8000-000000000000')";
    session.execute(twice, &[&topic])?;
    let refused = session.execute(twice, &[&topic]).map(|_| ());
    assert_eq!(code(refused), SqlState::UNIQUE_VIOLATION);
    db.client.batch_execute(
        "ALTER TABLE outbox.events DROP CONSTRAINT events_pkey;
         ALTER TABLE outbox.events ADD CONSTRAINT events_pkey PRIMARY KEY (id) DEFERRABLE",
    )?;
    emit_one(&mut session, &topic)?;
    Ok(())
}

#[test]
fn rules() -> Result<()> {
    let (mut db, mut session, topic) = prepared()?;
    db.client.batch_execute(
        "CREATE TABLE seen (topic text);
         CREATE RULE see AS ON INSERT TO outbox.events DO ALSO INSERT INTO seen VALUES (NEW.topic)",
    )?;
    emit_one(&mut session, &topic)?;
    assert_eq!(count(&mut session, "seen")?, 1);
    Ok(())
}

#[test]
fn the_sequence() -> Result<()> {
    let (mut db, mut session, topic) = prepared()?;
    db.client.batch_execute("ALTER SEQUENCE outbox.events_id_seq MINVALUE -9 RESTART -5")?;
    assert_eq!(code(emit_one(&mut session, &topic)), SqlState::CHECK_VIOLATION);
    db.client.batch_execute("ALTER SEQUENCE outbox.events_id_seq MINVALUE 1 RESTART 1")?;
    assert_eq!(code(emit_one(&mut session, &topic)), SqlState::UNIQUE_VIOLATION);
    emit_one(&mut session, &topic)?;
    Ok(())
}

#[test]
fn another_table_of_the_same_name() -> Result<()> {
    let (mut db, mut session, topic) = prepared()?;
    for expected in 1..=3_i64 {
        db.client.batch_execute("DROP EXTENSION event_outbox; CREATE EXTENSION event_outbox")?;
        for _ in 0..expected {
            emit_one(&mut session, &topic)?;
        }
        assert_eq!(newest(&mut session, "id")?, Some(expected.to_string()));
    }
    db.client.batch_execute("DROP EXTENSION event_outbox; CREATE SCHEMA outbox")?;
    let missing = session.execute("SELECT outbox.emit('t', '{}')", &[]).map(|_| ());
    assert_eq!(code(missing), SqlState::UNDEFINED_FUNCTION);
    Ok(())
}

/// Not an addition, but refused alike.
#[test]
fn a_transaction_that_must_not_write() -> Result<()> {
    let (_db, mut session, topic) = prepared()?;
    session.batch_execute("BEGIN READ ONLY")?;
    let refused = emit_one(&mut session, &topic);
    assert_eq!(code(refused), SqlState::READ_ONLY_SQL_TRANSACTION);
    session.batch_execute("ROLLBACK")?;
    Ok(())
}

/// As an apply worker, for which the table's triggers do not fire.
#[test]
fn a_session_that_replays_wakes_the_relay() -> Result<()> {
    let db = TestDatabase::new()?;
    let topic = db.topic("replayed");
    let mut session = db.connect()?;
    session.batch_execute("SET session_replication_role = replica")?;
    emit_one(&mut session, &topic)?;
    db.promptly(&topic, 1)?;
    Ok(())
}

/// Triggers that have the names of the extension's own.
#[test]
fn triggers_under_the_extensions_names() -> Result<()> {
    for name in ["check_event", "before_insert"] {
        let (mut db, mut session, topic) = prepared()?;
        db.client.batch_execute(&format!(
            "CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN NEW.content_type := ''stamped''; RETURN NEW; END';
             DROP TRIGGER {name} ON outbox.events;
             CREATE TRIGGER {name} BEFORE INSERT ON outbox.events FOR EACH ROW EXECUTE FUNCTION stamp()"
        ))?;
        emit_one(&mut session, &topic)?;
        assert_eq!(newest(&mut session, "content_type")?.as_deref(), Some("stamped"), "{name}");
    }
    // The trigger is the extension's own, but its function is not.
    let (mut db, mut session, topic) = prepared()?;
    db.client.batch_execute(
        "CREATE OR REPLACE FUNCTION outbox.check_event() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN NEW.content_type := ''stamped''; RETURN NEW; END'",
    )?;
    emit_one(&mut session, &topic)?;
    assert_eq!(newest(&mut session, "content_type")?.as_deref(), Some("stamped"));
    Ok(())
}

#[test]
fn a_constraint_under_the_extensions_name() -> Result<()> {
    for condition in ["length(key) > 1", "id > 1000", "id < 0", "attempts > 0", "id > 0 AND length(key) > 1"]
    {
        let (mut db, mut session, topic) = prepared()?;
        db.client.batch_execute(&format!(
            "ALTER TABLE outbox.events DROP CONSTRAINT events_id_check,
                 ADD CONSTRAINT events_id_check CHECK ({condition}) NOT VALID"
        ))?;
        assert_eq!(code(emit_one(&mut session, &topic)), SqlState::CHECK_VIOLATION, "{condition}");
    }
    Ok(())
}

/// Without additions no trigger is called for an event that `emit()` has checked.
#[test]
fn nothing_is_added_by_an_installation() -> Result<()> {
    let (mut db, mut session, topic) = prepared()?;
    session.batch_execute("SET track_functions = 'all'")?;
    let calls = "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_xact_user_functions WHERE funcname = 'check_event'";
    let mut called = |addition: &str| -> Result<i64> {
        db.client.batch_execute(addition)?;
        let mut transaction = session.transaction()?;
        transaction.execute("SELECT outbox.emit($1, '{}', key => 'k')", &[&topic])?;
        Ok(transaction.query_one(calls, &[])?.get(0))
    };
    assert_eq!(called("SELECT")?, 0);
    assert_eq!(called("ALTER TABLE outbox.events ADD region text")?, 1);
    Ok(())
}

/// Rows that a trigger inserts or changes during `emit()` are checked.
#[test]
fn what_triggers_make_of_an_event_is_checked() -> Result<()> {
    for (body, hint) in [
        ("NEW.topic := 'a topic'; RETURN NEW;", "changed"),
        (
            "IF pg_trigger_depth() = 1 THEN
                 INSERT INTO outbox.events (topic, payload) VALUES ('a topic', '1');
             END IF;
             RETURN NEW;",
            "inserted",
        ),
    ] {
        let (mut db, mut session, topic) = prepared()?;
        db.client.batch_execute(&format!(
            "CREATE FUNCTION a_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;
             CREATE TRIGGER a_change BEFORE INSERT ON outbox.events FOR EACH ROW EXECUTE FUNCTION a_change()"
        ))?;
        assert_eq!(code(emit_one(&mut session, &topic)), SqlState::INVALID_NAME, "{hint}");
        assert_eq!(count(&mut session, "outbox.events WHERE topic = 'a topic'")?, 0, "{hint}");
    }
    Ok(())
}

#[test]
fn a_session_that_replays_wakes_the_relay_of_a_table_with_additions() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("replayed")?;
    db.client.batch_execute("ALTER TABLE outbox.events ADD region text")?;
    let mut session = db.connect()?;
    session.batch_execute("SET session_replication_role = replica")?;
    for number in 1..=3 {
        session.execute("SELECT outbox.emit($1, to_jsonb($2::int), key => 'k')", &[&topic, &number])?;
        db.promptly(&topic, usize::try_from(number)?)?;
    }
    Ok(())
}
