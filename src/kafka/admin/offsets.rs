//! Lists the offsets of all partitions of topics.
//!
//! Runs in: the thread of the request.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use event_outbox_policy::kafka::admin::{ListedOffset, OffsetAt, OffsetsOf};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::patience::Trust;
use super::{Admin, Failed};
use crate::kafka::offsets::{self, At};
use crate::kafka::probe::query_any_broker;
use crate::kafka::topics::{self, FoundTopic};

/// The leaders of how many topics are looked up at a time, one after the other.
const MOST_LOOKED_UP: usize = 8;

type Offsets = HashMap<(String, i32), Result<Option<i64>, Code>>;

impl Admin<'_> {
    pub(super) fn list_offsets(&self, of: &OffsetsOf) -> Result<Vec<ListedOffset>, Failed> {
        self.patience.retry_until_answered(|timeout| query_any_broker(self.client.inner(), timeout))?;
        let mut names: BTreeSet<String> = of.topics.iter().cloned().collect();
        if let Some(pattern) = &of.pattern {
            let client = self.client.inner();
            names.extend(
                self.patience.retry_until_answered(|timeout| topics::matching(client, pattern, timeout))?,
            );
        }
        let names: Vec<String> = names.into_iter().collect();
        let (found, missing) = self.patience.describe(self.client.inner(), &names)?;
        // librdkafka would wait for the leaders of all, and tell of none.
        let partitions: Vec<(String, i32)> = found.iter().flat_map(led_partitions_of).collect();
        let (low, high) = (self.offsets(&partitions, At::Earliest)?, self.offsets(&partitions, At::Latest)?);
        let end = self.offsets(&partitions, At::End)?;
        let at_time = match of.at {
            OffsetAt::TimestampMs(millis) => Some(self.offsets(&partitions, At::Timestamp(millis))?),
            OffsetAt::Earliest | OffsetAt::Latest => None,
        };
        let listed = found.iter().flat_map(|topic| partitions_of(topic).map(move |key| (topic, key)));
        let mut listed: Vec<ListedOffset> = listed
            .map(|(topic, key)| {
                let (low, high, end) = (low.get(&key), high.get(&key), end.get(&key));
                let offset = match of.at {
                    OffsetAt::Earliest => low,
                    OffsetAt::Latest => high,
                    // A time after the last record has no offset of its own.
                    OffsetAt::TimestampMs(_) => {
                        let at_time = at_time.as_ref().and_then(|offsets| offsets.get(&key));
                        at_time.filter(|offset| !matches!(offset, Ok(None))).or(high)
                    }
                };
                let known = |offset: Option<&Result<Option<i64>, Code>>| {
                    offset.and_then(|offset| offset.ok().flatten())
                };
                let error = [low, high, offset].into_iter().flatten().find_map(|offset| offset.err());
                let is_leaderless = topic.leaderless.contains(&key.1);
                ListedOffset {
                    topic: key.0,
                    topic_id: topic.id.clone(),
                    partition: Some(key.1),
                    offset: known(offset),
                    low: known(low),
                    high: known(high),
                    uncommitted: known(end)
                        .zip(known(high))
                        .map(|(end, high)| end - high)
                        .filter(|count| *count > 0),
                    error: if is_leaderless {
                        Some("the partition has no leader".into())
                    } else {
                        error.map(|code| code.to_string())
                    },
                }
            })
            .collect();
        listed.extend(missing.into_iter().map(|(topic, error)| ListedOffset {
            topic,
            error: Some(error.to_string()),
            ..ListedOffset::default()
        }));
        Ok(listed)
    }

    fn offsets(&self, partitions: &[(String, i32)], at: At) -> Result<Offsets, Failed> {
        let ask = |timeout| {
            let listed = offsets::list(self.client.inner(), partitions, at, timeout)?;
            let found: Offsets =
                listed.into_iter().map(|found| ((found.topic, found.partition), found.offset)).collect();
            self.look_up_leaders(&found, timeout);
            // Of a partition that has just been created, an answer can lack the offset. A time after the last record has none.
            let is_told = |key| match found.get(key) {
                Some(Ok(None)) => matches!(at, At::Timestamp(_)),
                told => told.is_some(),
            };
            let is_whole = partitions.iter().all(is_told);
            if is_whole { Ok(found) } else { Err(KafkaError::OffsetFetch(Code::OperationTimedOut)) }
        };
        // The partitions exist, so a leader that does not know one has not heard of it yet.
        let trust = |found: &Offsets| match Trust::of(found.values().filter_map(|offset| offset.err())) {
            Trust::Final => Trust::Final,
            Trust::ForNow | Trust::NotAtFirst | Trust::NotInAHurry => Trust::ForNow,
        };
        self.patience.retry_until_trusted(ask, trust)
    }

    /// Looks up the leaders that do not go by the epoch any more by which they were asked. librdkafka does that for other errors
    /// of a leader, but after these it goes on with what it knows.
    fn look_up_leaders(&self, found: &Offsets, timeout: Duration) {
        let is_over = |offset: &Result<_, Code>| {
            matches!(offset, Err(Code::FencedLeaderEpoch | Code::UnknownLeaderEpoch))
        };
        let topics: BTreeSet<&str> =
            found.iter().filter(|(_, offset)| is_over(offset)).map(|((topic, _), _)| &**topic).collect();
        // What remains is looked up after the next answer.
        for topic in topics.into_iter().take(MOST_LOOKED_UP) {
            // If Kafka does not tell the leaders now, the next answer is the same as this.
            let _ = self.client.inner().fetch_metadata(Some(topic), timeout);
        }
    }
}

fn partitions_of(topic: &FoundTopic) -> impl Iterator<Item = (String, i32)> + '_ {
    (0..topic.partitions).map(|partition| (topic.topic.clone(), partition))
}

fn led_partitions_of(topic: &FoundTopic) -> impl Iterator<Item = (String, i32)> + '_ {
    partitions_of(topic).filter(|(_, partition)| !topic.leaderless.contains(partition))
}

#[cfg(any(test, feature = "pg_test"))]
#[allow(clippy::unwrap_used, missing_docs)]
#[pgrx::pg_schema]
mod tests {
    use std::sync::Once;
    use std::time::Duration;

    use pgrx::prelude::*;
    use rdkafka::config::ClientConfig;
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::super::patience::Patience;
    use super::{Admin, At};

    /// The client asks a leader by an epoch that is over. Left to itself, librdkafka would do so until it looks up all leaders
    /// again, after minutes.
    #[pg_test]
    fn offsets_are_listed_though_the_leader_has_a_new_epoch() {
        const TOPIC: &str = "elected";
        let brokers = MockCluster::new(1).unwrap();
        brokers.create_topic(TOPIC, 1, 1).unwrap();
        // The client has looked up the leader when it is asked to repeat the question.
        let for_now = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE;
        brokers.request_errors(RDKafkaApiKey::ListOffsets, &[for_now]);
        let election = Once::new();
        let elect_again = || {
            election.call_once(|| brokers.partition_leader(TOPIC, 0, Some(1)).unwrap());
            true
        };
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers.bootstrap_servers());
        let patience = Patience::new(Duration::from_secs(10), &elect_again);
        let admin = Admin::open(&config, patience).ok().unwrap();
        let found = admin.offsets(&[(TOPIC.into(), 0)], At::Latest).ok().unwrap();
        assert_eq!(found[&(TOPIC.to_owned(), 0)], Ok(Some(0)));
    }
}
