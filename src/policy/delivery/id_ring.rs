//! A map keyed by event id, optimised for ascending inserts.
//!
//! It holds the events in flight: each is inserted when it is read, looked up when it is acknowledged, and removed soon
//! after. They lie one behind the other, so working through them goes through memory in one direction. With a map that
//! scatters them, or a tree that moves them, this lookup was a seventh of the relay's own work.

use std::collections::{BTreeMap, VecDeque};

/// The number of empty places, beyond one for each value, at which the map is compacted.
const SLACK: usize = 1024;

/// A map from ids to values.
#[derive(Debug)]
pub struct IdRing<T> {
    /// Strictly ascending. The first place is never empty; a value that is removed leaves its place empty.
    ascending: VecDeque<(i64, Option<T>)>,
    /// How many of the places hold a value.
    present: usize,
    /// Values that were inserted after a higher id.
    late: BTreeMap<i64, T>,
}

impl<T> Default for IdRing<T> {
    fn default() -> Self {
        Self { ascending: VecDeque::new(), present: 0, late: BTreeMap::new() }
    }
}

impl<T> IdRing<T> {
    /// Inserts a value, and returns the previous value with this id.
    pub fn insert(&mut self, id: i64, value: T) -> Option<T> {
        if let Some(before) = self.get_mut(id) {
            return Some(std::mem::replace(before, value));
        }
        if self.ascending.back().is_none_or(|(last, _)| *last < id) {
            self.ascending.push_back((id, Some(value)));
            self.present += 1;
            self.compact();
        } else {
            self.late.insert(id, value);
        }
        None
    }

    /// The value with this id.
    #[must_use]
    pub fn get(&self, id: i64) -> Option<&T> {
        let place = self.place(id).and_then(|place| self.ascending[place].1.as_ref());
        place.or_else(|| self.late.get(&id))
    }

    /// The value with this id, mutable.
    pub fn get_mut(&mut self, id: i64) -> Option<&mut T> {
        match self.place(id) {
            Some(place) if self.ascending[place].1.is_some() => self.ascending[place].1.as_mut(),
            _ => self.late.get_mut(&id),
        }
    }

    /// Removes a value, and returns it.
    pub fn remove(&mut self, id: i64) -> Option<T> {
        let Some(value) = self.place(id).and_then(|place| self.ascending[place].1.take()) else {
            return self.late.remove(&id);
        };
        self.present -= 1;
        self.drop_front();
        Some(value)
    }

    /// Removes all values but those whose id `keep` accepts.
    pub fn retain(&mut self, keep: impl Fn(i64) -> bool) {
        self.late.retain(|id, _| keep(*id));
        self.ascending.retain(|(id, value)| value.is_some() && keep(*id));
        self.present = self.ascending.len();
    }

    /// The value with the lowest id.
    #[must_use]
    pub fn first(&self) -> Option<&T> {
        match (self.ascending.front(), self.late.first_key_value()) {
            (Some((id, _)), Some((late, value))) if late < id => Some(value),
            (Some((_, value)), _) => value.as_ref(),
            (None, late) => late.map(|(_, value)| value),
        }
    }

    /// The number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        self.present + self.late.len()
    }

    /// Whether the map is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All values, in no particular order.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.ascending.iter().filter_map(|(_, value)| value.as_ref()).chain(self.late.values())
    }

    /// The index of this id among the ascending places, whether or not the place is empty.
    fn place(&self, id: i64) -> Option<usize> {
        let (first, last) = (self.ascending.front()?.0, self.ascending.back()?.0);
        if id < first || last < id {
            return None;
        }
        // Ids ascend by at least one from place to place. So the number of places between two ids is at most the
        // difference of these ids: this bounds the search from both ends.
        let mut end = distance(first, id).min(self.ascending.len() - 1);
        let mut begin = end.saturating_sub(distance(id, self.ascending[end].0));
        while begin < end {
            let middle = begin.midpoint(end);
            if self.ascending[middle].0 < id {
                begin = middle + 1;
            } else {
                end = middle;
            }
        }
        (self.ascending[begin].0 == id).then_some(begin)
    }

    /// Drops the empty places before the first value.
    fn drop_front(&mut self) {
        while self.ascending.front().is_some_and(|(_, value)| value.is_none()) {
            self.ascending.pop_front();
        }
    }

    /// Drops all empty places when there are too many: while one value stays for long, those behind it come and go, and
    /// their places must not add up.
    fn compact(&mut self) {
        if self.ascending.len() > 2 * self.present + SLACK {
            self.ascending.retain(|(_, value)| value.is_some());
        }
    }
}

/// The difference from one id to a higher one.
fn distance(from: i64, to: i64) -> usize {
    usize::try_from(to.abs_diff(from)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        /// The distance from the highest id, above or below it.
        Insert(i64),
        Remove(usize),
        Retain(i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (1..4_i64).prop_map(Step::Insert),
            1 => prop_oneof![Just(i64::MAX), Just(i64::MIN), 100..1_000_000_i64].prop_map(Step::Insert),
            2 => (-20..=0_i64).prop_map(Step::Insert),
            6 => (0..40_usize).prop_map(Step::Remove),
            1 => (2..9_i64).prop_map(Step::Retain),
        ]
    }

    proptest! {
        #[test]
        fn it_is_a_map(steps in prop::collection::vec(step(), 0..300)) {
            let (mut ours, mut theirs) = (IdRing::default(), BTreeMap::new());
            let mut highest = 0_i64;
            for (n, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Insert(above) => {
                        let id = highest.saturating_add(above);
                        highest = highest.max(id.min(1 << 40));
                        prop_assert_eq!(ours.insert(id, n), theirs.insert(id, n));
                    }
                    Step::Remove(at) => {
                        let id = theirs.keys().nth(at).copied().unwrap_or(at as i64);
                        prop_assert_eq!(ours.remove(id), theirs.remove(&id));
                        prop_assert_eq!(ours.get(id), None);
                    }
                    Step::Retain(of) => {
                        ours.retain(|id| id % of != 0);
                        theirs.retain(|id, _| id % of != 0);
                    }
                }
                prop_assert_eq!(ours.len(), theirs.len());
                prop_assert_eq!(ours.is_empty(), theirs.is_empty());
                prop_assert_eq!(ours.first(), theirs.values().next());
                for id in theirs.keys().flat_map(|id| [id.saturating_sub(1), *id, id.saturating_add(1)]) {
                    prop_assert_eq!(ours.get(id), theirs.get(&id));
                }
                for (id, value) in &mut theirs {
                    prop_assert_eq!(ours.get_mut(*id), Some(value));
                }
                let mut values: Vec<_> = ours.values().copied().collect();
                let mut expected: Vec<_> = theirs.values().copied().collect();
                values.sort_unstable();
                expected.sort_unstable();
                prop_assert_eq!(values, expected);
            }
        }
    }

    #[test]
    fn a_value_that_stays_costs_no_memory_for_those_that_go() {
        let mut values = IdRing::default();
        values.insert(1, ());
        for id in 2..1_000_000 {
            values.insert(id, ());
            assert_eq!(values.remove(id), Some(()));
        }
        assert!(values.ascending.len() <= SLACK + 3, "{}", values.ascending.len());
        assert_eq!((values.len(), values.first()), (1, Some(&())));
    }
}
