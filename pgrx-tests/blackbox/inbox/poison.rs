//! An event that cannot be handled blocks its own key alone, until it is a dead letter.

use std::collections::BTreeMap;

use event_outbox_lab::{NewRecord, Producer, Result, wait};
use postgres::Client;
use postgres::error::SqlState;

use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::inbox::{receive, until_numbers};
use crate::support::subscriptions::subscribe;

/// The number of events, of 10 keys.
const EVENTS: i64 = 200;
/// The number of the event that cannot be handled; its key is 7.
const POISON: i64 = 57;

/// A database with a subscription of `EVENTS` numbers, and a function `handle()` that receives up to 50 of them into a table
/// and fails if the poison is among them.
fn poisoned() -> Result<(TestDatabase, String)> {
    let mut db = TestDatabase::new()?;
    db.configure("event_outbox.retry_backoff", "50ms")?;
    let topic = db.own_topic("poison")?;
    let producer = Producer::new(&db.broker.bootstrap_servers())?;
    producer.send_numbers(&topic, 0, 0..EVENTS, |number| Some((number % 10).to_string()))?;
    db.client.batch_execute(&format!(
        "CREATE TABLE handled (at bigint GENERATED ALWAYS AS IDENTITY, key text, number bigint);
         CREATE FUNCTION handle() RETURNS bigint LANGUAGE plpgsql AS $$
         DECLARE e record; n bigint := 0;
         BEGIN
             FOR e IN SELECT convert_from(key, 'UTF8') AS key, data::bigint AS number
                        FROM inbox.receive('s', 50) ORDER BY position LOOP
                 IF e.number = {POISON} THEN RAISE 'it is poison'; END IF;
                 INSERT INTO handled (key, number) VALUES (e.key, e.number);
                 n := n + 1;
             END LOOP;
             RETURN n;
         END $$"
    ))?;
    subscribe(&mut db.client, "s", &[&topic], "earliest")?;
    Ok((db, topic))
}

