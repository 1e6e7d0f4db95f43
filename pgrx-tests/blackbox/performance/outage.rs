//! An outage costs the server next to nothing, however fast connections are refused.

use std::fs;
use std::time::Duration;

use event_outbox_lab::{Cluster, Result, wait};
use postgres::Client;

use crate::support::broker::FaultyBroker;
use crate::support::inbox;
use crate::support::relay::{self, until_drained, until_status};
use crate::support::server::DedicatedServer;
use crate::support::subscriptions::subscribe;

/// The part of the outage that is observed.
const OBSERVED: Duration = Duration::from_secs(6);

const PATIENCE: Duration = Duration::from_secs(90);

/// How often threads of a worker may go to sleep in that time. Without a pace between connections, it is a hundred thousand.
const SLEEPS: u64 = 10_000;

/// How often the threads of a process have gone to sleep.
fn sleeps(pid: i32) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end meanwhile.
        let status = fs::read_to_string(task?.path().join("status")).unwrap_or_default();
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        sum += count.unwrap_or("0").trim().parse::<u64>()?;
    }
    Ok(sum)
}

fn until_consumer_is(client: &mut Client, connection: &str) -> Result<()> {
    wait::until_ok(&format!("an inbox worker that is {connection}"), PATIENCE, || {
        let sql = "SELECT count(*) FROM inbox.consumers WHERE connection = $1";
        Ok((client.query_one(sql, &[&connection])?.get::<_, i64>(0) == 1).then_some(()))
    })
}

/// How often each of these processes has gone to sleep during the next part of the outage.
fn sleeps_meanwhile<const N: usize>(client: &mut Client, processes: [i32; N]) -> Result<[u64; N]> {
    let look = || processes.iter().map(|pid| sleeps(*pid)).collect::<Result<Vec<_>>>();
    let before = look()?;
    let begin: f64 = client.query_one("SELECT extract(epoch FROM clock_timestamp())::float8", &[])?.get(0);
    let sql = "SELECT extract(epoch FROM clock_timestamp())::float8 - $1 >= $2";
    wait::until_ok("some seconds by the server's clock", PATIENCE, || {
        let is_over: bool = client.query_one(sql, &[&begin, &OBSERVED.as_secs_f64()])?.get(0);
        Ok(is_over.then_some(()))
    })?;
    let after = look()?;
    Ok(std::array::from_fn(|place| after[place] - before[place]))
}

/// While a question to Kafka is open, librdkafka connects again as soon as a connection is refused.
fn refused_connections_are_paced(delivery: &str) -> Result<()> {
    let mut broker = FaultyBroker::take()?;
    let topic = format!("outage.refused.{delivery}");
    broker.create_topic(&topic, 3, &[])?;
    let options = Cluster::options("refused").set("event_outbox.delivery", delivery);
    let dedicated = DedicatedServer::with(options, &broker.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    subscribe(&mut client, "s", &[&topic], "earliest")?;
    client.query_one("SELECT outbox.emit($1, '{}')", &[&topic])?;
    until_drained(&mut client)?;
    until_consumer_is(&mut client, "connected")?;
    broker.stop()?;
    client.query_one("SELECT outbox.emit($1, '{}')", &[&topic])?;
    until_status(&mut client, "the outage to be seen", |status| status.is_disconnected())?;
    until_consumer_is(&mut client, "disconnected")?;
    let database: String = client.query_one("SELECT current_database()::text", &[])?.get(0);
    let relay = relay::until_processes(&dedicated.server, &database, 1)?[0];
    let inbox = inbox::until_processes(&dedicated.server, &database, 1)?[0];
    let [of_relay, of_inbox] = sleeps_meanwhile(&mut client, [relay, inbox])?;
    assert!(of_relay < SLEEPS && of_inbox < SLEEPS, "relay {of_relay}, inbox {of_inbox}");
    // They notice the broker soon nevertheless.
    broker.start()?;
    until_status(&mut client, "the end of the outage", |status| status.is_connected())?;
    until_consumer_is(&mut client, "connected")?;
    if delivery != "at_most_once" {
        until_drained(&mut client)?;
    }
    Ok(())
}

#[test]
fn refused_connections_are_paced_at_least_once() -> Result<()> {
    refused_connections_are_paced("at_least_once")
}

#[test]
fn refused_connections_are_paced_at_most_once() -> Result<()> {
    refused_connections_are_paced("at_most_once")
}

#[test]
fn refused_connections_are_paced_exactly_once() -> Result<()> {
    refused_connections_are_paced("exactly_once")
}
