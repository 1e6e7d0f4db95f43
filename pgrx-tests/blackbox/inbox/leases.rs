//! Leases: events that a session handles outside of a transaction.

use event_outbox_lab::{Result, wait};
use postgres::Client;

use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::inbox_log::{number, receive, store, subscription};
use crate::support::subscriptions::refusal;

/// The positions that a session leases, and the token.
fn lease(client: &mut Client, max: i32, length: &str) -> Result<(Vec<i64>, String), postgres::Error> {
    let sql =
        "SELECT position, lease::text FROM inbox.receive('s', $1, $2::text::interval) ORDER BY position";
    let rows = client.query(sql, &[&max, &length])?;
    let token = rows.first().map_or(String::new(), |row| row.get(1));
    assert!(rows.iter().all(|row| row.get::<_, String>(1) == token));
    Ok((rows.iter().map(|row| row.get(0)).collect(), token))
}

fn call(client: &mut Client, sql: &str, token: &str) -> Result<bool, postgres::Error> {
    client.query_one(&sql.replace('$', &format!("'{token}'")), &[]).map(|row| row.get(0))
}

fn ack(client: &mut Client, token: &str) -> Result<bool, postgres::Error> {
    call(client, "SELECT inbox.ack($)", token)
}

fn expire(db: &mut TestDatabase) -> Result<()> {
    Ok(db.client.batch_execute("UPDATE inbox.lane SET lease_expires_at = now() - interval '1 s'")?)
}

#[test]
fn an_acknowledged_lease_is_done() -> Result<()> {
    let mut db = subscription("key")?;
    store(&mut db, &[(1, 3, "a"), (2, 3, "a"), (3, 3, "b"), (4, 9, "c")])?;
    let (first, token) = lease(&mut db.client, 2, "1 hour")?;
    let lane = if first == [1, 2] { 3 } else { 9 };
    let (second, other) = lease(&mut db.client, 2, "1 hour")?;
    let mut both = [first, second].concat();
    both.sort_unstable();
    assert_eq!(both, [1, 2, 4], "a lease is of one lane, which is blocked meanwhile");
    assert_eq!(receive(&mut db.client, 100)?, [] as [i64; 0]);

    assert!(call(&mut db.client, "SELECT inbox.extend($, '2 hours')", &token)?);
    let sql = format!(
        "SELECT count(*) FROM inbox.lane WHERE lane = {lane} AND lease_expires_at > now() + interval '90 minutes'"
    );
    assert_eq!(number(&mut db, &sql)?, 1);
    for token in [&token, &other] {
        assert!(ack(&mut db.client, token)?);
        assert!(!ack(&mut db.client, token)?, "once is enough");
        assert!(!call(&mut db.client, "SELECT inbox.extend($, '1 hour')", token)?);
    }
    assert_eq!(receive(&mut db.client, 100)?, [3]);
    assert!(!ack(&mut db.client, "00000000-0000-0000-0000-000000000000")?);
    for wrong in ["0", "-1 s", "8 days"] {
        assert_eq!(refusal(&mut db.client, &format!("SELECT inbox.receive('s', 1, '{wrong}')")), "22023");
    }
    Ok(())
}

#[test]
fn a_rollback_takes_the_lease_and_its_end_back() -> Result<()> {
    let mut db = subscription("key")?;
    store(&mut db, &[(1, 3, "a"), (2, 3, "a")])?;
    let mut session = db.connect()?;
    session.batch_execute("BEGIN")?;
    let (_, token) = lease(&mut session, 1, "1 hour")?;
    session.batch_execute("ROLLBACK")?;
    assert!(!ack(&mut db.client, &token)?);
    let (events, token) = lease(&mut db.client, 100, "1 hour")?;
    assert_eq!(events, [1, 2], "nobody has handled anything, so nothing has failed");
    session.batch_execute("BEGIN")?;
    assert!(ack(&mut session, &token)?);
    session.batch_execute("ROLLBACK")?;
    assert!(ack(&mut db.client, &token)?);
    assert_eq!(receive(&mut db.client, 100)?, [] as [i64; 0]);
    Ok(())
}

#[test]
fn an_expired_lease_is_a_failure() -> Result<()> {
    let mut db = subscription("key")?;
    // No retry is due by itself, however long this takes.
    db.client.batch_execute("SET event_outbox.retry_backoff = '5min'")?;
    store(&mut db, &[(1, 3, "a"), (2, 3, "b"), (3, 3, "a"), (4, 3, "b")])?;
    let (events, old) = lease(&mut db.client, 2, "1 hour")?;
    assert_eq!(events, [1, 2]);
    expire(&mut db)?;
    assert!(call(&mut db.client, "SELECT inbox.extend($, '1 hour')", &old)?, "nobody else has them yet");
    expire(&mut db)?;
    let (events, alone) = lease(&mut db.client, 100, "1 hour")?;
    assert_eq!(events, [1], "the batch is narrowed");
    assert!(!ack(&mut db.client, &old)?);
    expire(&mut db)?;
    // 1 was alone, so it is charged, and 3 waits for it.
    assert_eq!(receive(&mut db.client, 100)?, [2]);
    assert!(!ack(&mut db.client, &alone)?);
    let row = db.client.query_one("SELECT attempts, last_error FROM inbox.retry WHERE position = 1", &[])?;
    assert_eq!((row.get::<_, i32>(0), row.get::<_, &str>(1)), (1, "the lease expired"));
    assert_eq!(receive(&mut db.client, 100)?, [4]);

    // A lease of an event that waited.
    for attempts in [2, 3] {
        db.client.batch_execute("UPDATE inbox.retry SET next_attempt_at = now() WHERE attempts > 0")?;
        assert_eq!(lease(&mut db.client, 100, "1 hour")?.0, [1]);
        expire(&mut db)?;
        let rest = receive(&mut db.client, 100)?;
        assert_eq!(rest, if attempts == 3 { vec![3] } else { vec![] });
    }
    assert_eq!(number(&mut db, "SELECT count(*) FROM inbox.dead_letters WHERE attempts = 3")?, 1);
    assert_eq!(number(&mut db, "SELECT count(*) FROM inbox.retry")?, 0);
    Ok(())
}

