//! Faults of transactions of Kafka, and of the topic by which relays know what was published.

use std::time::Duration;

use anyhow::Result;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use uuid::Uuid;

use crate::kafka::{PROGRESS, TRANSACTION_TIMEOUT};
use crate::stage::Stage;
use event_outbox_lab::proxy::NetworkState;
use event_outbox_lab::{Broker, Consumer, wait};

const DEADLINE: Duration = Duration::from_secs(90);

/// The failpoint between the last answer of Kafka and the request to commit. The pause is long enough to do something to Kafka
/// before that request.
const IN_COMMIT: (&str, &str) = ("before_commit", "pause 300");

/// A topic with fewer records is not worth compacting.
const WORTH_COMPACTING: usize = 50;

/// The version of a claim's form, and a number: see `src/policy/delivery/marker.rs`.
const VERSION: u8 = 1;
const SERIAL: u8 = 1;

impl Stage {
    fn strike_in_commit(&self) -> Result<()> {
        let (point, action) = IN_COMMIT;
        self.strike_at(point, action)
    }

    /// The request to commit comes to brokers that die.
    pub(super) fn kill_kafka_in_commit(&mut self) -> Result<()> {
        self.strike_in_commit()?;
        // Before the request, while it is answered, or after it.
        self.hold(200, 400);
        self.end_kafka(Broker::kill)
    }

    /// The request to commit waits in a connection for longer than a transaction may last.
    pub(super) fn freeze_kafka_in_commit(&mut self) -> Result<()> {
        self.strike_in_commit()?;
        for broker in self.real()?.brokers() {
            broker.pause()?;
        }
        let millis = TRANSACTION_TIMEOUT.as_millis() as usize;
        self.hold(millis, millis + 4_000);
        for broker in self.real()?.brokers() {
            broker.resume()?;
        }
        self.until_brokers_answer()
    }

    /// Kafka commits, and its answers are lost for longer than a transaction may last.
    pub(super) fn lose_commit(&mut self) -> Result<()> {
        self.strike_in_commit()?;
        self.kafka.proxies().for_each(|proxy| proxy.set_network(NetworkState::NoAnswers));
        let millis = TRANSACTION_TIMEOUT.as_millis() as usize;
        self.hold(millis + 1_000, millis + 4_000);
        self.kafka.proxies().for_each(|proxy| proxy.set_network(NetworkState::Normal));
        Ok(())
    }

    /// Another relay with the same place fences one of this relay's producers: one that says nothing, or one that claims the
    /// outbox.
    pub(super) fn fence(&mut self) -> Result<()> {
        let sql = "SELECT system_identifier, oid FROM pg_control_system(), pg_database WHERE datname = current_database()";
        let row = self.connect()?.query_one(sql, &[])?;
        let place = format!("{}-{}", row.get::<_, i64>(0).cast_unsigned(), row.get::<_, u32>(1));
        let which = *self.random.one_of(&["", "-2"]);
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", self.real()?.bootstrap_servers())
            .set("transactional.id", format!("event_outbox-{place}{which}"))
            .create()?;
        producer.init_transactions(DEADLINE)?;
        if self.random.permille(500) {
            let key = format!("{}/1/claim", place.replace('-', "/"));
            let value =
                [&[VERSION], &Uuid::from_u128(u128::from(self.random.bits())).into_bytes()[..], &[SERIAL]]
                    .concat();
            producer.begin_transaction()?;
            let record = BaseRecord::to(PROGRESS).partition(0).key(&key).payload(&value);
            producer.send(record).map_err(|(error, _)| error)?;
            producer.commit_transaction(DEADLINE)?;
        }
        Ok(())
    }

    /// Deletes the topic by which relays that deliver exactly once know what was published. The relay lives, and creates it
    /// again.
    pub(super) fn delete_progress(&mut self) -> Result<()> {
        // What is deleted from the table must be on disk: after a crash nobody would know that it was published.
        self.recover()?;
        self.hold(500, 800);
        let cluster = self.real()?;
        if cluster.brokers().iter().any(|broker| broker.has_topic(PROGRESS).unwrap_or(false)) {
            cluster.delete_topic(PROGRESS)?;
        }
        Ok(())
    }

    /// The same, but somebody else creates it.
    pub(super) fn recreate_progress(&mut self) -> Result<()> {
        self.delete_progress()?;
        // The relay may be faster.
        let kafka = &self.kafka;
        wait::until("the progress topic to be there", DEADLINE, || {
            let made = kafka.create_progress().is_ok();
            (made || kafka.has_progress()).then_some(())
        })
    }

    /// Kafka compacts the topic. The next relay reads what is left.
    pub(super) fn compact_progress(&mut self) -> Result<()> {
        self.recover()?;
        let servers = self.real()?.bootstrap_servers();
        self.kafka.compact_progress_soon()?;
        wait::until_ok("the progress topic to be compacted", DEADLINE, || {
            // Only what is in a full segment is compacted, and the next record begins another.
            self.recover()?;
            let (mut count, mut end) = (0, 0);
            Consumer::visit_all(&servers, &[PROGRESS], |record| {
                count += 1;
                end = record.offset as usize;
            })?;
            // Each marker has a record beside it that ends its transaction.
            Ok((count * 5 < end || end < WORTH_COMPACTING).then_some(()))
        })?;
        self.kill_relay()
    }
}
