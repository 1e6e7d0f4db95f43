//! What a transaction has received, and the notes that it leaves of what it rolls back.

use event_outbox_policy::inbox::plan::Waiting;

use crate::database::Transaction;

/// What a transaction has received from a lane.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub lane: u16,
    /// The number of the lane's state before.
    pub based_on: i64,
    /// The last new event; where the lane was if all had waited.
    pub upto: i64,
    pub positions: Vec<i64>,
    /// Those of the events that had waited.
    pub waited: Vec<Waiting>,
    /// The transaction must receive nothing else.
    pub is_alone: bool,
    /// Events that were given back, each with whether that was after the savepoint.
    pub given_back: Vec<(i64, bool)>,
    /// Whether it was received after the savepoint.
    pub in_savepoint: bool,
    /// Its part of the transaction was rolled back, and so many events are to blame. The note waits for the commit, because the
    /// state that it builds on is not stored yet.
    pub failed: Option<usize>,
}

impl Delivery {
    pub fn is_live(&self) -> bool {
        self.failed.is_none()
    }

    pub fn is_given_back(&self, position: i64) -> bool {
        self.given_back.iter().any(|(at, _)| *at == position)
    }

    fn note(&self, upto: i64, count: usize) -> Note {
        Note {
            lane: self.lane,
            based_on: self.based_on,
            upto,
            count: count as u32,
            retried: self.waited.first().map(|event| event.position).filter(|_| count == 1),
        }
    }
}

/// A note of events that were received in what was rolled back.
#[derive(Debug, Clone)]
pub struct Note {
    pub lane: u16,
    pub based_on: i64,
    pub upto: i64,
    pub count: u32,
    /// The one event, if it had waited.
    pub retried: Option<i64>,
}

/// What becomes known when something is rolled back.
#[derive(Debug, Default)]
pub struct Lost {
    pub notes: Vec<Note>,
    /// The events that have failed together.
    pub positions: Vec<i64>,
}

/// How many events a note blames: more than one if others failed with them.
fn blamed(own: usize, all: usize, for_each_lane: bool) -> usize {
    if for_each_lane { own } else { own.max(all.min(2)) }
}

impl Transaction {
    pub fn has_received(&self) -> bool {
        self.deliveries.iter().any(|delivery| delivery.is_live())
    }

    pub fn is_alone(&self) -> bool {
        self.deliveries.iter().any(|delivery| delivery.is_alone && delivery.is_live())
    }

    pub fn add(&mut self, delivery: Delivery) {
        let same = self.deliveries.iter_mut().find(|earlier| {
            earlier.lane == delivery.lane
                && earlier.in_savepoint == delivery.in_savepoint
                && earlier.is_live()
        });
        match same {
            Some(earlier) => {
                earlier.upto = delivery.upto;
                earlier.positions.extend(delivery.positions);
                earlier.waited.extend(delivery.waited);
                earlier.is_alone |= delivery.is_alone;
            }
            None => self.deliveries.push(delivery),
        }
    }

    /// The whole transaction is rolled back.
    pub fn lose_all(&self, for_each_lane: bool) -> Lost {
        let live: Vec<&Delivery> = self.deliveries.iter().filter(|delivery| delivery.is_live()).collect();
        let all: Vec<i64> = live.iter().flat_map(|delivery| &delivery.positions).copied().collect();
        let mut notes: Vec<Note> = Vec::new();
        for delivery in &live {
            if notes.iter().any(|note| note.lane == delivery.lane) {
                continue;
            }
            let of_lane = || live.iter().filter(|other| other.lane == delivery.lane);
            let own = of_lane().map(|other| other.positions.len()).sum();
            let upto = of_lane().map(|other| other.upto).max().unwrap_or(delivery.upto);
            notes.push(delivery.note(upto, blamed(own, all.len(), for_each_lane)));
        }
        Lost { notes, positions: all }
    }

    /// What was received after the savepoint is rolled back.
    pub fn lose_part(&mut self, for_each_lane: bool) -> Lost {
        let (mut part, mut kept): (Vec<Delivery>, Vec<Delivery>) =
            std::mem::take(&mut self.deliveries).into_iter().partition(|delivery| delivery.in_savepoint);
        // A note that waited for the commit of the part is void with it.
        part.retain(Delivery::is_live);
        let all: Vec<i64> = part.iter().flat_map(|delivery| &delivery.positions).copied().collect();
        let mut notes = Vec::new();
        for mut delivery in part {
            let count = blamed(delivery.positions.len(), all.len(), for_each_lane);
            if kept.iter().any(|base| base.lane == delivery.lane && base.is_live()) {
                (delivery.failed, delivery.in_savepoint) = (Some(count), false);
                kept.push(delivery);
            } else {
                notes.push(delivery.note(delivery.upto, count));
            }
        }
        for delivery in &mut kept {
            delivery.given_back.retain(|(_, in_savepoint)| !in_savepoint);
        }
        self.deliveries = kept;
        Lost { notes, positions: all }
    }

    /// The savepoint is released.
    pub fn keep_part(&mut self) {
        for delivery in &mut self.deliveries {
            delivery.in_savepoint = false;
            delivery.given_back.iter_mut().for_each(|(_, in_savepoint)| *in_savepoint = false);
        }
    }

    /// The notes that have waited for the commit.
    pub fn late_notes(&self) -> impl Iterator<Item = Note> {
        let failed = self.deliveries.iter().filter_map(|delivery| Some((delivery, delivery.failed?)));
        failed.map(|(delivery, count)| delivery.note(delivery.upto, count))
    }
}
