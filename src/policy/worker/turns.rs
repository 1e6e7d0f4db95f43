//! Which worker makes way when others wait for a process.
//!
//! A server has fewer processes for workers than databases with work. So workers take turns: one that has nothing to do
//! makes way at once, one that has much to do makes way after its turn, and those that wait are served in the order in which
//! they came. With `p` processes and `w` workers that wait, each has its turn within `(w / p + 1)` turns, however much the
//! others have to do.
//!
//! A worker can wait though it has a process: for one more, for a helper without which it does only half of its work. It does
//! not make way for itself while others can, nor before it had the time to take what the last of them left to it.

use std::time::Duration;

/// How long a worker may work while others wait. Long enough that the start of its successor, some tens of milliseconds, is
/// a small part of it.
pub const TURN: Duration = Duration::from_secs(5);

/// A worker that has had nothing to do for so long makes way at once. Shorter, and a worker would leave between two events
/// of the same burst.
pub const IDLE: Duration = Duration::from_millis(100);

/// Microseconds since 1970.
type Micros = i64;

/// A worker that has a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Working<W> {
    /// The worker.
    pub worker: W,
    /// When its process began, or when it had got the last of the processes that it needs.
    pub since: Micros,
    /// It has waited longest of all, for a further process.
    pub is_first_in_line: bool,
    /// Since when it has had nothing to do.
    pub idle_since: Option<Micros>,
    /// It was asked to make way, or to end for another reason, and has not ended yet.
    pub is_leaving: bool,
}

impl<W> Working<W> {
    /// When it may be asked to make way: the idle come first.
    fn may_leave_at(&self, freed_at: Micros) -> Micros {
        let after = |date: Micros, pause: Duration| date.saturating_add(pause.as_micros() as Micros);
        let turn = after(self.since, TURN);
        if self.is_first_in_line {
            return turn.max(after(freed_at, TURN));
        }
        self.idle_since.map_or(turn, |idle| after(idle, IDLE).min(turn))
    }
}

/// What to do for the workers that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<W> {
    /// Ask this worker to make way.
    Ask(W),
    /// Nobody can be asked before then.
    LookAt(Micros),
    /// Enough have been asked, or there is nobody to ask.
    Rest,
}

