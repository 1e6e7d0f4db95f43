//! The order per key survives refusals, restarts and dead letters, and other keys do not wait.

use std::collections::HashSet;

use event_outbox_lab::{Broker, Cluster, Consumer, Record, Result, StopMode, wait};
use postgres::Client;

use crate::support::broker::FaultyBroker;
use crate::support::database::{DEADLINE, PROMPTLY, TestDatabase};
use crate::support::dead_letters::{NOWHERE, dead, deadly_database, until_dead};
use crate::support::events::Event;
use crate::support::ledger::Ledger;
use crate::support::relay::{status, until_another, until_drained, until_idle, until_status};
use crate::support::server::DedicatedServer;

/// Longer than any test.
const LONG: &str = "1h";

/// The columns of a refused event that a restart must not change, as text.
fn retry_record(client: &mut Client) -> Result<Option<String>> {
    let sql = "SELECT (id, attempts, next_attempt_at, last_error, first_refused_at)::text FROM outbox.events WHERE attempts > 0";
    Ok(client.query_opt(sql, &[])?.map(|row| row.get(0)))
}

/// Waits until an event has been refused; returns its [`retry_record`].
fn until_refused(client: &mut Client) -> Result<String> {
    wait::until_ok("a refusal", DEADLINE, || retry_record(client))
}

fn terminate(client: &mut Client) -> Result<()> {
    let relay = until_idle(client)?;
    client.execute("SELECT pg_terminate_backend($1)", &[&relay])?;
    until_another(client, relay)?;
    Ok(())
}

/// The first record of each event: a crash may have repeated some.
fn first_deliveries(records: &[Record]) -> Vec<Record> {
    let mut seen = HashSet::new();
    records.iter().filter(|record| seen.insert(record.header("ce_id"))).cloned().collect()
}

fn arrived(broker: &Broker, topic: &str, count: usize) -> Result<Vec<Record>> {
    let mut consumer = Consumer::new(&broker.bootstrap_servers(), &[topic])?;
    let what = format!("{count} events");
    let records =
        consumer.read_until_that(&what, PROMPTLY, |records| first_deliveries(records).len() >= count)?;
    Ok(first_deliveries(records))
}

/// The values of one key, in the order of their arrival.
fn of_key(records: &[Record], key: &str) -> Vec<String> {
    let of_key = records.iter().filter(|record| record.key_text() == Some(key));
    of_key.map(|record| record.value_text().unwrap_or("(no text)").trim_matches('"').to_owned()).collect()
}

