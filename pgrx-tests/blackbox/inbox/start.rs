//! Where a subscription begins holds, whenever reading begins, and for what is created later.

use event_outbox_lab::{NewRecord, Producer, Result};

use crate::support::database::TestDatabase;
use crate::support::inbox::{receive, until_no_lag, until_numbers, until_received, while_disabled};
use crate::support::subscriptions::subscribe;

fn producer(db: &TestDatabase) -> Result<Producer> {
    Producer::new(&db.broker.bootstrap_servers())
}

fn no_key(_: i64) -> Option<String> {
    None
}

#[test]
fn earliest_is_everything() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("earliest");
    db.broker.create_topic(&topic, 2, &[])?;
    let producer = producer(&db)?;
    producer.send_numbers(&topic, 0, 0..5, no_key)?;
    producer.send_numbers(&topic, 1, 5..8, no_key)?;
    subscribe(&mut db.client, "s", &[&topic], "earliest")?;
    producer.send_numbers(&topic, 1, 8..9, no_key)?;
    assert_eq!(until_numbers(&mut db.client, "s", 9)?, (0..9).collect::<Vec<_>>());
    Ok(())
}

/// If the word were kept and not the offset, what comes before reading begins would be missed.
#[test]
fn latest_is_the_end_at_that_moment() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let (topic, empty) = (db.own_topic("latest")?, db.own_topic("empty")?);
    let producer = producer(&db)?;
    producer.send_numbers(&topic, 0, 0..5, no_key)?;
    // Within one transaction, nothing is read until the commit.
    db.client.batch_execute("BEGIN")?;
    subscribe(&mut db.client, "s", &[&topic, &empty], "latest")?;
    producer.send_numbers(&topic, 0, 5..8, no_key)?;
    db.client.batch_execute("COMMIT")?;
    assert_eq!(until_numbers(&mut db.client, "s", 3)?, [5, 6, 7]);
    // Nor was the first event of a partition that was empty.
    let database = db.database.clone();
    while_disabled(&mut db.client, &database, |_| producer.send_numbers(&empty, 0, 8..10, no_key))?;
    assert_eq!(until_numbers(&mut db.client, "s", 2)?, [8, 9]);
    Ok(())
}

#[test]
fn a_time_is_the_first_event_since_then_or_the_next() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("time")?;
    let producer = producer(&db)?;
    // 2020-01-01, 02, …
    for number in 0..6 {
        let value = number.to_string();
        producer.send(&NewRecord {
            topic: &topic,
            value: Some(value.as_bytes()),
            timestamp_ms: Some(1_577_836_800_000 + 86_400_000 * number),
            ..NewRecord::default()
        })?;
    }
    producer.flush()?;
    subscribe(&mut db.client, "amid", &[&topic], "2020-01-03 12:00+00")?;
    subscribe(&mut db.client, "beyond", &[&topic], "2100-01-01 00:00+00")?;
    assert_eq!(until_numbers(&mut db.client, "amid", 3)?, [3, 4, 5]);
    until_no_lag(&mut db.client, "beyond")?;
    producer.send_numbers(&topic, 0, 6..8, no_key)?;
    assert_eq!(until_numbers(&mut db.client, "beyond", 2)?, [6, 7]);
    assert_eq!(until_numbers(&mut db.client, "amid", 2)?, [6, 7]);
    Ok(())
}

#[test]
fn offsets_are_taken_by_partition() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("offsets");
    db.broker.create_topic(&topic, 3, &[])?;
    let producer = producer(&db)?;
    for partition in 0..3 {
        let first = i64::from(partition) * 10;
        producer.send_numbers(&topic, partition, first..first + 5, no_key)?;
    }
    let offsets = format!("{{\"{topic}\": {{\"0\": 0, \"1\": 3, \"2\": 5}}}}");
    subscribe(&mut db.client, "s", &[&topic], &offsets)?;
    assert_eq!(until_numbers(&mut db.client, "s", 7)?, [0, 1, 2, 3, 4, 13, 14]);
    producer.send_numbers(&topic, 2, 30..31, no_key)?;
    let last = until_received(&mut db.client, "s", 1)?;
    assert_eq!((last[0].number(), last[0].partition, last[0].offset), (30, 2, 5));
    Ok(())
}

