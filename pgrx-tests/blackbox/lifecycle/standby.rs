//! A streaming standby has no relay. Promoted, it starts one at once, which goes on where the primary stopped.

use std::collections::{HashMap, HashSet};
use std::thread;

use anyhow::anyhow;
use event_outbox_lab::{Broker, Cluster, Consumer, Result, StopMode, wait};
use postgres::Client;
use postgres::error::SqlState;
use uuid::Uuid;

use crate::support::database::DEADLINE;
use crate::support::events::emit;
use crate::support::ledger::Ledger;
use crate::support::relay::{status, until_drained, until_idle, until_processes, until_status};
use crate::support::server::DedicatedServer;

/// Waits until the standby has all WAL that the primary has written so far.
fn until_caught_up(primary: &DedicatedServer, standby: &Cluster) -> Result<()> {
    let written: String =
        primary.connect()?.query_one("SELECT pg_current_wal_flush_lsn()::text", &[])?.get(0);
    let mut client = standby.connect("postgres")?;
    wait::until_ok("the standby to catch up", DEADLINE, || {
        let sql = "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn";
        Ok(client.query_one(sql, &[&written])?.get::<_, bool>(0).then_some(()))
    })
}

#[test]
fn a_standby_publishes_nothing_until_it_is_promoted_and_all_at_once_then() -> Result<()> {
    let broker = Broker::shared()?;
    // The primary cannot reach Kafka, so its events wait.
    let mut primary = DedicatedServer::start("127.0.0.1:1")?;
    let mut client = primary.connect()?;
    let ledger = Ledger::open(&mut client, "standby.promoted")?;
    ledger.emit(&mut client, 1000)?;
    let options =
        Cluster::options("standby").set("event_outbox.bootstrap_servers", broker.bootstrap_servers());
    let standby = options.start_standby_of(&primary.server)?;
    until_caught_up(&primary, &standby)?;

    let mut reader = standby.connect(&primary.database)?;
    let waiting: i64 = reader.query_one("SELECT count(*) FROM outbox.pending", &[])?.get(0);
    assert_eq!(waiting, 1000);
    let absent = status(&mut reader)?;
    assert_eq!((absent.pid, absent.state.as_str()), (None, "absent"));
    let workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'event_outbox%'";
    assert_eq!(reader.query_one(workers, &[])?.get::<_, i64>(0), 0);
    let refused = reader.execute("SELECT outbox.emit('standby.promoted', '{}')", &[]).expect_err("emitted");
    assert_eq!(refused.code(), Some(&SqlState::READ_ONLY_SQL_TRANSACTION));
    assert_eq!(Consumer::read_all(&broker.bootstrap_servers(), &[&ledger.topic])?.len(), 0);
    // Views and functions that only read work on the standby.
    for view in ["status", "relays", "backlog", "pending", "dead_letters", "check()"] {
        reader
            .query(&format!("SELECT * FROM outbox.{view}"), &[])
            .map_err(|error| anyhow!("{view}: {error:?}"))?;
    }

    drop(client);
    primary.server.stop(StopMode::Immediate)?;
    standby.promote()?;
    // The relay starts by itself, without an emit.
    until_drained(&mut reader)?;
    ledger.assert_exactly_once(&mut reader, broker)?;
    ledger.emit(&mut reader, 100)?;
    until_drained(&mut reader)?;
    ledger.assert_exactly_once(&mut reader, broker)
}

/// As for a look into a backup while the original is at work.
#[test]
fn a_physical_copy_can_be_kept_from_publishing() -> Result<()> {
    let broker = Broker::shared()?;
    let primary = DedicatedServer::start("127.0.0.1:1")?;
    emit(&mut primary.connect()?, "standby.copy", 1)?;
    let copy = Cluster::options("copy")
        .set("event_outbox.bootstrap_servers", broker.bootstrap_servers())
        .set("event_outbox.enabled", "off")
        .start_standby_of(&primary.server)?;
    until_caught_up(&primary, &copy)?;
    copy.promote()?;
    let mut client = copy.connect(&primary.database)?;
    until_status(&mut client, "a silent relay", |status| status.state == "disabled")?;
    emit(&mut client, "standby.copy", 2)?;
    let published = client.query_one("SELECT outbox.wait_published('2 s')", &[])?;
    assert!(!published.get::<_, bool>(0));
    assert_eq!(Consumer::read_all(&broker.bootstrap_servers(), &["standby.copy"])?.len(), 0);
    Ok(())
}

