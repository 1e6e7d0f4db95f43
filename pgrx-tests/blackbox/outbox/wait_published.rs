//! `outbox.wait_published()`, with committed and uncommitted events.

use std::thread;
use std::time::{Duration, Instant};

use event_outbox_lab::{Consumer, Result, wait};
use postgres::IsolationLevel;

use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::events::{emit, pending_count};

/// A timeout that no test reaches.
const LONG: &str = "5 minutes";

fn wait_published(client: &mut impl postgres::GenericClient, timeout: &str) -> Result<Option<bool>> {
    Ok(client.query_one("SELECT outbox.wait_published($1::text::interval)", &[&timeout])?.get(0))
}

#[test]
fn true_once_all_has_left() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("wait");
    assert_eq!(wait_published(&mut db.client, "0")?, Some(true));
    for round in 1..=5 {
        db.client
            .execute("SELECT outbox.emit($1, to_jsonb(n)) FROM generate_series(1, 500) AS n", &[&topic])?;
        assert_eq!(wait_published(&mut db.client, LONG)?, Some(true));
        assert_eq!(pending_count(&mut db.client)?, 0);
        let records = Consumer::read_all(&db.broker.bootstrap_servers(), &[&topic])?;
        assert_eq!(records.len(), round * 500);
    }
    Ok(())
}

#[test]
fn false_when_the_time_is_up() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("time_up");
    db.configure("event_outbox.enabled", "off")?;
    emit(&mut db.client, &topic, 1)?;
    for (timeout, millis) in [("0", 0), ("-1 day", 0), ("50 milliseconds", 50), ("1.2 seconds", 1200)] {
        let begin = Instant::now();
        assert_eq!(wait_published(&mut db.client, timeout)?, Some(false), "{timeout}");
        assert!(begin.elapsed() >= Duration::from_millis(millis), "{timeout}: {:?}", begin.elapsed());
        assert!(begin.elapsed() < DEADLINE, "{timeout}: {:?}", begin.elapsed());
    }
    Ok(())
}

/// The planner knows only that the table is large.
#[test]
fn a_backlog_is_not_read_to_its_end_to_see_that_there_is_one() -> Result<()> {
    const BACKLOG: i64 = 20_000;
    let mut db = TestDatabase::new()?;
    let topic = db.topic("backlog");
    db.configure("event_outbox.enabled", "off")?;
    let sql = "SELECT outbox.emit($1, '1') FROM generate_series(1, $2::bigint)";
    db.client.execute(sql, &[&topic, &BACKLOG])?;
    let mut reads = || -> Result<i64> {
        db.client.execute("SELECT pg_stat_force_next_flush()", &[])?;
        let sql = "SELECT seq_tup_read + (SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes AS i
                                           WHERE i.relid = t.relid)
                     FROM pg_stat_user_tables AS t WHERE t.relid = 'outbox.events'::regclass";
        let before: i64 = db.client.query_one(sql, &[])?.get(0);
        assert_eq!(wait_published(&mut db.client, "0")?, Some(false));
        db.client.execute("SELECT pg_stat_force_next_flush()", &[])?;
        Ok(db.client.query_one(sql, &[])?.get::<_, i64>(0) - before)
    };
    for _ in 0..10 {
        let rows = reads()?;
        assert!(rows < 100, "{rows} of {BACKLOG} rows were read");
    }
    Ok(())
}

#[test]
fn no_timeout_no_answer() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let answer: Option<bool> = db.client.query_one("SELECT outbox.wait_published(NULL)", &[])?.get(0);
    assert_eq!(answer, None);
    Ok(())
}

/// The caller waits while the relay is off, and is woken when it is on again.
#[test]
fn a_waiting_caller_hears_of_the_end() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("woken");
    db.configure("event_outbox.enabled", "off")?;
    emit(&mut db.client, &topic, 1)?;
    let mut waiting = db.connect()?;
    let waiter = thread::spawn(move || wait_published(&mut waiting, LONG));
    wait::until_ok("the caller to wait", DEADLINE, || {
        let sql = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND state = 'active' AND wait_event_type IS NOT NULL
                      AND query LIKE '%wait\\_published%' AND pid <> pg_backend_pid()";
        Ok((db.client.query_one(sql, &[])?.get::<_, i64>(0) == 1).then_some(()))
    })?;
    assert!(!waiter.is_finished());
    db.configure("event_outbox.enabled", "on")?;
    assert_eq!(waiter.join().expect("the waiter panicked")?, Some(true));
    assert_eq!(pending_count(&mut db.client)?, 0);
    Ok(())
}

