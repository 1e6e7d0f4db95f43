//! Owns the mistakes that the inbox makes on request of the torture test, to prove that the test would notice them. These
//! functions do nothing without the cargo feature `failpoints`, which no shipped build has.
//!
//! Runs in: an ingest worker, main thread; whoever receives.

#[cfg(feature = "failpoints")]
pub(super) use made::{consequence, lane_insert, locks_lanes, looks_first, step, stores_offsets_first};

#[cfg(not(feature = "failpoints"))]
pub(super) use none::{consequence, lane_insert, locks_lanes, looks_first, step, stores_offsets_first};

#[cfg(feature = "failpoints")]
mod made {
    use event_outbox_policy::inbox::lane::{Consequence, Failed, LaneState};
    use event_outbox_policy::inbox::plan::Step;
    use pgrx::prelude::*;

    use crate::failpoints::{Sabotage, sabotaged};
    use crate::pg::spi::{Statement, text};

    /// Stores the state of a lane, if nobody else has stored it: then both have received the same events.
    static UNFENCED: Statement = Statement::new(
        text!(
            "INSERT INTO inbox.lane (subscription_id, lane, seq, upto, batch_limit, lease, lease_upto, lease_count, ",
            "lease_expires_at, suspect_upto) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING"
        ),
        &[
            pg_sys::INT4OID,
            pg_sys::INT2OID,
            pg_sys::INT8OID,
            pg_sys::INT8OID,
            pg_sys::INT4OID,
            pg_sys::UUIDOID,
            pg_sys::INT8OID,
            pg_sys::INT4OID,
            pg_sys::TIMESTAMPTZOID,
            pg_sys::INT8OID,
        ],
    );

    /// Whether the offsets of a batch are stored in a transaction of their own, before its events.
    pub(in crate::inbox) fn stores_offsets_first() -> bool {
        sabotaged(Sabotage::OffsetsFirst)
    }

    /// Whether who changes a lane keeps others away.
    pub(in crate::inbox) fn locks_lanes() -> bool {
        !sabotaged(Sabotage::UnlockedLanes)
    }

    /// Whether a transaction that keeps to its snapshot looks whether a lane has events before it takes its lock.
    pub(in crate::inbox) fn looks_first() -> bool {
        !sabotaged(Sabotage::LanesUnlooked)
    }

    /// The statement that stores the state of a lane.
    pub(in crate::inbox) fn lane_insert(proper: &'static Statement) -> &'static Statement {
        if sabotaged(Sabotage::UnlockedLanes) { &UNFENCED } else { proper }
    }

    /// What a failure means for a lane. The mistake is to acknowledge what has failed.
    pub(in crate::inbox) fn consequence(state: &LaneState, failed: Failed) -> Consequence {
        match state.failed(failed) {
            Consequence::Narrow(_) | Consequence::Charge(_) if sabotaged(Sabotage::FailuresAcknowledged) => {
                Consequence::Narrow(state.acknowledged(failed.upto, failed.count))
            }
            proper => proper,
        }
    }

    /// What becomes of a new event. The mistake is not to let it wait for an earlier one of its key that has failed.
    pub(in crate::inbox) fn step(proper: Step) -> Step {
        if proper == Step::Park && sabotaged(Sabotage::RetriesOvertaken) { Step::Receive } else { proper }
    }
}

#[cfg(not(feature = "failpoints"))]
mod none {
    use event_outbox_policy::inbox::lane::{Consequence, Failed, LaneState};
    use event_outbox_policy::inbox::plan::Step;

    use crate::pg::spi::Statement;

    /// Never.
    #[inline(always)]
    pub(in crate::inbox) fn stores_offsets_first() -> bool {
        false
    }

    /// Always.
    #[inline(always)]
    pub(in crate::inbox) fn locks_lanes() -> bool {
        true
    }

    /// Always.
    #[inline(always)]
    pub(in crate::inbox) fn looks_first() -> bool {
        true
    }

    /// The same statement.
    #[inline(always)]
    pub(in crate::inbox) fn lane_insert(proper: &'static Statement) -> &'static Statement {
        proper
    }

    /// What the state says.
    #[inline(always)]
    pub(in crate::inbox) fn consequence(state: &LaneState, failed: Failed) -> Consequence {
        state.failed(failed)
    }

    /// The same step.
    #[inline(always)]
    pub(in crate::inbox) fn step(proper: Step) -> Step {
        proper
    }
}
