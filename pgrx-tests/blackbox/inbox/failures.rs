//! What becomes of events whose transaction was rolled back.

use event_outbox_lab::{Result, wait};
use postgres::Client;

use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::inbox_log::{number, receive, store, subscription};

/// Waits until the worker has recorded as many failures.
fn until_recorded(db: &mut TestDatabase, failures: i64) -> Result<()> {
    wait::until_ok(&format!("{failures} recorded failures"), DEADLINE, || {
        let sql = "SELECT failures FROM inbox.consumers WHERE database = current_database()";
        let recorded: Option<i64> = db.client.query_one(sql, &[])?.get(0);
        Ok((recorded >= Some(failures)).then_some(()))
    })
}

fn roll_back(session: &mut Client, expected: &[i64]) -> Result<()> {
    session.batch_execute("BEGIN")?;
    assert_eq!(receive(session, 100)?, expected);
    Ok(session.batch_execute("ROLLBACK")?)
}

/// Of events that fail together none is charged, though each was alone in its lane.
#[test]
fn events_of_several_lanes_share_the_blame() -> Result<()> {
    let mut db = subscription("key")?;
    store(&mut db, &[(1, 3, "a"), (2, 9, "b"), (3, 20, "c")])?;
    let mut session = db.connect()?;
    roll_back(&mut session, &[1, 2, 3])?;
    until_recorded(&mut db, 3)?;
    assert_eq!(number(&mut db, "SELECT count(*) FROM inbox.retry")?, 0);
    assert_eq!(number(&mut db, "SELECT count(*) FROM inbox.lane WHERE batch_limit = 1")?, 3);

    // Now each comes alone in its transaction, so the next failure is charged.
    session.batch_execute("BEGIN")?;
    let first = receive(&mut session, 100)?;
    assert_eq!((first.len(), receive(&mut session, 100)?.len()), (1, 0));
    session.batch_execute("ROLLBACK")?;
    until_recorded(&mut db, 4)?;
    assert_eq!(number(&mut db, "SELECT position FROM inbox.retry WHERE attempts = 1")?, first[0]);
    Ok(())
}

/// What is in the way of a transaction says nothing of the events.
#[test]
fn what_is_not_the_events_fault_is_not_charged() -> Result<()> {
    let mut db = subscription("key")?;
    store(&mut db, &[(1, 3, "a")])?;
    let mut session = db.connect()?;
    for code in ["40001", "40P01"] {
        let sql = format!(
            "DO $$ BEGIN PERFORM inbox.receive('s'); RAISE EXCEPTION 'again' USING ERRCODE = '{code}'; END $$"
        );
        session.batch_execute(&sql).expect_err(code);
    }
    assert_eq!(number(&mut db, "SELECT count(*) FROM inbox.lane")?, 0);
    // The event is the first to be charged.
    session
        .batch_execute("DO $$ BEGIN PERFORM inbox.receive('s'); RAISE 'the reason'; END $$")
        .expect_err("raised");
    until_recorded(&mut db, 1)?;
    let row = db.client.query_one("SELECT attempts, last_error FROM inbox.retry", &[])?;
    assert_eq!((row.get::<_, i32>(0), row.get::<_, &str>(1)), (1, "the reason"));
    assert_eq!(number(&mut db, "SELECT count(*) FROM inbox.lane")?, 1);
    Ok(())
}

/// The failure of a part is charged when the whole commits: the part was built on what only that has stored.
#[test]
fn a_part_that_fails_is_charged_after_the_commit() -> Result<()> {
    let mut db = subscription("key")?;
    store(&mut db, &[(1, 3, "a"), (2, 3, "b")])?;
    let mut session = db.connect()?;
    for end in ["ROLLBACK", "COMMIT"] {
        session.batch_execute("BEGIN")?;
        assert_eq!(receive(&mut session, 1)?, [1]);
        session.batch_execute("SAVEPOINT a")?;
        assert_eq!(receive(&mut session, 1)?, [2]);
        session.batch_execute("ROLLBACK TO a")?;
        session.batch_execute(end)?;
        if end == "ROLLBACK" {
            // 1 was alone in what was left of the transaction.
            until_recorded(&mut db, 1)?;
            db.client.batch_execute("UPDATE inbox.retry SET next_attempt_at = now()")?;
            assert_eq!(number(&mut db, "SELECT position FROM inbox.retry")?, 1);
            db.client.batch_execute("DELETE FROM inbox.retry; DELETE FROM inbox.lane")?;
        }
    }
    until_recorded(&mut db, 2)?;
    assert_eq!(number(&mut db, "SELECT position FROM inbox.retry WHERE attempts = 1")?, 2);
    assert_eq!(receive(&mut db.client, 100)?, [] as [i64; 0]);
    Ok(())
}

