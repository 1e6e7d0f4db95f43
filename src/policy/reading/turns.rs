//! The order in which topics get their turns.

use std::collections::VecDeque;

/// The topics that wait for their turn, each in one queue.
#[derive(Debug, Default)]
pub(super) struct Turns<T> {
    /// By whether their events are accepted.
    queues: [VecDeque<T>; 2],
    /// The queue that the last turn came from.
    last: usize,
}

impl<T> Turns<T> {
    /// The number of topics that wait.
    pub(super) fn len(&self) -> usize {
        self.queues.iter().map(VecDeque::len).sum()
    }

    /// Adds a topic that is in no queue.
    pub(super) fn push(&mut self, topic: T, accepted: bool) {
        self.queues[usize::from(accepted)].push_back(topic);
    }

    /// Adds a topic whose turn comes next.
    pub(super) fn push_first(&mut self, topic: T, accepted: bool) {
        self.queues[usize::from(accepted)].push_front(topic);
        self.last = usize::from(!accepted);
    }

    /// The next topic, from the other queue than the last one if that has any.
    pub(super) fn pop(&mut self) -> Option<T> {
        let other = 1 - self.last;
        let from = if self.queues[other].is_empty() { self.last } else { other };
        self.last = from;
        self.queues[from].pop_front()
    }
}
