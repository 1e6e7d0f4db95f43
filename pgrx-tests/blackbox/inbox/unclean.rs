//! A broker that lacked records became the leader, and its log has grown beyond the offset to read next.

use event_outbox_lab::{KafkaCluster, Producer, Result, wait};

use crate::support::database::DEADLINE;
use crate::support::inbox::{receive, until_no_lag, until_numbers, until_stopped, while_disabled};
use crate::support::server::DedicatedServer;
use crate::support::subscriptions::subscribe;

const TOPIC: &str = "unclean";

/// Offsets do not tell that the records are others: only the epochs of leaders do.
#[test]
fn a_truncation_is_noticed_though_the_new_log_is_longer() -> Result<()> {
    let mut brokers = KafkaCluster::start()?;
    let configs = [("unclean.leader.election.enable", "true"), ("min.insync.replicas", "1")];
    brokers.create_topic_on(TOPIC, 1, 2, &configs)?;
    brokers.until_in_sync()?;
    let leader = wait::until_ok("a leader", DEADLINE, || brokers.leader(TOPIC, 0))?;
    let replicas = brokers.replicas(TOPIC, 0)?;
    let follower = replicas.iter().find(|id| **id != leader).expect("two replicas");
    let (leader, follower) = (usize::try_from(leader)? - 1, usize::try_from(*follower)? - 1);

    let dedicated = DedicatedServer::start(&brokers.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let send = |brokers: &KafkaCluster, numbers| {
        Producer::new(&brokers.bootstrap_servers())?.send_numbers(TOPIC, 0, numbers, |_| None)
    };
    send(&brokers, 0..3)?;
    brokers.until_in_sync()?;
    subscribe(&mut client, "s", &[TOPIC], "earliest")?;
    client.execute(
        "SELECT inbox.subscribe('goes_on', ARRAY[$1], 'earliest', on_data_loss => 'earliest')",
        &[&TOPIC],
    )?;
    brokers.broker(follower).stop()?;
    send(&brokers, 3..10)?;
    for subscription in ["s", "goes_on"] {
        assert_eq!(until_numbers(&mut client, subscription, 10)?, (0..10).collect::<Vec<_>>());
    }

    while_disabled(&mut client, &dedicated.database, |_| {
        brokers.broker(leader).kill()?;
        // It has the first three records.
        brokers.broker(follower).start()?;
        wait::until("the other leader", DEADLINE, || {
            (brokers.leader(TOPIC, 0).ok()?? == i32::try_from(follower + 1).ok()?).then_some(())
        })?;
        send(&brokers, 100..120)?;
        brokers.start_all()
    })?;
    let (from, to, reason) = until_stopped(&mut client, TOPIC, 0)?;
    assert_eq!((from, to), (3, 10), "{reason}");
    assert!(reason.contains("lost the records from offset 3 to 9, which were read before"), "{reason}");
    assert_eq!(receive(&mut client, "s", 100)?, []);
    // What it has handled is not handled again.
    assert_eq!(until_numbers(&mut client, "goes_on", 20)?, (100..120).collect::<Vec<_>>());
    until_no_lag(&mut client, "goes_on")?;
    let sql = "SELECT hint FROM inbox.check() WHERE subject = 'partition' AND verdict = 'error'";
    let hint: String = client.query_one(sql, &[])?.get(0);
    client.batch_execute(hint.split_once(';').map_or(&hint, |(command, _)| command))?;
    assert_eq!(until_numbers(&mut client, "s", 20)?, (100..120).collect::<Vec<_>>());
    // The records after the election are those that are read on.
    let database = dedicated.database.clone();
    while_disabled(&mut client, &database, |_| send(&brokers, 120..125))?;
    for subscription in ["s", "goes_on"] {
        assert_eq!(until_numbers(&mut client, subscription, 5)?, (120..125).collect::<Vec<_>>());
    }
    Ok(())
}
