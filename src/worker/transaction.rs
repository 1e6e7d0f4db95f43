//! Owns the transactions of a background worker, with their errors caught.
//!
//! Runs in: a worker's main thread, and the launcher.

use std::ffi::CStr;
use std::panic::AssertUnwindSafe;

use event_outbox_policy::delivery::bisection;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;

use super::process;

/// Why a transaction failed. It has been rolled back.
#[derive(Debug, Clone)]
pub struct Failed {
    /// SQLSTATE.
    pub code: PgSqlErrorCode,
    /// The error's message.
    pub message: String,
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.message)
    }
}

impl Failed {
    /// Whether single rows can be to blame.
    #[must_use]
    pub fn can_be_of_rows(&self) -> bool {
        bisection::may_be_caused_by_row(&self.sqlstate())
    }

    /// The code's five characters.
    #[must_use]
    pub fn sqlstate(&self) -> String {
        sqlstate(self.code)
    }

    /// Rolls back the transaction of a caught error.
    #[must_use]
    pub fn from_caught(cause: CaughtError) -> Self {
        process::hold_cancels();
        // SAFETY: the error has been caught and flushed; what is left is to end its transaction.
        unsafe { pg_sys::AbortCurrentTransaction() };
        match cause {
            CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => {
                Self { code: report.sql_error_code(), message: report.message().to_owned() }
            }
            CaughtError::RustPanic { ereport, .. } => {
                Self { code: PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, message: ereport.message().to_owned() }
            }
        }
    }
}

/// The five characters of an error's code.
#[must_use]
pub fn sqlstate(code: PgSqlErrorCode) -> String {
    // Six bits each, counted from '0', the first one lowest.
    let character = |at: u32| ((code as u32 >> (6 * at) & 0x3f) as u8 + b'0') as char;
    (0..5).map(character).collect()
}

/// Runs `work` in a transaction of its own, shown as `activity` in `pg_stat_activity`.
///
/// # Errors
/// The error that `work`, or the commit, raised; the transaction is rolled back then and the process
/// is as before.
pub fn run<R>(activity: &CStr, work: impl FnOnce() -> R) -> Result<R, Failed> {
    process::admit_cancels();
    let result = PgTryBuilder::new(AssertUnwindSafe(|| {
        // SAFETY: a background worker outside a transaction; begin and commit are paired, and an ERROR
        // between them is caught below.
        unsafe {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::StartTransactionCommand();
            pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, activity.as_ptr());
            let result = work();
            pg_sys::CommitTransactionCommand();
            Ok(result)
        }
    }))
    .catch_others(|cause| Err(Failed::from_caught(cause)))
    .catch_rust_panic(|cause| Err(Failed::from_caught(cause)))
    .execute();
    process::hold_cancels();
    // SAFETY: no transaction is open. Row statistics are handed over, or autovacuum would never see the
    // worker's deletes.
    unsafe {
        pg_sys::pgstat_report_stat(true);
        pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, std::ptr::null());
    }
    result
}
