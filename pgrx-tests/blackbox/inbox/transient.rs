//! What Kafka says only for a moment, while leaders are elected and brokers hear of new topics, is asked again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use event_outbox_lab::{KafkaCluster, Producer, Result, wait};
use postgres::Client;
use postgres::error::SqlState;

use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::inbox::until_numbers;
use crate::support::server::DedicatedServer;

/// One broker after the other is restarted, so leaders change several times, and brokers are late to hear of it.
#[test]
fn questions_are_answered_while_leaders_change_and_topics_come() -> Result<()> {
    const TOPIC: &str = "moment";
    let mut brokers = KafkaCluster::start()?;
    brokers.create_topic(TOPIC, 6, &[])?;
    brokers.until_in_sync()?;
    let servers = brokers.bootstrap_servers();
    let producer = Producer::new(&servers)?;
    for partition in 0..6 {
        let first = i64::from(partition) * 10;
        producer.send_numbers(TOPIC, partition, first..first + 2, |_| None)?;
    }
    let dedicated = DedicatedServer::start(&servers)?;
    let mut client = dedicated.connect()?;
    let is_over = AtomicBool::new(false);
    let rounds = thread::scope(|scope| -> Result<usize> {
        let rolling = scope.spawn(|| {
            let rolled = brokers.roll();
            is_over.store(true, Ordering::Relaxed);
            rolled
        });
        let mut round = 0;
        while !is_over.load(Ordering::Relaxed) {
            let fresh = format!("fresh{round}");
            create(&mut client, &fresh)?;
            for sql in [
                format!("SELECT inbox.subscribe('s', '{{{TOPIC}, {fresh}}}', 'latest', timeout => '1 min')"),
                "SELECT inbox.seek('s', '2100-01-01', timeout => '1 min')".into(),
                format!("SELECT inbox.seek('s', 'earliest', '{TOPIC}', timeout => '1 min')"),
                format!(
                    "SELECT 1 / count(*) FROM inbox.peek('{TOPIC}', {}, 1, timeout => '1 min')",
                    round % 6
                ),
                format!(
                    "SELECT 1 / (count(*) = 0)::int FROM inbox.peek('{fresh}', 0, 0, timeout => '1 min')"
                ),
            ] {
                let done = client.execute(&sql, &[]);
                done.map_err(|error| anyhow::anyhow!("round {round}: {sql}: {error:?}"))?;
            }
            let all: Vec<i64> = (0..6).flat_map(|partition| [partition * 10, partition * 10 + 1]).collect();
            assert_eq!(until_numbers(&mut client, "s", all.len())?, all);
            client.execute("SELECT inbox.unsubscribe('s')", &[])?;
            round += 1;
        }
        rolling.join().expect("no panic")?;
        Ok(round)
    })?;
    assert!(rounds > 0);
    Ok(())
}

/// Creates a topic. While no controller answers, nobody knows whether it was created.
fn create(client: &mut Client, topic: &str) -> Result<()> {
    wait::until_ok("the topic to be created", DEADLINE * 2, || {
        let created = client.execute("SELECT outbox.create_topic($1, 1, 3)", &[&topic]);
        let exists = |error: &postgres::Error| error.code() == Some(&SqlState::DUPLICATE_OBJECT);
        Ok((created.is_ok() || created.as_ref().is_err_and(exists)).then_some(()))
    })
}

/// A broker that has not heard yet of a topic says that there is none.
#[test]
fn a_topic_that_is_just_being_created_is_found() -> Result<()> {
    let mut db = TestDatabase::new()?;
    // The relay has asked Kafka before.
    db.own_topic("before")?;
    db.client.execute("SELECT outbox.describe_topics(ARRAY['before'])", &[])?;
    for (number, sql) in [
        "SELECT inbox.subscribe('s', ARRAY[$1::text], 'latest')",
        "SELECT 1 / (count(*) = 0)::int FROM inbox.peek($1::text, 0, 0)",
        "SELECT 1 / (t.error IS NULL)::int FROM outbox.describe_topics(ARRAY[$1::text]) AS t",
    ]
    .into_iter()
    .enumerate()
    {
        let topic = db.topic(&format!("new{number}"));
        let mut asking = db.connect()?;
        let pid: i32 = asking.query_one("SELECT pg_backend_pid()", &[])?.get(0);
        let asked = {
            let topic = topic.clone();
            thread::spawn(move || asking.execute(sql, &[&topic]).map(drop))
        };
        until_asked(&mut db.client, pid)?;
        db.broker.create_topic(&topic, 1, &[])?;
        asked.join().expect("no panic").map_err(|error| anyhow::anyhow!("{sql}: {error:?}"))?;
    }
    Ok(())
}

/// Waits until a session has waited for Kafka for so long that it has had an answer, though not for as long as it doubts one.
fn until_asked(client: &mut Client, pid: i32) -> Result<()> {
    wait::until_ok("the session to wait for Kafka", DEADLINE, || {
        let sql = "SELECT FROM pg_stat_activity WHERE pid = $1 AND state = 'active' AND wait_event_type = 'Extension'
                      AND clock_timestamp() - query_start > '700 ms'";
        Ok(client.query_opt(sql, &[&pid])?.map(drop))
    })
}
