//! Owns the sweep, which reads the rows that have become visible and hands them to the producer.
//!
//! Runs in: a relay's background worker, main thread.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use event_outbox_policy::delivery::topic_ramp::Route;
use event_outbox_policy::reading::floor::{Horizon, Reached};

use super::Relay;
use super::candidates::{Candidates, Pass, PendingBatch};
use super::main_loop::STALL;
use super::registration::REREAD;
use super::{metrics, mistakes};
use crate::failpoints::{self, Point};
use crate::outbox::table::outbox::Outbox;
use crate::pg::durability::Commits;
use crate::pg::snapshot::Snapshot;
use crate::worker::metrics::Connection;
use crate::worker::{process, transaction};

/// The shortest sleep for which wakeups are suppressed.
const WORTH_SUPPRESSING: Duration = Duration::from_millis(1);

impl Relay {
    /// Reads one batch and hands it over, if there may be events to read and there is room.
    pub(super) fn sweep(&mut self) {
        if !self.can_sweep() {
            return;
        }
        let now = crate::pg::now();
        if self.in_flight.due(now) {
            self.reader.note_new_rows();
        }
        if self.slot.take_notice(REREAD) {
            self.in_flight.end_waits();
            self.reader.sweep_all();
        }
        if self.full_sweeps.take_due(self.age(), self.settings.sweep_interval) {
            self.begin_full_sweep();
        }
        if self.next_sweep().is_none_or(|date| date > Instant::now()) {
            return;
        }
        // Clear the flag before reading, so a commit during the read sets it again.
        self.slot.wakeup.take();
        self.reader.begin();
        let mut pending = PendingBatch::as_large_as(self.last_batch);
        let read = transaction::run(c"event_outbox: reading new events", || self.read(now, &mut pending));
        if read.is_err() {
            self.reader.abandon(&mut self.in_flight);
            self.put_back(&pending);
        }
        match self.note(read) {
            Some(Some(reached)) => {
                self.pace.swept(self.age(), pending.len());
                self.suppress_wakeups(pending.len());
                self.reader.end(reached);
                let stalled = self.in_flight.backlog().is_full() && pending.is_empty();
                self.stalled = stalled.then(|| Instant::now() + STALL);
                let once = pending.split_once();
                let place = pending.place;
                self.hand_over_replicated(pending, place);
                self.claim(once);
            }
            Some(None) => self.extension_dropped = true,
            None => {}
        }
    }

    /// Makes the following passes read the whole table. If nothing is in flight, it also returns free memory to
    /// the system: that costs time, and this moment is rare.
    fn begin_full_sweep(&mut self) {
        if self.in_flight.window().is_empty() {
            process::give_memory_back();
        }
        self.tidying.begin();
        self.reader.sweep_all();
        self.in_flight.recheck();
        self.schedule.note_change();
    }

    /// Suppresses wakeups while events arrive so fast that the next sweep comes soon anyway. This saves each
    /// commit a system call, and the relay a wakeup.
    fn suppress_wakeups(&self, found: usize) {
        if found > 0 && self.pace.next_sweep(self.age()) >= self.age() + WORTH_SUPPRESSING {
            self.slot.wakeup.suppress();
        }
    }

    /// Runs one pass, limited by the batch size and the room in the window. Must run in a transaction.
    /// Returns `None` if the extension was dropped.
    fn read(&mut self, now: i64, pending: &mut PendingBatch) -> Option<Reached> {
        let outbox = self.outbox()?;
        let (horizon, snapshot) = self.take_horizon(outbox);
        // However the outbox was paused, an event that was committed after the pause is not read.
        if outbox.is_paused_for_snapshot() {
            self.set_paused(true);
            return Some(Reached::End);
        }
        pending.commits = Some(Commits::of_pass());
        let (events, room) = (outbox.events(), self.in_flight.room(self.limits()));
        let PendingBatch { batch, taken, unsendable, commits, .. } = pending;
        let mut table = Candidates {
            events: &events,
            in_order: self.settings.producer.ordered && mistakes::keeps_order(),
            delivery: self.settings.producer.delivery,
            deliveries: &self.once.deliveries,
            progress_topic: &self.settings.producer.progress_topic,
            envelope: &self.settings.producer.envelope,
            topics: &mut self.topics,
            timestamps: &mut self.timestamps,
            stalled_topics: &self.stalled_topics,
            is_connected: metrics::of(self.slot).connection().0 == Connection::Connected,
            holds_back: &mut self.holds_back,
            batch,
            unsendable,
            commits,
        };
        let mut pass = Pass { now, room, taken };
        let limit = self.settings.batch_size.min(self.once.most_together());
        let reached = self.reader.read(horizon, limit, &mut self.in_flight, &mut pass, &mut table);
        mistakes::taken(outbox, &pending.taken);
        drop(snapshot);
        if !pending.is_empty() && !mistakes::before_flush() {
            pending.place = pending.commits.as_ref().and_then(Commits::flush);
        }
        failpoints::reach(Point::AfterRead);
        metrics::of(self.slot).sweeps.fetch_add(1, Ordering::Relaxed);
        Some(reached)
    }

    /// Takes the horizon and the snapshot before rows are read. After a restart of the sequence, as by
    /// TRUNCATE … RESTART IDENTITY, its value alone does not show that, because it may already be past its
    /// former value. But the sequence is in another file then.
    fn take_horizon(&mut self, outbox: Outbox) -> (Horizon, Snapshot) {
        loop {
            let seen = outbox.take_horizon();
            // Read this after the snapshot, so all rows that the snapshot shows were numbered from this file.
            let file = outbox.sequence_file();
            match self.sequence_file.replace(file) {
                Some(before) if before != file => {
                    self.sequence_restarted = true;
                    self.reader.reset();
                }
                _ => return seen,
            }
        }
    }

    /// Returns the outbox that this relay serves, or `None` if it was dropped. Must run in a transaction. A
    /// new outbox in its place numbers its events from 1 again, so another relay must serve it. The wakeup is
    /// set for that relay.
    pub(super) fn outbox(&self) -> Option<Outbox> {
        let found = Outbox::locate()?;
        if *self.served_outbox.get_or_init(|| found) == found {
            return Some(found);
        }
        self.slot.wakeup.set();
        None
    }

    /// Withdraws a batch that is not sent after all. Its rows are read again.
    pub(super) fn put_back(&mut self, pending: &PendingBatch) {
        let again = self.in_flight.withdraw(&pending.taken);
        self.reader.reread(again);
    }

    pub(super) fn hand_over(&mut self, pending: PendingBatch) {
        if pending.is_empty() {
            return;
        }
        let PendingBatch { batch, taken, unsendable, .. } = pending;
        self.last_batch = batch.part(Route::Gapless).extent();
        self.tell_deleted();
        match self.producer.handle().map(|producer| producer.publish(batch)) {
            Some(true) => {
                self.in_flight.hand_over(taken);
                self.reports.extend(unsendable);
            }
            Some(false) => {
                let again = self.in_flight.withdraw(&taken);
                self.reader.reread(again);
            }
            None => {}
        }
    }
}
