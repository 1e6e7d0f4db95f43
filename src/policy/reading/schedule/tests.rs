//! Tests of the schedule: nothing that is due is forgotten, whatever commits when.

use super::*;

/// Mistakes that the simulation must find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mistake {
    None,
    /// The relay goes on to show its date while it reads.
    ShowsWhileReading,
    /// A commit compares before its rows are visible.
    ComparesBeforeCommit,
    /// The relay reads from its last date although it was told of another.
    KeepsItsDate,
}

/// A writer's transaction, which stores one date.
struct Writer {
    date: Micros,
    /// 0: open, 1 and 2: one of commit and comparison is done, 3: both.
    progress: u32,
    is_visible: bool,
}

struct World {
    mistake: Mistake,
    now: Micros,
    writers: Vec<Writer>,
    schedule: Schedule,
    shown: Micros,
    is_told: bool,
    /// The relay's step, and what its snapshot saw; `None` before the snapshot.
    reading: Option<(Step, Option<Vec<usize>>)>,
    moved: Vec<usize>,
}

impl World {
    fn advance(&mut self, number: usize) {
        let compares_first = self.mistake == Mistake::ComparesBeforeCommit;
        let writer = &mut self.writers[number];
        match (writer.progress, compares_first) {
            (0, false) | (1, true) => writer.is_visible = true,
            (1, false) | (0, true) => self.is_told |= must_tell(writer.date, self.shown),
            _ => return,
        }
        writer.progress += 1;
    }

    fn relay(&mut self) {
        match self.reading.take() {
            None => {
                if std::mem::take(&mut self.is_told) {
                    if self.mistake == Mistake::KeepsItsDate {
                        self.schedule.not_before = self.now;
                        let Next::At(_) = self.schedule.next else { return self.schedule.note_change() };
                        self.schedule.next = Next::At(self.now);
                    } else {
                        self.schedule.note_change();
                    }
                }
                if self.schedule.is_due(self.now) {
                    if self.mistake != Mistake::ShowsWhileReading {
                        self.shown = UNKNOWN;
                    }
                    self.reading = Some((self.schedule.step(self.now), None));
                }
            }
            Some((step, None)) => {
                let seen = |number: &usize| {
                    let writer = &self.writers[*number];
                    writer.is_visible
                        && !self.moved.contains(number)
                        && step.from.is_none_or(|from| writer.date >= from)
                };
                let mut all: Vec<usize> = (0..self.writers.len()).filter(seen).collect();
                all.sort_by_key(|number| self.writers[*number].date);
                self.reading = Some((step, Some(all)));
            }
            Some((step, Some(seen))) => {
                let due = seen.iter().filter(|number| self.writers[**number].date <= step.until);
                let count = due.count().min(2);
                self.moved.extend(&seen[..count]);
                let next = seen.get(count).map(|number| self.writers[*number].date);
                self.shown = self.schedule.moved(step, count, next);
            }
        }
    }

    fn is_at_rest(&self) -> bool {
        self.reading.is_none() && !self.is_told && !self.schedule.is_due(self.now)
    }
}

/// Whether an event is forgotten in the schedule of this seed.
fn forgets(mistake: Mistake, seed: u64) -> bool {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) % below
    };
    let writers = (0..6).map(|_| Writer {
        date: 1 + i64::try_from(random(30)).unwrap(),
        progress: 0,
        is_visible: false,
    });
    let writers = writers.collect();
    let mut world = World {
        mistake,
        now: 1,
        writers,
        schedule: Schedule::default(),
        shown: UNKNOWN,
        is_told: false,
        reading: None,
        moved: Vec::new(),
    };
    for _ in 0..120 {
        match random(4) {
            0 => world.now += 1,
            1 => world.advance(usize::try_from(random(6)).unwrap()),
            _ => world.relay(),
        }
    }
    for number in 0..6 {
        (0..2).for_each(|_| world.advance(number));
    }
    // Longer than all pauses; each date is met on the way.
    for _ in 0..40 {
        world.now += 1;
        for _ in 0..40 {
            if !world.is_at_rest() {
                world.relay();
            }
        }
    }
    world.moved.len() < 6
}

#[test]
fn no_schedule_forgets_an_event_that_is_due() {
    for seed in 0..5_000 {
        assert!(!forgets(Mistake::None, seed), "seed {seed}");
    }
}

#[test]
fn each_mistake_is_found() {
    for mistake in [Mistake::ShowsWhileReading, Mistake::ComparesBeforeCommit, Mistake::KeepsItsDate] {
        let found = (0..5_000).filter(|seed| forgets(mistake, *seed)).count();
        assert!(found > 0, "{mistake:?} goes unnoticed");
    }
}

const NOW: Micros = 1_000_000_000;

#[test]
fn it_sleeps_until_the_next_date() {
    let mut schedule = Schedule::default();
    assert!(schedule.is_due(NOW));
    let step = schedule.step(NOW);
    assert_eq!(step, Step { from: None, until: NOW, limit: MOST_TOGETHER });
    assert_eq!(schedule.moved(step, 3, Some(NOW + 5)), NOW + 5);
    assert_eq!((schedule.date(), schedule.is_due(NOW + 4)), (Some(NOW + 5), false));
    assert_eq!(schedule.step(NOW + 5).from, Some(NOW + 5));
    assert_eq!(schedule.moved(schedule.step(NOW + 5), 1, None), Micros::MAX);
    assert_eq!(schedule.date(), None);
    schedule.note_change();
    assert!(schedule.is_due(NOW + 5) && schedule.step(NOW).from.is_none());
}

#[test]
fn due_events_that_cannot_be_moved_are_tried_ever_more_seldom() {
    let mut schedule = Schedule::default();
    let mut now = NOW;
    let mut pauses = Vec::new();
    for _ in 0..10 {
        schedule.moved(schedule.step(now), 0, Some(NOW));
        let date = schedule.date().unwrap();
        pauses.push((date - now) / 1000);
        now = date;
    }
    assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 3200, 6400, 6400, 6400]);
    // What remains of a full batch waits for nothing.
    schedule.moved(schedule.step(now), 10, Some(NOW));
    assert!(schedule.is_due(now));
}

#[test]
fn the_row_that_is_to_blame_is_found_by_halving() {
    let mut schedule = Schedule::default();
    let mut sizes = Vec::new();
    loop {
        let step = schedule.step(NOW);
        sizes.push(step.limit);
        if schedule.failed(step) == Remedy::Bury {
            break;
        }
    }
    assert_eq!(sizes, [1000, 500, 250, 125, 62, 31, 15, 7, 3, 1]);
    schedule.moved(schedule.step(NOW), 1, Some(NOW));
    assert_eq!(schedule.step(NOW).limit, 2);
}
