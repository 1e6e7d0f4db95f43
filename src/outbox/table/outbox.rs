//! Owns the outbox of a database as its relay finds it: the tables, the version, the pause, and the horizon
//! of a pass.
//!
//! Runs in: the relay's main thread.
//!
//! The relay's session has only `pg_catalog` in its search path, and plans by index and ctid alone (see
//! [`session::prepare`](crate::worker::session::prepare)); so operators need no schema, and no plan made for
//! an empty table can turn on a full one.

use event_outbox_policy::reading::floor::Horizon;
use pgrx::prelude::*;

use super::rows::Events;
use crate::pg::catalog;
use crate::pg::relation::{self, OpenRelation};
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{self, Access, Statement};
use crate::pg::user_context::{Owner, UserContext};

static SEQUENCE_CACHE: Statement = Statement::new(
    c"SELECT s.seqcache FROM pg_catalog.pg_sequence AS s WHERE s.seqrelid OPERATOR(pg_catalog.=) $1",
    &[pg_sys::OIDOID],
);

static PAUSED: Statement = Statement::new(c"SELECT FROM outbox.paused", &[]);

static VERSION: Statement = Statement::new(
    c"SELECT x.extversion FROM pg_catalog.pg_extension AS x WHERE x.extname OPERATOR(pg_catalog.=) 'event_outbox'",
    &[],
);

static SUBSCRIPTION: Statement = Statement::new(
    c"SELECT s.subname::pg_catalog.text FROM pg_catalog.pg_subscription_rel AS r \
        JOIN pg_catalog.pg_subscription AS s ON s.oid OPERATOR(pg_catalog.=) r.srsubid WHERE r.srrelid OPERATOR(pg_catalog.=) $1",
    &[pg_sys::OIDOID],
);

/// The outbox of this database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outbox {
    pub(super) events: pg_sys::Oid,
    sequence: pg_sys::Oid,
}

impl Outbox {
    /// Finds the outbox; `None` if the database lacks the extension. Call it in a transaction.
    #[must_use]
    pub fn locate() -> Option<Self> {
        let (events, sequence) = (super::EVENTS.oid(), super::EVENTS_ID_SEQ.oid());
        (![catalog::extension(), events, sequence].contains(&pg_sys::InvalidOid))
            .then_some(Self { events, sequence })
    }

    /// The version of the extension's objects.
    #[must_use]
    pub fn version(self) -> String {
        let _snapshot = Snapshot::take();
        spi::connected(|| {
            let rows = VERSION.execute(&[], Access::Read, 1);
            rows.iter().next().and_then(|row| row.get(1)).unwrap_or_default()
        })
    }

    /// The name of a logical replication subscription that writes to the table, if there is one.
    #[must_use]
    pub fn subscription(self) -> Option<String> {
        let _snapshot = Snapshot::take();
        spi::connected(|| {
            let rows = SUBSCRIPTION.execute(&[self.events.into_datum()], Access::Read, 1);
            rows.iter().next().and_then(|row| row.get(1))
        })
    }

    /// Opens the table of events for reading.
    #[must_use]
    pub fn events(self) -> Events {
        Events::open_to_read(self.events)
    }

    /// Whether sessions do not cache ids of the sequence. A session that caches ids draws them long before it
    /// uses them; the search does not expect that, and only the full sweep finds such events.
    #[must_use]
    pub fn has_exact_sequence(self) -> bool {
        let _snapshot = Snapshot::take();
        spi::connected(|| {
            let rows = SEQUENCE_CACHE.execute(&[self.sequence.into_datum()], Access::Read, 1);
            rows.iter().next().and_then(|row| row.get::<i64>(1)).is_none_or(|cache| cache == 1)
        })
    }

    /// Whether the outbox is paused. An outbox of a version without `outbox.pause()` is not.
    #[must_use]
    pub fn is_paused(self) -> bool {
        let table = super::PAUSED.oid();
        let _snapshot = Snapshot::take();
        table != pg_sys::InvalidOid && {
            let _owner = UserContext::confined_to(Owner::of_table(table));
            spi::connected(|| !PAUSED.execute(&[], Access::Read, 1).is_empty())
        }
    }

    /// The file of the sequence of ids. It changes when the sequence is restarted.
    #[must_use]
    pub fn sequence_file(self) -> pg_sys::Oid {
        // Taking the lock processes the invalidations of all earlier commits.
        OpenRelation::open(self.sequence, relation::READ).class().relfilenode
    }

    /// Whether the outbox is paused, by the active snapshot. The table has no page until the outbox is first
    /// paused.
    #[must_use]
    pub fn is_paused_for_snapshot(self) -> bool {
        let table = super::PAUSED.oid();
        table != pg_sys::InvalidOid
            && catalog::has_pages(table)
            && spi::connected(|| !PAUSED.execute(&[], Access::Read, 1).is_empty())
    }

    /// Whether an id was ever drawn. A dump that is being restored has not set the sequence yet.
    #[must_use]
    pub fn has_drawn_ids(self) -> bool {
        self.last_id().is_some()
    }

    fn last_id(self) -> Option<i64> {
        // SAFETY: in a transaction; the function takes a sequence's oid, and NULL means never called.
        unsafe { pgrx::direct_function_call(pg_sys::pg_sequence_last_value, &[self.sequence.into_datum()]) }
    }

    /// Takes the horizon of a pass before rows are read, in the order that the search relies on: the
    /// sequence, the next transaction id, then the snapshot, which stays active for [`Events::read_new`].
    #[must_use]
    pub fn take_horizon(self) -> (Horizon, Snapshot) {
        // The table before the sequence, as all other code locks them; another order could deadlock.
        // SAFETY: in a transaction, which holds the lock until its end.
        unsafe { pg_sys::LockRelationOid(self.events, pg_sys::AccessShareLock as i32) };
        let last_id = self.last_id();
        // SAFETY: reads a counter in shared memory.
        let next_xid = unsafe { pg_sys::ReadNextFullTransactionId() }.value;
        let snapshot = Snapshot::take();
        let (running, snapshot_xmax) = snapshot.running(next_xid);
        (Horizon { last_id: last_id.unwrap_or(0), next_xid, snapshot_xmax, running }, snapshot)
    }
}
