//! Owns the events that a transaction takes out of the log.
//!
//! Runs in: the process of a projection, in a transaction.

use event_outbox_policy::inbox::lane::LaneState;
use event_outbox_policy::inbox::records::{RecordBatch, RecordRef};
use pgrx::prelude::*;

use crate::inbox::receive::lane;
use crate::inbox::receive::open_log::OpenLog;
use crate::inbox::receive::stored::{HEADERS, KEY, Stored, VALUE, lane_number};
use crate::inbox::receive::subscription::Subscription;
use crate::inbox::table::{lane_lock, lanes};
use crate::pg::compat;
use crate::pg::snapshot::Snapshot;
use crate::pg::varlena;

/// A transaction takes no further event once it has this many bytes.
const MOST_BYTES: usize = 16 << 20;

/// For an event with more bytes than this, memory is asked for before it is copied.
const LARGE: usize = 64 << 10;

/// The columns of an event, counted from 1.
const PARTITION: usize = 3;
const OFFSET: usize = 4;
const PRODUCED_AT: usize = 5;

/// Events with the lanes that they come from, whose locks this transaction has.
#[derive(Default)]
pub struct Taken {
    records: RecordBatch,
    /// How many bytes they have.
    bytes: usize,
    takes_headers: bool,
    /// The lane and the position of each.
    places: Vec<(u16, i64)>,
    /// The next state of each lane.
    states: Vec<(u16, LaneState)>,
}

impl Taken {
    /// Takes up to `limit` events of a subscription, with their headers only if these are needed. As the owner of the tables.
    #[must_use]
    pub fn take(subscription: &Subscription, limit: usize, takes_headers: bool) -> Self {
        let mut taken = Self { takes_headers, ..Self::default() };
        lane::each_ready(subscription, 0, |lane| {
            if lane_lock::try_acquire(subscription.id, lane) {
                taken.visit(subscription, lane, limit);
            }
            taken.has_room(limit)
        });
        taken
    }

    fn has_room(&self, limit: usize) -> bool {
        self.places.len() < limit && self.bytes < MOST_BYTES
    }

    /// Takes the events of a lane whose lock this transaction has.
    fn visit(&mut self, subscription: &Subscription, lane: u16, limit: usize) {
        let _snapshot = Snapshot::take_latest();
        let found = lane::newest(subscription, lane);
        let (begin, mut passed) = (self.places.len(), found.from);
        let wanted = limit - begin;
        OpenLog::of(subscription).each_event(lane_number(lane), passed, wanted, |event| {
            let position = event.position();
            if !event.is_skipped() {
                self.push(event);
                self.places.push((lane, position));
            }
            passed = position;
            self.has_room(limit)
        });
        if passed > found.state.upto {
            let count = u32::try_from(self.places.len() - begin).unwrap_or(u32::MAX);
            self.states.push((lane, found.state.acknowledged(passed, count)));
        }
    }

    fn push(&mut self, event: &Stored) {
        let bytes = |column: usize| event.get::<&[u8]>(column);
        let (key, value) = (bytes(KEY), bytes(VALUE));
        let headers = if self.takes_headers { bytes(HEADERS).unwrap_or_default() } else { &[] };
        let length = [key, value, Some(headers)].into_iter().flatten().map(<[u8]>::len).sum::<usize>();
        if length > LARGE {
            varlena::require_memory(length * 2);
        }
        self.bytes += length;
        let at = event.get::<TimestampWithTimeZone>(PRODUCED_AT);
        self.records.push(RecordRef {
            partition: event.get(PARTITION).unwrap_or(0),
            offset: event.get(OFFSET).unwrap_or(0),
            timestamp_ms: at.map(|at| compat::unix_micros(at.into()).div_euclid(1000)),
            key,
            value,
            headers,
        });
    }

    /// The events, in the order of each lane.
    #[must_use]
    pub fn records(&self) -> Vec<RecordRef<'_>> {
        self.records.iter().collect()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether no lane is to be moved.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// Acknowledges them. As the owner of the tables.
    pub fn acknowledge(&self, subscription: &Subscription) {
        for (lane, state) in &self.states {
            lanes::insert(subscription.id, *lane, state);
        }
    }

    /// Makes one of them a dead letter. As the owner of the tables.
    pub fn bury(&self, subscription: &Subscription, place: usize, error: &str) {
        let Some((lane, position)) = self.places.get(place) else { return };
        if let Some(event) = OpenLog::of(subscription).event(lane_number(*lane), *position) {
            event.die(subscription, *lane, 1, error);
        }
    }
}
