//! The partition of an event.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use event_outbox_lab::{Broker, Consumer, Record, Result, layout};

use crate::support::database::TestDatabase;

const PARTITIONS: i32 = 12;

#[test]
fn an_explicit_partition_wins_over_the_key() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("explicit");
    db.broker.create_topic(&topic, PARTITIONS, &[])?;
    db.client.execute(
        "SELECT outbox.emit($1, to_jsonb(n), key => k, partition => n)
           FROM generate_series(0, $2::int - 1) AS n, (VALUES ('same'), (NULL)) AS keys (k)",
        &[&topic, &PARTITIONS],
    )?;
    let records = db.drained(&topic)?;
    assert_eq!(records.len() as i32, 2 * PARTITIONS);
    for record in &records {
        assert_eq!(record.value_text(), Some(record.partition.to_string().as_str()));
    }
    Ok(())
}

/// Kafka's console producer shows where the keys belong.
#[test]
fn the_partition_of_a_key_is_that_of_java_clients() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let (ours, theirs) = (db.topic("ours"), db.topic("theirs"));
    for topic in [&ours, &theirs] {
        db.broker.create_topic(topic, PARTITIONS, &[])?;
    }
    let keys = keys();
    db.client.execute(
        "SELECT outbox.emit($1, to_jsonb(n), key => k) FROM unnest($2::text[]) WITH ORDINALITY AS keys (k, n)",
        &[&ours, &keys],
    )?;
    produce_with_java(db.broker, &theirs, &keys)?;

    let theirs = Consumer::read_all(&db.broker.bootstrap_servers(), &[&theirs])?;
    let ours = db.drained(&ours)?;
    let (expected, found) = (partitions(&theirs), partitions(&ours));
    assert_eq!((expected.len(), found.len()), (keys.len(), keys.len()));
    let differing: Vec<_> = expected.iter().filter(|(key, at)| found.get(*key) != Some(at)).collect();
    let (count, first) = (differing.len(), differing.first());
    assert!(differing.is_empty(), "Java puts {count} elsewhere, the first is {first:?}");
    // The keys must be spread for the comparison to mean something.
    let used: BTreeSet<_> = found.values().collect();
    assert_eq!(used.len() as i32, PARTITIONS);
    Ok(())
}

/// A thousand keys of all lengths modulo four, which murmur2 treats differently; and the empty key.
fn keys() -> Vec<String> {
    let mut keys: Vec<_> = (0..333).map(|n| n.to_string()).collect();
    keys.extend((0..333).map(|n| format!("customer-{n}-{}", "x".repeat(n % 7))));
    keys.extend((0..333).map(|n| format!("größe {n} 漢🦀{}", "é".repeat(n % 5))));
    keys.push(String::new());
    keys
}

/// The partition of each key. A record without its key would be missing.
fn partitions(records: &[Record]) -> BTreeMap<&str, i32> {
    records.iter().filter_map(|record| Some((record.key_text()?, record.partition))).collect()
}

fn produce_with_java(broker: &Broker, topic: &str, keys: &[String]) -> Result<()> {
    let mut producer = Command::new("java")
        .args(["-Dfile.encoding=UTF-8", "-cp", &layout::kafka_class_path()?])
        .arg("org.apache.kafka.tools.ConsoleProducer")
        .args(["--bootstrap-server", &broker.bootstrap_servers(), "--topic", topic])
        .args(["--reader-property", "parse.key=true", "--reader-property", "key.separator=|"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let lines: String = keys.iter().map(|key| format!("{key}|value\n")).collect();
    producer.stdin.take().context("no stdin")?.write_all(lines.as_bytes())?;
    let output = producer.wait_with_output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
