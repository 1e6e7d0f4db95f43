//! Delivery exactly once: events and a marker in one transaction of Kafka, for readers of committed records.

use std::collections::HashSet;
use std::time::Duration;

use event_outbox_lab::{Broker, Cluster, Record, Result, StopMode, process, wait};
use postgres::Client;

use crate::support::broker::FaultyBroker;
use crate::support::database::{DEADLINE, TestDatabase, values};
use crate::support::dead_letters::{NOWHERE, until_dead};
use crate::support::events::{Event, emit};
use crate::support::ledger::Ledger;
use crate::support::relay::{until_drained, until_idle, until_status};
use crate::support::server::DedicatedServer;

const EMIT: &str =
    "SELECT outbox.emit($1, to_jsonb(n), key => (n % 7)::text) FROM generate_series($2::int8, $3) AS n";

/// Long enough for a relay to find out that its producer is of no use, and to take its place again.
const RETURN: Duration = Duration::from_secs(90);

/// Waits until nothing is in the table or in flight.
fn until_settled(client: &mut Client) -> Result<()> {
    let mut last = String::new();
    wait::until_ok("a relay at rest", RETURN, || {
        let row = client.query_one(
            "SELECT NOT EXISTS (SELECT FROM outbox.events) AND in_flight = 0 AND state = 'idle', s::text
               FROM outbox.status AS s",
            &[],
        )?;
        last = row.get(1);
        Ok(row.get::<_, Option<bool>>(0).unwrap_or(false).then_some(()))
    })
    .map_err(|error| error.context(last))
}

/// Each number arrived once, and those of a key in their order.
fn assert_once_in_order(records: &[Record], count: i64) {
    let numbers: Vec<(Option<&str>, i64)> = records
        .iter()
        .filter_map(|record| Some((record.key_text(), record.value_text()?.parse().ok()?)))
        .collect();
    let distinct: HashSet<i64> = numbers.iter().map(|(_, number)| *number).collect();
    assert_eq!(numbers.len(), distinct.len(), "an event arrived twice");
    assert_eq!(distinct.len() as i64, count, "an event is lost");
    for key in 0..7 {
        let key = key.to_string();
        let of_key: Vec<i64> =
            numbers.iter().filter(|(of, _)| *of == Some(&key)).map(|(_, number)| *number).collect();
        assert!(of_key.is_sorted(), "key {key}");
    }
}

/// A database that delivers exactly once, and where refused events come soon to their end.
fn exact_database() -> Result<TestDatabase> {
    let mut db = TestDatabase::new()?;
    db.client.batch_execute(&format!(
        "ALTER DATABASE {0} SET event_outbox.retry_backoff = '100ms';
         ALTER DATABASE {0} SET event_outbox.grace_period = '1s';
         ALTER DATABASE {0} SET event_outbox.auto_create_topics = off",
        db.database
    ))?;
    db.configure("event_outbox.delivery", "exactly_once")?;
    Ok(db)
}

