//! What is set aside, given back or redriven while a subscription is moved or ended.

use std::thread;

use event_outbox_lab::{NewRecord, Producer, Result, wait};
use postgres::Client;

use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::inbox::{receive, until_numbers};

/// A database with a subscription `s`, whose events have two attempts, and one event of the key `k`.
fn subscribed(name: &str) -> Result<(TestDatabase, String)> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic(name)?;
    db.client.execute("SELECT inbox.subscribe('s', ARRAY[$1], 'earliest', max_attempts => 2)", &[&topic])?;
    send(&db, &topic, "1")?;
    Ok((db, topic))
}

fn send(db: &TestDatabase, topic: &str, value: &str) -> Result<()> {
    let producer = Producer::new(&db.broker.bootstrap_servers())?;
    let (key, value) = (Some(&b"k"[..]), Some(value.as_bytes()));
    producer.send(&NewRecord { topic, key, value, ..NewRecord::default() })?;
    producer.flush()
}

/// Begins a transaction of a new session that has received the one event.
fn receiver(db: &TestDatabase, attempt: i32) -> Result<Client> {
    let mut session = db.connect()?;
    wait::until_ok("the event", DEADLINE, || {
        session.batch_execute("BEGIN")?;
        let received = receive(&mut session, "s", 10)?;
        if received.is_empty() {
            session.batch_execute("ROLLBACK")?;
        } else {
            assert_eq!(received.iter().map(|event| event.attempt).collect::<Vec<_>>(), [attempt]);
        }
        Ok((!received.is_empty()).then_some(()))
    })?;
    Ok(session)
}

fn nack(session: &mut Client) -> Result<()> {
    let sql = "SELECT inbox.nack('s', (SELECT min(position) FROM inbox.log), 'no', '0 s')";
    Ok(session.batch_execute(sql)?)
}

/// Nothing of what is being received is taken from the session that has it, so a seek does not wait for it.
fn seek(db: &mut TestDatabase) -> Result<()> {
    db.client.batch_execute("SET statement_timeout = '20s'; SELECT inbox.seek('s', 'latest')")?;
    Ok(())
}

fn count(client: &mut Client, sql: &str) -> Result<i64> {
    Ok(client.query_one(&format!("SELECT count(*) FROM {sql}"), &[])?.get(0))
}

/// The event is skipped, and holds up no later one of its key.
fn assert_skipped(db: &mut TestDatabase, topic: &str) -> Result<()> {
    assert_eq!(count(&mut db.client, "inbox.retries")?, 0);
    send(db, topic, "2")?;
    assert_eq!(until_numbers(&mut db.client, "s", 1)?, [2]);
    assert_eq!(count(&mut db.client, "inbox.retry")?, 0);
    Ok(())
}

#[test]
fn what_is_set_aside_around_a_seek_is_skipped() -> Result<()> {
    for is_first in [true, false] {
        let (mut db, topic) = subscribed("aside")?;
        let mut session = receiver(&db, 1)?;
        if is_first {
            nack(&mut session)?;
        }
        seek(&mut db)?;
        if !is_first {
            nack(&mut session)?;
        }
        session.batch_execute("COMMIT")?;
        assert_skipped(&mut db, &topic)?;
    }
    Ok(())
}

#[test]
fn what_waited_and_is_given_back_after_a_seek_is_skipped() -> Result<()> {
    for end in ["ROLLBACK", "COMMIT"] {
        let (mut db, topic) = subscribed("back")?;
        let mut session = receiver(&db, 1)?;
        nack(&mut session)?;
        session.batch_execute("COMMIT")?;
        let mut session = receiver(&db, 2)?;
        seek(&mut db)?;
        session.batch_execute(end)?;
        assert_skipped(&mut db, &topic)?;
    }
    Ok(())
}

/// A seek leaves dead letters, so what is redriven after it is received, and has all its attempts.
#[test]
fn what_is_redriven_after_a_seek_is_received() -> Result<()> {
    let (mut db, _) = subscribed("redriven")?;
    for round in 0..3 {
        if round > 0 {
            seek(&mut db)?;
            db.client.batch_execute("SELECT inbox.redrive('s', max => 1)")?;
        }
        for attempt in 1..=2 {
            let mut session = receiver(&db, attempt)?;
            nack(&mut session)?;
            session.batch_execute("COMMIT")?;
        }
        assert_eq!(count(&mut db.client, "inbox.dead_letters")?, 1, "round {round}");
    }
    Ok(())
}

