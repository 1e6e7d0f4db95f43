//! What Kafka no longer has stops its partition, says so, and nothing is skipped in silence.

use event_outbox_lab::{Producer, Result};
use postgres::Client;

use crate::support::database::TestDatabase;
use crate::support::inbox::{
    receive, until_consumer, until_no_lag, until_numbers, until_stopped, while_disabled,
};
use crate::support::subscriptions::subscribe;

fn no_key(_: i64) -> Option<String> {
    None
}

/// A database whose subscription `s` has received 3 events of each of two partitions, whose numbers begin with 0 and 100.
fn subscribed(on_data_loss: &str) -> Result<(TestDatabase, Producer, String)> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("loss");
    db.broker.create_topic(&topic, 2, &[])?;
    let producer = Producer::new(&db.broker.bootstrap_servers())?;
    producer.send_numbers(&topic, 0, 0..3, no_key)?;
    producer.send_numbers(&topic, 1, 100..103, no_key)?;
    db.client.execute(
        "SELECT inbox.subscribe('s', ARRAY[$1], 'earliest', on_data_loss => $2)",
        &[&topic, &on_data_loss],
    )?;
    assert_eq!(until_numbers(&mut db.client, "s", 6)?, [0, 1, 2, 100, 101, 102]);
    Ok((db, producer, topic))
}

/// While nothing is read, 7 more events come into both partitions, and those before 6 of the first one expire.
fn expire(db: &mut TestDatabase, producer: &Producer, topic: &str) -> Result<()> {
    let (database, broker) = (db.database.clone(), db.broker);
    while_disabled(&mut db.client, &database, |_| {
        producer.send_numbers(topic, 0, 3..10, no_key)?;
        producer.send_numbers(topic, 1, 103..110, no_key)?;
        broker.delete_records(topic, 0, 6)
    })
}

fn seek_to_earliest(client: &mut Client, topic: &str, partition: i32) -> Result<()> {
    client.execute("SELECT inbox.seek('s', 'earliest', $1, $2)", &[&topic, &partition])?;
    Ok(())
}

#[test]
fn expired_events_stop_their_partition_alone() -> Result<()> {
    let (mut db, producer, topic) = subscribed("stop")?;
    expire(&mut db, &producer, &topic)?;
    let (from, to, reason) = until_stopped(&mut db.client, &topic, 0)?;
    assert_eq!((from, to), (3, 6), "{reason}");
    assert!(reason.contains("inbox.seek"), "{reason}");
    // The other partition goes on, also with what comes later.
    producer.send_numbers(&topic, 1, 110..112, no_key)?;
    assert_eq!(until_numbers(&mut db.client, "s", 9)?, (103..112).collect::<Vec<_>>());
    // It stays stopped when the worker starts anew.
    let database = db.database.clone();
    while_disabled(&mut db.client, &database, |_| producer.send_numbers(&topic, 1, 112..113, no_key))?;
    assert_eq!(until_numbers(&mut db.client, "s", 1)?, [112]);
    until_stopped(&mut db.client, &topic, 0)?;
    let sql = "SELECT hint FROM inbox.check() WHERE subject = 'partition' AND verdict = 'error'";
    let hint: String = db.client.query_one(sql, &[])?.get(0);
    db.client.batch_execute(hint.split_once(';').map_or(&hint, |(command, _)| command))?;
    assert_eq!(until_numbers(&mut db.client, "s", 4)?, [6, 7, 8, 9]);
    until_no_lag(&mut db.client, "s")?;
    assert_eq!(receive(&mut db.client, "s", 10)?, []);
    Ok(())
}

#[test]
fn expired_events_can_be_passed_over() -> Result<()> {
    for (on_data_loss, of_first) in [("earliest", vec![6, 7, 8, 9, 10]), ("latest", vec![10])] {
        let (mut db, producer, topic) = subscribed(on_data_loss)?;
        expire(&mut db, &producer, &topic)?;
        until_no_lag(&mut db.client, "s")?;
        producer.send_numbers(&topic, 0, 10..11, no_key)?;
        let expected: Vec<i64> = of_first.into_iter().chain(103..110).collect();
        assert_eq!(until_numbers(&mut db.client, "s", expected.len())?, expected, "{on_data_loss}");
        // It is in the log of the server.
        let warning = format!("partition 0 of topic \"{topic}\"");
        let log = db.server.log();
        assert!(
            log.lines().any(|line| line.contains(&warning) && line.contains("WARNING")),
            "{on_data_loss}"
        );
    }
    Ok(())
}

/// The new topic has an event at the next offset: only the topic's id tells that it is another one.
#[test]
fn a_topic_that_was_created_again_is_not_read_on() -> Result<()> {
    for on_data_loss in ["stop", "earliest"] {
        let (mut db, producer, topic) = subscribed(on_data_loss)?;
        let (database, broker) = (db.database.clone(), db.broker);
        while_disabled(&mut db.client, &database, |_| {
            broker.delete_topic(&topic)?;
            broker.create_topic(&topic, 2, &[])?;
            // The producer knows the topic of before.
            let producer = Producer::new(&broker.bootstrap_servers())?;
            producer.send_numbers(&topic, 0, 1000..1010, no_key)?;
            producer.send_numbers(&topic, 1, 1100..1110, no_key)
        })?;
        drop(producer);
        if on_data_loss == "stop" {
            for partition in 0..2 {
                let (_, _, reason) = until_stopped(&mut db.client, &topic, partition)?;
                assert!(reason.contains("created again; offset 3 was to be read next"), "{reason}");
            }
            assert_eq!(receive(&mut db.client, "s", 100)?, []);
            for partition in 0..2 {
                seek_to_earliest(&mut db.client, &topic, partition)?;
            }
        }
        let expected: Vec<i64> = (1000..1010).chain(1100..1110).collect();
        assert_eq!(until_numbers(&mut db.client, "s", 20)?, expected, "{on_data_loss}");
    }
    Ok(())
}

/// Offsets of aborted transactions and of the markers at the ends of transactions have no events.
#[test]
fn aborted_transactions_are_not_received_and_leave_no_lag() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("aborted")?;
    subscribe(&mut db.client, "s", &[&topic], "earliest")?;
    let producer = Producer::transactional(&db.broker.bootstrap_servers(), &topic)?;
    for (numbers, commits) in [(0..10, true), (10..20, false), (20..30, true), (30..50, false)] {
        producer.begin()?;
        producer.send_numbers(&topic, 0, numbers, no_key)?;
        if commits {
            producer.commit()?
        } else {
            producer.abort()?
        };
    }
    let expected: Vec<i64> = (0..10).chain(20..30).collect();
    assert_eq!(until_numbers(&mut db.client, "s", 20)?, expected);
    until_no_lag(&mut db.client, "s")?;
    until_consumer(&mut db.client, "idle")?;
    let next: i64 = db.client.query_one("SELECT next_offset FROM inbox.partitions", &[])?.get(0);
    assert_eq!(next, 50 + 4, "four markers");
    assert_eq!(receive(&mut db.client, "s", 100)?, []);
    Ok(())
}
