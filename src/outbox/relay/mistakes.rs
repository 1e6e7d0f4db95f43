//! Mistakes that the relay makes when the torture test tells it to: proof that the test would notice them.
//! Only the cargo feature `failpoints`, which no shipped build has, puts anything behind these functions.
//!
//! Runs in: a relay's background worker, main thread.

#[cfg(feature = "failpoints")]
pub(super) use made::{before_flush, has_read, keeps_order, range, taken};

#[cfg(not(feature = "failpoints"))]
pub(super) use none::{before_flush, has_read, keeps_order, range, taken};

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

    /// The highest id that was read, where ids are believed to come in order.
    static CURSOR: AtomicI64 = AtomicI64::new(0);

    /// What is read instead of this: nothing with an id below one that was read.
    pub(in crate::outbox::relay) fn range(by: By, range: Range) -> Range {
        let is_naive = by == By::New && sabotaged(Sabotage::NaiveCursor);
        let after = if is_naive { range.after.max(CURSOR.load(Ordering::Relaxed)) } else { range.after };
        Range { after, ..range }
    }

    /// All rows up to this id have been read.
    pub(in crate::outbox::relay) fn has_read(id: i64) {
        CURSOR.fetch_max(id, Ordering::Relaxed);
    }

    /// Whether a refused event holds back those that follow it.
    pub(in crate::outbox::relay) fn keeps_order() -> bool {
        !sabotaged(Sabotage::RetryAtTail)
    }

    /// These were taken: they are deleted before they are acknowledged.
    pub(in crate::outbox::relay) fn taken(outbox: Outbox, taken: &Taken<RowIdentity>) {
        if sabotaged(Sabotage::DeleteBeforeAck) {
            let rows: Vec<RowIdentity> = taken.events().iter().map(|entry| entry.row).collect();
            let _ = statements::delete(outbox, &rows);
        }
    }

    /// Whether what was read is published without being flushed.
    pub(in crate::outbox::relay) fn before_flush() -> bool {
        sabotaged(Sabotage::PublishUnflushed)
    }
}

#[cfg(not(feature = "failpoints"))]
mod none {
    use event_outbox_policy::delivery::in_flight::By;
    use event_outbox_policy::delivery::window::Taken;
    use event_outbox_policy::reading::reader::Range;

    use crate::outbox::table::identity::RowIdentity;
    use crate::outbox::table::outbox::Outbox;

    /// The same.
    #[inline(always)]
    pub(in crate::outbox::relay) fn range(_by: By, range: Range) -> Range {
        range
    }

    /// Nothing.
    #[inline(always)]
    pub(in crate::outbox::relay) fn has_read(_id: i64) {}

    /// It does.
    #[inline(always)]
    pub(in crate::outbox::relay) fn keeps_order() -> bool {
        true
    }

    /// Nothing.
    #[inline(always)]
    pub(in crate::outbox::relay) fn taken(_outbox: Outbox, _taken: &Taken<RowIdentity>) {}

    /// It is not.
    #[inline(always)]
    pub(in crate::outbox::relay) fn before_flush() -> bool {
        false
    }
}
