//! Logical replication copies the outbox. The copy publishes nothing as long as it is one.

use event_outbox_lab::{Broker, Cluster, Consumer, Result, StopMode, wait};
use postgres::Client;

use crate::support::database::{DEADLINE, values};
use crate::support::events::{emit, pending_count};
use crate::support::relay::{check_relay, until_drained, until_idle, until_status};
use crate::support::server::DedicatedServer;

const TOPIC: &str = "replication.events";

/// The numbers that have arrived, sorted.
fn arrived(broker: &Broker) -> Result<Vec<i32>> {
    let records = Consumer::read_all(&broker.bootstrap_servers(), &[TOPIC])?;
    let mut numbers: Vec<i32> = values(&records).iter().filter_map(|value| value.parse().ok()).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

fn until_it_holds(client: &mut Client, count: i64) -> Result<()> {
    wait::until_ok(&format!("{count} events in the copy"), DEADLINE, || {
        let found = pending_count(client)?;
        Ok((found == count).then_some(()))
    })
}

/// Replicates every table of the database `from` into that of `client`, on the same server.
fn subscribe(dedicated: &DedicatedServer, from: &str, client: &mut Client) -> Result<()> {
    let mut publisher = dedicated.server.connect(from)?;
    publisher.batch_execute("CREATE PUBLICATION everything FOR ALL TABLES")?;
    publisher.execute("SELECT pg_create_logical_replication_slot('copy', 'pgoutput')", &[])?;
    Ok(client.batch_execute(&format!(
        "CREATE SUBSCRIPTION copy CONNECTION 'host={} port={} user=postgres dbname={from}' PUBLICATION everything
         WITH (create_slot = false, slot_name = 'copy')",
        dedicated.server.socket_dir().display(),
        dedicated.server.port(),
    ))?)
}

#[test]
fn a_copy_publishes_nothing_until_it_takes_over() -> Result<()> {
    let broker = Broker::shared()?;
    let options = Cluster::options("replication").set("wal_level", "logical");
    let mut dedicated = DedicatedServer::with(options, &broker.bootstrap_servers())?;
    let original = dedicated.database.clone();
    let copy = dedicated.server.create_database()?;
    let switch = |dedicated: &DedicatedServer, enabled: &str| -> Result<()> {
        let state = if enabled == "on" { "idle" } else { "disabled" };
        dedicated.alter("enabled", enabled)?;
        until_status(&mut dedicated.connect()?, "the switch", |status| status.state == state).map(drop)
    };
    let mut source = dedicated.connect()?;
    until_idle(&mut source)?;
    switch(&dedicated, "off")?;
    for number in 1..=10 {
        emit(&mut source, TOPIC, number)?;
    }
    let mut client = dedicated.server.connect(&copy)?;
    client.batch_execute("CREATE EXTENSION event_outbox")?;
    until_idle(&mut client)?;

    // Earlier events arrive by the initial copy of the table, later ones one by one.
    subscribe(&dedicated, &original, &mut client)?;
    let replica = until_status(&mut client, "the copy", |status| status.state == "replica")?;
    assert!(replica.error().contains("subscription \"copy\""), "{replica:?}");
    let (verdict, hint) = check_relay(&mut client)?;
    assert_eq!(verdict, "warning");
    assert!(hint.contains("drop the subscription"), "{hint}");
    until_it_holds(&mut client, 10)?;
    for number in 11..=20 {
        emit(&mut source, TOPIC, number)?;
    }
    until_it_holds(&mut client, 20)?;
    // Events that are emitted in the copy itself wait with the others, whatever wakes the relay.
    client.batch_execute("SELECT setval('outbox.events_id_seq', 1000); NOTIFY outbox")?;
    emit(&mut client, TOPIC, 100)?;
    let published = client.query_one("SELECT outbox.wait_published('3 s')", &[])?;
    assert!(!published.get::<_, bool>(0));
    assert_eq!(arrived(broker)?, [0; 0]);

    // After a restart it is still a copy.
    drop((source, client));
    dedicated.server.restart(StopMode::Fast)?;
    let mut client = dedicated.server.connect(&copy)?;
    until_status(&mut client, "the copy", |status| status.state == "replica")?;
    // The original publishes, and its deletions are replicated.
    switch(&dedicated, "on")?;
    let mut source = dedicated.connect()?;
    until_drained(&mut source)?;
    until_it_holds(&mut client, 1)?;
    assert_eq!(arrived(broker)?, (1..=20).collect::<Vec<_>>());

    // The original is switched off, and the copy takes over the rest.
    switch(&dedicated, "off")?;
    for number in 21..=25 {
        emit(&mut source, TOPIC, number)?;
    }
    until_it_holds(&mut client, 6)?;
    client.batch_execute("DROP SUBSCRIPTION copy")?;
    until_drained(&mut client)?;
    assert_eq!(arrived(broker)?, (1..=25).chain([100]).collect::<Vec<_>>());
    Ok(())
}
