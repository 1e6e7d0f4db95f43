//! Owns the events that a transaction takes out of the log.
//!
//! Runs in: the process of a projection, in a transaction.

use std::rc::Rc;

use event_outbox_policy::inbox::in_flight::InFlight;
use event_outbox_policy::inbox::lane::LaneState;
use event_outbox_policy::inbox::lanes::LANES;
use event_outbox_policy::inbox::projection::latest::Latest;
use event_outbox_policy::inbox::records::RecordRef;
use pgrx::prelude::*;

use super::crash;
use crate::inbox::receive::open_log::OpenLog;
use crate::inbox::receive::stored::{HEADERS, KEY, Stored, VALUE, lane_number};
use crate::inbox::receive::subscription::Subscription;
use crate::inbox::receive::{crashed, decode, in_flight, lane, ready};
use crate::inbox::table::{lane_lock, lanes};
use crate::pg::snapshot::Snapshot;
use crate::pg::{compat, varlena};
use crate::schemas;
use crate::schemas::decode::{Awaited, Decoded};
use crate::settings::registry;

/// A transaction takes no further event once those that it keeps take this many bytes.
const MOST_BYTES: usize = 32 << 20;

/// The most events of a transaction: if the last one of each key is kept, and if all are.
pub const MOST_EVENTS: usize = 1_000_000;
const MOST_KEPT: usize = 100_000;

/// For an event with more bytes than this, memory is asked for before it is copied.
const LARGE: usize = 64 << 10;

/// The columns of an event, counted from 1.
const PARTITION: usize = 3;
const OFFSET: usize = 4;
const PRODUCED_AT: usize = 5;

/// Which events are taken, and what of them.
#[derive(Debug, Clone, Copy)]
pub struct Taking {
    /// The lane to begin with.
    pub first: u16,
    /// How many, at most.
    pub limit: usize,
    /// All are kept, not only the last one of each key.
    pub keeps_all: bool,
    /// With their headers.
    pub takes_headers: bool,
}

/// Events with the lanes that they come from, whose locks this transaction has.
pub struct Taken {
    records: Latest<Source>,
    taking: Taking,
    lanes: Vec<TakenLane>,
    /// What a schema has made of a value.
    document: Vec<u8>,
    awaited: Option<String>,
    has_failed: bool,
    /// The events may have crashed the server; they come from one lane.
    are_suspect: bool,
    postponed: Option<u16>,
    /// The lane after which there was no more room.
    filled_by: Option<u16>,
}

/// Where an event comes from, and why its value could not be decoded.
struct Source {
    lane: u16,
    position: i64,
    fault: Option<Box<str>>,
}

/// A lane of which events were taken, or passed.
struct TakenLane {
    lane: u16,
    before: LaneState,
    after: LaneState,
    count: usize,
}

impl Taken {
    /// Nothing yet.
    #[must_use]
    pub fn new(taking: Taking) -> Self {
        let limit = if taking.keeps_all { taking.limit.min(MOST_KEPT) } else { taking.limit };
        Self {
            records: Latest::new(taking.keeps_all),
            taking: Taking { limit, ..taking },
            lanes: Vec::new(),
            document: Vec::new(),
            awaited: None,
            has_failed: false,
            are_suspect: false,
            postponed: None,
            filled_by: None,
        }
    }

    /// Takes what there is of a subscription, unless it is paused. `None` if there is no such subscription any more. As the owner
    /// of the tables.
    #[must_use]
    pub fn look(&mut self, id: i32) -> Option<Rc<Subscription>> {
        let subscription = Subscription::with_id(id)?;
        if subscription.is_paused {
            return Some(subscription);
        }
        schemas::catalog::accept_changes();
        lane::each_ready(&subscription, self.taking.first, 0..LANES, |lane| {
            if !crashed::holds(id, lane) && lane_lock::try_acquire(id, lane) {
                self.visit(&subscription, lane);
            }
            if !self.has_room() {
                self.filled_by = Some(lane);
            }
            self.has_room() && !self.are_suspect
        });
        Some(subscription)
    }

    /// Takes no more.
    pub fn finish(&mut self) {
        self.records.finish();
    }

    /// Whether more can be taken, with what was taken.
    #[must_use]
    pub fn can_grow(&self) -> bool {
        !self.is_empty()
            && self.has_room()
            && !self.are_suspect
            && self.postponed.is_none()
            && self.awaited.is_none()
    }

    fn has_room(&self) -> bool {
        self.records.count() < self.taking.limit && self.records.bytes() < MOST_BYTES
    }

    /// Takes the events of a lane whose lock this transaction has, from where it has come on.
    fn visit(&mut self, subscription: &Subscription, lane: u16) {
        let _snapshot = Snapshot::take_latest();
        let known = self.lanes.iter().position(|taken| taken.lane == lane);
        let found = lane::newest(subscription, lane);
        let (mut limit, mut last) = (self.taking.limit, i64::MAX);
        if found.state.is_suspect() {
            if !self.is_empty() {
                self.postponed = Some(lane);
                return;
            }
            if !ready::try_suspects() {
                return;
            }
            self.are_suspect = true;
            limit = limit.min(found.state.suspects_to_apply() as usize);
            last = found.state.suspect_upto;
        }
        let begin = self.records.count();
        let before = known.map_or(found.state.upto, |known| self.lanes[known].after.upto);
        let passed = self.read(subscription, lane, (found.from.max(before), last), limit);
        let count = self.records.count() - begin;
        if passed > before {
            let after = found.state.applied(passed);
            match known.and_then(|known| self.lanes.get_mut(known)) {
                Some(taken) => (taken.after, taken.count) = (after, taken.count + count),
                None => self.lanes.push(TakenLane { lane, before: found.state, after, count }),
            }
        } else if self.are_suspect {
            self.are_suspect = false;
            lane_lock::release_suspects();
        }
    }

