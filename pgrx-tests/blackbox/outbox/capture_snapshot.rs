//! Snapshots of captured tables, beside the changes of others.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use event_outbox_lab::{Result, wait};
use postgres::Client;
use postgres::error::SqlState;
use serde_json::Value;

use crate::support::captures::{refusal, taken};
use crate::support::database::{DEADLINE, TestDatabase};

#[test]
fn the_rows_that_are_there_become_events() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    db.client.batch_execute(
        "CREATE TABLE t (region text, id int, secret text, PRIMARY KEY (region, id));
         INSERT INTO t VALUES ('b''\\', 1, 's'), ('a', 2, 's'), ('a', 1, 's'), ('c', 0, 's');
         SELECT outbox.capture('t', 'delta', topic => 't', \"except\" => '{secret}', \"when\" => 'NEW.id > 0',
                               operations => '{insert,update}')",
    )?;
    for chunk in [1, 2, 1000] {
        db.client.batch_execute(&format!("CALL outbox.emit_snapshot('t', {chunk})"))?;
        let events = taken(&mut db.client)?;
        let key = |region: &str, id: i32| format!(r#"{{"region":"{region}","id":{id}}}"#);
        let event = |key: String| format!(r#"t.snapshot {key} {{"key":{key},"changed":{key}}}"#);
        assert_eq!(events, [event(key("a", 1)), event(key("a", 2)), event(key(r"b'\\", 1))], "{chunk}");
    }
    Ok(())
}

#[test]
fn a_capture_can_begin_with_one() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    db.client.batch_execute(
        "CREATE TABLE t (id int, n int); INSERT INTO t SELECT n, 0 FROM generate_series(1, 2500) AS n;
         CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (10);
         CREATE TABLE high PARTITION OF parts FOR VALUES FROM (10) TO (20); INSERT INTO parts VALUES (1), (11);
         SELECT outbox.capture('t', 'fat', topic => 't', key => '{id}', mode => 'statement', snapshot => true)",
    )?;
    let events = taken(&mut db.client)?;
    assert_eq!(events.len(), 2500);
    assert_eq!(events[0], r#"t.snapshot 1 {"key":{"id":1},"old":null,"new":{"id":1,"n":0}}"#);
    db.client
        .batch_execute("SELECT outbox.capture('parts', 'notification', topic => 't', snapshot => true)")?;
    let both = [r#"parts.snapshot 1 {"key":{"id":1}}"#, r#"parts.snapshot 11 {"key":{"id":11}}"#];
    assert_eq!(taken(&mut db.client)?, both);
    db.client.batch_execute("CALL outbox.emit_snapshot('parts', 1)")?;
    assert_eq!(taken(&mut db.client)?, both);
    Ok(())
}

#[test]
fn what_cannot_be_is_refused() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    db.client.batch_execute(
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE keyless (id int);
         SELECT outbox.capture('keyless', 'fat', topic => 't', key => '{id}')",
    )?;
    for (sql, code) in [
        ("CALL outbox.emit_snapshot('t')", SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE),
        ("CALL outbox.emit_snapshot('keyless')", SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE),
        ("CALL outbox.emit_snapshot(NULL)", SqlState::NULL_VALUE_NOT_ALLOWED),
        ("BEGIN; CALL outbox.emit_snapshot('t')", SqlState::INVALID_TRANSACTION_TERMINATION),
    ] {
        assert_eq!(refusal(&mut db.client, sql).0, code, "{sql}");
        db.client.batch_execute("ROLLBACK")?;
    }
    Ok(())
}

/// A row that somebody has locked is waited for alone: no row is held meanwhile, so nobody is held up or deadlocked.
#[test]
fn a_locked_row_holds_up_nobody() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    db.client.batch_execute(
        "CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t SELECT n, 0 FROM generate_series(1, 10) AS n;
         SELECT outbox.capture('t', 'delta', topic => 't'); ALTER DATABASE CURRENT_DB SET default_transaction_isolation = 'repeatable read'"
            .replace("CURRENT_DB", &db.database)
            .as_str(),
    )?;
    let mut session = db.connect()?;
    session.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED; UPDATE t SET n = 1 WHERE id = 5")?;
    let (server, database) = (db.server, db.database.clone());
    let snapshot = thread::spawn(move || -> Result<()> {
        Ok(server.connect(&database)?.batch_execute("CALL outbox.emit_snapshot('t', 100)")?)
    });
    wait::until_ok("the snapshot to wait for the row", DEADLINE, || {
        let waiting =
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype IN ('transactionid', 'tuple')";
        Ok((db.client.query_one(waiting, &[])?.get::<_, i64>(0) > 0).then_some(()))
    })?;
    // All others are free.
    session.batch_execute("SET lock_timeout = '5s'; UPDATE t SET n = 2 WHERE id IN (1, 9); COMMIT")?;
    snapshot.join().map_err(|_| anyhow::anyhow!("the snapshot panicked"))??;
    let events = taken(&mut db.client)?;
    let last = |id: &str| events.iter().rev().find(|event| event.contains(&format!(" {id} "))).cloned();
    assert_eq!(last("5"), Some(r#"t.snapshot 5 {"key":{"id":5},"changed":{"id":5,"n":1}}"#.into()));
    assert_eq!(last("9"), Some(r#"t.patched 9 {"key":{"id":9},"changed":{"n":2}}"#.into()));
    assert_eq!(events.len(), 13, "{events:?}");
    Ok(())
}

/// Changes rows at random until told to stop.
fn disturb(mut client: Client, seed: i32, stop: &AtomicBool) -> Result<()> {
    let mut changes = 0;
    while !stop.load(Ordering::Relaxed) || changes < 50 {
        changes += 1;
        let sql = format!(
            "DO $$ DECLARE k int := 1 + ({seed} * 7919 + {changes} * 104729) % 300; BEGIN
                 CASE ({changes} + {seed}) % 5
                 WHEN 0 THEN INSERT INTO t VALUES (k, {changes}, {seed}) ON CONFLICT (id) DO UPDATE SET n = excluded.n, by = excluded.by;
                 WHEN 1 THEN DELETE FROM t WHERE id = k;
                 WHEN 2 THEN UPDATE t SET n = n + 1 WHERE id BETWEEN k AND k + 20;
                 WHEN 3 THEN UPDATE t SET id = k + 300 WHERE id = k AND NOT EXISTS (SELECT FROM t WHERE id = k + 300);
                 ELSE UPDATE t SET id = k WHERE id = k + 300 AND NOT EXISTS (SELECT FROM t WHERE id = k);
                 END CASE;
                 IF {changes} % 7 = 0 THEN RAISE EXCEPTION 'undone'; END IF;
             EXCEPTION WHEN unique_violation THEN NULL; END $$"
        );
        // Some are undone on purpose, and writers may deadlock among themselves.
        let _ = client.batch_execute(&sql);
    }
    Ok(())
}

/// The state that the last event of each key tells of.
fn told(client: &mut Client) -> Result<BTreeMap<i64, Value>> {
    let sql = "SELECT convert_from(payload, 'UTF8') FROM outbox.events ORDER BY id";
    let mut state = BTreeMap::new();
    for row in client.query(sql, &[])? {
        let event: Value = serde_json::from_str(row.get(0))?;
        let key = event["key"]["id"].as_i64().unwrap_or_default();
        if event["new"].is_null() {
            state.remove(&key);
        } else {
            state.insert(key, event["new"].clone());
        }
    }
    Ok(state)
}

/// With writers beside it, each key's last event is its present state, whatever the mode and the chunk.
#[test]
fn the_last_event_of_each_key_is_its_present_state() -> Result<()> {
    for (mode, chunk) in [("row", 7), ("statement", 50)] {
        let mut db = TestDatabase::disabled()?;
        db.client.batch_execute(&format!(
            "CREATE TABLE t (id int PRIMARY KEY, n int, by int);
             INSERT INTO t SELECT n, 0, 0 FROM generate_series(1, 300) AS n;
             SELECT outbox.capture('t', 'fat', topic => 't', mode => '{mode}')"
        ))?;
        let stop = AtomicBool::new(false);
        thread::scope(|scope| -> Result<()> {
            let writers: Vec<_> = (1..=3)
                .map(|seed| {
                    let client = db.connect();
                    let stop = &stop;
                    scope.spawn(move || disturb(client?, seed, stop))
                })
                .collect();
            let mut snapshots = db.connect()?;
            for _ in 0..3 {
                let emitted = snapshots.batch_execute(&format!("CALL outbox.emit_snapshot('t', {chunk})"));
                if emitted.is_err() {
                    stop.store(true, Ordering::Relaxed);
                }
                emitted?;
            }
            stop.store(true, Ordering::Relaxed);
            for writer in writers {
                writer.join().map_err(|_| anyhow::anyhow!("a writer panicked"))??;
            }
            Ok(())
        })?;
        let mut present = BTreeMap::new();
        for row in db.client.query("SELECT id::bigint, row_to_json(t)::text FROM t", &[])? {
            present.insert(row.get::<_, i64>(0), serde_json::from_str::<Value>(row.get(1))?);
        }
        let told = told(&mut db.client)?;
        assert!(present.len() > 100 && told == present, "{mode}: {told:?} instead of {present:?}");
    }
    Ok(())
}
