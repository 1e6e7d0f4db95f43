//! Two servers with the same database: of those that deliver exactly once, one publishes.

use std::collections::HashMap;

use event_outbox_lab::{Broker, Cluster, Result, wait};
use postgres::Client;

use crate::support::database::{DEADLINE, TestDatabase, values};
use crate::support::dump::dump_and_restore;
use crate::support::ledger::Ledger;
use crate::support::relay::{until_drained, until_idle, until_status};
use crate::support::server::DedicatedServer;

fn exact(bootstrap_servers: &str) -> Result<DedicatedServer> {
    DedicatedServer::with(
        Cluster::options("exact").set("event_outbox.delivery", "exactly_once"),
        bootstrap_servers,
    )
}

fn until_held_back(client: &mut Client, why: &str) -> Result<()> {
    until_status(client, "the relay to be held back", |status| {
        status.state == "waiting" && status.error().contains(why)
    })?;
    Ok(())
}

/// A standby is promoted while the primary lives, as after a network partition.
#[test]
fn a_primary_that_was_left_behind_publishes_nothing() -> Result<()> {
    let broker = Broker::shared()?;
    broker.create_topic("fence.promoted", 1, &[])?;
    let primary = exact(&broker.bootstrap_servers())?;
    let mut old = primary.connect()?;
    let ledger = Ledger::open(&mut old, "fence.promoted")?;
    ledger.emit(&mut old, 1000)?;
    until_drained(&mut old)?;
    let standby = Cluster::options("exact_standby")
        .set("event_outbox.bootstrap_servers", broker.bootstrap_servers())
        .set("event_outbox.delivery", "exactly_once")
        .start_standby_of(&primary.server)?;
    let written: String = old.query_one("SELECT pg_current_wal_insert_lsn()::text", &[])?.get(0);
    let mut new = standby.connect(&primary.database)?;
    wait::until_ok("the standby to catch up", DEADLINE, || {
        let sql = "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn";
        Ok(new.query_one(sql, &[&written])?.get::<_, bool>(0).then_some(()))
    })?;
    standby.promote()?;
    until_idle(&mut new)?;
    ledger.emit(&mut new, 500)?;
    until_drained(&mut new)?;

    old.query_one("SELECT outbox.emit('fence.promoted', '\"left behind\"')", &[])?;
    until_held_back(&mut old, "outbox.take_over()")?;
    ledger.assert_exactly_once(&mut new, broker)?;
    // The new one goes on.
    ledger.emit(&mut new, 500)?;
    until_drained(&mut new)?;
    ledger.assert_exactly_once(&mut new, broker)?;

    // The operator knows better.
    assert!(old.query_one("SELECT outbox.take_over()", &[])?.get::<_, bool>(0));
    until_drained(&mut old)?;
    Ok(())
}

/// A dump that is restored over the database gives ids again. Markers of the events that had them say nothing of the new ones.
#[test]
fn a_restored_database_that_reuses_ids_loses_nothing() -> Result<()> {
    let mut db = TestDatabase::new()?;
    db.configure("event_outbox.delivery", "exactly_once")?;
    let topic = db.own_topic("reused")?;
    let emit = "SELECT outbox.emit($1, to_jsonb(n)) FROM generate_series(1, 100) AS n";
    db.client.execute(emit, &[&topic])?;
    until_drained(&mut db.client)?;
    db.client.batch_execute("SELECT outbox.pause(); TRUNCATE outbox.events RESTART IDENTITY")?;
    db.client.execute(emit, &[&topic])?;
    db.client.batch_execute("SELECT outbox.restart_relay(); SELECT outbox.resume()")?;
    assert_eq!(db.drained(&topic)?.len(), 200);
    Ok(())
}

/// A dump that is restored beside the original is another database: neither holds the other back. The copy publishes what
/// the dump holds, as in the other modes, and the original each of its events once.
#[test]
fn a_dump_restored_beside_the_original_disturbs_nothing() -> Result<()> {
    let mut db = TestDatabase::new()?;
    db.configure("event_outbox.delivery", "exactly_once")?;
    let topic = db.own_topic("dumped")?;
    let emit =
        "SELECT outbox.emit($1, to_jsonb(n), key => (n % 7)::text) FROM generate_series($2::int8, $3) AS n";
    db.client.batch_execute("SELECT outbox.pause()")?;
    db.client.execute(emit, &[&topic, &1_i64, &500_i64])?;
    let name = db.server.create_database()?;
    dump_and_restore(&db, &name)?;
    let mut copy = TestDatabase::of(name)?;
    copy.configure("event_outbox.delivery", "exactly_once")?;
    db.client.batch_execute("SELECT outbox.resume()")?;
    copy.client.batch_execute("SELECT outbox.resume()")?;
    db.client.execute(emit, &[&topic, &501_i64, &2000_i64])?;
    until_drained(&mut db.client)?;
    until_drained(&mut copy.client)?;
    until_idle(&mut db.client)?;
    until_idle(&mut copy.client)?;
    let mut times: HashMap<String, usize> = HashMap::new();
    for value in values(&db.drained(&topic)?) {
        *times.entry(value).or_default() += 1;
    }
    let (dumped, emitted) =
        times.iter().partition::<Vec<_>, _>(|(value, _)| value.parse().is_ok_and(|n: i64| n <= 500));
    assert!(dumped.len() == 500 && dumped.iter().all(|(_, times)| **times == 2), "{dumped:?}");
    assert!(emitted.len() == 1500 && emitted.iter().all(|(_, times)| **times == 1), "{emitted:?}");
    Ok(())
}
