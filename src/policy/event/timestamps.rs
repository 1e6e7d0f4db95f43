//! Chooses a record's timestamp: the time of the event, or the present if its topic does not accept that time.
//!
//! A topic can refuse records that are too old (`message.timestamp.before.max.ms`), as events become in a long outage, or
//! too far ahead (`message.timestamp.after.max.ms`), as those of a wrong clock are. The relay learns these limits from
//! refusals: after each one it takes half of the refused deviation for the limit, so a few refusals find it for all events.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

/// A time or a duration in microseconds.
pub type Micros = i64;

/// How long a topic's limits are remembered after the last refusal. After that time they may have been changed.
const REMEMBERED: Micros = 3_600_000_000;

/// The number of topics whose limits are remembered.
const MAX_TOPICS: usize = 10_000;

/// The limits that the topics' refusals have shown.
#[derive(Debug, Default)]
pub struct Timestamps {
    topics: HashMap<Arc<str>, Limits, RandomState>,
}

/// The deviations from the present from which on a topic refuses records.
#[derive(Debug, Clone, Copy)]
struct Limits {
    behind: Micros,
    ahead: Micros,
    since: Micros,
}

impl Timestamps {
    /// The timestamp of an event's record. `is_refused` says whether the event was refused because of its time.
    #[must_use]
    pub fn record_time(&self, topic: &str, emitted_at: Micros, is_refused: bool, now: Micros) -> Micros {
        if is_refused {
            return now;
        }
        let Some(limits) = self.topics.get(topic).filter(|limits| now - limits.since <= REMEMBERED) else {
            return emitted_at;
        };
        let age = now.saturating_sub(emitted_at);
        if age >= limits.behind || age.saturating_neg() >= limits.ahead { now } else { emitted_at }
    }

    /// Notes that a topic has refused a record with this timestamp. If a batch was refused, this is its timestamp farthest
    /// from the present.
    pub fn refused(&mut self, topic: &Arc<str>, record_time: Micros, now: Micros) {
        if self.topics.len() >= MAX_TOPICS && !self.topics.contains_key(topic) {
            self.topics.clear();
        }
        let none = Limits { behind: Micros::MAX, ahead: Micros::MAX, since: now };
        let limits = self.topics.entry(topic.clone()).or_insert(none);
        if now - limits.since > REMEMBERED {
            *limits = none;
        }
        limits.since = now;
        let age = now.saturating_sub(record_time);
        if age >= 0 {
            limits.behind = limits.behind.min(age / 2);
        } else {
            limits.ahead = limits.ahead.min(age.saturating_neg() / 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: Micros = 3_600_000_000;
    const NOW: Micros = 1_000_000 * HOUR;

    #[test]
    fn events_older_than_half_of_a_refused_age_get_the_present_time() {
        let (mut timestamps, topic) = (Timestamps::default(), Arc::from("t"));
        let time = |timestamps: &Timestamps, hours: i64| {
            timestamps.record_time("t", NOW - hours * HOUR, false, NOW) == NOW
        };
        assert!(!time(&timestamps, 48));
        timestamps.refused(&topic, NOW - 48 * HOUR, NOW);
        assert!(time(&timestamps, 48) && time(&timestamps, 24) && !time(&timestamps, 23));
        assert!(!time(&timestamps, -1000), "the future is another limit");
        timestamps.refused(&topic, NOW + 10 * HOUR, NOW);
        assert!(time(&timestamps, -5) && !time(&timestamps, -4) && !time(&timestamps, 23));
        assert_eq!(timestamps.record_time("other", NOW - 48 * HOUR, false, NOW), NOW - 48 * HOUR);
        assert_eq!(timestamps.record_time("other", NOW - 48 * HOUR, true, NOW), NOW);
        let later = NOW + REMEMBERED + 1;
        assert_eq!(timestamps.record_time("t", NOW - 48 * HOUR, false, later), NOW - 48 * HOUR);
    }

    proptest! {
        /// Whatever a topic accepts, and in whatever order events come, a few refusals find the limits.
        #[test]
        fn few_are_refused(
            limit in 1_000_000..HOUR * 1000, ages in prop::collection::vec(-HOUR * 9000..HOUR * 9000, 1..500),
        ) {
            let (mut timestamps, topic) = (Timestamps::default(), Arc::from("t"));
            let mut refused = 0;
            for age in ages {
                let time = timestamps.record_time("t", NOW - age, false, NOW);
                if (NOW - time).abs() > limit {
                    timestamps.refused(&topic, time, NOW);
                    refused += 1;
                }
            }
            prop_assert!(refused <= 2 * 50, "{}", refused);
        }
    }
}
