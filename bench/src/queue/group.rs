//! A consumer group. Each session is a member: it handles records, commits their rows, and then their offsets.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use postgres::{Client, Statement};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use super::{Queue, Session, backend_of};
use crate::events::Load;
use crate::stage::{PEERS, Stage};

const POLL: Duration = Duration::from_millis(100);

/// After a rebalance a record can come twice.
const TABLE: &str = "DROP TABLE IF EXISTS worked; CREATE TABLE worked (id bigint PRIMARY KEY)";
const INSERT: &str = "INSERT INTO worked (id) SELECT unnest($1::bigint[]) ON CONFLICT DO NOTHING";

/// The group; each run has a name of its own.
pub struct Group<'a> {
    stage: &'a Stage,
    client: Client,
    topic: &'static str,
    work: Duration,
    runs: usize,
}

impl<'a> Group<'a> {
    /// The contender. Its topic has one partition, and each record takes this long.
    pub fn new(stage: &'a Stage, topic: &'static str, work: Duration) -> Result<Self> {
        Ok(Self { stage, client: stage.connect(PEERS)?, topic, work, runs: 0 })
    }
}

impl Queue for Group<'_> {
    fn name(&self) -> &'static str {
        "group"
    }

    fn fill(&mut self, _: &Load) -> Result<()> {
        self.runs += 1;
        Ok(self.client.batch_execute(TABLE)?)
    }

    fn session(&self) -> Result<Box<dyn Session>> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.stage.bootstrap_servers())
            .set("group.id", format!("inbox-work-{}", self.runs))
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "false")
            .set("log_level", "0")
            .create()?;
        consumer.subscribe(&[self.topic])?;
        let mut client = self.stage.connect(PEERS)?;
        let (backend, insert) = (backend_of(&mut client)?, client.prepare(INSERT)?);
        Ok(Box::new(Member { consumer, client, insert, work: self.work, backend }))
    }

    fn empty(&mut self) -> Result<()> {
        Ok(self.client.batch_execute(TABLE)?)
    }
}

struct Member {
    consumer: BaseConsumer,
    client: Client,
    insert: Statement,
    work: Duration,
    backend: u32,
}

impl Session for Member {
    fn take(&mut self, most: i32) -> Result<Vec<i64>> {
        let mut offsets = Vec::new();
        let mut next = TopicPartitionList::new();
        while offsets.len() < usize::try_from(most)? {
            let wait = if offsets.is_empty() { POLL } else { Duration::ZERO };
            let Some(record) = self.consumer.poll(wait) else { break };
            let record = record?;
            sleep(self.work);
            offsets.push(record.offset());
            next = TopicPartitionList::new();
            let after = Offset::Offset(record.offset() + 1);
            next.add_partition_offset(record.topic(), record.partition(), after)?;
        }
        if !offsets.is_empty() {
            self.client.execute(&self.insert, &[&offsets])?;
            self.consumer.commit(&next, CommitMode::Async).context("commit of offsets")?;
        }
        Ok(offsets)
    }

    fn backend(&self) -> u32 {
        self.backend
    }
}
