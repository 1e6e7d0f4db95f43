//! Owns errors as users see them: SQLSTATE, message, detail and hint.
//!
//! Runs in: any process, on its main thread.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// An error with everything its reader needs.
pub struct UserError {
    /// SQLSTATE.
    pub code: PgSqlErrorCode,
    /// The primary message: lower-case, without a full stop.
    pub message: String,
    /// The detail, in sentences.
    pub detail: String,
    /// The hint, in sentences: what to do.
    pub hint: String,
}

impl std::fmt::Display for UserError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}. {}", self.message, self.hint)
    }
}

impl UserError {
    /// Raises it as a Postgres ERROR, which ends the current statement.
    pub fn raise(self) -> ! {
        ErrorReport::new(self.code, self.message, "event_outbox")
            .set_detail(self.detail)
            .set_hint(self.hint)
            .report(PgLogLevel::ERROR);
        unreachable!("an ERROR does not return")
    }

    /// Writes it to the server's log, at a level below ERROR.
    pub fn log(self, level: PgLogLevel) {
        ErrorReport::new(self.code, format!("event_outbox: {}", self.message), "event_outbox")
            .set_detail(self.detail)
            .set_hint(self.hint)
            .report(level);
    }

    /// Sends it to the client as a WARNING.
    pub fn warn(self) {
        ErrorReport::new(self.code, self.message, "event_outbox")
            .set_detail(self.detail)
            .set_hint(self.hint)
            .report(PgLogLevel::WARNING);
    }
}