#[test]
fn a_waiting_caller_can_be_cancelled() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("cancelled");
    db.configure("event_outbox.enabled", "off")?;
    emit(&mut db.client, &topic, 1)?;
    db.client.batch_execute("SET statement_timeout = '200ms'")?;
    let error = wait_published(&mut db.client, LONG).expect_err("it was not cancelled");
    let error = error.downcast::<postgres::Error>()?;
    assert_eq!(error.code(), Some(&postgres::error::SqlState::QUERY_CANCELED));
    db.client.batch_execute("RESET statement_timeout")?;
    assert_eq!(wait_published(&mut db.client, "1 ms")?, Some(false));
    Ok(())
}

/// The longest timeouts that Postgres can express.
#[test]
fn the_longest_timeout_is_no_short_one() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("longest");
    db.configure("event_outbox.enabled", "off")?;
    emit(&mut db.client, &topic, 1)?;
    db.client.batch_execute("SET statement_timeout = '200ms'")?;
    for timeout in ["2000 years", "178000000 years"] {
        let error = wait_published(&mut db.client, timeout).expect_err("it did not wait");
        let error = error.downcast::<postgres::Error>()?;
        assert_eq!(error.code(), Some(&postgres::error::SqlState::QUERY_CANCELED), "{timeout}: {error}");
    }
    Ok(())
}

/// A transaction's own events are published only after its commit: it would wait for itself.
#[test]
fn a_transaction_does_not_wait_for_its_own_events() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("own");
    for level in [IsolationLevel::ReadCommitted, IsolationLevel::RepeatableRead, IsolationLevel::Serializable]
    {
        let mut other = db.connect()?;
        let mut transaction = db.client.build_transaction().isolation_level(level).start()?;
        emit(&mut transaction, &topic, 1)?;
        let mut savepoint = transaction.savepoint("part")?;
        emit(&mut savepoint, &topic, 2)?;
        assert_eq!(wait_published(&mut savepoint, LONG)?, Some(true));
        savepoint.commit()?;
        // It waits for events that others commit meanwhile, even if its snapshot is older.
        emit(&mut other, &topic, 3)?;
        emit(&mut transaction, &topic, 4)?;
        assert_eq!(wait_published(&mut transaction, LONG)?, Some(true));
        assert_eq!(pending_count(&mut other)?, 0);
        transaction.commit()?;
        assert_eq!(wait_published(&mut other, LONG)?, Some(true));
    }
    assert_eq!(db.drained(&topic)?.len(), 12);
    Ok(())
}

#[test]
fn a_transaction_with_events_of_its_own_waits_for_those_of_others() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("others");
    db.configure("event_outbox.enabled", "off")?;
    let mut other = db.connect()?;
    let mut transaction = db.client.transaction()?;
    emit(&mut transaction, &topic, 1)?;
    assert_eq!(wait_published(&mut transaction, "0")?, Some(true));
    emit(&mut other, &topic, 2)?;
    assert_eq!(wait_published(&mut transaction, "0")?, Some(false));
    Ok(())
}

/// Events of open transactions were not committed before the call.
#[test]
fn open_transactions_of_others_are_not_waited_for() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("open");
    let mut other = db.connect()?;
    let mut open = other.transaction()?;
    emit(&mut open, &topic, 1)?;
    emit(&mut db.client, &topic, 2)?;
    assert_eq!(wait_published(&mut db.client, LONG)?, Some(true));
    open.commit()?;
    assert_eq!(wait_published(&mut db.client, LONG)?, Some(true));
    assert_eq!(db.drained_values(&topic)?, ["2", "1"]);
    Ok(())
}
