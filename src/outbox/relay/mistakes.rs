//! Owns the mistakes that the relay makes on request of the torture test, to prove that the test would notice
//! them. These functions do nothing without the cargo feature `failpoints`, which no shipped build has.
//!
//! Runs in: a relay's background worker, main thread.

#[cfg(feature = "failpoints")]
pub(super) use made::{before_flush, has_read, keeps_order, publishes_first, range, taken};

#[cfg(not(feature = "failpoints"))]
pub(super) use none::{before_flush, has_read, keeps_order, publishes_first, range, taken};

#[cfg(feature = "failpoints")]
mod made {
    use std::sync::atomic::{AtomicI64, Ordering};

    use event_outbox_policy::delivery::in_flight::By;
    use event_outbox_policy::delivery::window::Taken;
    use event_outbox_policy::reading::reader::Range;

    use crate::failpoints::{Sabotage, sabotaged};
    use crate::outbox::table::identity::RowIdentity;
    use crate::outbox::table::outbox::Outbox;
    use crate::outbox::table::statements;

    /// The highest id that was read. The mistake is to believe that ids become visible in order.
    static CURSOR: AtomicI64 = AtomicI64::new(0);

    /// The range to read instead: it skips all ids below one that was read.
    pub(in crate::outbox::relay) fn range(by: By, range: Range) -> Range {
        let is_naive = by == By::New && sabotaged(Sabotage::NaiveCursor);
        let after = if is_naive { range.after.max(CURSOR.load(Ordering::Relaxed)) } else { range.after };
        Range { after, ..range }
    }

    /// Records that all rows up to this id were read.
    pub(in crate::outbox::relay) fn has_read(id: i64) {
        CURSOR.fetch_max(id, Ordering::Relaxed);
    }

    /// Whether a refused event blocks the events that follow it.
    pub(in crate::outbox::relay) fn keeps_order() -> bool {
        !sabotaged(Sabotage::RetryAtTail)
    }

    /// Deletes the taken events before they are acknowledged.
    pub(in crate::outbox::relay) fn taken(outbox: Outbox, taken: &Taken<RowIdentity>) {
        if sabotaged(Sabotage::DeleteBeforeAck) {
            let rows: Vec<RowIdentity> = taken.events().iter().map(|entry| entry.row).collect();
            let _ = statements::delete(outbox, &rows);
        }
    }

    /// Whether the batch is published without a flush of its commits.
    pub(in crate::outbox::relay) fn before_flush() -> bool {
        sabotaged(Sabotage::PublishUnflushed)
    }

    /// Whether events that are delivered at most once are published before their rows are deleted.
    pub(in crate::outbox::relay) fn publishes_first() -> bool {
        sabotaged(Sabotage::PublishBeforeDelete)
    }
}

#[cfg(not(feature = "failpoints"))]
mod none {
    use event_outbox_policy::delivery::in_flight::By;
    use event_outbox_policy::delivery::window::Taken;
    use event_outbox_policy::reading::reader::Range;

    use crate::outbox::table::identity::RowIdentity;
    use crate::outbox::table::outbox::Outbox;

    /// The same range.
    #[inline(always)]
    pub(in crate::outbox::relay) fn range(_by: By, range: Range) -> Range {
        range
    }

    /// Nothing.
    #[inline(always)]
    pub(in crate::outbox::relay) fn has_read(_id: i64) {}

    /// Always.
    #[inline(always)]
    pub(in crate::outbox::relay) fn keeps_order() -> bool {
        true
    }

    /// Nothing.
    #[inline(always)]
    pub(in crate::outbox::relay) fn taken(_outbox: Outbox, _taken: &Taken<RowIdentity>) {}

    /// Never.
    #[inline(always)]
    pub(in crate::outbox::relay) fn before_flush() -> bool {
        false
    }

    /// Never.
    #[inline(always)]
    pub(in crate::outbox::relay) fn publishes_first() -> bool {
        false
    }
}
