//! An event is published only when its commit is durable: on disk, and on the synchronous standby.

use event_outbox_lab::{Broker, Cluster, Consumer, Record, Result, wait};
use postgres::Client;

use crate::support::database::{DEADLINE, PROMPTLY};
use crate::support::relay::{check_relay, until_drained, until_idle, until_status};
use crate::support::server::DedicatedServer;

/// A server that keeps asynchronous commits in memory as long as possible.
fn lazy_server(name: &str) -> Result<DedicatedServer> {
    let options = Cluster::options(name)
        .set("wal_level", "logical")
        .set("wal_writer_delay", "10s")
        .set("wal_writer_flush_after", "1GB")
        .set("checkpoint_timeout", "1h");
    DedicatedServer::with(options, &Broker::shared()?.bootstrap_servers())
}

/// Waits until a record has arrived, kills the server at that moment, and restarts it.
fn crash_on_arrival(dedicated: &mut DedicatedServer, topic: &str) -> Result<Client> {
    let mut consumer = Consumer::new(&Broker::shared()?.bootstrap_servers(), &[topic])?;
    consumer.read_until(1, PROMPTLY)?;
    dedicated.server.kill()?;
    dedicated.server.start()?;
    dedicated.connect()
}

/// The distinct events of a topic.
fn event_ids(topic: &str) -> Result<Vec<String>> {
    let records = Consumer::read_all(&Broker::shared()?.bootstrap_servers(), &[topic])?;
    let mut ids: Vec<_> =
        records.iter().filter_map(|record: &Record| record.header("ce_id").map(str::to_owned)).collect();
    ids.sort();
    ids.dedup();
    Ok(ids)
}

fn count(client: &mut Client, table: &str) -> Result<i64> {
    Ok(client.query_one(&format!("SELECT count(*) FROM {table}"), &[])?.get(0))
}

#[test]
fn an_asynchronous_commit_is_on_disk_before_its_event_is_in_kafka() -> Result<()> {
    const TOPIC: &str = "durability.asynchronous";
    let mut dedicated = lazy_server("lazy")?;
    Broker::shared()?.create_topic(TOPIC, 1, &[])?;
    let mut client = dedicated.connect()?;
    client.batch_execute("CREATE TABLE orders (id integer)")?;
    until_idle(&mut client)?;
    client.batch_execute(&format!(
        "SET synchronous_commit = off;
         BEGIN;
         INSERT INTO orders VALUES (42);
         SAVEPOINT before;
         SELECT outbox.emit('{TOPIC}', '{{\"order\": 42}}');
         COMMIT"
    ))?;
    let mut client = crash_on_arrival(&mut dedicated, TOPIC)?;
    assert_eq!(count(&mut client, "orders")?, 1, "Kafka has an event whose transaction was lost");
    until_drained(&mut client)?;
    assert_eq!(event_ids(TOPIC)?.len(), 1);
    Ok(())
}

/// The apply worker of a subscription commits asynchronously, and after a crash resumes where the disk ends.
#[test]
fn an_event_of_a_subscriber_s_trigger_keeps_its_identity() -> Result<()> {
    const TOPIC: &str = "durability.applied";
    let mut dedicated = lazy_server("applied")?;
    Broker::shared()?.create_topic(TOPIC, 1, &[])?;
    let source = dedicated.server.create_database()?;
    let mut publisher = dedicated.server.connect(&source)?;
    publisher
        .batch_execute("CREATE TABLE orders (id integer); CREATE PUBLICATION orders FOR TABLE orders")?;
    publisher.execute("SELECT pg_create_logical_replication_slot('orders', 'pgoutput')", &[])?;
    let mut client = dedicated.connect()?;
    client.batch_execute(&format!(
        "CREATE TABLE orders (id integer);
         CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS
             $$BEGIN PERFORM outbox.emit('{TOPIC}', to_jsonb(NEW)); RETURN NULL; END$$;
         CREATE TRIGGER tell AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION tell();
         ALTER TABLE orders ENABLE ALWAYS TRIGGER tell;"
    ))?;
    until_idle(&mut client)?;
    client.batch_execute(&format!(
        "CREATE SUBSCRIPTION orders CONNECTION 'host={} port={} user=postgres dbname={source}' PUBLICATION orders
         WITH (create_slot = false, slot_name = 'orders', copy_data = false)",
        dedicated.server.socket_dir().display(),
        dedicated.server.port(),
    ))?;
    publisher.batch_execute("INSERT INTO orders VALUES (42)")?;
    drop((publisher, client));
    let mut client = crash_on_arrival(&mut dedicated, TOPIC)?;
    wait::until_ok("the order to be applied", DEADLINE, || {
        Ok((count(&mut client, "orders")? == 1).then_some(()))
    })?;
    until_drained(&mut client)?;
    assert_eq!(event_ids(TOPIC)?.len(), 1, "one order, published as several events");
    Ok(())
}

