//! What becomes of events whose handlers fail.

use std::time::Duration;

use event_outbox_policy::inbox::charge::{Fate, fate};
use event_outbox_policy::inbox::lane::{Consequence, Failed, LaneState};
use event_outbox_policy::inbox::plan::{NewEvents, Step, Waiting, WaitingEvents};

use crate::database::{Change, State};
use crate::deliveries::{Lost, Note};
use crate::receiver::parked;
use crate::variant::Variant;
use crate::world::{Tested, World};

const BACKOFF: (Duration, Duration) = (Duration::from_micros(8), Duration::from_micros(64));

/// The most notes that shared memory holds.
const NOTES: usize = 8;

impl World {
    /// What was rolled back leaves its notes.
    pub fn leave_notes(&mut self, lost: Lost, are_noted: bool) {
        self.judge.has_failed(&lost.positions);
        if are_noted {
            self.notes.extend(lost.notes);
            self.notes.truncate(NOTES);
        }
    }

    /// The worker records one of the notes, unless another session holds the lane.
    pub fn record(&mut self, pick: usize) -> Tested {
        let Some(at) = pick.checked_rem(self.notes.len()) else { return Ok(()) };
        let lane = self.notes[at].lane;
        if self.is_locked(lane, None) || self.is_being_changed(lane, None) {
            return Ok(());
        }
        let note = self.notes.remove(at);
        let latest = self.latest.clone();
        match self.settle(&latest, &note)? {
            Some(changes) => self.commit(&changes),
            None => Ok(()),
        }
    }

    /// What a failure changes; `None` if it is stale.
    pub fn settle(&mut self, view: &State, note: &Note) -> Tested<Option<Vec<Change>>> {
        let state = view.lane(note.lane);
        let based_on = if self.variant == Variant::StaleFailureCounts { state.seq } else { note.based_on };
        let mut changes = Vec::new();
        let next = match state.failed(Failed { based_on, upto: note.upto, count: note.count }) {
            Consequence::Stale => return Ok(None),
            Consequence::Narrow(next) => next,
            Consequence::Charge(next) => {
                let upto = match note.retried {
                    Some(position) => {
                        if let Some((_, event)) = view.waiting.get(&position) {
                            changes.push(Change::Gone(position));
                            self.charge(note.lane, event, &mut changes)?;
                        }
                        state.upto
                    }
                    None if matches!(self.variant, Variant::StaleFailureCounts | Variant::PassesParked) => {
                        let event = self.log[note.upto as usize - 1].clone();
                        if !view.is_skipped(&event) {
                            self.charge(note.lane, &parked(&event, 0), &mut changes)?;
                        }
                        next.upto
                    }
                    None => self.pass_to(view, note, &mut changes)?,
                };
                LaneState { upto, ..next }
            }
        };
        changes.push(Change::Lane(note.lane, next));
        Ok(Some(changes))
    }

    /// Passes the events up to the one that failed, which is charged. Those before it had waited behind others.
    fn pass_to(&mut self, view: &State, note: &Note, changes: &mut Vec<Change>) -> Tested<i64> {
        let waiting = WaitingEvents::new(view.waiting_in(note.lane));
        let mut upto = view.lane(note.lane).upto;
        let mut new = NewEvents::new(&waiting, upto, 1, self.room(view));
        for record in self.of_lane(view, note.lane, upto) {
            if record.position > note.upto {
                break;
            }
            if !view.is_skipped(&record) {
                match new.consider(record.position, record.order_key.as_deref()) {
                    Step::Park => changes.push(Change::Wait(note.lane, parked(&record, 0))),
                    Step::Receive if record.position == note.upto => {
                        self.charge(note.lane, &parked(&record, 0), changes)?;
                    }
                    Step::Receive | Step::Stop => break,
                }
            }
            upto = record.position;
        }
        Ok(upto)
    }

    /// Charges an event. Returns whether it is dead.
    fn charge(&mut self, lane: u16, event: &Waiting, changes: &mut Vec<Change>) -> Tested<bool> {
        self.judge.may_be_charged(event.position)?;
        let attempts = event.attempts + 1;
        let fate = fate(attempts, self.limits.max_attempts, BACKOFF, self.now, 0.5);
        changes.push(match fate {
            Fate::RetryAt(at) => {
                Change::Wait(lane, Waiting { attempts, next_attempt_at: Some(at), ..event.clone() })
            }
            Fate::Dead => Change::Dead(event.position),
        });
        Ok(fate == Fate::Dead)
    }

    /// `inbox.nack()`: the session gives an event back, and with it the later ones of its key.
    pub fn give_back(&mut self, session: usize, position: i64) -> Tested {
        let view = self.view(session);
        let (lane, key) = self.lane_and_key(position);
        self.judge.has_failed(&[position]);
        let transaction = self.sessions[session].transaction();
        let in_savepoint = transaction.savepoint.is_some();
        let left = transaction.left();
        let mut given_back = vec![position];
        let mut changes = Vec::new();
        let is_dead = self.charge_received(session, &view, position, &mut changes)?;
        if !is_dead && key.is_some() && self.variant != Variant::FollowersStay {
            for later in left.into_iter().filter(|later| *later > position) {
                if self.lane_and_key(later) == (lane, key.clone()) {
                    given_back.push(later);
                    let event = self.received(session, later);
                    if !self.is_discarded(&view, later) {
                        let event = Waiting { next_attempt_at: None, ..event };
                        changes.push(Change::Wait(lane, event));
                    }
                }
            }
        }
        let transaction = self.sessions[session].transaction();
        for delivery in &mut transaction.deliveries {
            let own = given_back.iter().filter(|at| delivery.positions.contains(at));
            delivery.given_back.extend(own.map(|at| (*at, in_savepoint)));
        }
        transaction.changes.extend(changes);
        Ok(())
    }

    fn charge_received(
        &mut self,
        session: usize,
        view: &State,
        position: i64,
        changes: &mut Vec<Change>,
    ) -> Tested<bool> {
        if self.is_discarded(view, position) {
            return Ok(true);
        }
        let event = self.received(session, position);
        self.charge(self.lane_and_key(position).0, &event, changes)
    }

    /// Whether a seek has discarded an event that a transaction is about to set aside.
    fn is_discarded(&self, view: &State, position: i64) -> bool {
        self.variant != Variant::SeekMissesParked && view.is_skipped(&self.log[position as usize - 1])
    }

    /// An event that the session has received, with the attempts that it had.
    fn received(&mut self, session: usize, position: i64) -> Waiting {
        let waited = self.sessions[session].transaction().deliveries.iter();
        let waited = waited.flat_map(|delivery| &delivery.waited).find(|event| event.position == position);
        waited.cloned().unwrap_or_else(|| parked(&self.log[position as usize - 1], 0))
    }

    fn lane_and_key(&self, position: i64) -> (u16, Option<Vec<u8>>) {
        let record = &self.log[position as usize - 1];
        (record.lane, record.order_key.clone())
    }
}
