//! Owns the report of the launcher that slots are missing.
//!
//! Runs in: the launcher.

use std::time::{Duration, Instant};

use pgrx::prelude::*;

use super::Launcher;
use crate::pg::user_error::UserError;
use crate::settings::workers;
use crate::worker::{databases, slots, transaction};

/// Examining a database takes less than this; a slot that it needs is free again then.
const EXAMINATION: Duration = Duration::from_secs(5);

/// Slots are missing.
pub(super) struct Shortage {
    since: Instant,
    is_logged: bool,
}

impl Launcher {
    /// A database that has no slot, if all are in use.
    fn left_out(&self) -> Option<pg_sys::Oid> {
        let unknown = || self.unknown.front().filter(|_| slots::all().are_in_use()).map(|key| key.database);
        slots::all().left_out().or_else(unknown)
    }

    /// Writes to the log that slots are missing; once, and not while databases are only examined.
    pub(super) fn report_shortage(&mut self) {
        let Some(database) = self.left_out() else {
            self.shortage = None;
            return;
        };
        let shortage =
            self.shortage.get_or_insert_with(|| Shortage { since: Instant::now(), is_logged: false });
        if shortage.is_logged || shortage.since.elapsed() < EXAMINATION {
            return;
        }
        shortage.is_logged = true;
        let name = || databases::admits_workers(database).then(|| databases::name(database));
        match transaction::run(c"event_outbox: looking for a database", name) {
            Ok(Some(name)) => no_slot_for(&name).log(PgLogLevel::WARNING),
            // It needs no worker any more; another database may.
            Ok(None) => {
                self.shortage = None;
                self.unknown.retain(|key| key.database != database);
                slots::all().take_left_out();
            }
            Err(failed) => tracing::warn!("could not look for database {database:?}: {failed}"),
        }
    }

    /// When to report that slots are missing.
    pub(super) fn report_date(&self) -> Option<Instant> {
        self.shortage
            .as_ref()
            .filter(|shortage| !shortage.is_logged)
            .map(|shortage| shortage.since + EXAMINATION)
    }
}

fn no_slot_for(database: &str) -> UserError {
    UserError {
        code: PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
        message: format!("event_outbox.max_workers leaves no worker for database \"{database}\""),
        detail: format!(
            "Other databases use all {} workers. If this database has the extension, it waits until one of them ends.",
            workers::max_workers()
        ),
        hint: "Raise event_outbox.max_workers above the number of databases with the extension, and restart the server."
            .into(),
    }
}
