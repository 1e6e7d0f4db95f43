//! Kafka stops, crashes or freezes: what is stored can be received, and reading goes on where it was.

use std::time::Duration;

use event_outbox_lab::{Producer, Result, wait};
use postgres::Client;

use crate::support::broker::FaultyBroker;
use crate::support::inbox::{receive, until_no_lag, until_numbers, until_stored};
use crate::support::server::DedicatedServer;
use crate::support::subscriptions::subscribe;

/// From the broker's return to the next event: the worker probes at least every ten seconds.
const RETURN: Duration = Duration::from_secs(60);

/// A frozen broker is noticed when a request has not been answered for a minute, which is librdkafka's patience.
const NOTICED: Duration = Duration::from_secs(150);

/// Waits until the worker is connected, or is not; returns its last error.
fn until_connection(client: &mut Client, connection: &str, deadline: Duration) -> Result<String> {
    wait::until_ok(&format!("a worker that is {connection}"), deadline, || {
        let sql = "SELECT coalesce(last_error, '') FROM inbox.consumers
                    WHERE database = current_database() AND connection = $1";
        Ok(client.query_opt(sql, &[&connection])?.map(|row| row.get(0)))
    })
}

#[test]
fn an_outage_delays_what_is_stored_and_nothing_else() -> Result<()> {
    const TOPIC: &str = "inbox.outage";
    let mut broker = FaultyBroker::take()?;
    broker.create_topic(TOPIC, 2, &[])?;
    let dedicated = DedicatedServer::start(&broker.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    subscribe(&mut client, "s", &[TOPIC], "earliest")?;
    let mut sent = 0;
    let mut send = |broker: &FaultyBroker, count: i64| -> Result<Vec<i64>> {
        let producer = Producer::new(&broker.bootstrap_servers())?;
        for partition in 0..2 {
            let begin = sent + i64::from(partition) * count;
            producer
                .send_numbers(TOPIC, partition, begin..begin + count, |number| Some(number.to_string()))?;
        }
        let numbers = sent..sent + 2 * count;
        sent = numbers.end;
        Ok(numbers.collect())
    };
    for (round, outage) in ["stopped", "killed", "frozen"].into_iter().enumerate() {
        let before = send(&broker, 50)?;
        until_stored(&mut client, i64::try_from(before.len() * 2 * round + before.len())?)?;
        match outage {
            "stopped" => broker.stop()?,
            "killed" => broker.kill()?,
            _ => broker.pause()?,
        }
        let error = until_connection(&mut client, "disconnected", NOTICED)?;
        assert!(!error.is_empty(), "{outage}");
        // What is there is received meanwhile.
        assert_eq!(until_numbers(&mut client, "s", before.len())?, before, "{outage}");
        match outage {
            "frozen" => broker.resume()?,
            _ => broker.start()?,
        }
        let after = send(&broker, 50)?;
        until_connection(&mut client, "connected", RETURN)?;
        wait::until_ok("the events after the outage", RETURN, || {
            let stored: i64 = client.query_one("SELECT count(*) FROM inbox.log", &[])?.get(0);
            Ok((stored == i64::try_from((before.len() + after.len()) * (round + 1))?).then_some(()))
        })?;
        assert_eq!(until_numbers(&mut client, "s", after.len())?, after, "{outage}");
        until_no_lag(&mut client, "s")?;
        assert_eq!(receive(&mut client, "s", 100)?, [], "{outage}");
    }
    let stopped: i64 =
        client.query_one("SELECT count(*) FROM inbox.partitions WHERE state <> 'reading'", &[])?.get(0);
    assert_eq!(stopped, 0, "an outage is no loss of data");
    Ok(())
}
