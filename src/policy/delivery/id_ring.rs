//! Things by their id, nearly all of which come in ascending order.
//!
//! The events in flight: put in as they are read, asked for as they are acknowledged, gone soon after. They lie one behind
//! the other, so that who works through them goes through memory in one direction; a map that scatters them, or a tree
//! that moves them about, made a seventh of the relay's own work.

use std::collections::{BTreeMap, VecDeque};

/// Places of things that have gone, beyond as many as there are things, before the others move up.
const SLACK: usize = 1024;

/// A map from ids to things.
#[derive(Debug)]
pub struct IdRing<T> {
    /// Strictly ascending; the first is there. Those that have gone leave their place empty.
    ascending: VecDeque<(i64, Option<T>)>,
    /// How many of them are there.
    present: usize,
    /// Those that came after a higher id.
    late: BTreeMap<i64, T>,
}

impl<T> Default for IdRing<T> {
    fn default() -> Self {
        Self { ascending: VecDeque::new(), present: 0, late: BTreeMap::new() }
    }
}

impl<T> IdRing<T> {
    /// Puts a thing in; gives the one that had its id.
    pub fn insert(&mut self, id: i64, thing: T) -> Option<T> {
        if let Some(before) = self.get_mut(id) {
            return Some(std::mem::replace(before, thing));
        }
        if self.ascending.back().is_none_or(|(last, _)| *last < id) {
            self.ascending.push_back((id, Some(thing)));
            self.present += 1;
            self.move_up();
        } else {
            self.late.insert(id, thing);
        }
        None
    }

    /// The thing with this id.
    #[must_use]
    pub fn get(&self, id: i64) -> Option<&T> {
        let place = self.place(id).and_then(|place| self.ascending[place].1.as_ref());
        place.or_else(|| self.late.get(&id))
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, id: i64) -> Option<&mut T> {
        match self.place(id) {
            Some(place) if self.ascending[place].1.is_some() => self.ascending[place].1.as_mut(),
            _ => self.late.get_mut(&id),
        }
    }

    /// Takes a thing out.
    pub fn remove(&mut self, id: i64) -> Option<T> {
        let Some(thing) = self.place(id).and_then(|place| self.ascending[place].1.take()) else {
            return self.late.remove(&id);
        };
        self.present -= 1;
        self.drop_front();
        Some(thing)
    }

    /// Takes all out but these.
    pub fn retain(&mut self, keep: impl Fn(i64) -> bool) {
        self.late.retain(|id, _| keep(*id));
        self.ascending.retain(|(id, thing)| thing.is_some() && keep(*id));
        self.present = self.ascending.len();
    }

    /// The thing with the lowest id.
    #[must_use]
    pub fn first(&self) -> Option<&T> {
        match (self.ascending.front(), self.late.first_key_value()) {
            (Some((id, _)), Some((late, thing))) if late < id => Some(thing),
            (Some((_, thing)), _) => thing.as_ref(),
            (None, late) => late.map(|(_, thing)| thing),
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.present + self.late.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, in no order.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.ascending.iter().filter_map(|(_, thing)| thing.as_ref()).chain(self.late.values())
    }

    /// Where this id is among the ascending ones, be it there or gone.
    fn place(&self, id: i64) -> Option<usize> {
        let (first, last) = (self.ascending.front()?.0, self.ascending.back()?.0);
        if id < first || last < id {
            return None;
        }
        // Each place holds at least one id more than the one before: so none is further behind the first than its id, and
        // none further before another than theirs.
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

    /// Drops the empty places before the first thing.
    fn drop_front(&mut self) {
        while self.ascending.front().is_some_and(|(_, thing)| thing.is_none()) {
            self.ascending.pop_front();
        }
    }

    /// Where one stays for long, those behind it come and go: their places must not add up.
    fn move_up(&mut self) {
        if self.ascending.len() > 2 * self.present + SLACK {
            self.ascending.retain(|(_, thing)| thing.is_some());
        }
    }
}

/// From one id to a higher one.
fn distance(from: i64, to: i64) -> usize {
    usize::try_from(to.abs_diff(from)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        /// So far above the highest, or below it.
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
                for (id, thing) in &mut theirs {
                    prop_assert_eq!(ours.get_mut(*id), Some(thing));
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
    fn one_that_stays_costs_no_memory_for_those_that_go() {
        let mut things = IdRing::default();
        things.insert(1, ());
        for id in 2..1_000_000 {
            things.insert(id, ());
            assert_eq!(things.remove(id), Some(()));
        }
        assert!(things.ascending.len() <= SLACK + 3, "{}", things.ascending.len());
        assert_eq!((things.len(), things.first()), (1, Some(&())));
    }
}
