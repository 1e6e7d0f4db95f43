//! Events and offsets go back together, whatever happens to the server: nothing is lost, nothing is handled twice.

use std::thread;

use event_outbox_lab::{Broker, Cluster, Producer, Result, StopMode, wait};
use postgres::Client;

use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::dump::dump_and_restore;
use crate::support::inbox::{receive, until_no_lag, until_numbers, until_stored};
use crate::support::server::DedicatedServer;
use crate::support::subscriptions::subscribe;

const EVENTS: i64 = 20_000;

/// A topic with `EVENTS` numbers in two partitions.
fn filled_topic(topic: &str) -> Result<Producer> {
    let broker = Broker::shared()?;
    broker.create_topic(topic, 2, &[])?;
    let producer = Producer::new(&broker.bootstrap_servers())?;
    for partition in 0..2 {
        let numbers = i64::from(partition) * EVENTS / 2..i64::from(partition + 1) * EVENTS / 2;
        producer.send_numbers(topic, partition, numbers, |number| Some((number % 1000).to_string()))?;
    }
    Ok(producer)
}

/// Receives up to 50 events into the table `handled`; returns how many.
fn handle(client: &mut Client) -> Result<u64, postgres::Error> {
    client.execute("INSERT INTO handled SELECT data::bigint FROM inbox.receive('s', 50)", &[])
}

fn handled(client: &mut Client) -> Result<i64> {
    Ok(client.query_one("SELECT count(*) FROM handled", &[])?.get(0))
}

/// Handles until `count` events are handled, and there are no more; asserts that they are the numbers up to it.
fn handle_all(client: &mut Client, count: i64) -> Result<()> {
    wait::until_ok("everything to be handled", DEADLINE, || {
        let sql = "INSERT INTO handled SELECT data::bigint FROM inbox.receive('s', 1000)";
        client.execute(sql, &[])?;
        Ok((handled(client)? >= count).then_some(()))
    })?;
    until_no_lag(client, "s")?;
    assert_eq!(receive(client, "s", 100)?, []);
    let sql = "SELECT count(*), count(DISTINCT number), min(number), max(number) FROM handled";
    let row = client.query_one(sql, &[])?;
    let found: [i64; 4] = [row.get(0), row.get(1), row.get(2), row.get(3)];
    assert_eq!(found, [count, count, 0, count - 1]);
    Ok(())
}

