//! From the outbox of one database through Kafka into the inbox of another: each event once, and those of a key in order.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::anyhow;
use event_outbox_lab::{NewRecord, Producer, Result, wait};
use postgres::Client;
use serde_json::json;

use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::events::emit_numbers;
use crate::support::inbox::{receive, until_no_lag, until_received};
use crate::support::subscriptions::subscribe;

/// A table in which handlers write what they have received, in the order in which they did.
const HANDLED: &str =
    "CREATE TABLE handled (at bigint GENERATED ALWAYS AS IDENTITY, key text, number bigint)";

/// Receives up to 100 events into the table in one transaction; returns how many. Every fourth transaction that received
/// something is rolled back, and every seventh only in part.
fn handle(client: &mut Client, turn: i64) -> Result<u64> {
    let sql = "INSERT INTO handled (key, number)
               SELECT convert_from(key, 'UTF8'), data::bigint FROM inbox.receive('s', 100) ORDER BY position";
    let mut transaction = client.transaction()?;
    let mut count = transaction.execute(sql, &[])?;
    if turn % 7 == 6 {
        let mut part = transaction.savepoint("part")?;
        // One that fails alone is charged, and three of these are its death.
        match part.execute(sql, &[])? {
            received @ 0..=1 => {
                part.commit()?;
                count += received;
            }
            _ => part.rollback()?,
        }
    }
    if count > 1 && turn % 4 == 3 {
        transaction.rollback()?;
        count = 0;
    } else {
        transaction.commit()?;
    }
    Ok(count)
}

/// Asserts that the numbers from 1 to `count` were handled, each once, and those of a key in order.
fn assert_handled(client: &mut Client, count: i64) -> Result<()> {
    let rows = client.query("SELECT key, number FROM handled ORDER BY at", &[])?;
    let mut last: HashMap<String, i64> = HashMap::new();
    for row in &rows {
        let (key, number): (String, i64) = (row.get(0), row.get(1));
        let before = last.insert(key.clone(), number).unwrap_or(0);
        assert!(before < number, "key {key}: {number} after {before}");
    }
    let mut numbers: Vec<i64> = rows.iter().map(|row| row.get(1)).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=count).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn eight_sessions_handle_each_event_once_and_in_order() -> Result<()> {
    const EVENTS: i32 = 10_000;
    let (mut from, mut to) = (TestDatabase::new()?, TestDatabase::new()?);
    let topic = from.topic("events");
    from.broker.create_topic(&topic, 4, &[])?;
    to.client.batch_execute(HANDLED)?;
    subscribe(&mut to.client, "s", &[&topic], "latest")?;
    emit_numbers(&mut from.client, &topic, 1..=EVENTS, "(n % 101)::text")?;

    let handled = AtomicI64::new(0);
    thread::scope(|scope| -> Result<()> {
        let sessions: Vec<_> = (0..8_i64)
            .map(|session| {
                let (mut client, handled) = (to.connect()?, &handled);
                Ok(scope.spawn(move || {
                    let mut turn = session;
                    wait::until_ok("all events to be handled", DEADLINE, || {
                        turn += 1;
                        let count = i64::try_from(handle(&mut client, turn)?)?;
                        let all = handled.fetch_add(count, Ordering::Relaxed) + count;
                        Ok((all >= i64::from(EVENTS)).then_some(()))
                    })
                }))
            })
            .collect::<Result<_>>()?;
        sessions
            .into_iter()
            .try_for_each(|session| session.join().map_err(|_| anyhow!("a session panicked"))?)
    })?;
    until_no_lag(&mut to.client, "s")?;
    assert_eq!(receive(&mut to.client, "s", 100)?, []);
    assert_handled(&mut to.client, i64::from(EVENTS))
}

