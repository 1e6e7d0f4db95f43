//! Notifications tell consumers in the database which events are published, and where.

use std::collections::{BTreeMap, BTreeSet};

use event_outbox_lab::{Record, Result};
use postgres::Client;
use postgres::fallible_iterator::FallibleIterator;
use serde_json::Value;

use crate::support::database::{PROMPTLY, TestDatabase};
use crate::support::events::{emit_numbers, pending_count};

const PARTITIONS: i32 = 3;

/// A client that listens on the channel of a topic.
struct Listener {
    client: Client,
    channel: String,
    heard: Vec<Value>,
}

impl Listener {
    fn on(db: &TestDatabase, topic: &str) -> Result<Self> {
        let mut client = db.connect()?;
        let channel: String = client.query_one("SELECT outbox.channel($1)", &[&topic])?.get(0);
        client.batch_execute(&format!("LISTEN \"{channel}\""))?;
        Ok(Self { client, channel, heard: Vec::new() })
    }

    /// Waits until the notifications satisfy `enough`.
    fn until(&mut self, enough: impl Fn(&[Value]) -> bool) -> Result<&[Value]> {
        while !enough(&self.heard) {
            let next = self.client.notifications().timeout_iter(PROMPTLY).next()?;
            let next = next.unwrap_or_else(|| panic!("nothing more on {}: {:?}", self.channel, self.heard));
            assert_eq!(next.channel(), self.channel);
            self.heard.push(serde_json::from_str(next.payload())?);
        }
        Ok(&self.heard)
    }
}

fn number(notification: &Value, field: &str) -> i64 {
    notification[field].as_i64().unwrap_or_else(|| panic!("no {field} in {notification}"))
}

/// Partition and offset of each record.
fn places(records: &[Record]) -> BTreeSet<(i64, i64)> {
    records.iter().map(|record| (record.partition.into(), record.offset)).collect()
}

#[test]
fn ranges_cover_exactly_what_the_consumer_reads() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let (topic, other) = (db.topic("batch"), db.topic("other"));
    db.broker.create_topic(&topic, PARTITIONS, &[])?;
    let mut listener = Listener::on(&db, &topic)?;
    emit_numbers(&mut db.client, &other, 1..=10, "n::text")?;
    for round in 1..=5 {
        emit_numbers(&mut db.client, &topic, 1..=200, "n::text")?;
        let notifications =
            listener.until(|all| all.iter().map(|t| number(t, "count")).sum::<i64>() >= round * 200)?;
        let mut covered = BTreeMap::new();
        for notification in notifications {
            let fields: Vec<_> =
                notification.as_object().map(|object| object.keys().collect()).unwrap_or_default();
            assert_eq!(fields, ["count", "first_offset", "last_offset", "partition", "topic"]);
            assert_eq!(notification["topic"], topic.as_str());
            let (first, last) = (number(notification, "first_offset"), number(notification, "last_offset"));
            assert_eq!(number(notification, "count"), last - first + 1, "{notification}");
            for offset in first..=last {
                *covered.entry((number(notification, "partition"), offset)).or_insert(0) += 1;
            }
        }
        assert!(covered.values().all(|times| *times == 1), "announced twice: {covered:?}");
        let announced: BTreeSet<_> = covered.into_keys().collect();
        // Notified means published: the consumer finds all records at once.
        let read = event_outbox_lab::Consumer::read_all(&db.broker.bootstrap_servers(), &[&topic])?;
        assert_eq!(announced, places(&read));
    }
    Ok(())
}

#[test]
fn a_notification_comes_when_the_row_is_gone() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("gone");
    let mut listener = Listener::on(&db, &topic)?;
    emit_numbers(&mut db.client, &topic, 1..=1, "n::text")?;
    listener.until(|all| !all.is_empty())?;
    let left = pending_count(&mut db.client)?;
    assert_eq!(left, 0);
    Ok(())
}

#[test]
fn notify_event_tells_of_each_by_itself() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("event");
    db.broker.create_topic(&topic, PARTITIONS, &[])?;
    db.configure("event_outbox.notify", "event")?;
    let mut listener = Listener::on(&db, &topic)?;
    emit_numbers(&mut db.client, &topic, 1..=100, "n::text")?;
    let notifications = listener.until(|all| all.len() >= 100)?.to_vec();
    let records = db.drained(&topic)?;
    let expected: BTreeSet<_> = records
        .iter()
        .map(|record| {
            let id = record.header("ce_id").unwrap_or_default().to_string();
            (i64::from(record.partition), record.offset, id)
        })
        .collect();
    let found: BTreeSet<_> = notifications
        .iter()
        .map(|notification| {
            let id = notification["event_id"].as_str().unwrap_or_default().to_string();
            (number(notification, "partition"), number(notification, "offset"), id)
        })
        .collect();
    assert_eq!((found, notifications.len()), (expected, 100));
    assert!(notifications.iter().all(|one| one["topic"] == topic.as_str()));
    Ok(())
}

#[test]
fn notify_off_is_silent() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("off");
    db.configure("event_outbox.notify", "off")?;
    let mut listener = Listener::on(&db, &topic)?;
    emit_numbers(&mut db.client, &topic, 1..=10, "n::text")?;
    db.drained(&topic)?;
    // Notifications arrive in the order of their commits: the first heard is this one.
    db.client.execute("SELECT pg_notify($1, '\"the end\"')", &[&listener.channel])?;
    assert_eq!(listener.until(|all| !all.is_empty())?, ["the end"]);
    Ok(())
}

#[test]
fn topics_too_long_for_a_channel_have_channels_of_their_own() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let stem = db.topic(&"x".repeat(230));
    let (one, two) = (format!("{stem}1"), format!("{stem}2"));
    let mut listeners = [Listener::on(&db, &one)?, Listener::on(&db, &two)?];
    assert_ne!(listeners[0].channel, listeners[1].channel);
    for (listener, topic) in listeners.iter_mut().zip([&one, &two]) {
        assert!(listener.channel.len() <= 63, "{}", listener.channel);
        emit_numbers(&mut db.client, topic, 1..=1, "n::text")?;
        assert_eq!(listener.until(|all| !all.is_empty())?[0]["topic"], topic.as_str());
    }
    Ok(())
}