/// The next step when `waiting` workers wait for a process. The last one to make way did so at `freed_at`.
#[must_use]
pub fn next_step<W: Copy>(now: Micros, freed_at: Micros, waiting: usize, working: &[Working<W>]) -> Step<W> {
    let has_others = working.iter().any(|worker| !worker.is_first_in_line);
    // What it waits for cannot come of its own leaving; what those behind it wait for can.
    let waiting = waiting - usize::from(waiting > 0 && !has_others && !working.is_empty());
    let leaving = working.iter().filter(|worker| worker.is_leaving).count();
    if leaving >= waiting {
        return Step::Rest;
    }
    let staying =
        working.iter().filter(|worker| !(worker.is_leaving || has_others && worker.is_first_in_line));
    // Of those that may leave, one without work; then the one that has worked longest.
    let first = |worker: &&Working<W>| (worker.idle_since.is_none(), worker.since);
    let may_leave = staying.clone().filter(|worker| worker.may_leave_at(freed_at) <= now);
    match may_leave.min_by_key(first) {
        Some(chosen) => Step::Ask(chosen.worker),
        None => staying.map(|worker| worker.may_leave_at(freed_at)).min().map_or(Step::Rest, Step::LookAt),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Micros = 1_000_000;

    fn busy(worker: u32, since: Micros) -> Working<u32> {
        Working { worker, since, idle_since: None, is_leaving: false, is_first_in_line: false }
    }

    fn idle(worker: u32, since: Micros, idle_since: Micros) -> Working<u32> {
        Working { idle_since: Some(idle_since), ..busy(worker, since) }
    }

    #[test]
    fn nobody_is_asked_while_nobody_waits() {
        assert_eq!(next_step(100 * SECOND, 0, 0, &[busy(1, 0), idle(2, 0, 0)]), Step::Rest);
    }

    #[test]
    fn the_idle_make_way_before_those_who_work() {
        let working = [busy(1, 0), idle(2, 50 * SECOND, 60 * SECOND), busy(3, 10 * SECOND)];
        assert_eq!(next_step(100 * SECOND, 0, 1, &working), Step::Ask(2));
    }

    #[test]
    fn of_those_who_work_the_one_that_has_worked_longest_makes_way_after_its_turn() {
        let working = [busy(1, 97 * SECOND), busy(2, 96 * SECOND)];
        assert_eq!(next_step(100 * SECOND, 0, 1, &working), Step::LookAt(101 * SECOND));
        assert_eq!(next_step(101 * SECOND, 0, 1, &working), Step::Ask(2));
    }

    #[test]
    fn no_more_are_asked_than_wait() {
        let leaving = Working { is_leaving: true, ..busy(1, 0) };
        let working = [leaving, busy(2, 0)];
        assert_eq!(next_step(100 * SECOND, 0, 1, &working), Step::Rest);
        assert_eq!(next_step(100 * SECOND, 0, 2, &working), Step::Ask(2));
    }

    #[test]
    fn who_waits_for_a_further_process_makes_way_only_if_nobody_else_can() {
        let first = Working { is_first_in_line: true, ..busy(1, 0) };
        assert_eq!(next_step(100 * SECOND, 0, 1, &[first, busy(2, 10 * SECOND)]), Step::Ask(2));
        assert_eq!(next_step(100 * SECOND, 0, 1, &[first, busy(2, 99 * SECOND)]), Step::LookAt(104 * SECOND));
        // It has all processes. That helps nobody who waits, itself included.
        assert_eq!(next_step(100 * SECOND, 0, 1, &[first]), Step::Rest);
        assert_eq!(next_step(100 * SECOND, 0, 2, &[first]), Step::Ask(1));
        // Somebody has just left a process to it.
        assert_eq!(next_step(100 * SECOND, 99 * SECOND, 2, &[first]), Step::LookAt(104 * SECOND));
    }

    /// A server in time steps of a millisecond: `processes` workers work, the others wait in a queue.
    fn longest_wait(processes: usize, workers: u32, idles: &[bool]) -> Micros {
        let start = Duration::from_millis(20).as_micros() as Micros;
        let mut queue: std::collections::VecDeque<(u32, Micros)> = (0..workers).map(|w| (w, 0)).collect();
        let mut working: Vec<Working<u32>> = Vec::new();
        let mut longest = 0;
        let mut now = 0;
        while now < 120 * SECOND {
            now += 10_000;
            while working.len() < processes
                && let Some((worker, since)) = queue.pop_front()
            {
                longest = longest.max(now - since);
                let is_idle = idles[worker as usize % idles.len()];
                let began = now + start;
                working.push(if is_idle { idle(worker, began, began) } else { busy(worker, began) });
            }
            if let Step::Ask(worker) = next_step(now, 0, queue.len(), &working) {
                working.retain(|candidate| candidate.worker != worker);
                queue.push_back((worker, now));
            }
        }
        longest.max(queue.iter().map(|(_, since)| now - since).max().unwrap_or(0))
    }

    /// A worker that needs a second process, for its helper.
    #[derive(Clone, Copy)]
    struct Pair {
        worker: u32,
        began: Micros,
        /// Its place in the queue for that process; `None` if it has it.
        lacks_since: Option<Micros>,
        complete_since: Micros,
    }

    /// A server whose workers each have a helper, and take up what is free for that only 20 ms later.
    struct Server {
        now: Micros,
        queue: Vec<(u32, Micros)>,
        working: Vec<Pair>,
        free: usize,
        freed_at: Micros,
        offered_at: Option<Micros>,
        /// Since when each worker has not had both of its processes.
        waits_since: Vec<Option<Micros>>,
        longest: Micros,
    }

    impl Server {
        fn new(processes: usize, workers: u32) -> Self {
            Self {
                now: 0,
                queue: (0..workers).map(|worker| (worker, 0)).collect(),
                working: Vec::new(),
                free: processes,
                freed_at: 0,
                offered_at: None,
                waits_since: vec![Some(0); workers as usize],
                longest: 0,
            }
        }

        fn lacking(&self) -> impl Iterator<Item = (Micros, u32)> {
            self.working.iter().filter_map(|pair| Some((pair.lacks_since?, pair.worker)))
        }

        /// The worker that has waited longest of all, if it is for its helper.
        fn first_in_line(&self) -> Option<u32> {
            let (since, worker) = self.lacking().min()?;
            self.queue.iter().all(|(_, queued)| since <= *queued).then_some(worker)
        }

        /// Gives what is free to those that wait.
        fn serve(&mut self) {
            while self.free > 0 {
                if let Some(first) = self.first_in_line() {
                    let (now, offered_at) = (self.now, *self.offered_at.get_or_insert(self.now));
                    if now - offered_at < 20_000 {
                        return;
                    }
                    let pair = self.working.iter_mut().find(|pair| pair.worker == first).unwrap();
                    (pair.complete_since, pair.lacks_since, self.offered_at) = (now, None, None);
                    let since = self.waits_since[first as usize].take().unwrap_or(now);
                    self.longest = self.longest.max(now - since);
                } else if !self.queue.is_empty() {
                    let (worker, since) = self.queue.remove(0);
                    let pair = Pair { worker, began: self.now, lacks_since: Some(since), complete_since: 0 };
                    self.working.push(pair);
                } else {
                    return;
                }
                self.free -= 1;
            }
        }

        /// Asks workers to make way, which they do at once.
        fn ask(&mut self, remembers: bool) {
            while self.free < self.queue.len() + self.lacking().count() {
                let first = self.first_in_line();
                let seen = |pair: &Pair| Working {
                    is_first_in_line: first == Some(pair.worker),
                    ..busy(pair.worker, pair.began.max(pair.complete_since))
                };
                let seen: Vec<Working<u32>> = self.working.iter().map(seen).collect();
                let freed_at = if remembers { self.freed_at } else { 0 };
                let waiting = self.queue.len() + self.lacking().count();
                let Step::Ask(worker) = next_step(self.now, freed_at, waiting, &seen) else { return };
                let at = self.working.iter().position(|pair| pair.worker == worker).unwrap();
                let gone = self.working.swap_remove(at);
                self.free += 1 + usize::from(gone.lacks_since.is_none());
                self.freed_at = self.now;
                self.queue.push((worker, self.now));
                self.waits_since[worker as usize].get_or_insert(self.now);
            }
        }
    }

    /// The longest time for which a worker had not both of its processes.
    fn longest_wait_for_helpers(processes: usize, workers: u32, remembers: bool) -> Micros {
        let mut server = Server::new(processes, workers);
        while server.now < 300 * SECOND {
            server.now += 10_000;
            server.serve();
            server.ask(remembers);
        }
        let still = server.waits_since.iter().flatten().map(|since| server.now - since);
        still.max().unwrap_or(0).max(server.longest)
    }

    #[test]
    fn whoever_forgets_that_a_process_was_freed_starves_a_helper() {
        assert!(longest_wait_for_helpers(3, 4, false) > 60 * SECOND);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]
        #[test]
        fn nobody_waits_longer_than_the_turns_of_those_before_it(
            processes in 1_usize..5,
            workers in 1_u32..20,
            idles in prop::collection::vec(any::<bool>(), 1..5),
        ) {
            let turns = Micros::from(workers) / processes as Micros + 1;
            let bound = turns * (TURN.as_micros() as Micros + 100_000);
            prop_assert!(longest_wait(processes, workers, &idles) <= bound);
        }

        #[test]
        fn no_helper_waits_longer_than_the_turns_of_those_before_it(
            processes in 2_usize..7,
            workers in 1_u32..10,
        ) {
            // Each needs two, and one may be in a process of its own that is of no use yet.
            let turns = Micros::from(workers) / (processes as Micros / 2) + 2;
            let bound = turns * (TURN.as_micros() as Micros + 100_000);
            let waited = longest_wait_for_helpers(processes, workers, true);
            prop_assert!(waited <= bound, "{} s, not {} s", waited / SECOND, bound / SECOND);
        }
    }
}
