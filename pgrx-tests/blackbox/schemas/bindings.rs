//! Which schema an event has, and how soon sessions know.

use event_outbox_lab::Result;

use crate::support::database::TestDatabase;
use crate::support::schemas::{refused, register};

fn subjects(db: &mut TestDatabase) -> Result<()> {
    for (subject, of) in [("ints", "\"int\""), ("strings", "\"string\""), ("bools", "\"boolean\"")] {
        register(&mut db.client, subject, "avro", of)?;
    }
    Ok(())
}

#[test]
fn the_most_specific_binding_counts() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    subjects(&mut db)?;
    db.client.batch_execute(
        "SELECT outbox.bind_schema('*', NULL, 'ints'), outbox.bind_schema('a.*', NULL, 'strings'),
                outbox.bind_schema('a.b', 'T', 'bools'), outbox.bind_schema('c', 'T', 'bools'),
                outbox.bind_schema('d.*', NULL, NULL)",
    )?;
    for (good, bad) in [
        ("'x', '1'", "'x', 'true'"),
        ("'a.x', '\"s\"'", "'a.x', '1'"),
        ("'a.b', 'true', event_type => 'T'", "'a.b', '1', event_type => 'T'"),
        // Of another type: the next binding.
        ("'a.b', '\"s\"', event_type => 'U'", "'a.b', '1', event_type => 'U'"),
        ("'c', '1'", "'c', 'true'"),
    ] {
        db.client.batch_execute(&format!("SELECT outbox.emit({good})"))?;
        refused(&mut db.client, &format!("SELECT outbox.emit({bad})"));
    }
    db.client.batch_execute("SELECT outbox.emit('d.x', '{}')")?;
    // Without one for all types, the others are not overlooked.
    db.client.batch_execute("SELECT outbox.unbind_schema('*')")?;
    let error = refused(&mut db.client, "SELECT outbox.emit('c', 'true', event_type => 'Typo')");
    assert_eq!(error.message(), "events of type \"Typo\" have no schema on topic \"c\"");
    refused(&mut db.client, "SELECT outbox.emit('c', 'true')");
    db.client.batch_execute("SELECT outbox.bind_schema('c', NULL, NULL); SELECT outbox.emit('c', '{}')")?;
    Ok(())
}

#[test]
fn other_sessions_learn_of_changes_at_commit() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let mut other = db.connect()?;
    let emit = "SELECT outbox.emit('t', '{}')";
    other.batch_execute(emit)?;
    subjects(&mut db)?;
    let mut transaction = db.client.transaction()?;
    transaction.batch_execute("SELECT outbox.bind_schema('t', NULL, 'ints')")?;
    assert!(
        transaction.transaction()?.batch_execute(emit).is_err(),
        "the binding counts in its own transaction"
    );
    other.batch_execute(emit)?;
    transaction.commit()?;
    refused(&mut other, emit);

    // In an open transaction, too, which has emitted before.
    other.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT outbox.emit('t', '1')")?;
    db.client.batch_execute("SELECT outbox.register_schema('ints', 'avro', '\"long\"')")?;
    other.batch_execute("SELECT outbox.emit('t', '3000000000'); COMMIT")?;
    // A rollback takes it back.
    db.client
        .batch_execute("BEGIN; SELECT outbox.unbind_schema('t'); SELECT outbox.emit('t', '{}'); ROLLBACK")?;
    refused(&mut db.client, emit);
    // A pinned version stays.
    db.client.batch_execute("SELECT outbox.bind_schema('t', NULL, 'ints', 1)")?;
    refused(&mut other, "SELECT outbox.emit('t', '3000000000')");
    db.client.batch_execute("SELECT outbox.unbind_schema('t')")?;
    other.batch_execute(emit)?;
    Ok(())
}
