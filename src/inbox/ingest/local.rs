//! Takes events of the event store for the subscriptions whose sources are categories of it: no Kafka is asked.
//!
//! Events are taken as soon as they are committed, in that order, and what was taken is stored with them.
//! `event_outbox_policy::store::cursor` says why none is missed, and none is taken twice.
//!
//! Runs in: an ingest worker, main thread.

use std::time::{Duration, Instant};

use event_outbox_policy::event::envelope;
use event_outbox_policy::inbox::records::{RecordBatch, RecordRef};
use event_outbox_policy::store::cursor::{Action, Cursor, Sweep};
use pgrx::prelude::*;

use super::Ingest;
use super::catalog::Definition;
use super::registration::{EVENTS_APPENDED, SUBSCRIPTIONS_CHANGED};
use super::sources::RETRY_PAUSE;
use super::store::{self, Batch, Stored};
use crate::inbox::arrivals;
use crate::inbox::ingest::metrics;
use crate::inbox::table::as_owner;
use crate::pg::compat;
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{Access, Row, Statement, text};
use crate::store::writers;
use crate::worker::transaction;

/// How many events are looked at in one step.
const MOST_EVENTS: usize = 500;

/// When to look again beyond a gap, if there are too many: nobody tells that a transaction was rolled back.
const GAP_PAUSE: Duration = Duration::from_secs(1);

/// So many positions without an event for it a subscription passes at most before that is stored.
const FAR: i64 = 10_000;

/// What is read of the events that `$found` yields in the order of positions: the content of 4 MB, as it is stored, and of the
/// first one beyond.
macro_rules! events {
    ($found:expr) => {
        text!(
            "SELECT e.position, e.category, e.stream, e.version, e.event_id, e.type, \
                    CASE WHEN e.fits THEN coalesce(e.data::pg_catalog.text, 'null') END, \
                    CASE WHEN e.fits THEN e.metadata::pg_catalog.text END, e.causation_id, e.correlation_id, e.recorded_at, e.fits \
               FROM (SELECT e.*, s.name AS stream, \
                            (pg_catalog.sum(e.bytes) OVER (ORDER BY e.position USING OPERATOR(pg_catalog.<) ROWS UNBOUNDED PRECEDING)) \
                            OPERATOR(pg_catalog.-) e.bytes OPERATOR(pg_catalog.<=) 4194304 AS fits \
                       FROM (SELECT e.*, CASE WHEN e.category OPERATOR(pg_catalog.=) ANY ($1) \
                                              THEN coalesce(pg_catalog.pg_column_size(e.data), 0) OPERATOR(pg_catalog.+) \
                                                   coalesce(pg_catalog.pg_column_size(e.metadata), 0) OPERATOR(pg_catalog.+) 200 \
                                              ELSE 0 END AS bytes \
                               FROM (",
            $found,
            ") AS e) AS e JOIN event_store.stream AS s ON s.id OPERATOR(pg_catalog.=) e.stream_id) AS e \
              ORDER BY e.position USING OPERATOR(pg_catalog.<)"
        )
    };
}

static LATE: Statement = Statement::new(
    events!(
        "SELECT e.* FROM unnest($2, $3) AS r(low, high) \
                CROSS JOIN LATERAL (SELECT e.* FROM event_store.event AS e \
                                     WHERE e.position OPERATOR(pg_catalog.>=) r.low AND e.position OPERATOR(pg_catalog.<=) r.high \
                                       AND e.category OPERATOR(pg_catalog.=) ANY ($1)) AS e \
          ORDER BY e.position USING OPERATOR(pg_catalog.<) LIMIT $4"
    ),
    &[pg_sys::TEXTARRAYOID, pg_sys::INT8ARRAYOID, pg_sys::INT8ARRAYOID, pg_sys::INT8OID],
);

