//! The server's disk is full: transactions that need room fail by themselves, and stored events are published.

use event_outbox_lab::full_disk::Part;
use event_outbox_lab::{Broker, Cluster, FullDisk, Result, StopMode, wait};
use postgres::Client;
use postgres::error::SqlState;

use crate::support::database::DEADLINE;
use crate::support::ledger::Ledger;
use crate::support::relay::{until_drained, until_idle, until_status};
use crate::support::server::DedicatedServer;

/// The log line of a failing relay.
const LOG_LINE: &str = "relay transaction failed, will retry";

fn on(disk: &FullDisk) -> Result<(DedicatedServer, Client)> {
    let options = disk.serve(Cluster::options("disk"));
    let dedicated = DedicatedServer::with(options, &Broker::shared()?.bootstrap_servers())?;
    let client = dedicated.connect()?;
    Ok((dedicated, client))
}

#[test]
fn no_room_for_more_events() -> Result<()> {
    let disk = FullDisk::prepare()?;
    let (dedicated, mut client) = on(&disk)?;
    let ledger = Ledger::open(&mut client, "disk.emit")?;
    ledger.emit(&mut client, 1000)?;
    disk.fill(Part::Data)?;
    let error =
        wait::until("a transaction to find no room", DEADLINE, || ledger.emit(&mut client, 500).err())?;
    let error = error.downcast_ref::<postgres::Error>().and_then(postgres::Error::code);
    assert_eq!(error, Some(&SqlState::DISK_FULL));
    until_drained(&mut client)?;
    disk.clear()?;
    ledger.emit(&mut client, 500)?;
    until_drained(&mut client)?;
    assert!(!dedicated.server.log().contains(LOG_LINE), "a deletion needed room");
    ledger.assert_exactly_once(&mut client, Broker::shared()?)
}

/// Dead letters need room in another table; events that were delivered with them wait for it, too.
#[test]
fn no_room_to_settle() -> Result<()> {
    const DEAD: i32 = 2000;
    let disk = FullDisk::prepare()?;
    let (dedicated, mut client) = on(&disk)?;
    Broker::shared()?.create_topic("disk.settle", 1, &[])?;
    dedicated.server.set("event_outbox.max_attempts", 1)?;
    dedicated.server.set("event_outbox.enabled", "off")?;
    dedicated.server.reload()?;
    let pid = until_status(&mut client, "the relay to pause", |status| status.state == "disabled")?.pid;
    let ledger = Ledger::open(&mut client, "disk.settle")?;
    ledger.emit(&mut client, 500)?;
    let sql = "SELECT count(outbox.emit('disk.settle', to_jsonb(repeat('x', 100)), partition => 7))
                 FROM generate_series(1, $1::int)";
    client.execute(sql, &[&DEAD])?;
    ledger.emit(&mut client, 500)?;

    disk.fill(Part::Data)?;
    dedicated.server.set("event_outbox.enabled", "on")?;
    dedicated.server.reload()?;
    let failing = until_status(&mut client, "the relay to fail", |status| status.state == "failing")?;
    assert!(failing.error().contains("No space left on device"), "{failing:?}");
    // At least one more attempt while the disk is full.
    let sql = "SELECT last_error_at::text FROM outbox.status";
    let first: String = client.query_one(sql, &[])?.get(0);
    wait::until_ok("another try", DEADLINE, || {
        Ok((client.query_one(sql, &[])?.get::<_, String>(0) != first).then_some(()))
    })?;
    disk.clear()?;
    until_drained(&mut client)?;
    assert_eq!(Some(until_idle(&mut client)?), pid);
    assert_eq!(dedicated.server.log().matches(LOG_LINE).count(), 1);
    let dead: i64 = client.query_one("SELECT count(*) FROM outbox.dead_letters", &[])?.get(0);
    assert_eq!(dead, i64::from(DEAD));
    ledger.assert_exactly_once(&mut client, Broker::shared()?)
}

/// Without room for the WAL, PostgreSQL crashes. Committed events are published when there is room again.
#[test]
fn no_room_for_the_log() -> Result<()> {
    let disk = FullDisk::prepare()?;
    let (mut dedicated, mut client) = on(&disk)?;
    let ledger = Ledger::open(&mut client, "disk.log")?;
    ledger.emit(&mut client, 1000)?;
    disk.fill(Part::Wal)?;
    wait::until("the WAL to find no room", DEADLINE, || ledger.emit(&mut client, 1000).err())?;
    wait::until("the crash", DEADLINE, || dedicated.server.log().contains("PANIC").then_some(()))?;
    disk.clear()?;
    // The server may have restarted by itself, or given up.
    dedicated.server.restart(StopMode::Immediate)?;
    let mut client = dedicated.connect()?;
    until_drained(&mut client)?;
    ledger.emit(&mut client, 1000)?;
    until_drained(&mut client)?;
    ledger.assert_at_least_once(&mut client, Broker::shared()?)
}
