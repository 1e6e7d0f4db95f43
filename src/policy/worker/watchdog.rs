//! Detects a producer that makes no progress, whatever the cause.
//!
//! A producer can be stuck silently: it has lost its brokers, or holds outdated metadata. From the inside this looks
//! like an outage. A fresh client can tell the two apart. So when no delivery report of some topic has arrived for a
//! while, a fresh client asks Kafka about the topic. If Kafka is unhealthy, the events wait, and the problem is reported.
//! If Kafka is healthy, and still is after a grace period, and still no report has arrived, the producer is replaced.
//! Each time this does not help, the next replacement comes later.
//!
//! The reports of a partition arrive in the order in which its events were produced. So of a topic's events in flight,
//! the one that was produced first stays the same if, and only if, no report of its partition arrives.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;

use crate::backoff::Doubling;

/// A topic may be silent for this long before Kafka is asked about it.
const MAX_SILENCE: Duration = Duration::from_secs(15);

/// How long Kafka must have been healthy before the producer should have noticed.
const GRACE: Duration = Duration::from_secs(12);

/// The first and the longest time between two probes of Kafka, and between two replacements of the producer.
const PROBE_INTERVAL: (Duration, Duration) = (GRACE, Duration::from_secs(120));
const RENEWAL_INTERVAL: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(900));

/// How often to check whether reports have arrived.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// How many topics one probe covers.
const MAX_TOPICS: usize = 50;

/// What is silent: a topic, or with `None` the producer as a whole, which finds no broker.
pub type Subject = Option<Arc<str>>;

/// The state of a subject as Kafka reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Kafka should accept events.
    Healthy,
    /// Kafka cannot accept events, for this reason.
    Unhealthy(String),
    /// No broker answered.
    Unknown,
}

/// What a probe has found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Problems of topics that were not known yet.
    pub new_problems: Vec<(Arc<str>, String)>,
    /// The subject that is silent although Kafka is healthy, and for how long. The producer must be replaced.
    pub stuck: Option<(Subject, Duration)>,
}

/// The oldest event in flight of a subject.
#[derive(Debug)]
struct Wait {
    /// Its position among all events that were produced.
    place: u64,
    since: Duration,
    /// Since when Kafka is known to be healthy.
    healthy_since: Option<Duration>,
    problem: Option<String>,
}

/// Tracks which subjects are silent, and since when. Times come from a monotonic clock.
#[derive(Debug)]
pub struct Watchdog {
    waits: HashMap<Subject, Wait, RandomState>,
    next_check: Duration,
    next_probe: Duration,
    probe_interval: Doubling,
    next_renewal: Duration,
    renewal_interval: Doubling,
}

impl Default for Watchdog {
    fn default() -> Self {
        Self {
            waits: HashMap::default(),
            next_check: Duration::ZERO,
            next_probe: Duration::ZERO,
            probe_interval: Doubling::new(PROBE_INTERVAL.0, PROBE_INTERVAL.1),
            next_renewal: Duration::ZERO,
            renewal_interval: Doubling::new(RENEWAL_INTERVAL.0, RENEWAL_INTERVAL.1),
        }
    }
}

impl Watchdog {
    /// When to check next, while events are in flight.
    #[must_use]
    pub fn next_check(&self) -> Duration {
        self.next_check
    }

    /// Takes note of the events in flight: for each subject the position of the oldest one.
    pub fn observe(&mut self, now: Duration, first: impl IntoIterator<Item = (Subject, u64)>) {
        self.next_check = now + CHECK_INTERVAL;
        let mut before = std::mem::take(&mut self.waits);
        for (subject, place) in first {
            let wait = before.remove(&subject).filter(|wait| wait.place == place);
            let wait = wait.unwrap_or(Wait { place, since: now, healthy_since: None, problem: None });
            self.waits.insert(subject, wait);
        }
        if self.silent(now).next().is_none() {
            self.probe_interval.reset();
        }
    }

    fn silent(&self, now: Duration) -> impl Iterator<Item = (&Subject, &Wait)> {
        self.waits.iter().filter(move |(_, wait)| now.saturating_sub(wait.since) >= MAX_SILENCE)
    }

    /// The subjects to ask Kafka about, if a probe is due.
    #[must_use]
    pub fn due_probe(&mut self, now: Duration) -> Option<Vec<Subject>> {
        if now < self.next_probe {
            return None;
        }
        let mut silent: Vec<_> = self.silent(now).map(|(subject, wait)| (wait.since, subject)).collect();
        if silent.is_empty() {
            return None;
        }
        // Take those that have waited longest, with the producer as a whole first.
        silent.sort_unstable();
        let subjects = silent.into_iter().take(MAX_TOPICS).map(|(_, subject)| subject.clone()).collect();
        self.next_probe = now + self.probe_interval.take();
        Some(subjects)
    }

    /// Records the result of a probe. `Unknown` stands for a probe without an answer.
    pub fn record_health(
        &mut self,
        now: Duration,
        answers: impl IntoIterator<Item = (Subject, Health)>,
    ) -> Findings {
        let mut findings = Findings::default();
        for (subject, health) in answers {
            // A report may have arrived meanwhile.
            let Some(wait) = self.waits.get_mut(&subject) else { continue };
            match health {
                Health::Unknown => wait.healthy_since = None,
                Health::Unhealthy(why) => {
                    wait.healthy_since = None;
                    if let Some(topic) = subject
                        && wait.problem.replace(why.clone()).as_ref() != Some(&why)
                    {
                        findings.new_problems.push((topic, why));
                    }
                }
                Health::Healthy => {
                    wait.problem = None;
                    let healthy_since = *wait.healthy_since.get_or_insert(now);
                    let silence = now.saturating_sub(wait.since);
                    let is_longest = findings.stuck.as_ref().is_none_or(|(_, longest)| *longest < silence);
                    if now.saturating_sub(healthy_since) >= GRACE && now >= self.next_renewal && is_longest {
                        findings.stuck = Some((subject, silence));
                    }
                    // Probe again as soon as the grace period is over.
                    self.next_probe = self.next_probe.min(now + GRACE);
                }
            }
        }
        if findings.stuck.is_some() {
            self.record_renewal(now);
        }
        findings
    }

