//! Sessions receive each event once, in their own transactions, and in order.

use std::collections::HashMap;
use std::thread;

use event_outbox_lab::{Result, wait};
use postgres::Client;

use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::inbox_log::{number, receive, store, subscription};
use crate::support::subscriptions::refusal;

/// Waits until the worker has recorded a failure: the lane has a state after this one.
fn until_recorded(db: &mut TestDatabase, lane: i16, after: i64) -> Result<()> {
    wait::until_ok("a recorded failure", DEADLINE, || {
        let sql = "SELECT coalesce(max(seq), 0) FROM inbox.lane WHERE lane = $1";
        let seq: i64 = db.client.query_one(sql, &[&lane])?.get(0);
        Ok((seq > after).then_some(()))
    })?;
    until_free(db)
}

/// Waits until no other session, nor the worker, holds a lane.
fn until_free(db: &mut TestDatabase) -> Result<()> {
    wait::until_ok("free lanes", DEADLINE, || {
        let sql = "SELECT count(*) FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
                    WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.objsubid = 3";
        Ok((number(db, sql)? == 0).then_some(()))
    })
}

#[test]
fn the_commit_acknowledges() -> Result<()> {
    let mut db = subscription("key")?;
    store(&mut db, &[(1, 3, "a"), (2, 5, "b"), (3, 3, "a"), (4, 5, "b")])?;
    let mut session = db.connect()?;
    session.batch_execute("BEGIN")?;
    assert_eq!(receive(&mut session, 100)?, [1, 2, 3, 4]);
    assert_eq!(receive(&mut session, 100)?, [] as [i64; 0]);
    assert_eq!(receive(&mut db.client, 100)?, [] as [i64; 0], "the lanes are locked");
    session.batch_execute("COMMIT")?;
    assert_eq!(receive(&mut db.client, 100)?, [] as [i64; 0]);
    store(&mut db, &[(5, 3, "a")])?;
    assert_eq!(receive(&mut db.client, 1)?, [5]);
    Ok(())
}

#[test]
fn a_rollback_gives_back() -> Result<()> {
    let mut db = subscription("key")?;
    store(&mut db, &[(1, 3, "a"), (2, 3, "b"), (3, 3, "c"), (4, 3, "d")])?;
    let mut session = db.connect()?;
    session.batch_execute("BEGIN")?;
    assert_eq!(receive(&mut session, 100)?, [1, 2, 3, 4]);
    session.batch_execute("ROLLBACK")?;
    until_recorded(&mut db, 3, 0)?;
    // The worker has narrowed the batch.
    assert_eq!(receive(&mut session, 100)?, [1, 2]);
    assert_eq!(receive(&mut session, 100)?, [3, 4]);
    Ok(())
}

#[test]
fn max_events_is_the_limit() -> Result<()> {
    let mut db = subscription("key")?;
    let events: Vec<(i64, i16, &str)> = (1..=700).map(|at| (at, 7, "k")).collect();
    store(&mut db, &events)?;
    assert_eq!(receive(&mut db.client, 1)?, [1]);
    assert_eq!(receive(&mut db.client, 3)?, [2, 3, 4]);
    // A LIMIT of the query drops what it does not return.
    assert_eq!(db.client.query("SELECT FROM inbox.receive('s', 5) LIMIT 1", &[])?.len(), 1);
    assert_eq!(receive(&mut db.client, 10_000)?, (10..=700).collect::<Vec<i64>>());
    for wrong in ["0", "-1", "10001", "NULL"] {
        assert_eq!(refusal(&mut db.client, &format!("SELECT inbox.receive('s', {wrong})")), "22023");
    }
    assert_eq!(refusal(&mut db.client, "SELECT inbox.receive('none')"), "42704");
    assert_eq!(refusal(&mut db.client, "SELECT inbox.receive(NULL)"), "22004");
    assert_eq!(refusal(&mut db.client, "BEGIN READ ONLY; SELECT inbox.receive('s')"), "25006");
    Ok(())
}

