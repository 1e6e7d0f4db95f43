//! The relay learns of each event at once, however it gets into the table.

use std::io::Write;

use event_outbox_lab::Result;

use crate::support::database::{TestDatabase, values};

#[test]
fn a_plain_insert_wakes_the_relay() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("insert");
    db.relay()?;
    db.client.execute(
        "INSERT INTO outbox.events (topic, payload, key)
         SELECT $1, convert_to(n::text, 'UTF8'), 'k' FROM generate_series(1, 3) AS n",
        &[&topic],
    )?;
    assert_eq!(values(&db.promptly(&topic, 3)?), ["1", "2", "3"]);
    Ok(())
}

#[test]
fn copy_wakes_the_relay() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("copy");
    db.relay()?;
    let mut copy = db.client.copy_in("COPY outbox.events (topic, key, payload, headers) FROM STDIN")?;
    for number in 1..=500 {
        writeln!(copy, "{topic}\tk\t{number}\t{{\"n\": {number}}}")?;
    }
    assert_eq!(copy.finish()?, 500);
    let records = db.promptly(&topic, 500)?;
    let expected: Vec<_> = (1..=500).map(|n| n.to_string()).collect();
    assert_eq!(values(&records), expected);
    assert_eq!(records[499].header("n"), Some("500"));
    Ok(())
}

/// As by logical replication: no trigger fires, so the commit wakes nobody.
fn insert_past_the_triggers(db: &mut TestDatabase, topic: &str) -> Result<()> {
    let mut transaction = db.client.transaction()?;
    transaction.batch_execute("SET LOCAL session_replication_role = replica")?;
    transaction.execute("INSERT INTO outbox.events (topic, payload) VALUES ($1, '1')", &[&topic])?;
    Ok(transaction.commit()?)
}

#[test]
fn notify_outbox_from_any_client_wakes_the_relay() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("notify");
    db.relay()?;
    insert_past_the_triggers(&mut db, &topic)?;
    db.connect()?.batch_execute("NOTIFY outbox")?;
    assert_eq!(values(&db.promptly(&topic, 1)?), ["1"]);
    // Again, from where the last sweep found nothing.
    insert_past_the_triggers(&mut db, &topic)?;
    db.connect()?.batch_execute("SELECT pg_notify('outbox', 'whatever')")?;
    db.promptly(&topic, 2)?;
    Ok(())
}

#[test]
fn the_periodic_sweep_finds_what_nobody_told_of() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("sweep");
    db.configure("event_outbox.sweep_interval", "1s")?;
    for count in 1..=2 {
        insert_past_the_triggers(&mut db, &topic)?;
        db.promptly(&topic, count)?;
    }
    // With an old id.
    db.client.execute("INSERT INTO outbox.events (id, topic, payload) VALUES (1, $1, '2')", &[&topic])?;
    assert_eq!(values(&db.promptly(&topic, 3)?), ["1", "1", "2"]);
    Ok(())
}

/// As by a dump that is restored into an outbox in use, or by rows with explicit ids.
#[test]
fn ids_of_long_ago_are_found_at_once() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("old_ids");
    db.client.execute("SELECT outbox.emit($1, '1') FROM generate_series(1, 10)", &[&topic])?;
    db.promptly(&topic, 10)?;
    let app = format!("{}_app", db.database);
    db.client.batch_execute(&format!(
        "CREATE ROLE {app} LOGIN; GRANT USAGE ON SCHEMA outbox TO {app}; GRANT INSERT ON outbox.events TO {app}"
    ))?;
    let mut session = db.connect_as(&app)?;
    session.execute("INSERT INTO outbox.events (id, topic, payload) VALUES (1, $1, '2')", &[&topic])?;
    db.promptly(&topic, 11)?;
    let mut copy = db.client.copy_in("COPY outbox.events (id, topic, payload) FROM STDIN")?;
    write!(copy, "3\t{topic}\t3\n5\t{topic}\t5\n")?;
    copy.finish()?;
    assert_eq!(values(&db.promptly(&topic, 13)?)[10..], ["2", "3", "5"]);
    drop(session);
    Ok(db.client.batch_execute(&format!("DROP OWNED BY {app}; DROP ROLE {app}"))?)
}

#[test]
fn truncate_and_hand_made_deletes_are_no_trouble() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("deletes");
    db.client.execute("SELECT outbox.emit($1, '1')", &[&topic])?;
    db.promptly(&topic, 1)?;
    db.client.batch_execute("BEGIN")?;
    db.client.execute("SELECT outbox.emit($1, to_jsonb(n)) FROM generate_series(2, 4) AS n", &[&topic])?;
    db.client.batch_execute("DELETE FROM outbox.events WHERE payload = '3'; COMMIT")?;
    assert_eq!(values(&db.promptly(&topic, 3)?), ["1", "2", "4"]);
    db.client.batch_execute("TRUNCATE outbox.events RESTART IDENTITY")?;
    db.client.execute("SELECT outbox.emit($1, '5')", &[&topic])?;
    assert_eq!(values(&db.promptly(&topic, 4)?), ["1", "2", "4", "5"]);
    Ok(())
}