static DECIDED: Statement = Statement::new(
    events!(
        "SELECT e.* FROM pg_catalog.unnest($1) AS c(category) \
                CROSS JOIN LATERAL (SELECT e.* FROM event_store.event AS e \
                                     WHERE e.category OPERATOR(pg_catalog.=) c.category \
                                       AND e.position OPERATOR(pg_catalog.>) $2 AND e.position OPERATOR(pg_catalog.<=) $3 \
                                     ORDER BY e.position USING OPERATOR(pg_catalog.<) LIMIT $4) AS e \
          ORDER BY e.position USING OPERATOR(pg_catalog.<) LIMIT $4"
    ),
    &[pg_sys::TEXTARRAYOID, pg_sys::INT8OID, pg_sys::INT8OID, pg_sys::INT8OID],
);

static OPEN: Statement = Statement::new(
    events!(
        "SELECT e.* FROM event_store.event AS e WHERE e.position OPERATOR(pg_catalog.>) $2 \
          ORDER BY e.position USING OPERATOR(pg_catalog.<) LIMIT $3"
    ),
    &[pg_sys::TEXTARRAYOID, pg_sys::INT8OID, pg_sys::INT8OID],
);

/// A subscription to categories.
pub struct Local {
    /// The subscription as it is known. The partitions are the categories.
    pub definition: Definition,
    /// What was taken.
    cursor: Cursor,
    /// As of when that is stored.
    stored_upto: i64,
    /// There may be more to take.
    is_due: bool,
    /// When to look, whatever else happens.
    retry_at: Option<Instant>,
}

impl Local {
    /// One that has not looked yet.
    #[must_use]
    pub fn new(definition: Definition) -> Self {
        let cursor = definition.cursor.clone().unwrap_or_default();
        Self { definition, stored_upto: cursor.upto(), cursor, is_due: true, retry_at: None }
    }

    /// Takes over a definition that may have changed. What was taken stays known, unless it has moved, or another worker has
    /// stored something.
    pub fn redefine(&mut self, definition: Definition) {
        let known = &self.definition;
        let has_moved = definition.generation != known.generation || definition.batch != known.batch;
        let Self { cursor, stored_upto, .. } = Self::new(definition.clone());
        if has_moved {
            (self.cursor, self.stored_upto) = (cursor, stored_upto);
        }
        (self.definition, self.is_due) = (definition, true);
    }

    /// Whether to look now.
    #[must_use]
    pub fn is_due(&self) -> bool {
        match self.retry_at {
            Some(at) => at <= Instant::now(),
            None => self.is_due,
        }
    }

    /// When to look, even if nothing wakes the worker.
    #[must_use]
    pub fn next_look(&self) -> Option<Instant> {
        self.retry_at
    }
}

/// What a step has found.
struct Found {
    cursor: Cursor,
    records: RecordBatch,
    rest: Rest,
}

/// What a step has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// There may be more.
    More,
    /// There was no more.
    Nothing,
    /// There are too many gaps.
    Gaps,
}

impl Ingest {
    /// Takes over the definitions of the subscriptions to categories.
    pub(super) fn redefine_locals(&mut self, definitions: Vec<Definition>) {
        self.locals.retain(|local| definitions.iter().any(|definition| definition.id == local.definition.id));
        for definition in definitions {
            match self.locals.iter_mut().find(|local| local.definition.id == definition.id) {
                Some(local) => local.redefine(definition),
                None => self.locals.push(Local::new(definition)),
            }
        }
    }

    /// Takes what was appended.
    pub(super) fn take_local_events(&mut self) {
        if self.slot.take_notice(EVENTS_APPENDED) {
            self.locals.iter_mut().for_each(|local| local.is_due = true);
        }
        if !self.settings.enabled {
            return;
        }
        // One step of each in a round, so that a backlog delays neither other sources nor requests.
        for place in 0..self.locals.len() {
            if self.locals[place].is_due() {
                self.step(place);
            }
        }
    }