    /// Takes the events of a lane between two positions, and returns the one that the lane has passed then.
    fn read(
        &mut self,
        subscription: &Subscription,
        lane: u16,
        (mut passed, last): (i64, i64),
        limit: usize,
    ) -> i64 {
        let has_registry = registry::url().is_some();
        let wanted = limit - self.records.count();
        OpenLog::of(subscription).each_event(lane_number(lane), passed, wanted, |event| {
            let position = event.position();
            if position > last {
                return false;
            }
            if !event.is_skipped() {
                if has_registry && let Some(awaited) = decode::awaited(event) {
                    self.wait_for(event, &awaited);
                    return false;
                }
                self.push(event, lane);
            }
            passed = position;
            self.records.count() < limit && self.has_room()
        });
        passed
    }

    /// Its lane is left alone until there is this schema.
    fn wait_for(&mut self, event: &Stored, awaited: &Awaited) {
        let (partition, offset) = (event.get::<i32>(PARTITION), event.get::<i64>(OFFSET));
        let (partition, offset) = (partition.unwrap_or(0), offset.unwrap_or(0));
        self.awaited = Some(format!("cannot decode offset {offset} of partition {partition} yet: {awaited}"));
        self.has_failed |= awaited.has_failed();
    }

    fn push(&mut self, event: &Stored, lane: u16) {
        pgrx::check_for_interrupts!();
        let bytes = |column: usize| event.get::<&[u8]>(column);
        let (key, stored) = (bytes(KEY), bytes(VALUE));
        let headers = if self.taking.takes_headers { bytes(HEADERS).unwrap_or_default() } else { &[] };
        let (mut value, mut fault) = (stored, None);
        if let Some(stored) = stored {
            match decode::decode_value(event, stored, &mut self.document) {
                Decoded::AsItIs => {}
                Decoded::Document => value = Some(&self.document),
                Decoded::Refused(reason) => {
                    fault = Some(format!("the value cannot be decoded: {reason}").into_boxed_str());
                }
            }
        }
        let length = [key, value, Some(headers)].into_iter().flatten().map(<[u8]>::len).sum::<usize>();
        if length > LARGE {
            varlena::require_memory(length * 2);
        }
        let at = event.get::<TimestampWithTimeZone>(PRODUCED_AT);
        let record = RecordRef {
            partition: event.get(PARTITION).unwrap_or(0),
            offset: event.get(OFFSET).unwrap_or(0),
            timestamp_ms: at.map(|at| compat::unix_micros(at.into()).div_euclid(1000)),
            key,
            value,
            headers,
        };
        let is_usable = fault.is_none();
        self.records.push(record, Source { lane, position: event.position(), fault }, is_usable);
    }

    /// The events that are kept, in the order of each lane.
    #[must_use]
    pub fn records(&self) -> Vec<RecordRef<'_>> {
        self.records.records()
    }

    /// Why the value of one could not be decoded.
    #[must_use]
    pub fn fault(&self, place: usize) -> Option<String> {
        self.records.what(place)?.fault.as_deref().map(str::to_owned)
    }

    /// Whether earlier events of its key were not kept because of it.
    #[must_use]
    pub fn has_hidden(&self, place: usize) -> bool {
        self.records.has_hidden(place)
    }

    /// Why a lane was left alone: the schema of its next event is being fetched.
    #[must_use]
    pub fn awaited(&self) -> Option<&str> {
        self.awaited.as_deref()
    }

    /// Whether the registry has not given a schema for which a lane was left alone.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// The lane to begin with next: after one that has filled the room, which may do so again, so that the others have their
    /// turns; but the same one while the record to blame is looked for. A lane that could not be taken from beside others comes
    /// first.
    #[must_use]
    pub fn next_lane(&self, is_narrow: bool) -> u16 {
        let after = self.filled_by.filter(|_| !is_narrow).map(|lane| (lane + 1) % LANES);
        self.postponed.or(after).unwrap_or(self.taking.first)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.count()
    }

    /// Whether no lane is to be moved.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Writes down what would be to blame, or suspect, if the server crashed, before any code of the table's runs.
    pub fn write_down(&self, subscription: &Subscription) {
        let of_lane = |lane: &TakenLane| {
            let is_to_blame = lane.before.next_is_to_blame();
            // One that is alone by chance is not to blame: it has no further attempt.
            let count = if is_to_blame { lane.count } else { lane.count.max(2) };
            InFlight {
                database: in_flight::database(),
                subscription: subscription.id,
                lane: lane.lane,
                based_on: lane.before.seq,
                upto: lane.after.upto,
                count: u32::try_from(count).unwrap_or(u32::MAX),
                retried: None,
                has_waited: false,
                is_to_blame,
            }
        };
        let records: Vec<InFlight> = self.lanes.iter().filter(|lane| lane.count > 0).map(of_lane).collect();
        crash::write_down(&records, self.are_suspect);
    }

    /// Acknowledges them. As the owner of the tables.
    pub fn acknowledge(&self, subscription: &Subscription) {
        for lane in &self.lanes {
            lanes::insert(subscription.id, lane.lane, &lane.after);
        }
    }

    /// Makes one of them a dead letter. As the owner of the tables.
    pub fn bury(&self, subscription: &Subscription, place: usize, error: &str) {
        let Some(Source { lane, position, .. }) = self.records.what(place) else { return };
        if let Some(event) = OpenLog::of(subscription).event(lane_number(*lane), *position) {
            event.die(subscription, *lane, 1, error);
        }
    }
}
