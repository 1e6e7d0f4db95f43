//! Owns the conditions under which a relay must not work in a database, although it has the extension.
//!
//! Runs in: a relay's background worker, main thread.

use event_outbox_policy::worker::version::{Fit, Version};
use pgrx::prelude::*;

use super::state::State;
use crate::outbox::table::outbox::Outbox;
use crate::pg::user_error::UserError;

/// The version of this library, and of the objects in `sql/`.
const LIBRARY: &str = env!("CARGO_PKG_VERSION");

/// The oldest objects that this library can work with. Raise it when the relay needs something that older
/// versions lack.
const OLDEST_OBJECTS: Version = Version::new(0, 1, 0);

/// Why a relay must not work.
pub struct NotReady {
    /// The state to show.
    pub state: State,
    /// The error to report.
    pub error: UserError,
}

impl NotReady {
    /// Checks whether there is such a reason. Must run in a transaction.
    #[must_use]
    pub fn of(outbox: Outbox) -> Option<Self> {
        Self::by_version(&outbox.version())
            .or_else(|| outbox.subscription().map(|subscription| Self::by_subscription(&subscription)))
    }

    /// The rows belong to another database, and its relay publishes them. This relay would publish them
    /// twice.
    fn by_subscription(subscription: &str) -> Self {
        let error = UserError {
            code: PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
            message: format!(
                "the relay does not publish from a copy: subscription \"{subscription}\" fills \
                 outbox.events with the events of another database"
            ),
            detail: "The relay of that database publishes them. Events emitted here wait in the outbox."
                .into(),
            hint: "Remove outbox.events from the publication, or drop the subscription when this database \
                   takes over."
                .into(),
        };
        Self { state: State::Replica, error }
    }

    fn by_version(objects: &str) -> Option<Self> {
        // CARGO_PKG_VERSION always parses. The fallback would accept only the oldest objects, and report all
        // others.
        let library = LIBRARY.parse().unwrap_or(OLDEST_OBJECTS);
        let hint = match Fit::of(objects, library, OLDEST_OBJECTS) {
            Fit::Exact => return None,
            Fit::Older => {
                older(objects).log(PgLogLevel::LOG);
                return None;
            }
            Fit::TooOld => "Run ALTER EXTENSION event_outbox UPDATE in this database.",
            Fit::Unknown => {
                "Restart the server to load the installed version of the library; \
                 if that is not newer, install a newer one."
            }
        };
        let error = UserError {
            code: PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            message: format!(
                "the relay cannot work with extension event_outbox version {objects} in this database"
            ),
            detail: format!(
                "The server has loaded version {LIBRARY} of the library, which works with versions \
                 {OLDEST_OBJECTS} to {LIBRARY}. Events wait in the outbox."
            ),
            hint: hint.into(),
        };
        Some(Self { state: State::Incompatible, error })
    }
}

/// The message about objects that are not up to date, but that the relay can work with.
fn older(objects: &str) -> UserError {
    UserError {
        code: PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
        message: format!("extension event_outbox in this database has the older version {objects}"),
        detail: format!("The relay can work with it. The library has version {LIBRARY}."),
        hint: "Run ALTER EXTENSION event_outbox UPDATE in this database to get the new features.".into(),
    }
}