fn numbered(range: std::ops::Range<i32>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

/// Restarts of the relay and of the server change neither the retry record of a waiting event nor the order of its key.
/// When it has died, its key goes on.
#[test]
fn only_its_key_waits_with_an_event_through_all_restarts() -> Result<()> {
    let broker = Broker::shared()?;
    let options = Cluster::options("waits").set("event_outbox.retry_backoff", LONG);
    let mut dedicated = DedicatedServer::with(options, &broker.bootstrap_servers())?;
    let (topic, other) = ("ordering.restarts", "ordering.other");
    broker.create_topic(topic, 1, &[])?;
    let mut client = dedicated.connect()?;
    Event::new(topic, "poison").key("a").partition(NOWHERE).emit(&mut client)?;
    let before = until_refused(&mut client)?;
    let mut flown = 0;
    let mut behind = 0;
    for round in 0..3 {
        // More events of the key than a restart could overlook, and some of other keys.
        for _ in 0..3 {
            Event::new(topic, behind.to_string()).key("a").emit(&mut client)?;
            behind += 1;
            Event::new(topic, flown.to_string()).key("b").emit(&mut client)?;
            Event::new(other, flown.to_string()).key("a").emit(&mut client)?;
            flown += 1;
        }
        assert_eq!(of_key(&arrived(broker, topic, flown)?, "b"), numbered(0..flown as i32));
        assert_eq!(of_key(&arrived(broker, other, flown)?, "a"), numbered(0..flown as i32));
        assert_eq!(retry_record(&mut client)?.as_ref(), Some(&before), "after {round} restarts");
        match round {
            0 => terminate(&mut client)?,
            _ => {
                until_idle(&mut client)?;
                drop(client);
                dedicated.server.restart(if round == 1 { StopMode::Immediate } else { StopMode::Fast })?;
                client = dedicated.connect()?;
            }
        }
    }
    until_idle(&mut client)?;
    assert_eq!(retry_record(&mut client)?, Some(before));
    let blameless = "SELECT count(*) FROM outbox.events WHERE attempts = 0 AND next_attempt_at IS NULL";
    assert_eq!(client.query_one(blameless, &[])?.get::<_, i64>(0), i64::from(behind));
    // Its last attempt comes, and its key goes on.
    dedicated.alter("max_attempts", "2")?;
    client.execute("UPDATE outbox.events SET next_attempt_at = now() WHERE attempts > 0", &[])?;
    until_dead(&mut client, 1)?;
    until_drained(&mut client)?;
    let records = first_deliveries(&Consumer::read_all(&broker.bootstrap_servers(), &[topic])?);
    assert_eq!(of_key(&records, "a"), numbered(0..behind));
    assert_eq!(records.len(), flown + behind as usize);
    Ok(())
}

/// Several events of a key die one after the other, and the good ones between them keep their order. Events without a
/// key do not wait.
#[test]
fn a_key_goes_on_behind_each_of_its_dead() -> Result<()> {
    let (mut db, topic) = deadly_database()?;
    let mut transaction = db.client.transaction()?;
    for n in 0..20 {
        let name = n.to_string();
        let keyless = format!("keyless {n}");
        let mut events = [Event::new(&topic, name).key("a"), Event::new(&topic, keyless)];
        if n % 8 == 2 {
            events = events.map(|event| event.partition(NOWHERE));
        }
        for event in events {
            event.emit(&mut transaction)?;
        }
    }
    transaction.commit()?;
    let records = db.drained(&topic)?;
    let good: Vec<String> = (0..20).filter(|n| n % 8 != 2).map(|n| n.to_string()).collect();
    assert_eq!(of_key(&records, "a"), good);
    assert_eq!(records.len(), 2 * good.len());
    let names = dead(&mut db.client)?;
    assert_eq!(names, ["2", "keyless 2", "10", "keyless 10", "18", "keyless 18"]);
    Ok(())
}

#[test]
fn without_ordering_nothing_waits() -> Result<()> {
    let mut db = TestDatabase::new()?;
    db.configure("event_outbox.retry_backoff", LONG)?;
    db.configure("event_outbox.ordering", "none")?;
    let topic = db.topic("unordered");
    db.broker.create_topic(&topic, 1, &[])?;
    Event::new(&topic, "poison").key("a").partition(NOWHERE).emit(&mut db.client)?;
    let waits = until_refused(&mut db.client)?;
    for n in 0..5 {
        Event::new(&topic, n.to_string()).key("a").emit(&mut db.client)?;
    }
    assert_eq!(of_key(&db.promptly(&topic, 5)?, "a"), numbered(0..5));
    // Nor do they after a restart, which finds it waiting.
    terminate(&mut db.client)?;
    Event::new(&topic, "5").key("a").emit(&mut db.client)?;
    assert_eq!(of_key(&db.promptly(&topic, 6)?, "a"), numbered(0..6));
    assert_eq!(retry_record(&mut db.client)?, Some(waits));
    // With ordering, they wait.
    db.configure("event_outbox.ordering", "key")?;
    Event::new(&topic, "6").key("a").emit(&mut db.client)?;
    Event::new(&topic, "0").key("b").emit(&mut db.client)?;
    let records = db.promptly(&topic, 7)?;
    assert_eq!((of_key(&records, "a"), of_key(&records, "b")), (numbered(0..6), numbered(0..1)));
    Ok(())
}

/// The broker refuses whole batches because of it, or accepts only smaller ones; other events are not charged.
#[test]
fn one_poison_event_amid_thousands_dies_alone() -> Result<()> {
    let mut db = TestDatabase::new()?;
    db.configure("event_outbox.retry_backoff", "100ms")?;
    let topic = db.topic("batch");
    db.broker.create_topic(&topic, 2, &[("max.message.bytes", "20000")])?;
    let ledger = Ledger::open(&mut db.client, &topic)?;
    let client = &mut db.client;
    client.batch_execute("BEGIN")?;
    ledger.emit(client, 1000)?;
    // Good events before and behind it have the same key.
    Event::new(&topic, "poison".repeat(5000)).key("3").emit(client)?;
    ledger.emit(client, 1000)?;
    client.batch_execute("COMMIT")?;
    until_drained(client)?;
    assert!(matches!(&dead(client)?[..], [poison] if poison.starts_with("poison")));
    let (class, attempts) = {
        let row = client.query_one("SELECT error_class, attempts FROM outbox.dead_letters", &[])?;
        (row.get::<_, String>(0), row.get::<_, i32>(1))
    };
    assert_eq!((&*class, attempts), ("too_large", 3));
    assert_eq!(status(client)?.refused, 3, "others were charged");
    let verdict = ledger.verdict(client, db.broker)?;
    assert!(verdict.is_clean(), "{verdict:?}");
    Ok(())
}

/// The broker refuses the first batch that a producer sends to a partition. It knows no sequence number yet and would
/// accept whatever follows.
#[test]
fn nothing_overtakes_a_poison_event_at_the_head_of_a_backlog() -> Result<()> {
    let mut db = TestDatabase::new()?;
    db.configure("event_outbox.retry_backoff", "100ms")?;
    db.configure("event_outbox.enabled", "off")?;
    let topic = db.topic("head");
    db.broker.create_topic(&topic, 1, &[("max.message.bytes", "20000")])?;
    let ledger = Ledger::open(&mut db.client, &topic)?;
    let client = &mut db.client;
    client.batch_execute("BEGIN")?;
    ledger.emit(client, 10)?;
    Event::new(&topic, "poison".repeat(5000)).key("3").emit(client)?;
    ledger.emit(client, 3000)?;
    client.batch_execute("COMMIT")?;
    db.configure("event_outbox.enabled", "on")?;
    until_drained(&mut db.client)?;
    assert_eq!(dead(&mut db.client)?.len(), 1);
    let verdict = ledger.verdict(&mut db.client, db.broker)?;
    assert!(verdict.is_clean(), "{verdict:?}");
    Ok(())
}

/// It is due again while the event before it is still in flight: a new producer needs half a second to start.
#[test]
fn an_event_refused_by_hand_overtakes_nothing() -> Result<()> {
    let mut db = TestDatabase::new()?;
    db.configure("event_outbox.retry_backoff", "100ms")?;
    db.configure("event_outbox.enabled", "off")?;
    let topic = db.topic("byhand");
    db.broker.create_topic(&topic, 1, &[])?;
    for n in 0..30 {
        let mut transaction = db.client.transaction()?;
        for part in ["first", "second", "third"] {
            Event::new(&topic, part).key(&n.to_string()).emit(&mut transaction)?;
        }
        transaction.execute(
            "UPDATE outbox.events SET last_error = 'by hand'
              WHERE key = convert_to($1, 'UTF8') AND payload = convert_to('\"second\"', 'UTF8')",
            &[&n.to_string()],
        )?;
        transaction.commit()?;
    }
    db.configure("event_outbox.enabled", "on")?;
    let records = db.drained(&topic)?;
    for n in 0..30 {
        assert_eq!(of_key(&records, &n.to_string()), ["first", "second", "third"]);
    }
    Ok(())
}

/// A compacted topic refuses batches that contain a record without a key. The refusals neither repeat nor reorder records
/// of another topic.
#[test]
fn records_that_a_topic_does_not_take_die_alone() -> Result<()> {
    let mut db = TestDatabase::new()?;
    db.configure("event_outbox.retry_backoff", "100ms")?;
    let (compacted, plain) = (db.topic("compacted"), db.topic("plain"));
    db.broker.create_topic(&compacted, 2, &[("cleanup.policy", "compact")])?;
    db.broker.create_topic(&plain, 2, &[])?;
    let (picky, patient) = (Ledger::open(&mut db.client, &compacted)?, Ledger::open(&mut db.client, &plain)?);
    let client = &mut db.client;
    for n in 0..20 {
        client.batch_execute("BEGIN")?;
        picky.emit(client, 50)?;
        patient.emit(client, 50)?;
        if n % 5 == 1 {
            client.query_one("SELECT outbox.emit($1, to_jsonb('keyless'::text))", &[&compacted])?;
        }
        client.batch_execute("COMMIT")?;
    }
    until_drained(client)?;
    assert_eq!(dead(client)?.len(), 4);
    let sql =
        "SELECT count(*) FROM outbox.dead_letters WHERE error_class = 'invalid_record' AND attempts = 3";
    assert_eq!(client.query_one(sql, &[])?.get::<_, i64>(0), 4);
    for ledger in [picky, patient] {
        let verdict = ledger.verdict(client, db.broker)?;
        assert!(verdict.is_clean(), "{verdict:?}");
    }
    Ok(())
}

/// An outage is charged neither to a new event nor to one that was refused before, however many attempts would fall into
/// it.
#[test]
fn an_outage_is_no_attempt() -> Result<()> {
    let mut broker = FaultyBroker::take()?;
    let topic = "ordering.outage";
    let options = Cluster::options("blameless")
        .set("event_outbox.kafka_properties", "topic.metadata.propagation.max.ms=100")
        .set("event_outbox.retry_backoff", "2s")
        .set("event_outbox.retry_backoff_max", "2s");
    let dedicated = DedicatedServer::with(options, &broker.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    Event::new(topic, "0").key("a").emit(&mut client)?;
    until_refused(&mut client)?;
    broker.kill()?;
    until_status(&mut client, "the outage", |status| status.is_disconnected())?;
    let before = until_refused(&mut client)?;
    for n in 1..5 {
        Event::new(topic, n.to_string()).key("a").emit(&mut client)?;
        Event::new("ordering.new", n.to_string()).key("b").emit(&mut client)?;
    }
    wait::until_ok("two attempts' time to pass", DEADLINE, || {
        let sql = "SELECT max(next_attempt_at) + interval '4s' < clock_timestamp() FROM outbox.events";
        Ok(client.query_one(sql, &[])?.get::<_, Option<bool>>(0).is_none_or(|passed| passed).then_some(()))
    })?;
    let now = retry_record(&mut client)?;
    assert_eq!(now, Some(before), "the dead: {:?}", dead(&mut client)?);
    broker.start()?;
    for topic in [topic, "ordering.new"] {
        broker.create_topic(topic, 1, &[])?;
    }
    until_drained(&mut client)?;
    assert_eq!(dead(&mut client)?.len(), 0);
    let records = Consumer::read_all(&broker.bootstrap_servers(), &[topic])?;
    assert_eq!(of_key(&records, "a"), numbered(0..5));
    Ok(())
}