#[test]
fn a_paused_subscription_gives_nothing() -> Result<()> {
    let mut db = subscription("key")?;
    store(&mut db, &[(1, 3, "a")])?;
    db.client.query_one("SELECT inbox.pause('s')", &[])?;
    assert_eq!(receive(&mut db.client, 10)?, [] as [i64; 0]);
    db.client.query_one("SELECT inbox.resume('s')", &[])?;
    assert_eq!(receive(&mut db.client, 10)?, [1]);
    Ok(())
}

#[test]
fn events_before_a_seek_are_skipped() -> Result<()> {
    let mut db = subscription("key")?;
    store(&mut db, &[(1, 3, "a"), (2, 4, "b"), (3, 3, "a")])?;
    db.client.batch_execute("UPDATE inbox.partition SET first_position = 2")?;
    assert_eq!(receive(&mut db.client, 10)?, [3]);
    // A replay receives them.
    db.client.batch_execute(
        "INSERT INTO inbox.subscription (name, owner, source_id, topics, ordering, retention, max_attempts, on_data_loss,
                                         first_position, last_position)
         SELECT 'replay', owner, 1000, topics, ordering, retention, max_attempts, on_data_loss, 0, 2
           FROM inbox.subscription",
    )?;
    let rows = db.client.query("SELECT position FROM inbox.receive('replay') ORDER BY 1", &[])?;
    assert_eq!(rows.iter().map(|row| row.get(0)).collect::<Vec<i64>>(), [1, 2]);
    Ok(())
}

/// 16 sessions receive, and some roll back. Each event is handled once, and those of a key in order.
#[test]
fn many_sessions_handle_each_event_once() -> Result<()> {
    const EVENTS: i64 = 2_000;
    let mut db = subscription("key")?;
    db.client.batch_execute(
        "INSERT INTO inbox.log_0 (source_id, lane, position, partition, \"offset\", key, value)
         SELECT 1000, n % 13, n, 0, n, convert_to((n % 26)::text, 'UTF8'), '1' FROM generate_series(1, 2000) AS n;
         CREATE TABLE handled (at bigserial, position bigint, key text)",
    )?;
    let failed = thread::scope(|scope| -> Result<i64> {
        let sessions: Vec<_> = (0..16)
            .map(|session| {
                let mut client = db.connect()?;
                Ok(scope.spawn(move || -> Result<i64> {
                    let mut failed = 0;
                    for turn in 0.. {
                        client.batch_execute("BEGIN")?;
                        let count = client.execute(
                            "INSERT INTO handled (position, key)
                             SELECT position, convert_from(key, 'UTF8') FROM inbox.receive('s', 7)",
                            &[],
                        )?;
                        if count > 1 && (turn + session) % 5 == 0 {
                            client.batch_execute("ROLLBACK")?;
                            failed += 1;
                            continue;
                        }
                        client.batch_execute("COMMIT")?;
                        let done = client.query_one("SELECT count(*) FROM handled", &[])?;
                        if done.get::<_, i64>(0) >= EVENTS {
                            return Ok(failed);
                        }
                    }
                    Ok(failed)
                }))
            })
            .collect::<Result<_>>()?;
        let mut failed = 0;
        for session in sessions {
            failed += session.join().map_err(|_| anyhow::anyhow!("a session panicked"))??;
        }
        Ok(failed)
    })?;
    assert!(failed > 0, "no session has rolled back");
    assert_eq!(number(&mut db, "SELECT count(*) FROM handled")?, EVENTS);
    assert_eq!(number(&mut db, "SELECT count(DISTINCT position) FROM handled")?, EVENTS);
    let mut last: HashMap<String, i64> = HashMap::new();
    for row in db.client.query("SELECT key, position FROM handled ORDER BY at", &[])? {
        let (key, position): (String, i64) = (row.get(0), row.get(1));
        let before = last.insert(key.clone(), position).unwrap_or(0);
        assert!(before < position, "key {key}: {position} after {before}");
    }
    Ok(())
}

