//! Topics that are deleted, and topics that are created late.

use std::sync::{Arc, PoisonError, RwLockWriteGuard};
use std::time::Duration;

use anyhow::Result;

use crate::evidence::Seen;
use crate::stage::Stage;
use crate::topics::{self, LOST, PARTITIONS, VOLATILE};
use event_outbox_lab::{Consumer, wait};

const DEADLINE: Duration = Duration::from_secs(90);
/// How long to wait for a refusal while a topic is missing: perhaps nobody writes to it.
const REFUSAL: Duration = Duration::from_secs(5);

const IS_EMPTY: &str = "SELECT NOT EXISTS (SELECT FROM outbox.events WHERE topic = $1)";
const IS_REFUSED: &str = "SELECT EXISTS (SELECT FROM outbox.events WHERE topic = $1 AND attempts > 0)";
const NONE_IS_REFUSED: &str =
    "SELECT NOT EXISTS (SELECT FROM outbox.events WHERE topic = $1 AND attempts > 0)";
const IS_OVER: &str = "SELECT NOT EXISTS (SELECT FROM outbox.events WHERE topic = $1) \
                          AND NOT EXISTS (SELECT FROM outbox.dead_letters WHERE topic = $1)";
const REDRIVE: &str = "SELECT outbox.redrive(topic => $1)";

impl Stage {
    /// Archives the topic and deletes it. Events that are emitted while it is missing wait, and keep their order.
    /// `is_missed`: it stays missing until the relay has had a refusal.
    pub(super) fn delete_topic(&mut self, is_missed: bool) -> Result<()> {
        let topic = topics::names()[VOLATILE].clone();
        let shared = Arc::clone(&self.shared);
        let nobody_writes = shared.volatile.write().unwrap_or_else(PoisonError::into_inner);
        self.until("all of a topic to be published", DEADLINE, IS_EMPTY, &topic)?;
        let before = self.archive.len();
        self.archive(VOLATILE)?;
        // What is not stored when the topic is deleted is lost to the inbox.
        if let Some(receivers) = &self.receivers {
            let ends: Vec<(i32, i64)> =
                self.archive[before..].iter().map(|record| (record.partition, record.offset + 1)).collect();
            receivers.await_stored(&self.cluster, &topic, &ends)?;
        }
        // No event may die while the topic is missing.
        self.configure("event_outbox.max_attempts", "1000")?;
        // By then the relay has the setting, and the listener has its notifications.
        self.hold(500, 800);
        let deleted = self.delete_and_create(&topic, nobody_writes, is_missed);
        self.configure("event_outbox.max_attempts", "4")?;
        deleted
    }

    fn delete_and_create(
        &mut self,
        topic: &str,
        nobody_writes: RwLockWriteGuard<'_, ()>,
        is_missed: bool,
    ) -> Result<()> {
        let cluster = self.real()?;
        cluster.delete_topic(topic)?;
        // A broker that does not know of the deletion yet would accept events and delete them.
        wait::until("all brokers to know", DEADLINE, || {
            cluster.brokers().iter().all(|broker| broker.has_topic(topic).is_ok_and(|has| !has)).then_some(())
        })?;
        self.next_generation(VOLATILE);
        if is_missed {
            drop(nobody_writes);
            // A topic that nobody needed meanwhile makes a weaker fault, not a wrong one.
            let _ = self.until("a refusal", REFUSAL, IS_REFUSED, topic);
            self.hold(0, 1000);
        }
        self.create(topic)?;
        self.until("what was refused to be published", DEADLINE, NONE_IS_REFUSED, topic)
    }

    /// Keeps the records of a topic.
    pub fn archive(&mut self, topic: usize) -> Result<()> {
        let generation = self.generations[topic].load(std::sync::atomic::Ordering::Relaxed);
        let name = topics::names()[topic].clone();
        let servers = self.real()?.bootstrap_servers();
        let archive = &mut self.archive;
        Consumer::visit_all(&servers, &[&name], |record| {
            archive.push(Seen::of(&record, topic, generation, None));
        })
    }

    /// Kafka may still be deleting a topic that it has reported as deleted.
    fn create(&mut self, topic: &str) -> Result<()> {
        let kafka = &self.kafka;
        wait::until("a topic to be created", DEADLINE, || kafka.create_topic(topic, PARTITIONS, &[]).ok())
    }

    /// Creates the topic that is missing, once all events for it are dead, and redrives them.
    pub(super) fn create_late(&mut self) -> Result<()> {
        let number = {
            let mut created = self.shared.created.write().unwrap_or_else(PoisonError::into_inner);
            if *created + 1 >= LOST {
                return Ok(());
            }
            *created += 1;
            topics::lost(*created - 1)
        };
        let topic = topics::names()[number].clone();
        self.until("all of a missing topic to be dead", DEADLINE, IS_EMPTY, &topic)?;
        self.create(&topic)?;
        self.created_late.insert(number);
        let mut client = self.connect()?;
        // The producer may not know the topic yet: some events die again.
        wait::until_ok("the dead to be published", DEADLINE, || {
            client.execute(REDRIVE, &[&topic])?;
            Ok(client.query_one(IS_OVER, &[&topic])?.get::<_, bool>(0).then_some(()))
        })
    }
}
