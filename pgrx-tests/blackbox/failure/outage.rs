//! Kafka is down, crashes or freezes: events wait in order and are not charged.

use std::fs;
use std::time::Duration;

use event_outbox_lab::{Broker, Cluster, Result, wait};
use postgres::Client;

use crate::support::broker::FaultyBroker;
use crate::support::events::pending_count;
use crate::support::ledger::Ledger;
use crate::support::relay::{status, until_drained, until_idle, until_status};
use crate::support::server::DedicatedServer;

/// The log line of an outage.
const OUTAGE: &str = "no Kafka broker answers; events wait";

/// From the broker's return to the last event: the relay probes at least every ten seconds.
const RETURN: Duration = Duration::from_secs(45);

fn outages_logged(dedicated: &DedicatedServer) -> usize {
    dedicated.server.log().matches(OUTAGE).count()
}

/// The waiting events were not charged.
fn assert_blameless(client: &mut Client) -> Result<()> {
    let row =
        client.query_one("SELECT count(*), max(attempts), count(last_error) FROM outbox.events", &[])?;
    let (waiting, attempts, errors): (i64, Option<i32>, i64) = (row.get(0), row.get(1), row.get(2));
    assert!(waiting > 0);
    assert_eq!((attempts, errors), (Some(0), 0));
    assert_eq!(status(client)?.refused, 0);
    Ok(())
}

/// Waits until the status shows the outage, its reason and its beginning.
fn until_disconnected(client: &mut Client) -> Result<()> {
    let seen = until_status(client, "the outage to be seen", |status| status.is_disconnected())?;
    assert!(!seen.error().is_empty(), "{seen:?}");
    let now: f64 = client.query_one("SELECT extract(epoch FROM clock_timestamp())::float8", &[])?.get(0);
    let since = seen.connection_since.unwrap_or_default();
    assert!(since <= now && now - since < 60.0, "{seen:?} at {now}");
    Ok(())
}

fn until_back(client: &mut Client) -> Result<()> {
    wait::until_ok("the events to be published", RETURN, || {
        let left = pending_count(client)?;
        Ok((left == 0).then_some(()))
    })?;
    until_idle(client)?;
    Ok(())
}