#[test]
fn a_savepoint_gives_back_what_it_received() -> Result<()> {
    let mut db = subscription("key")?;
    store(&mut db, &[(1, 3, "a"), (2, 3, "a"), (3, 3, "a"), (4, 3, "a")])?;
    let mut session = db.connect()?;
    session.batch_execute("BEGIN")?;
    assert_eq!(receive(&mut session, 1)?, [1]);
    session.batch_execute("SAVEPOINT a")?;
    assert_eq!(receive(&mut session, 2)?, [2, 3]);
    session.batch_execute("ROLLBACK TO a")?;
    assert_eq!(receive(&mut session, 1)?, [2]);
    session.batch_execute("SAVEPOINT b")?;
    assert_eq!(receive(&mut session, 1)?, [3]);
    session.batch_execute("RELEASE b; COMMIT")?;
    // The worker looks at what was noted of the first part.
    wait::until_ok("the last event", DEADLINE, || {
        let received = receive(&mut session, 100)?;
        assert!(received.is_empty() || received == [4], "{received:?}");
        Ok((received == [4]).then_some(()))
    })?;
    Ok(())
}

/// What a handler catches counts as well: the one event goes to the retries, then to the dead letters.
#[test]
fn an_event_that_fails_alone_is_charged() -> Result<()> {
    let mut db = subscription("key")?;
    db.configure("event_outbox.retry_backoff", "10ms")?;
    store(&mut db, &[(1, 3, "a"), (2, 3, "bad"), (3, 3, "c"), (4, 3, "bad"), (5, 3, "e")])?;
    db.client.batch_execute("CREATE TABLE handled (at bigserial, position bigint UNIQUE)")?;
    let mut session = db.connect()?;
    let handle = "INSERT INTO handled (position)
                  SELECT CASE WHEN position = 2 THEN 1 / (position - 2) ELSE position END FROM inbox.receive('s')";
    wait::until_ok("the dead letter and all others", DEADLINE, || {
        match session.batch_execute(handle) {
            Err(error) if error.code().is_some_and(|code| code.code() == "22012") => {}
            other => other?,
        }
        // 4 waits for 2.
        let overtaken =
            "SELECT count(*) FROM handled WHERE position = 4 AND NOT EXISTS (SELECT FROM inbox.dead_letters)";
        assert_eq!(number(&mut db, overtaken)?, 0);
        let handled = number(&mut db, "SELECT count(*) FROM handled")?;
        Ok((handled == 4 && number(&mut db, "SELECT count(*) FROM inbox.dead_letters")? == 1).then_some(()))
    })?;
    let dead = db.client.query_one("SELECT position, attempts, last_error FROM inbox.dead_letters", &[])?;
    assert_eq!((dead.get::<_, i64>(0), dead.get::<_, i32>(1)), (2, 3));
    assert_eq!(dead.get::<_, String>(2), "division by zero");
    assert_eq!(number(&mut db, "SELECT count(*) FROM inbox.retry")?, 0);
    Ok(())
}

/// A transaction that keeps to a snapshot must not build on a state that it does not see.
#[test]
fn an_old_snapshot_is_a_serialization_failure() -> Result<()> {
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let mut db = subscription("key")?;
        store(&mut db, &[(1, 3, "a"), (2, 3, "a")])?;
        let mut old = db.connect()?;
        old.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM pg_class"))?;
        assert_eq!(receive(&mut db.client, 1)?, [1]);
        let error = receive(&mut old, 100).expect_err(level);
        assert_eq!(error.code().map(|code| code.code()), Some("40001"), "{level}: {error:?}");
        old.batch_execute(&format!("ROLLBACK; BEGIN ISOLATION LEVEL {level}"))?;
        assert_eq!(receive(&mut old, 100)?, [2], "{level}");
        store(&mut db, &[(3, 3, "a")])?;
        // It sees what came later, and what it has done itself.
        assert_eq!(receive(&mut old, 100)?, [3], "{level}");
        old.batch_execute("COMMIT")?;
        assert_eq!(number(&mut db, "SELECT count(*) FROM inbox.lane")?, 3, "{level}");
    }
    Ok(())
}

