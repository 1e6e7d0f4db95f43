//! A topic that is deleted and created again while it is read. librdkafka reads nothing of the new one where its leader epochs
//! are lower than those of the old one, so each test raises these first.

use std::time::{Duration, Instant};

use event_outbox_lab::proxy::{NetworkState, Proxy};
use event_outbox_lab::{Broker, Producer, Result, ports, wait};
use postgres::Client;

use crate::support::database::DEADLINE;
use crate::support::inbox::{receive, until_numbers, until_received, until_stopped, while_disabled};
use crate::support::server::DedicatedServer;

const TOPIC: &str = "again";
const LISTENER: &str = "BEHIND";
const PARTITIONS: i32 = 3;

/// A broker, and a server that reaches it through a proxy.
struct Stage {
    broker: Broker,
    way: Proxy,
    dedicated: DedicatedServer,
    client: Client,
    /// The events of each partition of the topic as it is now, by their numbers.
    next: i64,
}

fn no_key(_: i64) -> Option<String> {
    None
}

impl Stage {
    /// Subscriptions that stop, and that go on at the beginning and at the end, have read 5 events of each partition.
    fn new() -> Result<Self> {
        let way = Proxy::listen(ports::free()?)?;
        let options = Broker::options().set("auto.create.topics.enable", "false");
        let mut broker = options.listener_behind(LISTENER, way.port()).start()?;
        way.forward_to(broker.port_of(LISTENER)?);
        broker.create_topic(TOPIC, PARTITIONS, &[])?;
        // Each restart raises the leader epochs of the topics.
        for _ in 0..2 {
            broker.restart()?;
        }
        let dedicated = DedicatedServer::start(&format!("127.0.0.1:{}", way.port()))?;
        let client = dedicated.connect()?;
        let mut stage = Self { broker, way, dedicated, client, next: 0 };
        for on_data_loss in ["stop", "earliest", "latest"] {
            stage.client.execute(
                "SELECT inbox.subscribe($1, ARRAY[$2], 'earliest', on_data_loss => $1)",
                &[&on_data_loss, &TOPIC],
            )?;
        }
        let sent = stage.send(PARTITIONS, 5)?;
        for subscription in ["stop", "earliest", "latest"] {
            assert_eq!(until_numbers(&mut stage.client, subscription, sent.len())?, sent);
        }
        let sql = "SELECT max(e) FROM inbox.progress AS p, unnest(p.leader_epochs) AS e";
        let epoch: Option<i32> = stage.client.query_one(sql, &[])?.get(0);
        assert!(epoch > Some(0), "the leader epochs are not raised: {epoch:?}");
        Ok(stage)
    }

    /// Sends as many events to each partition; returns their numbers.
    fn send(&mut self, partitions: i32, count: i64) -> Result<Vec<i64>> {
        let begin = self.next;
        // A producer of before knows the old topic.
        let producer = Producer::new(&self.broker.bootstrap_servers())?;
        for partition in 0..partitions {
            producer.send_numbers(TOPIC, partition, self.next..self.next + count, no_key)?;
            self.next += count;
        }
        Ok((begin..self.next).collect())
    }

    /// Deletes the topic and creates it with so many partitions; returns the numbers of the events that it has.
    fn recreate(&mut self, partitions: i32, count: i64) -> Result<Vec<i64>> {
        self.broker.delete_topic(TOPIC)?;
        self.create(partitions, count)
    }

    fn create(&mut self, partitions: i32, count: i64) -> Result<Vec<i64>> {
        // Kafka may still be deleting it.
        wait::until("the topic to be created", DEADLINE, || {
            self.broker.create_topic(TOPIC, partitions, &[]).ok()
        })?;
        self.send(partitions, count)
    }

    /// The new topic, which has these events, is received as each subscription says. Says how long it took.
    fn assert_received(&mut self, what: &str, sent: &[i64], partitions: i32) -> Result<()> {
        let began = Instant::now();
        assert_eq!(until_numbers(&mut self.client, "earliest", sent.len())?, sent, "{what}");
        println!("{what}: read from the beginning after {:?}", began.elapsed());
        for partition in 0..PARTITIONS {
            let (_, _, reason) = until_stopped(&mut self.client, TOPIC, partition)?;
            assert!(reason.contains("created again"), "{what}: {reason}");
        }
        println!("{what}: stopped after {:?}", began.elapsed());
        assert_eq!(receive(&mut self.client, "stop", 100)?, [], "{what}");
        // What it says is what to type.
        let sql = "SELECT hint FROM inbox.check() WHERE subject = 'partition' AND verdict = 'error'";
        let hints: Vec<String> = self.client.query(sql, &[])?.iter().map(|row| row.get(0)).collect();
        assert_eq!(hints.len(), usize::try_from(PARTITIONS)?, "{what}: {hints:?}");
        for hint in hints {
            self.client.batch_execute(hint.split_once(';').map_or(&hint, |(command, _)| command))?;
        }
        let began = Instant::now();
        assert_eq!(until_numbers(&mut self.client, "stop", sent.len())?, sent, "{what}");
        println!("{what}: read after the seek after {:?}", began.elapsed());
        self.assert_goes_on(what, partitions)
    }

    /// What is sent from now on is received by all, also by the one that goes on at the end.
    fn assert_goes_on(&mut self, what: &str, partitions: i32) -> Result<()> {
        // Where the end is not known yet, the next offset is far beyond it. Of partitions that do not exist there is no end.
        wait::until_ok("the end to be reached", DEADLINE, || {
            let sql = "SELECT max(next_offset) < 1000 AND bool_and(coalesce(to_store, 0) = 0) AND count(end_offset) = $1
                         FROM inbox.lag WHERE subscription = 'latest'";
            Ok(self.client.query_one(sql, &[&i64::from(partitions)])?.get::<_, bool>(0).then_some(()))
        })
        .map_err(|error| error.context(what.to_owned()))?;
        // What it met on its way to the end.
        let _ = receive(&mut self.client, "latest", 1000)?;
        let sent = self.send(partitions, 2)?;
        for subscription in ["latest", "earliest", "stop"] {
            assert_eq!(until_numbers(&mut self.client, subscription, sent.len())?, sent, "{what}");
        }
        Ok(())
    }
}