/// What is in them before they are noticed was produced after the subscription.
#[test]
fn new_partitions_and_topics_are_read_from_their_beginning() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let (topic, pattern) = (db.own_topic("grows.a")?, db.topic("grows.*"));
    let producer = producer(&db)?;
    producer.send_numbers(&topic, 0, 0..3, no_key)?;
    subscribe(&mut db.client, "s", &[&topic], "latest")?;
    subscribe(&mut db.client, "pattern", &[&pattern], "latest")?;
    let (database, broker) = (db.database.clone(), db.broker);
    let later = db.topic("grows.b");
    while_disabled(&mut db.client, &database, |_| {
        broker.add_partitions(&topic, 3)?;
        broker.create_topic(&later, 1, &[])?;
        // The producer of before does not know them.
        let producer = Producer::new(&broker.bootstrap_servers())?;
        producer.send_numbers(&topic, 1, 10..12, no_key)?;
        producer.send_numbers(&topic, 2, 20..22, no_key)?;
        producer.send_numbers(&later, 0, 30..32, no_key)
    })?;
    assert_eq!(until_numbers(&mut db.client, "s", 4)?, [10, 11, 20, 21]);
    assert_eq!(until_numbers(&mut db.client, "pattern", 6)?, [10, 11, 20, 21, 30, 31]);
    Ok(())
}

#[test]
fn databases_share_a_topic() -> Result<()> {
    let (mut one, mut two) = (TestDatabase::new()?, TestDatabase::new()?);
    let topic = one.topic("shared");
    one.broker.create_topic(&topic, 3, &[])?;
    for (db, share) in [(&mut one, "1/2"), (&mut two, "2/2")] {
        db.client
            .execute("SELECT inbox.subscribe('s', ARRAY[$1], 'latest', share => $2)", &[&topic, &share])?;
    }
    let producer = producer(&one)?;
    for partition in 0..3 {
        let first = i64::from(partition) * 10;
        producer.send_numbers(&topic, partition, first..first + 3, no_key)?;
    }
    assert_eq!(until_numbers(&mut one.client, "s", 6)?, [0, 1, 2, 20, 21, 22]);
    assert_eq!(until_numbers(&mut two.client, "s", 3)?, [10, 11, 12]);
    for db in [&mut one, &mut two] {
        until_no_lag(&mut db.client, "s")?;
        assert_eq!(receive(&mut db.client, "s", 10)?, []);
    }
    Ok(())
}

/// Also those of a topic that had none for some of the shares before.
#[test]
fn partitions_that_are_added_belong_to_one_share() -> Result<()> {
    const SHARES: i32 = 3;
    let mut db = TestDatabase::new()?;
    let (wide, narrow) = (db.topic("wide"), db.own_topic("narrow")?);
    db.broker.create_topic(&wide, 3, &[])?;
    for share in 1..=SHARES {
        db.client.execute(
            "SELECT inbox.subscribe('s' || $1, ARRAY[$2, $3], 'latest', share => $1 || '/3')",
            &[&share.to_string(), &wide, &narrow],
        )?;
    }
    let (database, broker) = (db.database.clone(), db.broker);
    let number = |topic: i32, partition: i32| i64::from(100 * topic + 10 * partition);
    let topics: [(&String, usize); 2] = [(&wide, 5), (&narrow, 6)];
    let numbers_of = |share: i32, count: i64| -> Vec<i64> {
        let partitions =
            (0..).zip(topics).flat_map(|(at, (_, count))| (0..count as i32).map(move |of| (at, of)));
        let own = partitions.filter(|(_, partition)| partition % SHARES == share - 1);
        own.flat_map(|(topic, partition)| (0..count).map(move |event| number(topic, partition) + event))
            .collect()
    };
    while_disabled(&mut db.client, &database, |_| {
        for (topic, partitions) in topics {
            broker.add_partitions(topic, partitions)?;
        }
        let producer = Producer::new(&broker.bootstrap_servers())?;
        for (at, (topic, partitions)) in (0..).zip(topics) {
            for partition in 0..i32::try_from(partitions)? {
                let first = number(at, partition);
                producer.send_numbers(topic, partition, first..first + 2, no_key)?;
            }
        }
        Ok(())
    })?;
    for share in 1..=SHARES {
        let name = format!("s{share}");
        let expected = numbers_of(share, 2);
        assert_eq!(until_numbers(&mut db.client, &name, expected.len())?, expected);
        // A subscription that is moved keeps to its share.
        db.client.execute("SELECT inbox.seek($1, 'earliest')", &[&name])?;
        assert_eq!(until_numbers(&mut db.client, &name, expected.len())?, expected);
        until_no_lag(&mut db.client, &name)?;
        assert_eq!(receive(&mut db.client, &name, 10)?, []);
    }
    Ok(())
}