/// Their locks keep them apart; that they read and write the same pages is no conflict.
#[test]
fn serializable_receivers_of_other_lanes_do_not_conflict() -> Result<()> {
    const SESSIONS: i16 = 8;
    let mut db = subscription("key")?;
    for first in [1, 100] {
        let events: Vec<(i64, i16, String)> =
            (0..SESSIONS).map(|lane| (first + i64::from(lane), lane, format!("k{lane}"))).collect();
        let events: Vec<(i64, i16, &str)> = events.iter().map(|(n, lane, key)| (*n, *lane, &**key)).collect();
        store(&mut db, &events)?;
        let mut sessions: Vec<Client> = (0..SESSIONS).map(|_| db.connect()).collect::<Result<_>>()?;
        let mut received = Vec::new();
        for session in &mut sessions {
            session.batch_execute("BEGIN ISOLATION LEVEL SERIALIZABLE")?;
            received.extend(receive(session, 1)?);
        }
        received.sort_unstable();
        assert_eq!(received, (first..first + i64::from(SESSIONS)).collect::<Vec<_>>());
        sessions.iter_mut().try_for_each(|session| session.batch_execute("COMMIT"))?;
    }
    assert_eq!(receive(&mut db.client, 100)?, [] as [i64; 0]);
    Ok(())
}

#[test]
fn a_prepared_transaction_keeps_its_lanes() -> Result<()> {
    let mut db = subscription("key")?;
    store(&mut db, &[(1, 3, "a"), (2, 4, "b")])?;
    let mut session = db.connect()?;
    let id = format!("rx_{}", db.database);
    for end in ["ROLLBACK", "COMMIT"] {
        session.batch_execute("BEGIN")?;
        assert_eq!(receive(&mut session, 100)?, [1, 2]);
        session.batch_execute(&format!("PREPARE TRANSACTION '{id}'"))?;
        assert_eq!(receive(&mut db.client, 100)?, [] as [i64; 0]);
        session.batch_execute(&format!("{end} PREPARED '{id}'"))?;
    }
    assert_eq!(receive(&mut db.client, 100)?, [] as [i64; 0]);
    Ok(())
}

#[test]
fn a_cursor_receives_at_its_first_fetch() -> Result<()> {
    let mut db = subscription("key")?;
    store(&mut db, &[(1, 3, "a"), (2, 3, "a"), (3, 3, "a")])?;
    let mut session = db.connect()?;
    session.batch_execute(
        "BEGIN; DECLARE c CURSOR FOR SELECT position FROM inbox.receive('s'); FETCH 1 FROM c; FETCH 1 FROM c; COMMIT",
    )?;
    assert_eq!(receive(&mut db.client, 100)?, [] as [i64; 0]);
    Ok(())
}

#[test]
fn a_held_lane_is_left_out() -> Result<()> {
    let mut db = subscription("key")?;
    store(&mut db, &[(1, 3, "a"), (2, 4, "b")])?;
    let mut holder = db.connect()?;
    holder.batch_execute("BEGIN")?;
    assert_eq!(receive(&mut holder, 1)?.len(), 1);
    let rest = receive(&mut db.client, 100)?;
    assert_eq!(rest.len(), 1);
    holder.batch_execute("ROLLBACK")?;
    wait::until_ok("the other event", DEADLINE, || {
        Ok(receive(&mut db.client, 100)?.first().map(|position| assert_eq!(*position + rest[0], 3)))
    })
}

#[test]
fn events_wait_for_those_of_their_key() -> Result<()> {
    let mut db = subscription("key")?;
    store(&mut db, &[(2, 3, "a"), (3, 3, "b"), (4, 3, "a"), (5, 3, "c")])?;
    db.client.batch_execute(
        "INSERT INTO inbox.retry (subscription_id, position, lane, topic, partition, \"offset\", key, value, order_key,
                                  attempts, next_attempt_at, skip_after)
         VALUES (1000, 1, 3, 't', 0, 1, 'a', '1', inbox.order_key('key', 't', 0, 'a'), 1, now() + '1 hour', 0)",
    )?;
    assert_eq!(receive(&mut db.client, 100)?, [3, 5]);
    assert_eq!(number(&mut db, "SELECT count(*) FROM inbox.retry")?, 3);
    assert_eq!(receive(&mut db.client, 100)?, [] as [i64; 0]);
    store(&mut db, &[(6, 3, "a"), (7, 3, "b")])?;
    db.client.batch_execute("UPDATE inbox.retry SET next_attempt_at = now() WHERE position = 1")?;
    let row = db.client.query_one("SELECT position, attempt FROM inbox.receive('s')", &[])?;
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i32>(1)), (1, 2));
    assert_eq!(receive(&mut db.client, 1)?, [2]);
    assert_eq!(receive(&mut db.client, 100)?, [4]);
    assert_eq!(receive(&mut db.client, 100)?, [6, 7]);
    assert_eq!(number(&mut db, "SELECT count(*) FROM inbox.retry")?, 0);
    Ok(())
}