#[test]
fn a_leased_retry_is_done_when_it_is_acknowledged() -> Result<()> {
    let mut db = subscription("key")?;
    store(&mut db, &[(2, 3, "a"), (3, 3, "b"), (4, 3, "a"), (5, 3, "b")])?;
    db.client.batch_execute(
        "INSERT INTO inbox.retry (subscription_id, position, lane, topic, partition, \"offset\", key, value, order_key,
                                  attempts, next_attempt_at, skip_after)
         VALUES (1000, 1, 3, 't', 0, 1, 'a', '1', inbox.order_key('key', 't', 0, 'a'), 1, now() + '1 hour', 0)",
    )?;
    // 2 is parked, the lease begins with 3, and ends before 4.
    let (events, token) = lease(&mut db.client, 100, "1 hour")?;
    assert_eq!(events, [3]);
    assert!(ack(&mut db.client, &token)?);
    db.client.batch_execute("UPDATE inbox.retry SET next_attempt_at = now() WHERE position = 1")?;
    for expected in [1, 2] {
        let (events, token) = lease(&mut db.client, 100, "1 hour")?;
        assert_eq!(events, [expected]);
        assert!(ack(&mut db.client, &token)?);
    }
    let (events, token) = lease(&mut db.client, 100, "1 hour")?;
    assert_eq!(events, [4, 5]);
    assert!(ack(&mut db.client, &token)?);
    assert_eq!(number(&mut db, "SELECT count(*) FROM inbox.retry")?, 0);
    assert_eq!(receive(&mut db.client, 100)?, [] as [i64; 0]);
    Ok(())
}

fn await_ready(client: &mut Client, timeout: &str) -> Result<bool, postgres::Error> {
    client.query_one(&format!("CALL inbox.await('s', {timeout})"), &[]).map(|row| row.get(0))
}

#[test]
fn await_ends_when_there_is_something() -> Result<()> {
    let mut db = subscription("key")?;
    assert!(!await_ready(&mut db.client, "'10 ms'")?);
    assert_eq!(refusal(&mut db.client, "BEGIN; CALL inbox.await('s', '10 ms')"), "2D000");
    db.client.batch_execute("ROLLBACK")?;
    let mut waiter = db.connect()?;
    let pid: i32 = waiter.query_one("SELECT pg_backend_pid()", &[])?.get(0);
    let waiting = std::thread::spawn(move || -> Result<Vec<i64>> {
        waiter.batch_execute("SET default_transaction_isolation = 'repeatable read'")?;
        assert!(await_ready(&mut waiter, "NULL")?);
        Ok(receive(&mut waiter, 100)?)
    });
    wait::until_ok("a session that waits without a snapshot", DEADLINE, || {
        let sql = "SELECT wait_event_type = 'Extension' AND backend_xmin IS NULL AND backend_xid IS NULL
                     FROM pg_stat_activity WHERE pid = $1";
        Ok(db.client.query_one(sql, &[&pid])?.get::<_, Option<bool>>(0).filter(|waits| *waits))
    })?;
    store(&mut db, &[(1, 3, "a")])?;
    assert_eq!(waiting.join().map_err(|_| anyhow::anyhow!("panicked"))??, [1]);

    // What another session has is not ready.
    store(&mut db, &[(2, 3, "a")])?;
    let mut holder = db.connect()?;
    holder.batch_execute("BEGIN")?;
    assert_eq!(receive(&mut holder, 100)?, [2]);
    assert!(!await_ready(&mut db.client, "'10 ms'")?);
    holder.batch_execute("ROLLBACK")?;
    assert!(await_ready(&mut db.client, "'30 s'")?);
    let block = "DO $$ DECLARE r boolean; BEGIN CALL inbox.await('s', '1 s', r); ASSERT r; END $$";
    db.client.batch_execute(block)?;
    Ok(())
}

#[test]
fn a_waiting_session_can_be_cancelled() -> Result<()> {
    let mut db = subscription("key")?;
    let mut waiter = db.connect()?;
    waiter.batch_execute("SET statement_timeout = '200 ms'")?;
    let error = await_ready(&mut waiter, "NULL").expect_err("the statement timeout");
    assert_eq!(error.code().map(|code| code.code()), Some("57014"), "{error:?}");
    waiter.batch_execute("RESET statement_timeout")?;
    store(&mut db, &[(1, 3, "a")])?;
    assert_eq!(receive(&mut waiter, 100)?, [1]);
    Ok(())
}
