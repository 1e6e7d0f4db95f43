//! The server shuts down cleanly and promptly, whatever the relay and Kafka are doing.

use std::time::Duration;

use event_outbox_lab::{Broker, Cluster, Result, StopMode, ports, wait};

use crate::support::broker::FaultyBroker;
use crate::support::database::DEADLINE;
use crate::support::events::pending_count;
use crate::support::ledger::Ledger;
use crate::support::relay::{status, until_drained, until_idle, until_status};
use crate::support::server::DedicatedServer;

/// A stop with nothing in flight takes milliseconds; this is ample for a busy machine.
const AT_ONCE: Duration = Duration::from_secs(3);

/// `event_outbox.shutdown_timeout` is 5 s; the rest is for the server itself.
const WITHIN_THE_TIMEOUT: Duration = Duration::from_secs(10);

fn assert_within(took: Duration, limit: Duration) {
    assert!(took < limit, "the server took {took:?} to stop");
}

#[test]
fn with_an_idle_relay() -> Result<()> {
    let mut dedicated = DedicatedServer::start(&Broker::shared()?.bootstrap_servers())?;
    for mode in [StopMode::Fast, StopMode::Smart] {
        until_idle(&mut dedicated.connect()?)?;
        assert_within(dedicated.server.restart(mode)?, AT_ONCE);
    }
    Ok(())
}

/// A stop in the middle of a large backlog. The rest is published after it, and nothing twice, since the relay waits for
/// the events in flight.
#[test]
fn with_a_busy_relay_nothing_is_published_twice() -> Result<()> {
    let broker = Broker::shared()?;
    // Small steps, so that the backlog lasts.
    let options =
        Cluster::options("busy").set("event_outbox.batch_size", 100).set("event_outbox.max_in_flight", 400);
    let mut dedicated = DedicatedServer::with(options, &broker.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let ledger = Ledger::open(&mut client, "shutdown.busy")?;
    for mode in [StopMode::Fast, StopMode::Smart] {
        dedicated.alter("enabled", "off")?;
        until_status(&mut client, "the relay to pause", |status| status.state == "disabled")?;
        ledger.emit(&mut client, 30_000)?;
        let before = status(&mut client)?.published;
        dedicated.alter("enabled", "on")?;
        until_status(&mut client, "the first to be published", |status| status.published > before + 500)?;
        drop(client);
        assert_within(dedicated.server.restart(mode)?, WITHIN_THE_TIMEOUT);
        client = dedicated.connect()?;
        let left = pending_count(&mut client)?;
        assert!(left > 0, "it was not stopped in the middle");
        until_drained(&mut client)?;
        ledger.assert_exactly_once(&mut client, broker)?;
    }
    Ok(())
}

#[test]
fn without_kafka() -> Result<()> {
    // A port without a listener.
    let nowhere = format!("127.0.0.1:{}", ports::free()?);
    let mut dedicated = DedicatedServer::start(&nowhere)?;
    let mut client = dedicated.connect()?;
    let ledger = Ledger::open(&mut client, "shutdown.without_kafka")?;
    ledger.emit(&mut client, 1000)?;
    until_status(&mut client, "the relay to see it", |status| {
        status.is_disconnected() && status.in_flight > 0 && status.state == "waiting"
    })?;
    // The relay knows that it would wait in vain.
    assert_within(dedicated.server.stop(StopMode::Fast)?, AT_ONCE);

    let broker = Broker::shared()?;
    dedicated.server.set("event_outbox.bootstrap_servers", broker.bootstrap_servers())?;
    dedicated.server.start()?;
    client = dedicated.connect()?;
    until_drained(&mut client)?;
    ledger.assert_exactly_once(&mut client, broker)
}

/// The relay waits for missing acknowledgements as long as the setting says, and no longer.
#[test]
fn with_kafka_frozen() -> Result<()> {
    let broker = FaultyBroker::take()?;
    broker.create_topic("shutdown.frozen", 3, &[])?;
    let mut dedicated = DedicatedServer::start(&broker.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let ledger = Ledger::open(&mut client, "shutdown.frozen")?;
    ledger.emit(&mut client, 100)?;
    until_drained(&mut client)?;

    for (timeout, least, most) in [("5s", 4500, 10_000), ("1s", 500, 4500), ("0", 0, 3000)] {
        dedicated.server.set("event_outbox.shutdown_timeout", timeout)?;
        dedicated.server.reload()?;
        wait::until_ok("the reload", DEADLINE, || {
            let sql = "SELECT current_setting('event_outbox.shutdown_timeout')";
            Ok((client.query_one(sql, &[])?.get::<_, String>(0) == timeout).then_some(()))
        })?;
        until_idle(&mut client)?;
        broker.pause()?;
        ledger.emit(&mut client, 100)?;
        until_status(&mut client, "events in flight", |status| status.in_flight == 100)?;
        drop(client);
        let took = dedicated.server.stop(StopMode::Fast)?;
        broker.resume()?;
        let (least, most) = (Duration::from_millis(least), Duration::from_millis(most));
        assert!(took > least && took < most, "with a timeout of {timeout} the stop took {took:?}");
        dedicated.server.start()?;
        client = dedicated.connect()?;
        until_drained(&mut client)?;
    }
    ledger.assert_at_least_once(&mut client, &broker)
}