#[test]
fn an_event_that_has_failed_comes_alone() -> Result<()> {
    let mut db = subscription("none")?;
    store(&mut db, &[(2, 4, "b")])?;
    db.client.batch_execute(
        "INSERT INTO inbox.retry (subscription_id, position, lane, topic, partition, \"offset\", value, attempts,
                                  next_attempt_at, skip_after)
         VALUES (1000, 1, 3, 't', 0, 1, '1', 1, now(), 0)",
    )?;
    let mut session = db.connect()?;
    let mut received = Vec::new();
    for _ in 0..2 {
        session.batch_execute("BEGIN")?;
        for _ in 0..3 {
            received.push(receive(&mut session, 100)?);
        }
        session.batch_execute("COMMIT")?;
    }
    let batches: Vec<&Vec<i64>> = received.iter().filter(|batch| !batch.is_empty()).collect();
    assert_eq!(batches.iter().map(|batch| batch.len()).collect::<Vec<_>>(), [1, 1], "{received:?}");
    assert!(received[1].is_empty() && received[4].is_empty(), "{received:?}");
    Ok(())
}

#[test]
fn nack_gives_back_with_later_events_of_the_key() -> Result<()> {
    let mut db = subscription("key")?;
    store(&mut db, &[(1, 3, "a"), (2, 3, "b"), (3, 3, "a"), (4, 3, "a")])?;
    let mut session = db.connect()?;
    session.batch_execute("BEGIN")?;
    assert_eq!(receive(&mut session, 100)?, [1, 2, 3, 4]);
    let nack = |session: &mut Client, position: i64| -> Result<Vec<i64>, postgres::Error> {
        let sql = "SELECT inbox.nack('s', $1, 'not now', '0 s')";
        session.query_one(sql, &[&position]).map(|row| row.get(0))
    };
    session.batch_execute("SAVEPOINT a")?;
    assert_eq!(nack(&mut session, 2)?, [] as [i64; 0]);
    session.batch_execute("ROLLBACK TO a")?;
    assert_eq!(nack(&mut session, 3)?, [4]);
    assert_eq!(nack(&mut session, 4)?, [] as [i64; 0], "it is back already");
    assert_eq!(nack(&mut session, 5).expect_err("5").code().map(|code| code.code()), Some("55000"));
    session.batch_execute("ROLLBACK TO a; SELECT inbox.nack('s', 3, 'not now', '0 s'); COMMIT")?;

    for (attempt, died) in [(2, false), (3, true)] {
        session.batch_execute("BEGIN")?;
        let row = session.query_one("SELECT position, attempt FROM inbox.receive('s')", &[])?;
        assert_eq!((row.get::<_, i64>(0), row.get::<_, i32>(1)), (3, attempt));
        assert_eq!(nack(&mut session, 3)?, [] as [i64; 0]);
        session.batch_execute("COMMIT")?;
        assert_eq!(number(&mut db, "SELECT count(*) FROM inbox.dead_letters")?, i64::from(died));
    }
    assert_eq!(receive(&mut session, 100)?, [4]);
    assert_eq!(number(&mut db, "SELECT position FROM inbox.dead_letters WHERE last_error = 'not now'")?, 3);
    assert_eq!(number(&mut db, "SELECT count(*) FROM inbox.retry")?, 0);
    Ok(())
}