/// A server of its own that delivers exactly once, with a backlog that has just begun to go.
fn draining(broker: &Broker, topic: &str) -> Result<(DedicatedServer, Client, Ledger)> {
    broker.create_topic(topic, 3, &[])?;
    let options = Cluster::options("exact")
        .set("event_outbox.delivery", "exactly_once")
        .set("event_outbox.batch_size", 200)
        .set("event_outbox.max_in_flight", 1000);
    let dedicated = DedicatedServer::with(options, &broker.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let ledger = Ledger::open(&mut client, topic)?;
    client.batch_execute("SELECT outbox.pause()")?;
    ledger.emit(&mut client, 30_000)?;
    client.batch_execute("SELECT outbox.resume()")?;
    until_status(&mut client, "the first to be published", |status| status.published > 500)?;
    Ok((dedicated, client, ledger))
}

#[test]
fn all_events_arrive_once_in_order() -> Result<()> {
    let mut db = exact_database()?;
    let topic = db.own_topic("exact")?;
    db.client.execute(EMIT, &[&topic, &1_i64, &20_000_i64])?;
    until_settled(&mut db.client)?;
    assert_once_in_order(&db.drained(&topic)?, 20_000);
    let delivery: String = db.client.query_one("SELECT delivery FROM outbox.status", &[])?.get(0);
    assert_eq!(delivery, "exactly_once");
    assert!(db.broker.has_topic("event-outbox-progress")?);
    Ok(())
}

/// A relay at rest does nothing, as in the other modes.
#[test]
fn an_idle_relay_is_not_woken() -> Result<()> {
    let mut db = exact_database()?;
    let topic = db.own_topic("idle")?;
    emit(&mut db.client, &topic, 1)?;
    until_settled(&mut db.client)?;
    let wakeups = "SELECT wakeups FROM outbox.status";
    // The last reports and log lines of the start may still come.
    wait::until_ok("four seconds of rest", DEADLINE, || {
        let before: i64 = db.client.query_one(wakeups, &[])?.get(0);
        db.client.batch_execute("SELECT pg_sleep(4)")?;
        let after: i64 = db.client.query_one(wakeups, &[])?.get(0);
        Ok((after - before <= 1).then_some(()))
    })?;
    Ok(())
}

#[test]
fn a_crash_of_the_server_repeats_and_loses_nothing() -> Result<()> {
    let broker = Broker::shared()?;
    let (mut dedicated, mut client, ledger) = draining(broker, "exact.crash")?;
    for _ in 0..3 {
        drop(client);
        dedicated.server.restart(StopMode::Immediate)?;
        client = dedicated.connect()?;
        let left: i64 = client.query_one("SELECT count(*) FROM outbox.events", &[])?.get(0);
        until_status(&mut client, "some to be published", |status| status.published >= left.min(500))?;
    }
    until_settled(&mut client)?;
    ledger.assert_exactly_once(&mut client, broker)
}

#[test]
fn a_kill_of_the_relay_repeats_and_loses_nothing() -> Result<()> {
    let broker = Broker::shared()?;
    let (dedicated, mut client, ledger) = draining(broker, "exact.relay")?;
    for _ in 0..3 {
        let status =
            until_status(&mut client, "a relay", |status| status.pid.is_some() && status.published > 0)?;
        process::send(status.pid.unwrap_or_default() as u32, libc::SIGKILL)?;
        wait::until("the server to end all its sessions", DEADLINE, || client.simple_query("").err())?;
        client = wait::until("the server to recover", DEADLINE, || dedicated.connect().ok())?;
        ledger.emit(&mut client, 100)?;
    }
    until_settled(&mut client)?;
    ledger.assert_exactly_once(&mut client, broker)
}

/// An orderly stop, and one without time for what is on its way.
#[test]
fn a_restarted_relay_goes_on() -> Result<()> {
    let broker = Broker::shared()?;
    let (dedicated, mut client, ledger) = draining(broker, "exact.restart")?;
    for timeout in ["5s", "0"] {
        dedicated.alter("shutdown_timeout", timeout)?;
        for _ in 0..3 {
            let before: i64 = client.query_one("SELECT published FROM outbox.status", &[])?.get(0);
            client.query_one("SELECT outbox.restart_relay()", &[])?;
            ledger.emit(&mut client, 1000)?;
            until_status(&mut client, "the relay to go on", |status| status.published > before)?;
        }
    }
    until_settled(&mut client)?;
    ledger.assert_exactly_once(&mut client, broker)
}

#[test]
fn the_mode_changes_while_events_flow() -> Result<()> {
    let mut db = exact_database()?;
    let topic = db.own_topic("switched")?;
    let mut next = 1_i64;
    for mode in ["at_least_once", "exactly_once", "at_most_once", "exactly_once"] {
        db.client.execute(EMIT, &[&topic, &next, &(next + 1999)])?;
        next += 2000;
        db.configure("event_outbox.delivery", mode)?;
        db.client.execute(EMIT, &[&topic, &next, &(next + 1999)])?;
        next += 2000;
    }
    until_settled(&mut db.client)?;
    assert_once_in_order(&db.drained(&topic)?, next - 1);
    Ok(())
}

/// A refused event aborts its transaction: the others come once and in order, and none of them is charged.
#[test]
fn a_refused_event_becomes_a_dead_letter_and_the_others_arrive_once() -> Result<()> {
    let mut db = exact_database()?;
    let small = db.topic("small");
    db.broker.create_topic(&small, 1, &[("max.message.bytes", "100000")])?;
    let other = db.own_topic("other")?;
    db.client.batch_execute("SELECT outbox.pause()")?;
    db.client.execute(EMIT, &[&small, &1_i64, &500_i64])?;
    db.client.execute(EMIT, &[&other, &1_i64, &500_i64])?;
    let large = "SELECT outbox.emit($1, to_jsonb((SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 6000))), key => 'large')";
    db.client.execute(large, &[&small])?;
    db.client.execute(EMIT, &[&small, &501_i64, &1000_i64])?;
    db.client.execute(EMIT, &[&other, &501_i64, &1000_i64])?;
    db.client.batch_execute("SELECT outbox.resume()")?;
    until_dead(&mut db.client, 1)?;
    until_drained(&mut db.client)?;
    db.client.execute(EMIT, &[&small, &1001_i64, &1010_i64])?;
    until_drained(&mut db.client)?;
    assert_once_in_order(&db.drained(&small)?, 1010);
    assert_once_in_order(&db.drained(&other)?, 1000);
    let row = db.client.query_one("SELECT error_class, attempts FROM outbox.dead_letters", &[])?;
    assert_eq!((row.get(0), row.get(1)), ("too_large", 3));
    let refused: i64 = db.client.query_one("SELECT refused FROM outbox.status", &[])?.get(0);
    assert_eq!(refused, 3, "only the event at fault is charged");
    Ok(())
}

/// A broker's limit is one of batches, and each batch that is too large ends a transaction.
#[test]
fn a_topic_that_takes_small_batches_only_gets_all_events_once_in_order() -> Result<()> {
    const COUNT: i64 = 5_000;
    let mut db = exact_database()?;
    let small = db.topic("batches");
    db.broker.create_topic(&small, 1, &[("max.message.bytes", "10000")])?;
    db.client.execute(EMIT, &[&small, &1_i64, &COUNT])?;
    until_drained(&mut db.client)?;
    assert_once_in_order(&db.drained(&small)?, COUNT);
    let dead: i64 = db.client.query_one("SELECT count(*) FROM outbox.dead_letters", &[])?.get(0);
    assert_eq!(dead, 0);
    Ok(())
}

/// What cannot be sent at all: a missing topic, and a partition that the topic does not have.
#[test]
fn events_without_a_place_become_dead_letters() -> Result<()> {
    let mut db = exact_database()?;
    let topic = db.own_topic("there")?;
    let missing = db.topic("missing");
    db.client.batch_execute("SELECT outbox.pause()")?;
    emit(&mut db.client, &missing, "no topic")?;
    Event::new(&topic, "no partition").key("1").partition(NOWHERE).emit(&mut db.client)?;
    db.client.execute(EMIT, &[&topic, &1_i64, &100_i64])?;
    db.client.batch_execute("SELECT outbox.resume()")?;
    let mut dead = until_dead(&mut db.client, 2)?;
    dead.sort();
    assert_eq!(dead, ["no partition", "no topic"]);
    until_drained(&mut db.client)?;
    assert_once_in_order(&db.drained(&topic)?, 100);
    until_idle(&mut db.client)?;
    Ok(())
}

/// They are refused before a transaction begins: each of them would end one.
#[test]
fn many_events_without_a_partition_become_dead_letters_and_delay_no_other() -> Result<()> {
    const MISPLACED: i64 = 1000;
    let mut db = exact_database()?;
    let topic = db.own_topic("narrow")?;
    db.client.batch_execute("SELECT outbox.pause()")?;
    db.client.execute(EMIT, &[&topic, &1_i64, &1000_i64])?;
    let misplaced = "SELECT outbox.emit($1, to_jsonb(n), key => 'misplaced ' || n, partition => $2) FROM generate_series(1, $3::int8) AS n";
    db.client.execute(misplaced, &[&topic, &NOWHERE, &MISPLACED])?;
    db.client.execute(EMIT, &[&topic, &1001_i64, &1100_i64])?;
    db.client.batch_execute("SELECT outbox.resume()")?;
    assert_eq!(until_dead(&mut db.client, MISPLACED as usize)?.len(), MISPLACED as usize);
    until_drained(&mut db.client)?;
    assert_once_in_order(&db.drained(&topic)?, 1100);
    Ok(())
}

/// Nobody forges the records of relays.
#[test]
fn no_event_goes_to_the_progress_topic() -> Result<()> {
    let mut db = exact_database()?;
    emit(&mut db.client, "event-outbox-progress", "forged")?;
    assert_eq!(until_dead(&mut db.client, 1)?, ["forged"]);
    Ok(())
}

#[test]
fn an_outage_repeats_and_loses_nothing() -> Result<()> {
    let mut broker = FaultyBroker::take()?;
    let (_dedicated, mut client, ledger) = draining(&broker, "exact.outage")?;
    broker.kill()?;
    until_status(&mut client, "an outage", |status| status.is_disconnected())?;
    ledger.emit(&mut client, 1000)?;
    broker.start()?;
    until_settled(&mut client)?;
    let refused: i64 = client.query_one("SELECT refused FROM outbox.status", &[])?.get(0);
    assert_eq!(refused, 0, "an outage is nobody's fault");
    ledger.assert_exactly_once(&mut client, &broker)
}

/// Kafka ends the transaction meanwhile.
#[test]
fn a_broker_that_stands_still_for_longer_than_a_transaction() -> Result<()> {
    let broker = FaultyBroker::take()?;
    broker.create_topic("exact.frozen", 1, &[])?;
    let options = Cluster::options("exact")
        .set("event_outbox.delivery", "exactly_once")
        .set("event_outbox.kafka_properties", "transaction.timeout.ms=5000,socket.timeout.ms=4000")
        .set("event_outbox.batch_size", 200);
    let dedicated = DedicatedServer::with(options, &broker.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let ledger = Ledger::open(&mut client, "exact.frozen")?;
    ledger.emit(&mut client, 20_000)?;
    until_status(&mut client, "the first to be published", |status| status.published > 500)?;
    broker.pause()?;
    until_status(&mut client, "an outage", |status| status.is_disconnected())?;
    broker.resume()?;
    until_settled(&mut client)?;
    ledger.assert_exactly_once(&mut client, &broker)
}

#[test]
fn the_progress_topic_is_deleted() -> Result<()> {
    let mut db = exact_database()?;
    let (topic, progress) = (db.own_topic("exact")?, db.topic("progress"));
    db.configure("event_outbox.progress_topic", &progress)?;
    db.client.execute(EMIT, &[&topic, &1_i64, &1000_i64])?;
    until_settled(&mut db.client)?;
    assert!(db.broker.has_topic(&progress)?);
    db.broker.delete_topic(&progress)?;
    db.client.execute(EMIT, &[&topic, &1001_i64, &2000_i64])?;
    until_settled(&mut db.client)?;
    assert_once_in_order(&db.drained(&topic)?, 2000);
    assert!(db.broker.has_topic(&progress)?, "it was created again");
    Ok(())
}

/// A topic of another form is not used, and the status says what to do.
#[test]
fn a_progress_topic_must_have_one_partition_and_be_compacted() -> Result<()> {
    let mut db = exact_database()?;
    let topic = db.own_topic("exact")?;
    let (wide, short_lived) = (db.topic("wide"), db.topic("short"));
    db.broker.create_topic(&wide, 3, &[("cleanup.policy", "compact")])?;
    db.broker.create_topic(&short_lived, 1, &[("cleanup.policy", "delete")])?;
    for (name, complaint) in [(&wide, "3 partitions"), (&short_lived, "cleanup.policy=delete")] {
        db.configure("event_outbox.progress_topic", name)?;
        emit(&mut db.client, &topic, 0)?;
        let error = db.until_state("waiting")?;
        assert!(error.contains(complaint) && error.contains(&**name), "{error}");
        let sql = "SELECT verdict, hint FROM outbox.check() WHERE subject = 'relay'";
        let row = db.client.query_one(sql, &[])?;
        assert_eq!(row.get::<_, &str>(0), "error");
        assert!(row.get::<_, &str>(1).contains("Set "), "{:?}", row.get::<_, &str>(1));
    }
    db.configure("event_outbox.progress_topic", "event-outbox-progress")?;
    until_settled(&mut db.client)?;
    assert_eq!(values(&db.drained(&topic)?), ["0", "0"]);
    Ok(())
}

/// One topic can lose events rather than wait, beside transactions.
#[test]
fn a_topic_can_be_delivered_at_most_once() -> Result<()> {
    let mut db = exact_database()?;
    let (exact, once) = (db.own_topic("exact")?, db.own_topic("metrics")?);
    db.client.execute("SELECT outbox.set_delivery($1, 'at_most_once')", &[&once])?;
    for topic in [&exact, &once] {
        db.client.execute(EMIT, &[topic, &1_i64, &1000_i64])?;
    }
    until_settled(&mut db.client)?;
    for topic in [&exact, &once] {
        assert_once_in_order(&db.drained(topic)?, 1000);
    }
    let error = db.client.batch_execute("SELECT outbox.set_delivery('a', 'exactly_once')").unwrap_err();
    let error = error.as_db_error().expect("an error of the server");
    assert_eq!(error.code().code(), "22023");
    assert!(error.hint().unwrap_or_default().contains("event_outbox.delivery"), "{error:?}");
    Ok(())
}

/// A session holds the row of a published event: it is not published again, by no relay.
#[test]
fn an_event_whose_row_is_locked_is_published_once() -> Result<()> {
    let mut db = exact_database()?;
    let topic = db.own_topic("exact")?;
    db.client.batch_execute("SELECT outbox.pause()")?;
    db.client.execute(EMIT, &[&topic, &1_i64, &100_i64])?;
    let mut holder = db.connect()?;
    holder.batch_execute("BEGIN; SELECT FROM outbox.events WHERE payload = '50' FOR UPDATE")?;
    db.client.batch_execute("SELECT outbox.resume()")?;
    assert_eq!(db.promptly(&topic, 100)?.len(), 100);
    let relay = db.relay()?;
    db.client.batch_execute("SELECT outbox.restart_relay()")?;
    wait::until_ok("another relay", DEADLINE, || Ok((db.relay()? != relay).then_some(())))?;
    until_status(&mut db.client, "the event to be in flight", |status| status.in_flight == 1)?;
    holder.batch_execute("COMMIT")?;
    until_settled(&mut db.client)?;
    assert_once_in_order(&db.drained(&topic)?, 100);
    Ok(())
}
