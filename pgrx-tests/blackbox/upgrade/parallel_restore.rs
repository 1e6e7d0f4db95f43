//! A dump is restored by several processes at once: rows of one table arrive before those of another, and triggers run.

use event_outbox_lab::{Producer, Result, wait};

use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::dump::{dump, restore_in_parallel};
use crate::support::inbox::{Received, receive, until_consumer, until_stored};
use crate::support::subscriptions::subscribe;

const RECORDS: i64 = 600;
const KEYS: i64 = 50;
const PENDING: i64 = 100;

/// A subscription that has received a part, an event that waits for a retry, a handler, a captured table, and events to be
/// published. Nothing is published or handled any more. Returns what was received, and the event that waits.
fn fill(db: &mut TestDatabase, incoming: &str, outgoing: &str) -> Result<(Vec<i64>, i64)> {
    let producer = Producer::new(&db.broker.bootstrap_servers())?;
    producer.send_numbers(incoming, 0, 0..RECORDS, |number| Some((number % KEYS).to_string()))?;
    subscribe(&mut db.client, "s", &[incoming], "earliest")?;
    until_stored(&mut db.client, RECORDS)?;
    let received = receive(&mut db.client, "s", 200)?.iter().map(Received::number).collect();
    db.client
        .batch_execute("SELECT inbox.nack('s', position, 'later', '1 hour') FROM inbox.receive('s', 1)")?;
    let waits = "SELECT convert_from(value, 'UTF8')::int8 FROM inbox.retry";
    let waits: i64 = db.client.query_one(waits, &[])?.get(0);
    db.configure("event_outbox.enabled", "off")?;
    db.client.batch_execute(&format!(
        "CREATE TABLE handled (number int);
         CREATE FUNCTION handle(e inbox.event) RETURNS void LANGUAGE plpgsql AS $$
             BEGIN
                 INSERT INTO public.handled VALUES (convert_from(e.payload, 'UTF8')::int);
             END $$;
         SELECT inbox.handle('s', 'handle(inbox.event)', workers => 2, batch => 20);
         CREATE TABLE orders (id int PRIMARY KEY);
         SELECT outbox.capture('orders', 'fat', topic => '{outgoing}');
         SELECT outbox.emit('{outgoing}', to_jsonb(n), key => 'k') FROM generate_series(1, {PENDING}) AS n"
    ))?;
    Ok((received, waits))
}

#[test]
fn both_halves_go_on_after_a_restore_by_several_processes() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let (incoming, outgoing) = (db.own_topic("incoming")?, db.own_topic("outgoing")?);
    let (received, waits) = fill(&mut db, &incoming, &outgoing)?;
    let dumped = dump(&db, &[])?;

    let mut restored = TestDatabase::of(db.server.create_database()?)?;
    // As docs/operations/copies.md has it: the order in which tables are there is anybody's guess.
    restored
        .client
        .batch_execute(&format!("ALTER DATABASE {} SET event_outbox.enabled = off", restored.database))?;
    restore_in_parallel(&dumped, db.server, &restored.database)?;
    restored.client = restored.connect()?;
    until_consumer(&mut restored.client, "disabled")?;
    let handled = "SELECT count(*) FROM handled";
    assert_eq!(restored.client.query_one(handled, &[])?.get::<_, i64>(0), 0);
    restored.configure("event_outbox.enabled", "on")?;

    // The later events of its key wait behind the one that waits.
    let is_left = |number: &i64| !received.contains(number) && number % KEYS != waits % KEYS;
    let expected: Vec<i64> = (0..RECORDS).filter(is_left).collect();
    wait::until_ok("the rest to be handled", DEADLINE, || {
        let count: i64 = restored.client.query_one(handled, &[])?.get(0);
        Ok((count >= i64::try_from(expected.len())?).then_some(()))
    })?;
    let numbers = restored.client.query("SELECT number::int8 FROM handled ORDER BY number", &[])?;
    let numbers: Vec<i64> = numbers.iter().map(|row| row.get(0)).collect();
    assert_eq!(numbers, expected);
    let waiting = "SELECT count(*) FROM inbox.retry WHERE last_error = 'later'";
    assert_eq!(restored.client.query_one(waiting, &[])?.get::<_, i64>(0), 1);

    // Triggers of captured tables have come with the dump, and those of the extension were there already.
    restored.client.batch_execute("INSERT INTO orders VALUES (7)")?;
    let records = restored.drained(&outgoing)?;
    assert_eq!(records.len(), usize::try_from(PENDING)? + 1);
    Ok(())
}
