//! What can keep a relay from working in a database that has the extension, until somebody changes it.

use event_outbox_policy::worker::version::{Fit, Version};
use pgrx::prelude::*;

use super::state::State;
use crate::outbox::table::outbox::Outbox;
use crate::pg::user_error::UserError;

/// The version of this library, which is that of the objects in `sql/`.
const LIBRARY: &str = env!("CARGO_PKG_VERSION");

/// The oldest objects that this library can work with. To be raised when the relay comes to need what an
/// earlier version does not have.
const OLDEST_OBJECTS: Version = Version::new(0, 1, 0);

/// Why a relay must not work.
pub struct NotReady {
    /// What its status shows.
    pub state: State,
    /// What is to be said.
    pub error: UserError,
}

impl NotReady {
    /// Looks for one. In a transaction.
    #[must_use]
    pub fn of(outbox: Outbox) -> Option<Self> {
        Self::by_version(&outbox.version())
            .or_else(|| outbox.subscription().map(|subscription| Self::by_subscription(&subscription)))
    }

    /// The rows are another database's, and its relay publishes them: here they would be published once more.
    fn by_subscription(subscription: &str) -> Self {
        let error = UserError {
            code: PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
            message: format!(
                "the relay publishes nothing from a copy: the subscription \"{subscription}\" fills \
                 outbox.events of this database with the events of another"
            ),
            detail: "The relay of that database publishes them. What is emitted here waits in the outbox."
                .into(),
            hint: "Leave outbox.events out of the publication; or drop the subscription when this database \
                   takes over."
                .into(),
        };
        Self { state: State::Replica, error }
    }

    fn by_version(objects: &str) -> Option<Self> {
        // CARGO_PKG_VERSION is one: a library without would work with nothing, and say so.
        let library = LIBRARY.parse().unwrap_or(OLDEST_OBJECTS);
        let hint = match Fit::of(objects, library, OLDEST_OBJECTS) {
            Fit::Exact => return None,
            Fit::Older => {
                older(objects).log(PgLogLevel::LOG);
                return None;
            }
            Fit::TooOld => "Run ALTER EXTENSION event_outbox UPDATE in this database.",
            Fit::Unknown => {
                "Restart the server, so that it loads the library of the version that is installed; \
                 if that has no newer one, install it."
            }
        };
        let error = UserError {
            code: PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            message: format!(
                "the relay cannot work with the extension event_outbox of version {objects} in this database"
            ),
            detail: format!(
                "The library that the server has loaded is of version {LIBRARY}, and works with \
                 {OLDEST_OBJECTS} to {LIBRARY}. Events wait in the outbox."
            ),
            hint: hint.into(),
        };
        Some(Self { state: State::Incompatible, error })
    }
}

/// What is said of objects that can be worked with, though they are not up to date.
fn older(objects: &str) -> UserError {
    UserError {
        code: PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
        message: format!("the extension event_outbox in this database is of the older version {objects}"),
        detail: format!("The relay works with it; its library is of version {LIBRARY}."),
        hint: "Run ALTER EXTENSION event_outbox UPDATE in this database to have what is new.".into(),
    }
}