    /// A silent topic and its known problem.
    #[must_use]
    pub fn problem(&self) -> Option<(&str, &str)> {
        self.waits.iter().find_map(|(subject, wait)| Some((&**subject.as_ref()?, wait.problem.as_deref()?)))
    }

    /// The producer is about to be replaced: all subjects start over.
    fn record_renewal(&mut self, now: Duration) {
        // A producer that has lasted was not replaced in vain.
        let lasted = now >= self.next_renewal + self.renewal_interval.peek();
        if lasted {
            self.renewal_interval.reset();
        }
        self.next_renewal = now + self.renewal_interval.take();
        self.waits.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: [u64; 0] = [];

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn topic(name: &str) -> Subject {
        Some(name.into())
    }

    /// Simulates `until` seconds, given the oldest event in flight and Kafka's health at each second. Returns when the
    /// producer was replaced.
    fn renewals(until: u64, out: impl Fn(u64) -> Option<u64>, health: impl Fn(u64) -> Health) -> Vec<u64> {
        let mut watchdog = Watchdog::default();
        let (mut found, mut generation) = (Vec::new(), 0);
        for second in 0..until {
            let now = secs(second);
            if now >= watchdog.next_check() {
                // Events that are read again are produced again.
                watchdog.observe(now, out(second).map(|place| (topic("t"), place + generation)));
            }
            if let Some(subjects) = watchdog.due_probe(now) {
                let answers = subjects.into_iter().map(|subject| (subject, health(second)));
                if watchdog.record_health(now, answers).stuck.is_some() {
                    found.push(second);
                    generation += 1_000_000;
                }
            }
        }
        found
    }

    #[test]
    fn a_topic_that_progresses_is_never_probed() {
        assert_eq!(renewals(100_000, |second| Some(second / 10), |_| Health::Healthy), NEVER);
        assert_eq!(renewals(100_000, |_| None, |_| Health::Healthy), NEVER);
    }

    #[test]
    fn an_outage_is_waited_for_and_a_stuck_producer_is_not() {
        assert_eq!(renewals(100_000, |_| Some(1), |_| Health::Unknown), NEVER);
        assert_eq!(renewals(100_000, |_| Some(1), |_| Health::Unhealthy("no leader".into())), NEVER);
        let found = renewals(60, |_| Some(1), |_| Health::Healthy);
        assert!(found.len() == 1 && found[0] <= 35, "{found:?}");
    }

    /// Kafka comes back, and the reports arrive soon after.
    #[test]
    fn a_producer_that_recovers_within_the_grace_is_kept() {
        for outage in 0..600 {
            let health = |second| if second < outage { Health::Unknown } else { Health::Healthy };
            let out = |second| (second < outage + GRACE.as_secs() - 5).then_some(1);
            assert_eq!(renewals(outage + 100, out, health), NEVER, "after {outage} s");
        }
    }

    #[test]
    fn the_intervals_grow_to_their_limit_and_shrink_again() {
        let found = renewals(20_000, |_| Some(1), |_| Health::Healthy);
        let pauses: Vec<u64> = found.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1] + CHECK_INTERVAL.as_secs()), "{pauses:?}");
        assert!(pauses.last().is_some_and(|last| (900..960).contains(last)), "{pauses:?}");
        // A quiet time, and then the next silence.
        let out = |second| (!(5_000..15_000).contains(&second)).then_some(1);
        let found = renewals(16_000, out, |_| Health::Healthy);
        let late: Vec<_> = found.iter().filter(|second| **second > 15_000).collect();
        assert!(*late[0] < 15_040 && *late[1] - *late[0] < 100, "{late:?}");
    }

    #[test]
    fn a_problem_is_reported_once_and_shown_while_it_lasts() {
        let mut watchdog = Watchdog::default();
        let unhealthy = || [(topic("t"), Health::Unhealthy("no leader".into()))];
        watchdog.observe(secs(0), [(topic("t"), 1)]);
        assert_eq!(watchdog.due_probe(secs(10)), None);
        assert_eq!(watchdog.due_probe(secs(15)), Some(vec![topic("t")]));
        assert_eq!(
            watchdog.record_health(secs(15), unhealthy()).new_problems,
            [("t".into(), "no leader".to_string())]
        );
        assert_eq!(watchdog.problem(), Some(("t", "no leader")));
        assert_eq!(watchdog.record_health(secs(30), unhealthy()).new_problems, []);
        watchdog.observe(secs(35), [(topic("t"), 2)]);
        assert_eq!(watchdog.problem(), None);
    }

    #[test]
    fn the_producer_as_a_whole_is_probed_first() {
        let mut watchdog = Watchdog::default();
        watchdog.observe(secs(0), [(topic("a"), 1), (None, 0), (topic("b"), 2)]);
        let subjects = watchdog.due_probe(secs(20)).unwrap();
        assert_eq!((subjects.len(), &subjects[0]), (3, &None));
    }
}