    /// Whether there is something to look for.
    pub(super) fn has_local_work(&self) -> bool {
        self.settings.enabled
            && !self.locals.is_empty()
            && (self.slot.has_notice(EVENTS_APPENDED) || self.locals.iter().any(Local::is_due))
    }

    fn step(&mut self, place: usize) {
        let (after, segment, notifies) =
            (self.last_position, self.segments.current(), self.settings.notifies);
        let (local, segments) = (&self.locals[place], &self.segments);
        let work = || {
            segments.begin(after);
            as_owner(|| take(local, after, segment, notifies))
        };
        let taken = transaction::run(c"event_outbox: taking events of the store", work);
        let taken = self.note(taken);
        let local = &mut self.locals[place];
        local.retry_at = None;
        match taken {
            Some((Stored::UpTo(last), Some(found))) => {
                local.is_due = found.rest == Rest::More;
                if found.rest == Rest::Gaps {
                    local.retry_at = Some(Instant::now() + GAP_PAUSE);
                }
                if is_worth_storing(local, &found) {
                    local.definition.batch += 1;
                    local.stored_upto = found.cursor.upto();
                }
                local.cursor = found.cursor;
                self.segments.begun(self.last_position);
                self.last_position = last;
                if !found.records.is_empty() {
                    metrics::of(self.slot).count_stored(found.records.len(), crate::pg::now());
                    arrivals::condition().broadcast();
                }
            }
            Some((Stored::Busy, _)) => local.retry_at = Some(Instant::now() + RETRY_PAUSE),
            // The definition is read again.
            Some(_) | None => {
                local.is_due = true;
                self.slot.notify(SUBSCRIPTIONS_CHANGED);
            }
        }
    }
}

/// Whether a step has to be stored. One that only passes other events can be repeated.
fn is_worth_storing(local: &Local, found: &Found) -> bool {
    !found.records.is_empty() || found.cursor.upto() - local.stored_upto > FAR
}

/// Takes events and stores them, in a transaction, as the owner of the tables.
fn take(local: &Local, after: i64, segment: usize, notifies: bool) -> (Stored, Option<Found>) {
    let definition = &local.definition;
    if let Some(obstacle) = store::obstacle(definition.id, definition.generation) {
        return (obstacle, None);
    }
    // In this order.
    let stable = writers::stable_position();
    let found = {
        let _snapshot = Snapshot::take_latest();
        find(local, stable)
    };
    if !is_worth_storing(local, &found) {
        return (Stored::UpTo(after), Some(found));
    }
    let partitions = definition.partitions.len();
    let next = found.cursor.upto().saturating_add(1);
    let batch = Batch {
        definition,
        records: &found.records,
        next_offsets: vec![Some(next); partitions],
        last_reads: vec![None; partitions],
        undecided: Some(found.cursor.undecided().iter().flat_map(|(low, high)| [*low, *high]).collect()),
        after,
        segment,
        notifies,
    };
    (batch.insert_all(), Some(found))
}

/// Finds events by the active snapshot.
fn find(local: &Local, stable: i64) -> Found {
    let mut finder = Finder {
        categories: local.definition.partitions.iter().map(|of| of.topic.clone()).collect(),
        sweep: local.cursor.begin(stable),
        records: RecordBatch::default(),
        looked_at: 0,
    };
    let rest = finder.late().or_else(|| finder.decided()).unwrap_or_else(|| finder.open());
    Found { cursor: finder.sweep.end(), records: finder.records, rest }
}

struct Finder {
    categories: Vec<String>,
    sweep: Sweep,
    records: RecordBatch,
    looked_at: usize,
}

impl Finder {
    /// One more than may be looked at tells whether there are more.
    fn limit() -> Option<pg_sys::Datum> {
        i64::try_from(MOST_EVENTS + 1).unwrap_or(i64::MAX).into_datum()
    }

