//! Finds out that a consumer reads nothing of a partition, though Kafka has more of it. librdkafka can wait for ever for an
//! answer that does not come, after a broker was frozen.

use std::collections::BTreeMap;

/// At so many looks in a row a partition must have stood still.
const LOOKS: u32 = 3;

/// How far the partitions of an assignment were read, each by its number.
#[derive(Debug, Default)]
pub struct Progress {
    /// The next offsets.
    next: BTreeMap<i32, i64>,
    /// The partitions of which Kafka had more at the last look: the next offset then, and at how many looks it was the same.
    behind: BTreeMap<i32, (i64, u32)>,
    /// At how many looks in a row Kafka told no end, and nothing was read.
    untold: u32,
    /// Something was read since the last look.
    has_advanced: bool,
}

impl Progress {
    /// These partitions are read from these offsets on.
    #[must_use]
    pub fn from(next: impl Iterator<Item = (i32, i64)>) -> Self {
        Self { next: next.collect(), ..Self::default() }
    }

    /// A partition was read up to this next offset.
    pub fn reached(&mut self, number: i32, next: i64) {
        self.next.entry(number).and_modify(|known| {
            self.has_advanced |= next > *known;
            *known = next.max(*known);
        });
    }

    /// Compares with the ends of partitions in Kafka. Returns a partition that stands still, if there is one.
    pub fn compare(&mut self, ends: impl Iterator<Item = (i32, i64)>) -> Option<i32> {
        (self.untold, self.has_advanced) = (0, false);
        let behind = ends.filter_map(|(number, end)| {
            let next = *self.next.get(&number)?;
            let looks =
                self.behind.get(&number).filter(|(before, _)| *before == next).map_or(0, |(_, looks)| *looks);
            (next < end).then_some((number, (next, looks + 1)))
        });
        self.behind = behind.collect();
        self.behind.iter().find(|(_, (_, looks))| *looks >= LOOKS).map(|(number, _)| *number)
    }

    /// Whether Kafka had more of a partition at the last look, or told no end.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        !self.behind.is_empty() || self.untold > 0
    }

    /// Kafka told no end: that nothing was read meanwhile says nothing of a partition. Returns whether it has told none, and
    /// nothing was read, for so long that the consumer may be the reason. One that reads is not: no end is told either while a
    /// single partition has no leader.
    pub fn told_nothing(&mut self) -> bool {
        self.behind.clear();
        self.untold = if std::mem::take(&mut self.has_advanced) { 0 } else { self.untold + 1 };
        self.untold >= LOOKS
    }
}

#[cfg(test)]
mod tests {
    use super::Progress;

    fn progress() -> Progress {
        Progress::from([(0, 10), (1, 5)].into_iter())
    }

    fn compare(progress: &mut Progress, ends: &[(i32, i64)]) -> Option<i32> {
        progress.compare(ends.iter().copied())
    }

    #[test]
    fn a_partition_of_which_nothing_is_read_stands_still() {
        let mut progress = progress();
        assert_eq!(compare(&mut progress, &[(0, 10), (1, 9)]), None);
        assert_eq!(compare(&mut progress, &[(0, 10), (1, 9)]), None);
        assert_eq!(compare(&mut progress, &[(0, 10), (1, 20)]), Some(1));
    }

    #[test]
    fn one_that_is_slow_or_at_its_end_does_not() {
        let mut progress = progress();
        for next in 6..20 {
            assert_eq!(compare(&mut progress, &[(0, 10), (1, 100)]), None);
            progress.reached(1, next);
        }
    }

    #[test]
    fn a_consumer_that_learns_no_end_for_long() {
        let mut progress = progress();
        assert!(!progress.told_nothing() && progress.is_behind());
        assert!(!progress.told_nothing());
        assert!(progress.told_nothing());
    }

    #[test]
    fn one_that_reads_may_learn_no_end() {
        let mut progress = progress();
        for next in 6..20 {
            progress.reached(1, next);
            assert!(!progress.told_nothing());
            progress.reached(1, next);
            assert!(!progress.told_nothing());
        }
    }

    #[test]
    fn an_outage_or_an_unknown_partition_says_nothing() {
        let mut progress = progress();
        for _ in 0..9 {
            assert_eq!(compare(&mut progress, &[(1, 9), (7, 9)]), None);
            assert_eq!(compare(&mut progress, &[(1, 9), (7, 9)]), None);
            assert!(!progress.told_nothing());
            assert!(!progress.told_nothing());
            assert_eq!(compare(&mut progress, &[(1, 9)]), None);
            assert_eq!(compare(&mut progress, &[(7, 9)]), None);
        }
    }
}