/// The first event of a part builds on what is kept, so its note waits for the commit; others of the part were rolled back, too.
#[test]
fn a_part_with_several_lanes_is_charged_to_none_after_the_commit() -> Result<()> {
    let mut db = subscription("key")?;
    store(&mut db, &[(1, 3, "a"), (2, 3, "b")])?;
    let mut session = db.connect()?;
    session.batch_execute("BEGIN")?;
    assert_eq!(receive(&mut session, 1)?, [1]);
    store(&mut db, &[(3, 5, "c")])?;
    session.batch_execute("SAVEPOINT a")?;
    assert_eq!(receive(&mut session, 100)?, [2, 3]);
    session.batch_execute("ROLLBACK TO a; COMMIT")?;
    until_recorded(&mut db, 2)?;
    assert_eq!(number(&mut db, "SELECT count(*) FROM inbox.retry")?, 0);
    Ok(())
}

/// An event that was to wait for one of its key, and was passed with one that failed, still waits.
#[test]
fn what_was_parked_with_a_failure_is_not_lost() -> Result<()> {
    let mut db = subscription("key")?;
    store(&mut db, &[(2, 3, "a"), (3, 3, "b")])?;
    db.client.batch_execute(
        "INSERT INTO inbox.retry (subscription_id, position, lane, topic, partition, \"offset\", key, value, order_key,
                                  attempts, next_attempt_at, skip_after)
         VALUES (1000, 1, 3, 't', 0, 1, 'a', '1', inbox.order_key('key', 't', 0, 'a'), 1, now() + '1 hour', 0)",
    )?;
    let mut session = db.connect()?;
    roll_back(&mut session, &[3])?;
    until_recorded(&mut db, 1)?;
    let sql = "SELECT string_agg(position || ':' || attempts, ' ' ORDER BY position) FROM inbox.retry";
    assert_eq!(db.client.query_one(sql, &[])?.get::<_, String>(0), "1:1 2:0 3:1");
    db.client.batch_execute("UPDATE inbox.retry SET next_attempt_at = now() WHERE attempts > 0")?;
    let mut received = Vec::new();
    for _ in 0..3 {
        received.extend(receive(&mut db.client, 100)?);
    }
    received.sort_unstable();
    assert_eq!(received, [1, 2, 3]);
    Ok(())
}

/// Sessions that keep up hold no lock of old segments, which can be emptied.
#[test]
fn receivers_leave_old_segments_alone() -> Result<()> {
    let mut db = subscription("key")?;
    store(&mut db, &[(1, 3, "a"), (2, 3, "b")])?;
    db.client.batch_execute(
        "INSERT INTO inbox.segment (number, first_position) VALUES (1, 3), (2, 5);
         INSERT INTO inbox.log_1 SELECT source_id, lane, position + 2, partition, \"offset\", produced_at, key, value
           FROM inbox.log_0;
         INSERT INTO inbox.log_2 SELECT source_id, lane, position + 4, partition, \"offset\", produced_at, key, value
           FROM inbox.log_0",
    )?;
    let mut session = db.connect()?;
    // Across the borders of segments, in order.
    assert_eq!(receive(&mut session, 3)?, [1, 2, 3]);
    session.batch_execute("BEGIN")?;
    // The other 63 lanes are behind.
    db.client.batch_execute(
        "INSERT INTO inbox.lane (subscription_id, lane, seq, upto) SELECT 1000, n, 1, 4 FROM generate_series(0, 63) AS n
          WHERE n <> 3",
    )?;
    assert_eq!(receive(&mut session, 1)?, [4]);
    assert_eq!(receive(&mut session, 100)?, [5, 6]);
    db.client.batch_execute("BEGIN; LOCK TABLE inbox.log_0 IN ACCESS EXCLUSIVE MODE NOWAIT; ROLLBACK")?;
    session.batch_execute("COMMIT")?;
    Ok(())
}

/// What cannot be recorded is not a line of the log each.
#[test]
fn a_flood_of_failures_that_cannot_be_recorded_is_a_few_lines() -> Result<()> {
    const FAILURES: i16 = 40;
    let mut db = subscription("key")?;
    db.client.batch_execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no event may wait'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON inbox.retry FOR EACH ROW EXECUTE FUNCTION public.refuse()",
    )?;
    let events: Vec<(i64, i16, &str)> = (0..FAILURES).map(|lane| (i64::from(lane) + 1, lane, "k")).collect();
    store(&mut db, &events)?;
    let mut session = db.connect()?;
    for _ in 0..FAILURES {
        session.batch_execute("BEGIN")?;
        assert_eq!(receive(&mut session, 1)?.len(), 1);
        session.batch_execute("ROLLBACK")?;
    }
    let is_of_it = |line: &&str| line.contains("could not record that an event failed");
    // The first is logged at once, the count of the others ten seconds later.
    wait::until("the count", DEADLINE, || {
        let log = db.server.log();
        log.lines().filter(is_of_it).any(|line| line.contains("more time(s) (SQLSTATE P0001)")).then_some(())
    })?;
    let log = db.server.log();
    let lines: Vec<&str> = log.lines().filter(is_of_it).collect();
    assert!((2..6).contains(&lines.len()), "{lines:?}");
    assert!(lines[0].contains("no event may wait"), "{lines:?}");
    Ok(())
}