#[test]
fn a_topic_is_read_again_soon_after_it_was_created_again() -> Result<()> {
    let mut stage = Stage::new()?;
    let sent = stage.recreate(PARTITIONS, 3)?;
    stage.assert_received("shorter", &sent, PARTITIONS)?;
    let sent = stage.recreate(PARTITIONS, 40)?;
    stage.assert_received("longer", &sent, PARTITIONS)?;

    stage.broker.delete_topic(TOPIC)?;
    wait::until_ok("the missing topic to be noticed", DEADLINE * 3, || {
        let sql = "SELECT last_error LIKE '%Unknown topic%' FROM inbox.consumers WHERE database = current_database()";
        Ok(stage.client.query_one(sql, &[])?.get::<_, Option<bool>>(0).filter(|is_noticed| *is_noticed))
    })?;
    let sent = stage.create(PARTITIONS, 10)?;
    stage.assert_received("missing for a while", &sent, PARTITIONS)
}

#[test]
fn a_topic_created_again_several_times_is_read_as_it_is_last() -> Result<()> {
    let mut stage = Stage::new()?;
    for _ in 0..3 {
        stage.recreate(PARTITIONS, 20)?;
    }
    // What the earlier ones had may have been read or not.
    let sent = stage.recreate(PARTITIONS, 20)?;
    for partition in 0..PARTITIONS {
        until_stopped(&mut stage.client, TOPIC, partition)?;
    }
    let first = sent[0];
    let mut numbers: Vec<i64> = Vec::new();
    wait::until_ok("the last topic's events", DEADLINE, || {
        numbers.extend(receive(&mut stage.client, "earliest", 1000)?.iter().map(|event| event.number()));
        Ok((numbers.iter().filter(|number| **number >= first).count() >= sent.len()).then_some(()))
    })?;
    numbers.sort_unstable();
    let length = numbers.len();
    numbers.dedup();
    assert_eq!(length, numbers.len(), "none twice");
    assert!(numbers.ends_with(&sent), "{numbers:?}");
    stage.client.execute("SELECT inbox.seek('stop', 'earliest')", &[])?;
    assert_eq!(until_numbers(&mut stage.client, "stop", sent.len())?, sent);
    stage.assert_goes_on("several times", PARTITIONS)
}

#[test]
fn a_topic_created_again_with_fewer_partitions_is_read() -> Result<()> {
    let mut stage = Stage::new()?;
    let sent = stage.recreate(1, 10)?;
    stage.assert_received("fewer partitions", &sent, 1)?;
    let sql = "SELECT count(*) FROM inbox.check() WHERE subject = 'partition' AND verdict = 'warning'";
    let absent: i64 = stage.client.query_one(sql, &[])?.get(0);
    assert_eq!(absent, 3 * i64::from(PARTITIONS - 1));
    // Those that exist again are read from their beginning, by all.
    stage.broker.add_partitions(TOPIC, 2)?;
    let producer = Producer::new(&stage.broker.bootstrap_servers())?;
    producer.send_numbers(TOPIC, 1, 1000..1010, no_key)?;
    for subscription in ["stop", "earliest", "latest"] {
        let deadline = Instant::now() + Duration::from_secs(90);
        wait::until_ok("the added partition's events", deadline - Instant::now(), || {
            let sql =
                "SELECT next_offset = 10 FROM inbox.partitions WHERE subscription = $1 AND partition = 1";
            Ok(stage.client.query_one(sql, &[&subscription])?.get::<_, bool>(0).then_some(()))
        })?;
        let numbers: Vec<i64> =
            until_received(&mut stage.client, subscription, 10)?.iter().map(|event| event.number()).collect();
        assert_eq!(numbers, (1000..1010).collect::<Vec<_>>(), "{subscription}");
    }
    Ok(())
}

#[test]
fn a_topic_created_again_during_an_outage_is_read_after_it() -> Result<()> {
    let mut stage = Stage::new()?;
    stage.way.set_network(NetworkState::Refused);
    let sent = stage.recreate(PARTITIONS, 20)?;
    stage.way.set_network(NetworkState::Normal);
    stage.assert_received("during an outage", &sent, PARTITIONS)
}

/// Of the partitions of a topic that was created again, one is moved to the new topic before the worker has looked.
#[test]
fn a_seek_of_one_partition_does_not_hide_that_the_topic_is_another() -> Result<()> {
    let mut stage = Stage::new()?;
    let database = stage.dedicated.database.clone();
    let mut client = stage.dedicated.connect()?;
    let sent = while_disabled(&mut client, &database, |client| {
        let sent = stage.recreate(PARTITIONS, 20)?;
        client.execute("SELECT inbox.seek('stop', 'earliest', $1, 0)", &[&TOPIC])?;
        Ok(sent)
    })?;
    for partition in 1..PARTITIONS {
        until_stopped(&mut stage.client, TOPIC, partition)?;
    }
    assert_eq!(until_numbers(&mut stage.client, "stop", 20)?, sent[..20]);
    stage.client.execute("SELECT inbox.seek('stop', 'earliest')", &[])?;
    // The first partition is read again, too.
    assert_eq!(until_numbers(&mut stage.client, "stop", sent.len())?, sent);
    Ok(())
}
