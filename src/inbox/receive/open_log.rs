//! Owns the way through the events of a lane: without the executor, while the segments are as the extension has made them.
//!
//! Runs in: client backends, and the ingest worker.

use std::cell::OnceCell;

use event_outbox_policy::inbox::retention::SEGMENTS;

use super::log::Segment;
use super::stored::Stored;
use super::subscription::Subscription;
use crate::inbox::table::direct::Table;
use crate::pg::index_scan::{Condition, Order, Scan};
use crate::pg::indexed::Indexed;

/// How many positions there may be between two events of a lane, for the first look after some: the rows that a scan of an
/// index could return, it prepares a page at a time.
const NEAR: i64 = 512;

/// The most events that are read in SQL at a time.
const EVENTS_AT_A_TIME: usize = 500;

/// The segments of the log of a subscription, each open for reading from the first read on; `None` if it has to be read in SQL.
pub struct OpenLog<'a> {
    subscription: &'a Subscription,
    tables: [OnceCell<Option<Indexed>>; SEGMENTS],
}

impl<'a> OpenLog<'a> {
    /// None of them is open yet.
    #[must_use]
    pub fn of(subscription: &'a Subscription) -> Self {
        Self { subscription, tables: [const { OnceCell::new() }; SEGMENTS] }
    }

    fn table(&self, segment: Segment) -> Option<&Indexed> {
        self.tables[segment.number].get_or_init(|| Table::Log(segment.number).for_reading()).as_ref()
    }

    fn conditions(&self, lane: i16, after: i64, upto: i64) -> [Condition; 4] {
        [
            Condition::integer(1, self.subscription.log.source),
            Condition::smallint(2, lane),
            Condition::above(3, after),
            Condition::at_most(3, upto),
        ]
    }

    /// A look at what there is, by the active snapshot.
    #[must_use]
    pub fn look(&self) -> LogLook<'_> {
        LogLook { log: self, scans: [const { None }; SEGMENTS] }
    }

    /// The event at this position, if it is there. It lives as long as the connection to SPI.
    #[must_use]
    pub fn event(&self, lane: i16, position: i64) -> Option<Stored> {
        let before = position.checked_sub(1)?;
        let log = &self.subscription.log;
        log.after(before).find_map(|segment| {
            let rows = log.rows(segment, lane, before, 1);
            rows.iter().map(|row| Stored::read(&row)).find(|event| event.position() == position)
        })
    }

    /// Calls `visit` with the events of a lane after a position, in their order, by the active snapshot, until it returns
    /// `false`. About this many are wanted. Returns whether `visit` has ended it, not the end of the lane.
    pub fn each_event(
        &self,
        lane: i16,
        after: i64,
        wanted: usize,
        mut visit: impl FnMut(&Stored) -> bool,
    ) -> bool {
        let log = &self.subscription.log;
        for segment in log.after(after) {
            let goes_on = match self.table(segment) {
                Some(table) => self.scan_segment(table, segment, lane, after, wanted, &mut visit),
                None => self.read_segment(segment, lane, after, wanted, &mut visit),
            };
            if !goes_on {
                return true;
            }
            if segment.last >= log.last_position {
                break;
            }
        }
        false
    }

    fn scan_segment(
        &self,
        table: &Indexed,
        segment: Segment,
        lane: i16,
        after: i64,
        wanted: usize,
        visit: &mut impl FnMut(&Stored) -> bool,
    ) -> bool {
        let last = segment.last.min(self.subscription.log.last_position);
        let distance = NEAR.saturating_mul(i64::try_from(wanted).unwrap_or(i64::MAX));
        let near = last.min(after.saturating_add(distance));
        for (after, upto) in [(after, near), (near, last)] {
            if after >= upto {
                continue;
            }
            let mut scan = table.scan(self.conditions(lane, after, upto), Order::Ascending);
            while let Some(row) = scan.next_row() {
                // An event of no partition is received by nobody.
                let event = Stored::new(self.subscription, &row);
                if event.is_some_and(|event| !visit(&event)) {
                    return false;
                }
            }
        }
        true
    }

    /// The same in SQL.
    fn read_segment(
        &self,
        segment: Segment,
        lane: i16,
        mut after: i64,
        wanted: usize,
        visit: &mut impl FnMut(&Stored) -> bool,
    ) -> bool {
        let chunk = EVENTS_AT_A_TIME.min(wanted.saturating_add(1));
        loop {
            let rows = self.subscription.log.rows(segment, lane, after, chunk);
            for row in rows.iter() {
                let event = Stored::read(&row);
                if !visit(&event) {
                    return false;
                }
                after = event.position();
            }
            if rows.len() < chunk {
                return true;
            }
        }
    }
}

/// A look at the log by one snapshot.
pub struct LogLook<'a> {
    log: &'a OpenLog<'a>,
    scans: [Option<Scan<'a, 4>>; SEGMENTS],
}

impl LogLook<'_> {
    /// Whether a lane has an event after this position.
    #[must_use]
    pub fn has_event(&mut self, lane: i16, after: i64) -> bool {
        let (log, of) = (self.log, &self.log.subscription.log);
        of.after(after).any(|segment| {
            let Some(table) = log.table(segment) else { return !of.rows(segment, lane, after, 1).is_empty() };
            let scan = self.scans[segment.number].get_or_insert_with(|| table.scan_later(Order::Ascending));
            let last = segment.last.min(of.last_position);
            let near = last.min(after.saturating_add(NEAR));
            [(after, near), (near, last)].into_iter().any(|(after, upto)| {
                after < upto && {
                    scan.restart(log.conditions(lane, after, upto));
                    scan.next_row::<1>().is_some()
                }
            })
        })
    }
}
