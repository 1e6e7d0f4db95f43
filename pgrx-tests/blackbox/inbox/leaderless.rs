//! A partition has no leader, because all brokers with its replicas are down: the status says so, and the others are read.

use event_outbox_lab::{Cluster, KafkaCluster, Producer, Result, wait};
use postgres::Client;

use crate::support::database::DEADLINE;
use crate::support::inbox::{until_consumer, until_no_lag, until_numbers};
use crate::support::server::DedicatedServer;
use crate::support::subscriptions::{refusal, subscribe};

const TOPIC: &str = "leaderless";

/// The partitions by the broker that has them, of which there are more than one.
fn placed(brokers: &KafkaCluster) -> Result<(i32, i32)> {
    let leader = |partition| wait::until_ok("a leader", DEADLINE, || brokers.leader(TOPIC, partition));
    // Kafka spreads partitions of one replica over the brokers.
    let (first, second) = (leader(0)?, leader(1)?);
    assert_ne!(first, second, "both partitions are on one broker");
    Ok((first, second))
}

fn send(brokers: &KafkaCluster, partition: i32, numbers: std::ops::Range<i64>) -> Result<Vec<i64>> {
    Producer::new(&brokers.bootstrap_servers())?.send_numbers(TOPIC, partition, numbers.clone(), |_| None)?;
    Ok(numbers.collect())
}

/// What `inbox.lag` says of a partition: whether the end is known, and why not.
fn lag(client: &mut Client, partition: i32) -> Result<(bool, String)> {
    let sql = "SELECT end_offset IS NOT NULL, coalesce(error, '') FROM inbox.lag WHERE subscription = 's' AND partition = $1";
    let row = client.query_one(sql, &[&partition])?;
    Ok((row.get(0), row.get(1)))
}

#[test]
fn a_partition_without_a_leader_is_named_and_delays_no_other() -> Result<()> {
    let mut brokers = KafkaCluster::start()?;
    brokers.create_topic_on(TOPIC, 2, 1, &[])?;
    let (_, second) = placed(&brokers)?;
    let options = Cluster::options("leaderless");
    let dedicated = DedicatedServer::with(options, &brokers.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    subscribe(&mut client, "s", &[TOPIC], "earliest")?;
    let mut sent = send(&brokers, 0, 0..10)?;
    sent.extend(send(&brokers, 1, 10..20)?);
    assert_eq!(until_numbers(&mut client, "s", sent.len())?, sent);
    until_no_lag(&mut client, "s")?;

    let place = usize::try_from(second)? - 1;
    brokers.broker(place).kill()?;
    let since = "SELECT clock_timestamp()::text";
    let killed: String = client.query_one(since, &[])?.get(0);
    wait::until("the leader to be gone", DEADLINE, || {
        brokers.leader(TOPIC, 1).is_ok_and(|leader| leader.is_none()).then_some(())
    })?;
    let error = until_consumer(&mut client, "waiting")?;
    assert!(error.contains("\"s\" waits: partition 1 of topic \"leaderless\" has no leader"), "{error}");
    // The status has it at once, the log when the worker has done what it was about.
    wait::until("the log to say so", DEADLINE, || dedicated.server.log().contains(&error).then_some(()))?;
    let row = client.query_one(
        "SELECT connection, recovered_at IS NULL, state_since > $1::text::timestamptz, last_error_at > $1::text::timestamptz
           FROM inbox.consumers WHERE database = current_database()",
        &[&killed],
    )?;
    assert_eq!(row.get::<_, &str>(0), "connected");
    assert!(row.get::<_, bool>(1) && row.get::<_, bool>(2) && row.get::<_, bool>(3), "{row:?}");

    // The other partition is read, and its end is known.
    let more = send(&brokers, 0, 20..30)?;
    assert_eq!(until_numbers(&mut client, "s", more.len())?, more);
    assert_eq!(lag(&mut client, 0)?, (true, String::new()));
    assert_eq!(lag(&mut client, 1)?, (false, "the partition has no leader".into()));
    let row = client.query_one(
        "SELECT string_agg(finding, ' '), count(hint), count(*) FROM inbox.check()
          WHERE verdict = 'error' AND subject IN ('worker', 'topic')",
        &[],
    )?;
    assert!(row.get::<_, &str>(0).contains("partition 1: the partition has no leader"), "{row:?}");
    assert_eq!((row.get::<_, i64>(1), row.get::<_, i64>(2)), (2, 2), "{row:?}");
    for sql in [
        "SELECT inbox.subscribe('t', '{leaderless}', 'earliest')",
        "SELECT inbox.peek('leaderless', 1, 10, 1)",
    ] {
        let refused = client.batch_execute(sql).expect_err(sql);
        let refused = refused.as_db_error().unwrap_or_else(|| panic!("{sql}: {refused}"));
        assert!(
            refused.detail().is_some_and(|detail| detail.contains("has no leader")),
            "{sql}: {refused:?}"
        );
        assert_ne!(refusal(&mut client, sql), "08006", "{sql}");
    }
    assert!(!dedicated.server.log().contains("another one takes its place"), "the consumer was replaced");

    brokers.broker(place).start()?;
    let last = send(&brokers, 1, 30..40)?;
    assert_eq!(until_numbers(&mut client, "s", last.len())?, last);
    until_no_lag(&mut client, "s")?;
    until_consumer(&mut client, "idle")?;
    let is_over = "SELECT recovered_at IS NOT NULL FROM inbox.consumers WHERE database = current_database()";
    wait::until_ok("the error to be over", DEADLINE, || {
        Ok(client.query_one(is_over, &[])?.get::<_, bool>(0).then_some(()))
    })
}
