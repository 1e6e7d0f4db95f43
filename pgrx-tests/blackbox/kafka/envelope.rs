//! The settings that shape the record: `event_outbox.source` and `event_outbox.envelope`.

use event_outbox_lab::{Cluster, Consumer, Result};

use crate::support::database::{PROMPTLY, TestDatabase};

#[test]
fn the_source_is_a_setting_of_the_database() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("source");
    db.configure("event_outbox.source", "https://shop.example/größe")?;
    db.client.execute("SELECT outbox.emit($1, '1')", &[&topic])?;
    let records = db.drained(&topic)?;
    assert_eq!(records[0].header("ce_source"), Some("https://shop.example/größe"));
    Ok(())
}

#[test]
fn the_default_source_names_the_cluster() -> Result<()> {
    let db = TestDatabase::new()?;
    let server = Cluster::options("named")
        .set("cluster_name", "shop eu")
        .set("event_outbox.bootstrap_servers", db.broker.bootstrap_servers())
        .start()?;
    server.connect("postgres")?.batch_execute("CREATE DATABASE \"my shop\"")?;
    let mut client = server.connect("my shop")?;
    let topic = db.topic("named");
    client.batch_execute("CREATE EXTENSION event_outbox")?;
    client.execute("SELECT outbox.emit($1, '1')", &[&topic])?;
    let mut consumer = Consumer::new(&db.broker.bootstrap_servers(), &[&topic])?;
    let records = consumer.read_until(1, PROMPTLY)?;
    assert_eq!(records[0].header("ce_source"), Some("postgresql://shop%20eu/my%20shop"));
    Ok(())
}

#[test]
fn without_an_envelope_only_the_authors_headers_are_sent() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("bare");
    db.configure("event_outbox.envelope", "none")?;
    db.client.execute("SELECT outbox.emit($1, '1', key => 'k')", &[&topic])?;
    db.client
        .execute("SELECT outbox.emit($1, '2', key => 'k', headers => '{\"trace\": \"7f\"}')", &[&topic])?;
    let records = db.drained(&topic)?;
    assert_eq!(records.len(), 2);
    assert_eq!(records[0].headers, []);
    assert_eq!(records[1].headers, [("trace".to_string(), Some(b"7f".to_vec()))]);
    assert_eq!((records[1].key_text(), records[1].value_text()), (Some("k"), Some("2")));
    Ok(())
}
