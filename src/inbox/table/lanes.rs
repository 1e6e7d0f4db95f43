//! Reads and writes the states of lanes.
//!
//! Runs in: whoever holds the lane's lock, in a transaction, as the owner of the tables.

use event_outbox_policy::inbox::lane::{LaneState, Lease};
use pgrx::prelude::*;

use crate::inbox::mistakes;
use crate::pg::compat;
use crate::pg::spi::{Access, Statement};

/// The newest state of a lane; or none, and where the subscription begins.
static NEWEST: Statement = Statement::new(
    c"SELECT l.seq, l.upto, l.batch_limit, l.lease, l.lease_upto, l.lease_count, l.lease_expires_at, \
             s.first_position, s.paused_at IS NOT NULL, \
             CASE WHEN s.source_id OPERATOR(pg_catalog.=) s.id \
                  THEN (SELECT pg_catalog.min(p.first_position) FROM inbox.partition AS p \
                         WHERE p.source_id OPERATOR(pg_catalog.=) s.id) END, \
             l.suspect_upto \
        FROM inbox.subscription AS s \
        LEFT JOIN LATERAL (SELECT l.seq, l.upto, l.batch_limit, l.lease, l.lease_upto, l.lease_count, \
                                  l.lease_expires_at, l.suspect_upto \
                             FROM inbox.lane AS l \
                            WHERE l.subscription_id OPERATOR(pg_catalog.=) s.id AND l.lane OPERATOR(pg_catalog.=) $2 \
                            ORDER BY l.seq DESC LIMIT 1) AS l ON true \
       WHERE s.id OPERATOR(pg_catalog.=) $1",
    &[pg_sys::INT4OID, pg_sys::INT2OID],
);

static INSERT: Statement = Statement::new(
    c"INSERT INTO inbox.lane (subscription_id, lane, seq, upto, batch_limit, lease, lease_upto, lease_count, \
                              lease_expires_at, suspect_upto) \
      VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
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

/// A lane with its newest state.
#[derive(Debug, Clone, Copy)]
pub struct Lane {
    /// The state.
    pub state: LaneState,
    /// Whether the subscription is paused.
    pub is_paused: bool,
    /// New events are looked for after this position: a seek has skipped all before.
    pub from: i64,
}

impl Lane {
    /// Reads the newest state by the active snapshot. `None` if there is no such subscription.
    #[must_use]
    pub fn read(subscription: i32, lane: u16) -> Option<Self> {
        let rows = NEWEST.execute(&[subscription.into_datum(), (lane as i16).into_datum()], Access::Read, 1);
        let row = rows.iter().next()?;
        let at = |state: LaneState| {
            let from = row.get::<i64>(10).map_or(state.upto, |skipped| skipped.max(state.upto));
            Self { state, is_paused: row.get(9) == Some(true), from }
        };
        let Some(seq) = row.get::<i64>(1) else {
            return Some(at(LaneState::first(row.get(8)?)));
        };
        let lease = row.get::<pgrx::Uuid>(4).and_then(|token| {
            Some(Lease {
                token: u128::from_be_bytes(*token.as_bytes()),
                upto: row.get(5)?,
                count: row.get::<i32>(6)?.unsigned_abs(),
                expires_at: compat::unix_micros(row.datum(7)?.value() as i64),
            })
        });
        let state = LaneState {
            seq,
            upto: row.get(2)?,
            batch_limit: row.get::<i32>(3)?.unsigned_abs(),
            lease,
            suspect_upto: row.get(11)?,
        };
        Some(at(state))
    }
}

/// Stores the next state of a lane.
pub fn insert(subscription: i32, lane: u16, state: &LaneState) {
    let lease = state.lease;
    let token = lease.map(|lease| pgrx::Uuid::from_bytes(lease.token.to_be_bytes()));
    mistakes::lane_insert(&INSERT).execute(
        &[
            subscription.into_datum(),
            (lane as i16).into_datum(),
            state.seq.into_datum(),
            state.upto.into_datum(),
            i32::try_from(state.batch_limit).unwrap_or(i32::MAX).into_datum(),
            token.into_datum(),
            lease.map(|lease| lease.upto).into_datum(),
            lease.map(|lease| i32::try_from(lease.count).unwrap_or(i32::MAX)).into_datum(),
            lease.map(|lease| pg_sys::Datum::from(compat::pg_timestamp(lease.expires_at))),
            state.suspect_upto.into_datum(),
        ],
        Access::Write,
        0,
    );
}