#[test]
fn what_a_required_standby_does_not_have_is_not_published() -> Result<()> {
    const TOPIC: &str = "durability.replicated";
    let broker = Broker::shared()?;
    broker.create_topic(TOPIC, 1, &[])?;
    let mut primary = DedicatedServer::start(&broker.bootstrap_servers())?;
    let mut client = primary.connect()?;
    until_idle(&mut client)?;
    let mut standby = Cluster::options("required").start_standby_of(&primary.server)?;
    primary.server.set("synchronous_standby_names", "*")?;
    primary.server.reload()?;
    wait::until_ok("the standby to be synchronous", DEADLINE, || {
        let sql = "SELECT FROM pg_stat_replication WHERE sync_state = 'sync'";
        Ok(client.query_opt(sql, &[])?.map(drop))
    })?;
    let emit = |client: &mut Client, number: i32, commit: &str| -> Result<()> {
        client.batch_execute(&format!(
            "BEGIN; SET LOCAL synchronous_commit = {commit}; SELECT outbox.emit('{TOPIC}', '{number}', key => 'k'); COMMIT"
        ))?;
        Ok(())
    };
    for (number, commit) in [(1, "on"), (2, "local"), (3, "off"), (4, "remote_write"), (5, "remote_apply")] {
        emit(&mut client, number, commit)?;
    }
    until_drained(&mut client)?;

    standby.stop(event_outbox_lab::StopMode::Fast)?;
    for (number, commit) in [(6, "local"), (7, "off")] {
        emit(&mut client, number, commit)?;
    }
    let waiting = until_status(&mut client, "the relay to wait for the standby", |status| {
        status.state == "waiting" && status.error().contains("synchronous standby")
    })?;
    assert!(waiting.is_connected(), "{waiting:?}");
    let (verdict, hint) = check_relay(&mut client)?;
    assert_eq!(verdict, "error");
    assert!(hint.contains("synchronous_standby_names"), "{hint}");
    assert_eq!(Consumer::read_all(&broker.bootstrap_servers(), &[TOPIC])?.len(), 5);
    // Meanwhile it holds no snapshot and no transaction, and it obeys termination.
    let held = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND (backend_xmin IS NOT NULL OR xact_start IS NOT NULL)";
    assert_eq!(client.query_one(held, &[&waiting.pid])?.get::<_, i64>(0), 0);

    standby.start()?;
    let mut consumer = Consumer::new(&broker.bootstrap_servers(), &[TOPIC])?;
    consumer.read_until(7, PROMPTLY)?;
    until_drained(&mut client)?;

    // Or the standby is no longer required.
    standby.stop(event_outbox_lab::StopMode::Fast)?;
    emit(&mut client, 8, "local")?;
    until_status(&mut client, "the relay to wait for the standby", |status| status.state == "waiting")?;
    primary.server.unset("synchronous_standby_names")?;
    primary.server.reload()?;
    let records = consumer.read_until(8, PROMPTLY)?;
    let values: Vec<_> = records.iter().filter_map(Record::value_text).collect();
    assert_eq!(values, ["1", "2", "3", "4", "5", "6", "7", "8"]);
    drop(client);
    primary.server.stop(event_outbox_lab::StopMode::Fast)?;
    Ok(())
}