#[test]
fn what_is_redriven_while_a_subscription_ends_goes_with_it() -> Result<()> {
    let (mut db, _) = subscribed("ended")?;
    for attempt in 1..=2 {
        let mut session = receiver(&db, attempt)?;
        nack(&mut session)?;
        session.batch_execute("COMMIT")?;
    }
    let mut session = db.connect()?;
    session.batch_execute("BEGIN; SELECT inbox.redrive('s', max => 1)")?;
    let mut other = db.connect()?;
    let pid: i32 = other.query_one("SELECT pg_backend_pid()", &[])?.get(0);
    let ends = thread::spawn(move || other.batch_execute("SELECT inbox.unsubscribe('s')"));
    wait::until_ok("the subscription to end, or to wait", DEADLINE, || {
        let waits = format!("pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Lock'");
        Ok((ends.is_finished() || count(&mut db.client, &waits)? == 1).then_some(()))
    })?;
    session.batch_execute("COMMIT")?;
    ends.join().map_err(|_| anyhow::anyhow!("the session panicked"))??;
    assert_eq!(count(&mut db.client, "inbox.retry")? + count(&mut db.client, "inbox.dead_letters")?, 0);
    Ok(())
}

/// What was read before a seek, and is still on its way, does not count. `EVENT_OUTBOX_SEEKS` sets the number of seeks.
#[test]
fn after_each_of_many_seeks_reading_goes_on_there() -> Result<()> {
    const PARTITIONS: usize = 2;
    let seeks = std::env::var("EVENT_OUTBOX_SEEKS").map_or(Ok(60), |count| count.parse())?;
    let mut db = TestDatabase::new()?;
    let topic = db.topic("load");
    db.broker.create_topic(&topic, i32::try_from(PARTITIONS)?, &[])?;
    let fill = |producer: &Producer, offsets: std::ops::Range<i64>| {
        (0..PARTITIONS).try_for_each(|partition| {
            producer.send_numbers(&topic, i32::try_from(partition)?, offsets.clone(), |_| None)
        })
    };
    let producer = Producer::new(&db.broker.bootstrap_servers())?;
    fill(&producer, 0..5000)?;
    db.client
        .execute("SELECT inbox.subscribe('s', ARRAY[$1], 'earliest', ordering => 'partition')", &[&topic])?;
    let mut next = [0; PARTITIONS];
    let mut end = 5000;
    // Any numbers, the same ones each time.
    let mut random = 1_u64;
    let mut below = |limit: i64| -> Result<i64> {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Ok(i64::try_from(random >> 33)? % limit)
    };
    for _ in 0..seeks {
        // New records are on their way meanwhile.
        fill(&producer, end..end + 50)?;
        end += 50;
        let partition = usize::try_from(below(i64::try_from(PARTITIONS)?)?)?;
        let offset = below(end)?;
        db.client.execute(
            "SELECT inbox.seek('s', $1, $2, $3)",
            &[&offset.to_string(), &topic, &i32::try_from(partition)?],
        )?;
        next[partition] = offset;
        // Between some seeks nothing is received, or only what comes at once.
        let patience = below(3)?;
        wait::until_ok("an event of the partition", DEADLINE, || {
            let received = if patience == 0 { Vec::new() } else { receive(&mut db.client, "s", 500)? };
            let mut is_there = patience < 2;
            for event in &received {
                let of = usize::try_from(event.partition)?;
                assert_eq!(event.offset, next[of], "partition {of}");
                next[of] += 1;
                is_there |= of == partition;
            }
            Ok(is_there.then_some(()))
        })?;
    }
    wait::until_ok("the ends", DEADLINE, || {
        for event in receive(&mut db.client, "s", 1000)? {
            let of = usize::try_from(event.partition)?;
            assert_eq!(event.offset, next[of], "partition {of}");
            next[of] += 1;
        }
        Ok((next == [end; PARTITIONS]).then_some(()))
    })
}