#[test]
fn crashes_lose_nothing_and_repeat_nothing() -> Result<()> {
    let topic = "inbox.crashes";
    filled_topic(topic)?;
    let mut dedicated =
        DedicatedServer::with(Cluster::options("crash"), &Broker::shared()?.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    client.batch_execute("CREATE TABLE handled (number bigint)")?;
    subscribe(&mut client, "s", &[topic], "earliest")?;
    for round in 1..=3 {
        // In the midst of ingest or not, but always in the midst of receiving.
        until_stored(&mut client, 2000 * round)?;
        let mut sessions = Vec::new();
        for _ in 0..2 {
            let mut client = dedicated.connect()?;
            sessions.push(thread::spawn(move || while handle(&mut client).is_ok() {}));
        }
        let mut holder = dedicated.connect()?;
        let mut holds = holder.transaction()?;
        wait::until_ok("a session that has not committed", DEADLINE, || {
            Ok((holds.execute("INSERT INTO handled SELECT data::bigint FROM inbox.receive('s', 50)", &[])?
                > 0)
            .then_some(()))
        })?;
        let before = handled(&mut client)?;
        wait::until_ok("others to commit", DEADLINE, || {
            Ok((handled(&mut client)? > before + 100).then_some(()))
        })?;
        let acknowledged = handled(&mut client)?;
        dedicated.server.stop(StopMode::Immediate)?;
        for session in sessions {
            session.join().map_err(|_| anyhow::anyhow!("a session panicked"))?;
        }
        dedicated.server.start()?;
        client = dedicated.connect()?;
        assert!(handled(&mut client)? >= acknowledged, "a commit was lost");
    }
    handle_all(&mut client, EVENTS)
}

/// The standbys do not have the last batches, nor the last of what was handled. Each that is promoted reads them again from
/// Kafka.
#[test]
fn an_asynchronous_failover_goes_back_in_kafka() -> Result<()> {
    let topic = "inbox.failover";
    Broker::shared()?.create_topic(topic, 1, &[])?;
    let producer = Producer::new(&Broker::shared()?.bootstrap_servers())?;
    let servers = Broker::shared()?.bootstrap_servers();
    let mut primary = DedicatedServer::with(Cluster::options("primary"), &servers)?;
    let mut client = primary.connect()?;
    client.batch_execute("CREATE TABLE handled (number bigint)")?;
    subscribe(&mut client, "s", &[topic], "earliest")?;
    producer.send_numbers(topic, 0, 0..500, |number| Some(number.to_string()))?;
    wait::until_ok("the first events", DEADLINE, || {
        handle(&mut client)?;
        Ok((handled(&mut client)? >= 300).then_some(()))
    })?;
    let start = |name: &str| -> Result<(Cluster, Client)> {
        let options = Cluster::options(name).set("event_outbox.bootstrap_servers", &servers);
        let standby = options.start_standby_of(&primary.server)?;
        let reader = standby.connect(&primary.database)?;
        Ok((standby, reader))
    };
    let mut standbys = [start("standby")?, start("standby2")?];
    // From here on the standbys get nothing more.
    for (standby, reader) in &mut standbys {
        assert_serves_readers(reader)?;
        reader.batch_execute("ALTER SYSTEM SET primary_conninfo = ''")?;
        standby.reload()?;
    }
    wait::until_ok("the standbys to be cut off", DEADLINE, || {
        let sql = "SELECT count(*) FROM pg_stat_replication";
        Ok((client.query_one(sql, &[])?.get::<_, i64>(0) == 0).then_some(()))
    })?;
    producer.send_numbers(topic, 0, 500..1000, |number| Some(number.to_string()))?;
    wait::until_ok("the primary to handle all", DEADLINE, || {
        handle(&mut client)?;
        Ok((handled(&mut client)? == 1000).then_some(()))
    })?;
    drop(client);
    primary.server.stop(StopMode::Immediate)?;

    for (standby, reader) in &mut standbys {
        standby.promote()?;
        assert!(handled(reader)? < 1000, "the standby has everything");
    }
    producer.send_numbers(topic, 0, 1000..1100, |number| Some(number.to_string()))?;
    standbys.iter_mut().try_for_each(|(_, reader)| handle_all(reader, 1100))
}

/// On a standby the views can be read, and no worker runs.
fn assert_serves_readers(reader: &mut Client) -> Result<()> {
    assert!(handled(reader)? >= 300);
    let workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'event_outbox%'";
    assert_eq!(reader.query_one(workers, &[])?.get::<_, i64>(0), 0);
    for view in ["subscriptions", "partitions", "retries", "consumers", "check()"] {
        reader
            .query(&format!("SELECT * FROM inbox.{view}"), &[])
            .map_err(|error| anyhow::anyhow!("{view}: {error:?}"))?;
    }
    Ok(())
}

/// What is stored and not received, and where reading goes on, is in a dump.
#[test]
fn a_restored_dump_goes_on_where_it_was_made() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("dumped")?;
    let producer = Producer::new(&db.broker.bootstrap_servers())?;
    producer.send_numbers(&topic, 0, 0..1000, |number| Some(number.to_string()))?;
    subscribe(&mut db.client, "s", &[&topic], "earliest")?;
    until_stored(&mut db.client, 1000)?;
    let mut first: Vec<i64> =
        receive(&mut db.client, "s", 400)?.iter().map(crate::support::inbox::Received::number).collect();
    assert_eq!(first.len(), 400);
    let restored = TestDatabase::of(db.server.create_database()?)?;
    dump_and_restore(&db, &restored.database)?;
    producer.send_numbers(&topic, 0, 1000..1200, |number| Some(number.to_string()))?;
    // Both have the same rest to receive.
    let there = until_numbers(&mut restored.connect()?, "s", 800)?;
    assert_eq!(until_numbers(&mut db.client, "s", 800)?, there);
    first.extend(there);
    first.sort_unstable();
    assert_eq!(first, (0..1200).collect::<Vec<_>>());
    let mut client = restored.connect()?;
    until_no_lag(&mut client, "s")?;
    assert_eq!(receive(&mut client, "s", 100)?, []);
    Ok(())
}