/// Orders go out, replies come back. A handler writes, emits and acknowledges in one transaction, or does nothing of it.
#[test]
fn a_loop_of_two_databases_loses_and_repeats_nothing() -> Result<()> {
    const ORDERS: i32 = 200;
    /// Each rollback narrows a lane, and the test takes turns.
    const IN_THE_END: Duration = Duration::from_secs(120);
    let (mut shop, mut stock) = (TestDatabase::new()?, TestDatabase::new()?);
    let (orders, replies) = (shop.topic("orders"), shop.topic("replies"));
    for topic in [&orders, &replies] {
        shop.broker.create_topic(topic, 2, &[])?;
    }
    subscribe(&mut stock.client, "s", &[&orders], "latest")?;
    subscribe(&mut shop.client, "s", &[&replies], "latest")?;
    shop.client.batch_execute(HANDLED)?;
    emit_numbers(&mut shop.client, &orders, 1..=ORDERS, "(n % 11)::text")?;

    let mut turn = 0;
    wait::until_ok("the replies to all orders", IN_THE_END, || {
        turn += 1;
        let mut transaction = stock.client.transaction()?;
        let sql = "SELECT outbox.emit($1, data, key => convert_from(key, 'UTF8'))
                     FROM (SELECT * FROM inbox.receive('s', 50) ORDER BY position) AS e";
        let count = transaction.execute(sql, &[&replies])?;
        // As above.
        if count > 1 && turn % 3 == 0 {
            transaction.rollback()?
        } else {
            transaction.commit()?
        };
        handle(&mut shop.client, turn)?;
        let handled: i64 = shop.client.query_one("SELECT count(*) FROM handled", &[])?.get(0);
        Ok((handled >= i64::from(ORDERS)).then_some(()))
    })?;
    let published: bool = stock.client.query_one("SELECT outbox.wait_published('30 s')", &[])?.get(0);
    assert!(published);
    until_no_lag(&mut shop.client, "s")?;
    assert_eq!(receive(&mut shop.client, "s", 100)?, []);
    assert_handled(&mut shop.client, i64::from(ORDERS))
}

#[test]
fn records_arrive_as_they_were() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("raw")?;
    let producer = Producer::new(&db.broker.bootstrap_servers())?;
    let (binary, large): (Vec<u8>, Vec<u8>) = ((0..=255).collect(), vec![b'x'; 900_000]);
    let records = [
        NewRecord::default(),
        NewRecord { key: Some(b""), value: Some(b""), ..NewRecord::default() },
        NewRecord { key: Some(&binary), value: Some(&binary), ..NewRecord::default() },
        NewRecord { key: Some(b"gone"), ..NewRecord::default() },
        NewRecord { value: Some(&large), ..NewRecord::default() },
        NewRecord {
            value: Some(b"{}"),
            headers: &[("a", Some(b"1")), ("b", None), ("a", Some(b"2")), ("", Some(b""))],
            ..NewRecord::default()
        },
    ];
    for record in &records {
        producer.send(&NewRecord { topic: &topic, ..*record })?;
    }
    producer.flush()?;
    subscribe(&mut db.client, "s", &[&topic], "earliest")?;
    let mut received = until_received(&mut db.client, "s", records.len())?;
    received.sort_by_key(|event| event.offset);
    for (event, record) in received.iter().zip(&records) {
        assert_eq!(event.key.as_deref(), record.key, "{}", event.offset);
        assert!(event.payload.as_deref() == record.value, "{}", event.offset);
        assert_eq!((event.topic.as_str(), event.partition, event.attempt), (topic.as_str(), 0, 1));
    }
    assert_eq!(received[5].headers, Some(json!({"a": ["1", "2"], "b": null, "": ""})));
    Ok(())
}

/// Each notification of a stored batch tells of its events; together they tell of all.
#[test]
fn listeners_hear_of_every_event() -> Result<()> {
    use postgres::fallible_iterator::FallibleIterator;

    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("heard")?;
    subscribe(&mut db.client, "s", &[&topic], "latest")?;
    let channel: String = db.client.query_one("SELECT inbox.channel('s')", &[])?.get(0);
    db.client.batch_execute(&format!("LISTEN \"{channel}\""))?;
    let producer = Producer::new(&db.broker.bootstrap_servers())?;
    producer.send_numbers(&topic, 0, 0..1000, |number| Some(number.to_string()))?;
    let mut batches: BTreeMap<i64, i64> = BTreeMap::new();
    let mut count = 0;
    while count < 1000 {
        let heard = db.client.notifications().timeout_iter(DEADLINE).next()?;
        let payload: serde_json::Value =
            serde_json::from_str(heard.ok_or_else(|| anyhow!("heard of {count} events"))?.payload())?;
        let number = |name: &str| payload[name].as_i64().unwrap_or_else(|| panic!("{payload}"));
        count += number("count");
        batches.insert(number("first_position"), number("last_position"));
    }
    let (first, last) = (batches.keys().next(), batches.values().next_back());
    assert_eq!((count, first.copied(), last.copied()), (1000, Some(1), Some(1000)));
    Ok(())
}