/// Calls the handler; returns whether it failed because of the poison.
fn handle(client: &mut Client) -> Result<bool> {
    match client.query_one("SELECT handle()", &[]) {
        Ok(_) => Ok(false),
        Err(error) if error.code() == Some(&SqlState::RAISE_EXCEPTION) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// How many states all lanes have had.
fn states(client: &mut Client) -> Result<i64> {
    let sql = "SELECT coalesce(sum(newest), 0)::bigint
                 FROM (SELECT max(seq) AS newest FROM inbox.lane GROUP BY subscription_id, lane) AS of_lanes";
    Ok(client.query_one(sql, &[])?.get(0))
}

fn count(client: &mut Client, sql: &str) -> Result<i64> {
    Ok(client.query_one(&format!("SELECT count(*) FROM {sql}"), &[])?.get(0))
}

/// The handled numbers of each key, in the order in which they were handled.
fn handled(client: &mut Client) -> Result<BTreeMap<String, Vec<i64>>> {
    let mut handled: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for row in client.query("SELECT key, number FROM handled ORDER BY at", &[])? {
        handled.entry(row.get(0)).or_default().push(row.get(1));
    }
    Ok(handled)
}

/// Handles until the poison is a dead letter and all others are done; returns how many calls failed.
fn until_dead(db: &mut TestDatabase) -> Result<usize> {
    let mut failed = 0;
    wait::until_ok("the dead letter, and all others", DEADLINE, || {
        failed += usize::from(handle(&mut db.client)?);
        let done = count(&mut db.client, "handled")? == EVENTS - 1;
        Ok((done && count(&mut db.client, "inbox.dead_letters")? == 1).then_some(failed))
    })
}

#[test]
fn a_poison_event_dies_alone_and_its_key_goes_on() -> Result<()> {
    let (mut db, topic) = poisoned()?;
    let before_death =
        "handled WHERE key = '7' AND number > 57 AND NOT EXISTS (SELECT FROM inbox.dead_letters)";
    let mut others_first = false;
    let mut failed = 0;
    wait::until_ok("the dead letter, and all others", DEADLINE, || {
        let before = states(&mut db.client)?;
        if handle(&mut db.client)? {
            failed += 1;
            wait::until_ok("the worker to record the failure", DEADLINE, || {
                Ok((states(&mut db.client)? > before).then_some(()))
            })?;
        }
        assert_eq!(count(&mut db.client, before_death)?, 0, "the poison was overtaken");
        let others = count(&mut db.client, "handled WHERE key <> '7'")?;
        let dead = count(&mut db.client, "inbox.dead_letters")?;
        others_first |= dead == 0 && others == EVENTS * 9 / 10;
        let all = count(&mut db.client, "handled")?;
        Ok((dead == 1 && all == EVENTS - 1).then_some(()))
    })?;
    // 50, 25, 12, …, 1; then two retries. Other keys of the lane may take a part of a batch.
    assert!((3..=12).contains(&failed), "{failed} calls failed");
    let row = db.client.query_one(
        "SELECT topic, partition, \"offset\", convert_from(key, 'UTF8'), convert_from(value, 'UTF8'), attempts, last_error,
                produced_at IS NOT NULL FROM inbox.dead_letters",
        &[],
    )?;
    assert_eq!((row.get::<_, &str>(0), row.get::<_, i32>(1), row.get::<_, i64>(2)), (&*topic, 0, POISON));
    assert_eq!((row.get::<_, &str>(3), row.get::<_, &str>(4), row.get::<_, i32>(5)), ("7", "57", 3));
    assert_eq!((row.get::<_, &str>(6), row.get::<_, bool>(7)), ("it is poison", true));
    for (key, numbers) in handled(&mut db.client)? {
        let first: i64 = key.parse()?;
        let all = (0..EVENTS / 10).map(|n| n * 10 + first).filter(|number| *number != POISON);
        assert_eq!(numbers, all.collect::<Vec<_>>(), "key {key}");
    }
    assert_eq!(count(&mut db.client, "inbox.retries")?, 0);
    Ok(())
}

/// Events that wait for a long retry hold up nothing but their key.
#[test]
fn other_keys_do_not_wait_for_a_retry() -> Result<()> {
    let (mut db, topic) = poisoned()?;
    db.configure("event_outbox.retry_backoff", "1h")?;
    wait::until_ok("all but the poison's key", DEADLINE, || {
        handle(&mut db.client)?;
        // Those of the key before the poison are done, and the worker has recorded its failure.
        let handled = count(&mut db.client, "handled")? == EVENTS * 9 / 10 + 5;
        let waiting = count(&mut db.client, "inbox.retries WHERE attempts = 1 AND next_attempt_at > now()")?;
        Ok((handled && waiting == 1).then_some(()))
    })?;
    assert_eq!(receive(&mut db.client, "s", 100)?, []);
    let producer = Producer::new(&db.broker.bootstrap_servers())?;
    for (key, value) in [(b"7", b"1007"), (b"8", b"1008")] {
        let (key, value) = (Some(&key[..]), Some(&value[..]));
        producer.send(&NewRecord { topic: &topic, key, value, ..NewRecord::default() })?;
    }
    producer.flush()?;
    assert_eq!(until_numbers(&mut db.client, "s", 1)?, [1008]);
    wait::until_ok("the last to wait behind the poison", DEADLINE, || {
        assert_eq!(receive(&mut db.client, "s", 100)?, []);
        let behind = count(&mut db.client, "inbox.retries WHERE attempts = 0 AND key = '7'")?;
        Ok((behind == 14 + 1).then_some(()))
    })
}

#[test]
fn a_dead_letter_comes_back_or_goes() -> Result<()> {
    let (mut db, _) = poisoned()?;
    until_dead(&mut db)?;
    db.client.batch_execute("SELECT inbox.redrive('s', max => 1)")?;
    wait::until_ok("the second death", DEADLINE, || {
        handle(&mut db.client)?;
        Ok((count(&mut db.client, "inbox.dead_letters WHERE attempts = 3")? == 1).then_some(()))
    })?;
    assert_eq!(count(&mut db.client, "handled WHERE number = 57")?, 0);
    // The cause is gone.
    db.client.batch_execute("SELECT inbox.redrive('s', max => 1)")?;
    assert_eq!(until_numbers(&mut db.client, "s", 1)?, [POISON]);
    assert_eq!(count(&mut db.client, "inbox.dead_letters")? + count(&mut db.client, "inbox.retries")?, 0);

    // Another one.
    let topic = db.topic("poison");
    let producer = Producer::new(&db.broker.bootstrap_servers())?;
    let record = NewRecord { topic: &topic, key: Some(b"7"), value: Some(b"57"), ..NewRecord::default() };
    producer.send(&record)?;
    producer.flush()?;
    until_dead(&mut db)?;
    let discarded: i64 = db.client.query_one("SELECT inbox.discard('s', max => 10)", &[])?.get(0);
    assert_eq!(discarded, 1);
    assert_eq!(receive(&mut db.client, "s", 100)?, []);
    assert_eq!(count(&mut db.client, "inbox.dead_letters")? + count(&mut db.client, "inbox.retries")?, 0);
    Ok(())
}

/// The worker charges the event of a session that is no longer there.
#[test]
fn a_session_that_ends_counts_as_an_attempt() -> Result<()> {
    let mut db = TestDatabase::new()?;
    db.configure("event_outbox.retry_backoff", "10ms")?;
    let topic = db.own_topic("ends")?;
    let producer = Producer::new(&db.broker.bootstrap_servers())?;
    producer.send_numbers(&topic, 0, 0..2, |_| Some("k".into()))?;
    subscribe(&mut db.client, "s", &[&topic], "earliest")?;
    let mut attempts = Vec::new();
    wait::until_ok("the dead letter", DEADLINE, || {
        let mut session = db.connect()?;
        let pid: i32 = session.query_one("SELECT pg_backend_pid()", &[])?.get(0);
        let mut transaction = session.transaction()?;
        let received = receive(&mut transaction, "s", 1)?;
        let Some(event) = received.first() else {
            return Ok((count(&mut db.client, "inbox.dead_letters")? == 1).then_some(()));
        };
        if event.number() == 1 {
            // It waited for the first.
            assert_eq!(count(&mut db.client, "inbox.dead_letters")?, 1);
            return Ok(Some(()));
        }
        attempts.push(event.attempt);
        db.client.execute("SELECT pg_terminate_backend($1)", &[&pid])?;
        transaction.batch_execute("SELECT pg_sleep(30)").expect_err("the session goes on");
        Ok(None)
    })?;
    // A session may have received it again before the worker had recorded the attempt.
    attempts.dedup();
    assert_eq!(attempts, [1, 2, 3]);
    let row = db.client.query_one("SELECT attempts, last_error FROM inbox.dead_letters", &[])?;
    assert_eq!(row.get::<_, i32>(0), 3);
    let error: String = row.get(1);
    assert!(error.contains("terminat"), "{error}");
    Ok(())
}
