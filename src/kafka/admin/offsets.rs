//! Lists the offsets of all partitions of topics.
//!
//! Runs in: the thread of the request.

use std::collections::{BTreeSet, HashMap};

use event_outbox_policy::kafka::admin::{ListedOffset, OffsetAt, OffsetsOf};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::patience::Trust;
use super::{Admin, Failed};
use crate::kafka::offsets::{self, At};
use crate::kafka::probe::query_any_broker;
use crate::kafka::topics::{self, FoundTopic};

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
        let at_time = match of.at {
            OffsetAt::TimestampMs(millis) => Some(self.offsets(&partitions, At::Timestamp(millis))?),
            OffsetAt::Earliest | OffsetAt::Latest => None,
        };
        let listed = found.iter().flat_map(|topic| partitions_of(topic).map(move |key| (topic, key)));
        let mut listed: Vec<ListedOffset> = listed
            .map(|(topic, key)| {
                let (low, high) = (low.get(&key), high.get(&key));
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
}

fn partitions_of(topic: &FoundTopic) -> impl Iterator<Item = (String, i32)> + '_ {
    (0..topic.partitions).map(|partition| (topic.topic.clone(), partition))
}

fn led_partitions_of(topic: &FoundTopic) -> impl Iterator<Item = (String, i32)> + '_ {
    partitions_of(topic).filter(|(_, partition)| !topic.leaderless.contains(partition))
}
