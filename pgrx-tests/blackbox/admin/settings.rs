//! Settings take effect without a restart: by a reload, or at once if they are set for a database.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use event_outbox_lab::{Broker, Cluster, Consumer, Record, Result, run_as, wait};

use postgres::Client;
use postgres::fallible_iterator::FallibleIterator;

use crate::support::broker::FaultyBroker;
use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::relay::{status, until_another, until_drained, until_idle, until_status};
use crate::support::server::DedicatedServer;

const EMIT: &str = "SELECT outbox.emit($1, '{}', key => 'k')";

/// Takes the place of a password in the configuration; must never be shown anywhere.
const SECRET: &str = "hunter2";

fn set_and_reload(server: &Cluster, name: &str, value: &str) -> Result<()> {
    server.set(&format!("event_outbox.{name}"), value)?;
    server.reload()
}

/// Changes a setting that needs a new producer, and waits until that is connected.
fn until_renewed(dedicated: &DedicatedServer, client: &mut Client, name: &str, value: &str) -> Result<()> {
    until_idle(client)?;
    let before = status(client)?.connection_since;
    set_and_reload(&dedicated.server, name, value)?;
    until_status(client, "another producer", |status| {
        status.is_connected() && status.connection_since > before
    })?;
    Ok(())
}

#[test]
fn other_brokers() -> Result<()> {
    let (old, new) = (Broker::shared()?, FaultyBroker::take()?);
    new.create_topic("settings.moved", 1, &[])?;
    let dedicated = DedicatedServer::start(&old.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let pid = until_idle(&mut client)?;
    client.query_one(EMIT, &[&"settings.moved"])?;
    until_drained(&mut client)?;
    until_renewed(&dedicated, &mut client, "bootstrap_servers", &new.bootstrap_servers())?;
    for _ in 0..2 {
        client.query_one(EMIT, &[&"settings.moved"])?;
    }
    until_drained(&mut client)?;
    assert_eq!(Consumer::read_all(&old.bootstrap_servers(), &["settings.moved"])?.len(), 1);
    assert_eq!(Consumer::read_all(&new.bootstrap_servers(), &["settings.moved"])?.len(), 2);
    assert_eq!(until_idle(&mut client)?, pid);
    Ok(())
}

/// From brokers that do not answer to one that does: events in flight are sent to the new one.
#[test]
fn brokers_that_never_answered() -> Result<()> {
    let broker = Broker::shared()?;
    let dedicated = DedicatedServer::start("127.0.0.1:1")?;
    let mut client = dedicated.connect()?;
    client.query_one(EMIT, &[&"settings.rescued"])?;
    until_status(&mut client, "the event in flight", |status| status.in_flight == 1)?;
    set_and_reload(&dedicated.server, "bootstrap_servers", &broker.bootstrap_servers())?;
    until_drained(&mut client)?;
    assert_eq!(Consumer::read_all(&broker.bootstrap_servers(), &["settings.rescued"])?.len(), 1);
    Ok(())
}

#[test]
fn envelope() -> Result<()> {
    let broker = Broker::shared()?;
    let dedicated = DedicatedServer::start(&broker.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    client.query_one(EMIT, &[&"settings.envelope"])?;
    until_drained(&mut client)?;
    until_renewed(&dedicated, &mut client, "envelope", "none")?;
    client.query_one(EMIT, &[&"settings.envelope"])?;
    until_drained(&mut client)?;
    let records = Consumer::read_all(&broker.bootstrap_servers(), &["settings.envelope"])?;
    let headers: Vec<_> = records.iter().map(|record| record.headers.is_empty()).collect();
    assert_eq!(headers, [false, true]);
    Ok(())
}

#[test]
fn notify() -> Result<()> {
    let dedicated = DedicatedServer::start(&Broker::shared()?.bootstrap_servers())?;
    let (mut client, mut listener) = (dedicated.connect()?, dedicated.connect()?);
    let channel: String = client.query_one("SELECT outbox.channel('settings.notify')", &[])?.get(0);
    listener.batch_execute(&format!("LISTEN \"{channel}\""))?;
    let mut hears = |word: &str| {
        wait::until_ok(&format!("a notification with {word}"), DEADLINE, || {
            client.query_one(EMIT, &[&"settings.notify"])?;
            let mut notifications = listener.notifications();
            let heard = notifications.timeout_iter(Duration::from_millis(300)).next()?;
            Ok(heard.filter(|heard| heard.payload().contains(word)).map(drop))
        })
    };
    hears("first_offset")?;
    set_and_reload(&dedicated.server, "notify", "event")?;
    hears("event_id")?;
    set_and_reload(&dedicated.server, "notify", "batch")?;
    hears("first_offset")
}

#[test]
fn wrong_properties_are_named_and_no_secret_is() -> Result<()> {
    let broker = Broker::shared()?;
    let dedicated = DedicatedServer::start(&broker.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let pid = until_idle(&mut client)?;
    for (properties, named) in [
        (format!("sasl.password={SECRET},acks=1"), "acks"),
        (format!("nonsense={SECRET}"), "entry 1"),
        (format!("sasl.password=x,{SECRET}"), "entry 2"),
        (format!("security.protocol={SECRET}"), "security.protocol"),
        (format!("linger.ms={SECRET}"), "linger.ms"),
        (format!("ssl.key.pem={SECRET},security.protocol=ssl"), "ssl"),
    ] {
        set_and_reload(&dedicated.server, "kafka_properties", &properties)?;
        let status = until_status(&mut client, &format!("{named} to be seen"), |status| {
            status.state == "misconfigured" && status.error().contains(named)
        })?;
        assert!(!status.error().contains(SECRET), "{status:?}");
        client.query_one(EMIT, &[&"settings.wrong"])?;
    }
    let waiting: i64 = client.query_one("SELECT count(*) FROM outbox.events WHERE attempts = 0", &[])?.get(0);
    assert_eq!(waiting, 6);
    set_and_reload(&dedicated.server, "kafka_properties", "")?;
    until_drained(&mut client)?;
    assert_eq!(until_idle(&mut client)?, pid);
    assert_eq!(Consumer::read_all(&broker.bootstrap_servers(), &["settings.wrong"])?.len(), 6);
    let log = dedicated.server.log();
    let leak = log.lines().find(|line| line.contains(SECRET));
    assert!(leak.is_none(), "{leak:?}");
    Ok(())
}

#[test]
fn no_brokers_at_all() -> Result<()> {
    let dedicated = DedicatedServer::start("")?;
    let mut client = dedicated.connect()?;
    let status = until_status(&mut client, "the complaint", |status| status.state == "misconfigured")?;
    assert!(status.error().contains("bootstrap_servers"), "{status:?}");
    client.query_one(EMIT, &[&"settings.none"])?;
    set_and_reload(&dedicated.server, "bootstrap_servers", &Broker::shared()?.bootstrap_servers())?;
    until_drained(&mut client)
}

/// The partition of each key, which the partitioner determines.
fn places(records: &[Record]) -> BTreeMap<&str, i32> {
    records.iter().filter_map(|record| Some((record.key_text()?, record.partition))).collect()
}

fn spread(client: &mut Client, topic: &str) -> Result<Vec<Record>> {
    client.execute(
        "SELECT outbox.emit($1, '{}', key => n::text) FROM generate_series(1, 50) AS n",
        &[&topic],
    )?;
    until_drained(client)?;
    Consumer::read_all(&Broker::shared()?.bootstrap_servers(), &[topic])
}

#[test]
fn the_properties_file() -> Result<()> {
    let broker = Broker::shared()?;
    for topic in ["settings.java", "settings.crc", "settings.again"] {
        broker.create_topic(topic, 12, &[])?;
    }
    let dedicated = DedicatedServer::start(&broker.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    until_idle(&mut client)?;
    let java = spread(&mut client, "settings.java")?;

    // A file that does not exist, or that the server's user cannot read.
    let path = dedicated.server.data_dir().join("kafka.properties");
    let text = path.display().to_string();
    let misconfigured = |client: &mut Client, word: &str| {
        let status = until_status(client, &format!("a complaint with {word}"), |status| {
            status.state == "misconfigured" && status.error().contains(word)
        })?;
        assert!(!status.error().contains(&text) && !status.error().contains(SECRET), "{status:?}");
        anyhow::Ok(())
    };
    set_and_reload(&dedicated.server, "kafka_properties_file", &text)?;
    misconfigured(&mut client, "No such file")?;
    fs::write(&path, format!("partitioner=consistent_random\n{SECRET}\n"))?;
    run_as::give_to_server(&path)?;
    dedicated.server.reload()?;
    misconfigured(&mut client, "entry 2")?;

    // The file takes precedence; a change of its contents takes effect with a reload.
    fs::write(&path, "# the CRC32 partitioner\npartitioner = consistent_random\n")?;
    set_and_reload(&dedicated.server, "kafka_properties", "partitioner=murmur2_random")?;
    until_idle(&mut client)?;
    let crc = spread(&mut client, "settings.crc")?;
    assert_ne!(places(&crc), places(&java));
    fs::write(&path, "partitioner=murmur2_random\n")?;
    let before = status(&mut client)?.connection_since;
    dedicated.server.reload()?;
    until_status(&mut client, "another producer", |status| {
        status.is_connected() && status.connection_since > before
    })?;
    assert_eq!(places(&spread(&mut client, "settings.again")?), places(&java));
    Ok(())
}

#[test]
fn of_a_database_at_once() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("altered");
    let before = until_idle(&mut db.client)?;
    let alter = |client: &mut Client, what: &str| {
        client.batch_execute(&format!("ALTER DATABASE {} {what}", db.database))
    };
    alter(&mut db.client, "SET event_outbox.source = 'urn:mine'")?;
    until_another(&mut db.client, before)?;
    db.client.query_one(EMIT, &[&topic])?;
    until_drained(&mut db.client)?;

    alter(&mut db.client, "SET event_outbox.enabled = off")?;
    until_status(&mut db.client, "the relay to pause", |status| status.state == "disabled")?;
    db.client.query_one(EMIT, &[&topic])?;
    alter(&mut db.client, "SET event_outbox.enabled = on")?;
    until_drained(&mut db.client)?;

    alter(&mut db.client, "RESET event_outbox.source")?;
    until_idle(&mut db.client)?;
    db.client.query_one(EMIT, &[&topic])?;
    let records = db.drained(&topic)?;
    let sources: Vec<_> = records.iter().filter_map(|record| record.header("ce_source")).collect();
    assert_eq!(sources[..2], ["urn:mine", "urn:mine"]);
    assert!(sources[2].ends_with(&db.database), "{sources:?}");
    Ok(())
}

/// A setting that is rolled back has no effect.
#[test]
fn of_a_database_rolled_back() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let pid = until_idle(&mut db.client)?;
    let sql = format!("BEGIN; ALTER DATABASE {} SET event_outbox.enabled = off; ROLLBACK", db.database);
    db.client.batch_execute(&sql)?;
    let topic = db.topic("unaltered");
    db.client.query_one(EMIT, &[&topic])?;
    assert_eq!(db.drained(&topic)?.len(), 1);
    assert_eq!(until_idle(&mut db.client)?, pid);
    Ok(())
}