    /// The next of some rows, if there is room for it.
    fn admit(&mut self, row: &Row) -> Option<i64> {
        if self.looked_at == MOST_EVENTS || !row.get::<bool>(12).unwrap_or(false) {
            return None;
        }
        self.looked_at += 1;
        row.get(1)
    }

    /// Takes what was committed late. Returns what is left, if the step must end.
    fn late(&mut self) -> Option<Rest> {
        if self.sweep.late().is_empty() {
            self.sweep.end_late();
            return None;
        }
        let (low, high): (Vec<i64>, Vec<i64>) = self.sweep.late().iter().copied().unzip();
        let arguments =
            [self.categories.clone().into_datum(), low.into_datum(), high.into_datum(), Self::limit()];
        let rows = LATE.execute(&arguments, Access::Read, 0);
        for row in rows.iter() {
            let Some(position) = self.admit(&row) else { return Some(Rest::More) };
            self.sweep.take_late(position);
            self.push(&row, position);
        }
        self.sweep.end_late();
        None
    }

    fn decided(&mut self) -> Option<Rest> {
        let (after, upto) = self.sweep.decided()?;
        let arguments =
            [self.categories.clone().into_datum(), after.into_datum(), upto.into_datum(), Self::limit()];
        let rows = DECIDED.execute(&arguments, Access::Read, 0);
        for row in rows.iter() {
            let Some(position) = self.admit(&row) else { return Some(Rest::More) };
            self.sweep.take_decided(position);
            self.push(&row, position);
        }
        self.sweep.end_decided();
        None
    }

    fn open(&mut self) -> Rest {
        let arguments = [self.categories.clone().into_datum(), self.sweep.open().into_datum(), Self::limit()];
        let rows = OPEN.execute(&arguments, Access::Read, 0);
        for row in rows.iter() {
            let Some(position) = self.admit(&row) else { return Rest::More };
            let is_wanted =
                row.get::<&str>(2).is_some_and(|category| self.categories.iter().any(|of| of == category));
            match self.sweep.consider_open(position, is_wanted) {
                Action::Take => self.push(&row, position),
                Action::Skip => {}
                Action::Stop => return Rest::Gaps,
            }
        }
        Rest::Nothing
    }

    /// Adds an event as a record: its stream is the key, its position the offset.
    fn push(&mut self, row: &Row, position: i64) {
        let text = |column| row.get::<&str>(column);
        let uuid = |column| {
            let id: Option<pgrx::Uuid> = row.get(column);
            id.map(|id| uuid::Uuid::from_bytes(*id.as_bytes()).to_string())
        };
        let category = text(2).unwrap_or_default();
        let number = self.categories.iter().position(|of| of == category).unwrap_or(0);
        let time = row.datum(11).map(|at| compat::unix_micros(at.value() as i64));
        let event_time = time.and_then(envelope::time);
        let (id, causation, correlation) = (uuid(5), uuid(9), uuid(10));
        let version = row.get::<i64>(4).unwrap_or(0).to_string();
        let place = position.to_string();
        let headers = [
            ("ce_id", id.as_deref()),
            ("ce_type", text(6)),
            ("ce_time", event_time.as_deref()),
            ("content-type", Some("application/json")),
            ("stream", text(3)),
            ("version", Some(version.as_str())),
            ("position", Some(place.as_str())),
            ("causation_id", causation.as_deref()),
            ("correlation_id", correlation.as_deref()),
            ("metadata", text(8)),
        ];
        let present = headers.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let record = RecordRef {
            partition: i32::try_from(number).unwrap_or(0),
            offset: position,
            timestamp_ms: time.map(|micros| micros / 1000),
            key: text(3).map(str::as_bytes),
            value: text(7).map(str::as_bytes),
            headers: &[],
        };
        self.records.push_with_headers(
            record,
            present.map(|(name, value)| (name.as_bytes(), Some(value.as_bytes()))),
        );
    }
}