/// Emits one event after the other until the server is gone; returns those that were acknowledged.
fn write_until_the_end(mut client: Client, topic: &str) -> Vec<Uuid> {
    (1..).map_while(|number| emit(&mut client, topic, number).ok()).collect()
}

#[test]
fn a_failover_loses_nothing_and_repeats_only_what_was_not_settled() -> Result<()> {
    let broker = Broker::shared()?;
    // In small steps, so that the backlog lasts.
    let options = Cluster::options("primary")
        .set("event_outbox.batch_size", 100)
        .set("event_outbox.max_in_flight", 400);
    let mut primary = DedicatedServer::with(options, &broker.bootstrap_servers())?;
    let mut client = primary.connect()?;
    let ledger = Ledger::open(&mut client, "standby.failover")?;
    primary.alter("enabled", "off")?;
    until_status(&mut client, "the relay to pause", |status| status.state == "disabled")?;
    ledger.emit(&mut client, 20_000)?;

    // A setting for the standby alone must be in its configuration.
    let options = Cluster::options("standby").set("event_outbox.bootstrap_servers", "127.0.0.1:1");
    let standby = options.start_standby_of(&primary.server)?;
    // Only commits that the standby has are acknowledged to applications and seen by the relay.
    primary.server.set("synchronous_standby_names", "*")?;
    primary.server.reload()?;
    wait::until_ok("a synchronous standby", DEADLINE, || {
        let sql = "SELECT FROM pg_stat_replication WHERE sync_state = 'sync'";
        Ok(client.query_opt(sql, &[])?)
    })?;
    primary.alter("enabled", "on")?;
    let writer = primary.connect()?;
    let writer = thread::spawn(move || write_until_the_end(writer, "standby.written"));
    until_status(&mut client, "the first to be published", |status| status.published > 2000)?;
    drop(client);
    primary.server.stop(StopMode::Immediate)?;
    let acknowledged = writer.join().map_err(|_| anyhow!("the writer panicked"))?;
    assert!(!acknowledged.is_empty());

    standby.promote()?;
    let mut client = standby.connect(&primary.database)?;
    until_processes(&standby, &primary.database, 1)?;
    // The standby cannot reach Kafka yet: these are the events that the primary had not settled.
    let rows = client.query("SELECT event_id FROM outbox.events", &[])?;
    let unsettled: HashSet<Uuid> = rows.iter().map(|row| row.get(0)).collect();
    assert!(!unsettled.is_empty(), "the primary was not stopped in the middle");
    standby.set("event_outbox.bootstrap_servers", broker.bootstrap_servers())?;
    standby.reload()?;
    until_drained(&mut client)?;
    until_idle(&mut client)?;

    ledger.assert_at_least_once(&mut client, broker)?;
    let records = Consumer::read_all(&broker.bootstrap_servers(), &[&ledger.topic, "standby.written"])?;
    let mut times: HashMap<Uuid, usize> = HashMap::new();
    for record in &records {
        *times
            .entry(record.header("ce_id").and_then(|id| id.parse().ok()).unwrap_or_default())
            .or_default() += 1;
    }
    let lost = acknowledged.iter().filter(|id| !times.contains_key(id)).count();
    assert_eq!(lost, 0, "of {} that were acknowledged", acknowledged.len());
    let repeated: Vec<_> = times.iter().filter(|(_, times)| **times > 1).map(|(id, _)| *id).collect();
    let elsewhere = repeated.iter().filter(|id| !unsettled.contains(id)).count();
    assert_eq!(elsewhere, 0, "of {} that came twice", repeated.len());
    Ok(())
}
