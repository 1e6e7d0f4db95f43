//! Which deletions of events that are delivered at most once are not confirmed by Kafka yet.
//!
//! Each deletion leaves a row with its number and its count of events in the database, until as many events are answered as
//! it and all earlier ones had. So after a crash the rows tell how many events were on their way, at most.

use std::collections::VecDeque;

/// The open deletions, the oldest first.
#[derive(Debug, Default)]
pub struct Claims {
    open: VecDeque<Claim>,
    last: i64,
    /// Answers that are not recorded in the database yet.
    unrecorded: usize,
}

#[derive(Debug)]
struct Claim {
    number: i64,
    left: usize,
}

impl Claims {
    /// Whether all deletions are confirmed, so that no deleted event is on its way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// The number of the next deletion.
    #[must_use]
    pub fn next(&self) -> i64 {
        self.last + 1
    }

    /// The next deletion, of so many events, is committed.
    pub fn committed(&mut self, events: usize) {
        self.last += 1;
        self.open.push_back(Claim { number: self.last, left: events });
    }

    /// Up to which number deletions are confirmed when so many more events are answered; `None` if no further one is.
    #[must_use]
    pub fn confirmed_by(&self, answers: usize) -> Option<i64> {
        let mut left = self.unrecorded + answers;
        let done = self.open.iter().take_while(|claim| {
            let is_done = claim.left <= left;
            left = left.saturating_sub(claim.left);
            is_done
        });
        done.last().map(|claim| claim.number)
    }

    /// So many more events are answered, and what [`confirmed_by`](Self::confirmed_by) says is recorded.
    pub fn recorded(&mut self, answers: usize) {
        self.unrecorded += answers;
        while let Some(first) = self.open.front_mut() {
            let answered = first.left.min(self.unrecorded);
            self.unrecorded -= answered;
            first.left -= answered;
            if first.left > 0 {
                break;
            }
            self.open.pop_front();
        }
    }

    /// So many events are given up without an answer. That is recorded with the next answers.
    pub fn give_up(&mut self, events: usize) {
        self.unrecorded += events;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Delete(usize),
        Answer(usize),
        GiveUp(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1..9_usize).prop_map(Step::Delete),
            (0..9_usize).prop_map(Step::Answer),
            (0..3_usize).prop_map(Step::GiveUp),
        ]
    }

    proptest! {
        /// What the rows say is never less than what is on its way, and nothing when all is answered.
        #[test]
        fn the_rows_count_what_is_on_its_way(steps in prop::collection::vec(step(), 0..60)) {
            let (mut claims, mut rows, mut flying) = (Claims::default(), BTreeMap::new(), 0_usize);
            for step in steps.into_iter().chain([Step::Answer(usize::MAX)]) {
                match step {
                    Step::Delete(events) => {
                        rows.insert(claims.next(), events);
                        claims.committed(events);
                        flying += events;
                    }
                    Step::Answer(some) => {
                        let answers = some.min(flying);
                        if let Some(upto) = claims.confirmed_by(answers) {
                            rows.retain(|number, _| *number > upto);
                        }
                        claims.recorded(answers);
                        flying -= answers;
                        prop_assert_eq!(flying == 0, rows.is_empty());
                    }
                    Step::GiveUp(some) => {
                        let lost = some.min(flying);
                        claims.give_up(lost);
                        flying -= lost;
                    }
                }
                prop_assert!(rows.values().sum::<usize>() >= flying);
            }
        }
    }
}
