//! Crashes of the server, the relay and the launcher lose nothing, and the relay goes on in order.

use std::time::{Duration, Instant};

use event_outbox_lab::{Broker, Result, StopMode, process, wait};
use postgres::Client;

use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::events::pending_count;
use crate::support::relay::{until_another, until_drained, until_idle, until_processes, until_status};
use crate::support::server::{DedicatedServer, draining};

/// Connects as soon as the server has recovered from the crash of one of its processes.
fn recovered(dedicated: &DedicatedServer) -> Result<Client> {
    wait::until("the server to recover", DEADLINE, || dedicated.connect().ok())
}

#[test]
fn the_server_crashes() -> Result<()> {
    let (mut dedicated, client, ledger) = draining("crash.server")?;
    drop(client);
    dedicated.server.restart(StopMode::Immediate)?;
    let mut client = dedicated.connect()?;
    assert!(pending_count(&mut client)? > 0, "it did not crash in the middle");
    until_drained(&mut client)?;
    ledger.assert_at_least_once(&mut client, Broker::shared()?)
}

#[test]
fn the_relay_is_killed() -> Result<()> {
    let (dedicated, mut client, ledger) = draining("crash.relay")?;
    let pid = until_status(&mut client, "a relay", |status| status.pid.is_some())?.pid.unwrap_or_default();
    process::send(pid as u32, libc::SIGKILL)?;
    wait::until("the server to end all its sessions", DEADLINE, || client.simple_query("").err())?;
    let mut client = recovered(&dedicated)?;
    until_drained(&mut client)?;
    ledger.assert_at_least_once(&mut client, Broker::shared()?)
}

#[test]
fn the_relay_is_terminated_again_and_again() -> Result<()> {
    let (_dedicated, mut client, ledger) = draining("crash.terminated")?;
    for _ in 0..3 {
        let row = client.query_one("SELECT pid, pg_terminate_backend(pid) FROM outbox.status", &[])?;
        assert!(row.get::<_, bool>(1));
        until_another(&mut client, row.get(0))?;
    }
    until_drained(&mut client)?;
    // Each relay shut down cleanly: it waited for the events in flight.
    ledger.assert_exactly_once(&mut client, Broker::shared()?)
}

/// A clean exit does not count as a failure, after which each restart would wait longer.
#[test]
fn a_terminated_relay_is_back_in_a_moment_however_often() -> Result<()> {
    const TIMES: u32 = 5;
    // One second per restart. Doubled each time, it would be half a minute.
    const LIMIT: Duration = Duration::from_secs(12);
    let mut db = TestDatabase::new()?;
    let begin = Instant::now();
    for _ in 0..TIMES {
        let pid = until_idle(&mut db.client)?;
        db.client.query_one("SELECT pg_terminate_backend($1)", &[&pid])?;
        until_another(&mut db.client, pid)?;
    }
    assert!(begin.elapsed() < LIMIT, "{TIMES} restarts took {:?}", begin.elapsed());
    Ok(())
}

#[test]
fn the_launcher_is_terminated() -> Result<()> {
    const LAUNCHER: &str = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'event_outbox launcher'";
    let dedicated = DedicatedServer::start(&Broker::shared()?.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let relay = until_idle(&mut client)?;
    let before: i32 = client.query_one(LAUNCHER, &[])?.get(0);
    client.query_one("SELECT pg_terminate_backend($1)", &[&before])?;
    wait::until_ok("another launcher", DEADLINE, || {
        Ok(client.query_opt(LAUNCHER, &[])?.filter(|row| row.get::<_, i32>(0) != before))
    })?;
    // The relay did not notice. The new launcher restarts the old relay and starts new ones.
    assert_eq!(until_idle(&mut client)?, relay);
    client.query_one("SELECT pg_terminate_backend($1)", &[&relay])?;
    until_another(&mut client, relay)?;
    let other = dedicated.server.create_database()?;
    let mut client = dedicated.server.connect(&other)?;
    client.batch_execute("CREATE EXTENSION event_outbox")?;
    until_idle(&mut client)?;
    Ok(())
}

/// The launcher has no database. Right after a start the server has no file yet from which such a process could read of the
/// indexes of shared catalogs.
#[test]
fn the_launcher_needs_no_second_attempt_after_a_start() -> Result<()> {
    let mut dedicated = DedicatedServer::start(&Broker::shared()?.bootstrap_servers())?;
    for _ in 0..3 {
        until_idle(&mut dedicated.connect()?)?;
        dedicated.server.restart(StopMode::Immediate)?;
    }
    until_idle(&mut dedicated.connect()?)?;
    let log = dedicated.server.log();
    let ended: Vec<_> = log.lines().filter(|line| line.contains("event_outbox launcher\" (PID")).collect();
    assert!(ended.is_empty(), "{ended:?}");
    Ok(())
}

#[test]
fn the_extension_is_dropped_in_the_middle() -> Result<()> {
    let (dedicated, mut client, _) = draining("crash.dropped")?;
    assert!(pending_count(&mut client)? > 0);
    client.batch_execute("DROP EXTENSION event_outbox")?;
    until_processes(&dedicated.server, &dedicated.database, 0)?;
    // The session goes on, so the server did not restart; and the extension can be created again.
    client.batch_execute("CREATE EXTENSION event_outbox")?;
    client.query_one("SELECT outbox.emit('crash.created', '{}')", &[])?;
    until_drained(&mut client)?;
    assert!(!dedicated.server.log().contains("PANIC"));
    Ok(())
}

/// Two relays stop and start at the same time without affecting each other.
#[test]
fn one_relay_ends_and_another_goes_on() -> Result<()> {
    let (mut one, mut two) = (TestDatabase::new()?, TestDatabase::new()?);
    let (pid_one, pid_two) = (until_idle(&mut one.client)?, until_idle(&mut two.client)?);
    one.client.query_one("SELECT pg_terminate_backend($1)", &[&pid_one])?;
    two.client.query_one("SELECT outbox.emit($1, '{}')", &[&two.topic("on")])?;
    until_drained(&mut two.client)?;
    assert_eq!(until_idle(&mut two.client)?, pid_two);
    until_another(&mut one.client, pid_one)?;
    Ok(())
}