#[test]
fn kafka_comes_after_the_server() -> Result<()> {
    let mut broker = FaultyBroker::take()?;
    broker.create_topic("outage.late", 3, &[])?;
    broker.stop()?;
    let mut dedicated = DedicatedServer::start(&broker.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let ledger = Ledger::open(&mut client, "outage.late")?;
    ledger.emit(&mut client, 500)?;
    until_disconnected(&mut client)?;
    // The same when the server starts without Kafka and with a backlog.
    drop(client);
    dedicated.server.restart(event_outbox_lab::StopMode::Fast)?;
    client = dedicated.connect()?;
    until_disconnected(&mut client)?;
    ledger.emit(&mut client, 500)?;
    assert_blameless(&mut client)?;
    broker.start()?;
    until_back(&mut client)?;
    assert_eq!(outages_logged(&dedicated), 2);
    ledger.assert_exactly_once(&mut client, &broker)
}

#[test]
fn kafka_dies_in_mid_stream() -> Result<()> {
    let mut broker = FaultyBroker::take()?;
    broker.create_topic("outage.killed", 3, &[])?;
    let options = Cluster::options("outage")
        .set("event_outbox.batch_size", 100)
        .set("event_outbox.max_in_flight", 1000);
    let dedicated = DedicatedServer::with(options, &broker.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let ledger = Ledger::open(&mut client, "outage.killed")?;
    ledger.emit(&mut client, 10)?;
    until_drained(&mut client)?;
    ledger.emit(&mut client, 20_000)?;
    until_status(&mut client, "the stream to flow", |status| status.published > 500)?;
    broker.kill()?;
    until_disconnected(&mut client)?;
    ledger.emit(&mut client, 100)?;
    assert_blameless(&mut client)?;
    broker.start()?;
    until_back(&mut client)?;
    assert_eq!(outages_logged(&dedicated), 1);
    ledger.assert_at_least_once(&mut client, &broker)
}

#[test]
fn kafka_restarts_in_order() -> Result<()> {
    let mut broker = FaultyBroker::take()?;
    broker.create_topic("outage.restarted", 3, &[])?;
    let dedicated = DedicatedServer::start(&broker.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let ledger = Ledger::open(&mut client, "outage.restarted")?;
    ledger.emit(&mut client, 10)?;
    until_drained(&mut client)?;
    until_idle(&mut client)?;
    broker.stop()?;
    // An idle relay notices it, too.
    until_disconnected(&mut client)?;
    ledger.emit(&mut client, 1000)?;
    broker.start()?;
    until_back(&mut client)?;
    assert_eq!(outages_logged(&dedicated), 1);
    ledger.assert_exactly_once(&mut client, &broker)
}

/// Everything that can time out does so several times, without consequences.
#[test]
fn an_outage_longer_than_any_timeout() -> Result<()> {
    const TIMEOUTS: &str = "request.timeout.ms=1000,socket.timeout.ms=1000,\
        socket.connection.setup.timeout.ms=1000,topic.metadata.propagation.max.ms=1000,metadata.max.age.ms=1000";
    const SECONDS: f64 = 6.0;
    let mut broker = FaultyBroker::take()?;
    broker.create_topic("outage.long", 3, &[])?;
    let options = Cluster::options("long").set("event_outbox.kafka_properties", TIMEOUTS);
    let dedicated = DedicatedServer::with(options, &broker.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let ledger = Ledger::open(&mut client, "outage.long")?;
    ledger.emit(&mut client, 10)?;
    until_drained(&mut client)?;
    broker.stop()?;
    ledger.emit(&mut client, 500)?;
    until_disconnected(&mut client)?;
    let sql = "SELECT extract(epoch FROM clock_timestamp() - connection_since)::float8,
                      oldest_event_at = (SELECT min(emitted_at) FROM outbox.events)
                 FROM outbox.status WHERE connection = 'disconnected'";
    wait::until_ok("the outage to last", RETURN, || {
        // It is shown as one outage from beginning to end.
        let row = client.query_one(sql, &[])?;
        assert!(row.get::<_, bool>(1), "the oldest event is not shown");
        Ok((row.get::<_, f64>(0) > SECONDS).then_some(()))
    })?;
    ledger.emit(&mut client, 500)?;
    assert_blameless(&mut client)?;
    broker.start()?;
    until_back(&mut client)?;
    assert_eq!(outages_logged(&dedicated), 1);
    let dead: i64 = client.query_one("SELECT count(*) FROM outbox.dead_letters", &[])?.get(0);
    assert_eq!(dead, 0);
    ledger.assert_exactly_once(&mut client, &broker)
}

#[test]
fn kafka_freezes() -> Result<()> {
    let broker = FaultyBroker::take()?;
    broker.create_topic("outage.frozen", 3, &[])?;
    // Only its silence gives a frozen broker away; the default timeout is over half a minute.
    let options = Cluster::options("frozen")
        .set("event_outbox.kafka_properties", "request.timeout.ms=1500,socket.timeout.ms=2000");
    let dedicated = DedicatedServer::with(options, &broker.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let ledger = Ledger::open(&mut client, "outage.frozen")?;
    ledger.emit(&mut client, 10)?;
    until_drained(&mut client)?;
    broker.pause()?;
    ledger.emit(&mut client, 500)?;
    until_disconnected(&mut client)?;
    ledger.emit(&mut client, 500)?;
    assert_blameless(&mut client)?;
    broker.resume()?;
    until_back(&mut client)?;
    ledger.assert_at_least_once(&mut client, &broker)
}

/// A cluster that repeatedly reports no broker for seconds: its only broker sends its heartbeats too late and is fenced
/// until the next. librdkafka then forgets its brokers.
#[test]
fn a_cluster_without_brokers_for_a_moment() -> Result<()> {
    const SECONDS_FENCED: u64 = 2;
    const TIMES: usize = 3;
    let broker = Broker::options()
        .set("broker.session.timeout.ms", 2000)
        .set("broker.heartbeat.interval.ms", 2000 + SECONDS_FENCED * 1000)
        .start()?;
    let dedicated = DedicatedServer::start(&broker.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let ledger = Ledger::open(&mut client, "outage.fenced")?;
    wait::until("the broker to create a topic", RETURN, || {
        broker.create_topic("outage.fenced", 3, &[]).ok()
    })?;
    let fenced =
        || -> Result<usize> { Ok(fs::read_to_string(broker.log_path())?.matches("Fencing broker").count()) };
    let before = fenced()?;
    wait::until_ok("the broker to be fenced some times", RETURN, || {
        ledger.emit(&mut client, 10)?;
        Ok((fenced()? >= before + TIMES).then_some(()))
    })?;
    until_back(&mut client)?;
    ledger.assert_exactly_once(&mut client, &broker)
}

/// The relay looks for a broker by asking about a topic. That must not bring back one that was deleted meanwhile, even
/// where the brokers create what producers ask for.
#[test]
fn a_deleted_topic_stays_deleted() -> Result<()> {
    let mut broker = Broker::options().start()?;
    let options = Cluster::options("outage").set("event_outbox.auto_create_topics", "off");
    let own = DedicatedServer::with(options, &broker.bootstrap_servers())?;
    let mut client = own.connect()?;
    for topic in ["outage.deleted", "outage.kept"] {
        broker.create_topic(topic, 1, &[])?;
        client.query_one("SELECT outbox.emit($1, '1')", &[&topic])?;
    }
    until_drained(&mut client)?;
    broker.delete_topic("outage.deleted")?;
    broker.stop()?;
    until_disconnected(&mut client)?;
    broker.start()?;
    until_status(&mut client, "the broker to answer", |status| !status.is_disconnected())?;
    client.query_one("SELECT outbox.emit('outage.kept', '2')", &[])?;
    until_drained(&mut client)?;
    assert!(!broker.has_topic("outage.deleted")?);
    Ok(())
}
