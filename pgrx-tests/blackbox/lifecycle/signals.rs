//! Signals that Postgres, its administrators and its process barriers send to a relay.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use event_outbox_lab::{Broker, Cluster, Result, process};
use postgres::Client;
use postgres::error::SqlState;

use crate::support::events::emit;
use crate::support::relay::{status, until_another, until_drained, until_idle, until_status};
use crate::support::server::{DedicatedServer, draining};

/// The first child of this server that is a relay and not process `before`, as soon as it has its name and long before it
/// is connected to its database.
fn newborn(dedicated: &DedicatedServer, before: i32) -> Result<i32> {
    // A pause of a second before each start; much more if an exit while starting counted as a failure.
    const SOON: Duration = Duration::from_secs(4);
    let postmaster = dedicated.server.pid()?;
    let begin = Instant::now();
    while begin.elapsed() < SOON {
        let children = std::fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children"))?;
        for pid in children.split_whitespace() {
            let name = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let pid = pid.parse()?;
            if name.contains("event_outbox relay") && pid != before {
                return Ok(pid);
            }
        }
        std::thread::yield_now();
    }
    bail!("no relay was started within {SOON:?}")
}

#[test]
fn a_relay_terminated_while_it_starts_is_started_again() -> Result<()> {
    let dedicated = DedicatedServer::start(&Broker::shared()?.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let mut last = until_idle(&mut client)?;
    for _ in 0..6 {
        process::send(u32::try_from(last)?, libc::SIGTERM)?;
        last = newborn(&dedicated, last).with_context(|| dedicated.server.log())?;
    }
    emit(&mut client, "signals.start", 1)?;
    until_drained(&mut client)?;
    // The same session goes on: the server did not restart.
    let log = dedicated.server.log();
    assert!(!log.contains("PANIC") && !log.contains("was terminated by signal"), "{log}");
    Ok(())
}

/// A worker ignores the signal until it has installed its handlers; `post_auth_delay` prolongs that.
#[test]
fn a_relay_heeds_a_reload_that_came_while_it_started() -> Result<()> {
    let options = Cluster::options("signals").set("post_auth_delay", "1");
    let dedicated = DedicatedServer::with(options, &Broker::shared()?.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let before = until_idle(&mut client)?;
    client.batch_execute("SELECT outbox.restart_relay()")?;
    newborn(&dedicated, before)?;
    dedicated.server.set("event_outbox.enabled", "off")?;
    dedicated.server.reload()?;
    until_status(&mut client, "a relay that is off", |status| status.state == "disabled")?;
    Ok(())
}

#[test]
fn cancelling_a_relay_does_nothing() -> Result<()> {
    let (_dedicated, mut client, ledger) = draining("signals.cancelled")?;
    let pid = status(&mut client)?.pid;
    let mut while_it_worked = 0;
    for _ in 0..200 {
        client.query_one("SELECT pg_cancel_backend($1)", &[&pid])?;
        while_it_worked += usize::from(status(&mut client)?.in_flight > 0);
    }
    assert!(while_it_worked > 10, "it was done too soon");
    until_drained(&mut client)?;
    assert_eq!(status(&mut client)?.pid, pid);
    ledger.assert_exactly_once(&mut client, Broker::shared()?)
}

/// Also between transactions, and while the relay logs an earlier cancellation.
#[test]
fn cancelling_a_relay_again_and_again_does_nothing() -> Result<()> {
    let dedicated = DedicatedServer::start(&Broker::shared()?.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let pid = until_idle(&mut client)?;
    for round in 0..8 {
        emit(&mut client, "signals.burst", round)?;
        client.query_one("SELECT count(pg_cancel_backend($1)) FROM generate_series(1, 300000)", &[&pid])?;
        until_drained(&mut client)?;
        assert_eq!(status(&mut client)?.pid, Some(pid), "{}", dedicated.server.log());
    }
    Ok(())
}

fn drop_another(admin: &mut Client) -> Result<()> {
    admin.batch_execute("CREATE DATABASE dropped")?;
    Ok(admin.batch_execute("DROP DATABASE dropped")?)
}

/// DROP DATABASE waits until every process of the server has answered, in whatever database it works.
#[test]
fn a_relay_answers_barriers_whatever_it_does() -> Result<()> {
    let broker = Broker::shared()?;
    let dedicated = DedicatedServer::start(&broker.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let mut admin = dedicated.server.connect("postgres")?;
    admin.batch_execute("SET statement_timeout = '3s'")?;
    admin.batch_execute("CREATE DATABASE dropped")?;
    let relay = until_idle(&mut client)?;

    // First, DROP DATABASE does wait for a relay.
    process::send(u32::try_from(relay)?, libc::SIGSTOP)?;
    let stuck = admin.batch_execute("DROP DATABASE dropped");
    process::send(u32::try_from(relay)?, libc::SIGCONT)?;
    assert_eq!(stuck.expect_err("nobody waited").code(), Some(&SqlState::QUERY_CANCELED));

    // An idle relay. The command that has begun can only be finished.
    admin.batch_execute("DROP DATABASE dropped")?;
    // With events that Kafka does not accept.
    dedicated.alter("bootstrap_servers", "127.0.0.1:1")?;
    until_another(&mut client, relay)?;
    emit(&mut client, "signals.barrier", 1)?;
    until_status(&mut client, "an event in flight", |status| status.in_flight == 1)?;
    drop_another(&mut admin)?;
    // Without a producer.
    dedicated.alter("kafka_properties", "no.such=property")?;
    until_status(&mut client, "no producer", |status| status.state == "misconfigured")?;
    drop_another(&mut admin)?;
    // While it waits for an update of the extension.
    let before = status(&mut client)?.pid.unwrap_or_default();
    client.execute("UPDATE pg_extension SET extversion = '99.0.0' WHERE extname = 'event_outbox'", &[])?;
    process::send(u32::try_from(before)?, libc::SIGTERM)?;
    until_status(&mut client, "the incompatible version", |status| status.state == "incompatible")?;
    drop_another(&mut admin)?;
    Ok(())
}
