//! Kafka answers late: events get through nevertheless, and topics that do not exist hold up no others.

use std::time::Duration;

use event_outbox_lab::proxy::{NetworkState, Proxy};
use event_outbox_lab::{Broker, Cluster, Consumer, Result, StopMode, ports, wait};
use postgres::Client;

use crate::support::events::{emit, emit_numbers};
use crate::support::inbox::until_stored;
use crate::support::relay::{until_drained, until_status};
use crate::support::server::DedicatedServer;

/// Each piece takes this long in each direction, so that every answer takes more than a second.
const EACH_WAY: Duration = Duration::from_millis(700);

/// A connection alone takes several answers.
const WITHIN: Duration = Duration::from_secs(60);

/// A broker that is far away, and a server that knows it by that way alone.
struct FarAway {
    broker: Broker,
    way: Proxy,
    dedicated: DedicatedServer,
}

impl FarAway {
    fn start() -> Result<Self> {
        Self::start_with(EACH_WAY)
    }

    fn start_with(each_way: Duration) -> Result<Self> {
        const LISTENER: &str = "BEHIND";
        let way = Proxy::listen(ports::free()?)?;
        let broker = Broker::options()
            .set("auto.create.topics.enable", "false")
            .listener_behind(LISTENER, way.port())
            .start()?;
        way.forward_to(broker.port_of(LISTENER)?);
        way.set_network(NetworkState::Slow(each_way));
        let options = Cluster::options("far_away")
            .set("event_outbox.auto_create_topics", "off")
            .set("event_outbox.retry_backoff", "1min");
        let dedicated = DedicatedServer::with(options, &format!("127.0.0.1:{}", way.port()))?;
        Ok(Self { broker, way, dedicated })
    }

    fn connect(&self) -> Result<Client> {
        self.dedicated.connect()
    }

    fn arrived(&self, topic: &str, count: usize) -> Result<()> {
        let mut consumer = Consumer::new(&self.broker.bootstrap_servers(), &[topic])?;
        consumer.read_until(count, WITHIN).map(drop)
    }
}

#[test]
fn a_broker_that_answers_late_gets_the_events() -> Result<()> {
    let far_away = FarAway::start()?;
    far_away.broker.create_topic("far.away", 1, &[])?;
    let mut client = far_away.connect()?;
    emit_numbers(&mut client, "far.away", 1..=100, "NULL")?;
    far_away.arrived("far.away", 100)?;
    until_status(&mut client, "the relay to be connected", |status| status.is_connected())?;
    Ok(())
}

#[test]
fn a_broker_that_answers_late_is_connected_without_any_event() -> Result<()> {
    let far_away = FarAway::start()?;
    let mut client = far_away.connect()?;
    until_status(&mut client, "the relay to be connected", |status| status.is_connected())?;
    Ok(())
}

#[test]
fn a_broker_that_answers_late_hears_of_no_missing_topic_but_by_questions() -> Result<()> {
    let far_away = FarAway::start()?;
    far_away.broker.create_topic("far.good", 1, &[])?;
    let mut client = far_away.connect()?;
    client.batch_execute(
        "INSERT INTO outbox.events (topic, payload)
         SELECT 'far.none' || n % 3000, 'x' FROM generate_series(1, 9000) AS n",
    )?;
    emit(&mut client, "far.good", 1)?;
    far_away.arrived("far.good", 1)
}

/// A new client needs several answers before it can ask its first question: it connects, and learns of the brokers. That this
/// takes more than a second is no outage.
#[test]
fn a_first_answer_that_takes_seconds_is_no_outage() -> Result<()> {
    let far_away = FarAway::start_with(EACH_WAY / 3)?;
    far_away.broker.create_topic("far.first", 1, &[])?;
    let mut client = far_away.connect()?;
    client.execute("SELECT inbox.subscribe('far', ARRAY['far.first'], 'earliest')", &[])?;
    emit_numbers(&mut client, "far.first", 1..=10, "NULL")?;
    until_stored(&mut client, 10)?;
    until_drained(&mut client)?;
    let log = far_away.dedicated.server.log();
    assert!(!log.contains("no Kafka broker answers"), "{log}");
    Ok(())
}

/// While Kafka is asked about new topics, the events of known topics go on.
#[test]
fn questions_about_new_topics_delay_no_known_topic() -> Result<()> {
    let far_away = FarAway::start()?;
    far_away.broker.create_topic("far.known", 1, &[])?;
    let mut client = far_away.connect()?;
    emit(&mut client, "far.known", 1)?;
    until_drained(&mut client)?;
    // From now on the broker hears everything and answers nothing.
    far_away.way.set_network(NetworkState::NoAnswers);
    emit(&mut client, "far.unknown", 1)?;
    emit(&mut client, "far.known", 2)?;
    far_away.arrived("far.known", 2)
}

#[test]
fn the_inbox_receives_from_a_broker_that_answers_late() -> Result<()> {
    let mut far_away = FarAway::start()?;
    far_away.way.set_network(NetworkState::Normal);
    far_away.broker.create_topic("far.received", 1, &[])?;
    let mut client = far_away.connect()?;
    client.execute("SELECT inbox.subscribe('far', ARRAY['far.received'], 'earliest')", &[])?;
    emit_numbers(&mut client, "far.received", 1..=10, "NULL")?;
    until_stored(&mut client, 10)?;
    drop(client);
    // A new worker, to which every answer takes more than three seconds.
    far_away.way.set_network(NetworkState::Slow(EACH_WAY * 5 / 2));
    far_away.dedicated.server.restart(StopMode::Fast)?;
    client = far_away.connect()?;
    emit_numbers(&mut client, "far.received", 11..=20, "NULL")?;
    wait::until_ok("the events to be stored", WITHIN * 2, || {
        let stored: i64 = client.query_one("SELECT count(*) FROM inbox.log", &[])?.get(0);
        Ok((stored == 20).then_some(()))
    })
}
