//! Owns the errors that the functions for receiving have in common.
//!
//! Runs in: client backends.

use pgrx::prelude::*;

use crate::pg::user_error::UserError;

/// Raises an ERROR unless this transaction can write.
pub fn require_writable(function: &str) {
    // SAFETY: reads the state of the server and of the transaction.
    let (is_standby, is_read_only) = unsafe { (pg_sys::RecoveryInProgress(), pg_sys::XactReadOnly) };
    if !is_standby && !is_read_only {
        return;
    }
    UserError {
        code: PgSqlErrorCode::ERRCODE_READ_ONLY_SQL_TRANSACTION,
        message: format!("cannot execute {function} in a read-only transaction"),
        detail: if is_standby {
            "This server is a standby; what is received has to be written down.".into()
        } else {
            "What is received has to be written down.".into()
        },
        hint: if is_standby {
            "Connect to the primary server.".into()
        } else {
            "Receive in a transaction that is READ WRITE.".into()
        },
    }
    .raise()
}

/// The error for a missing name.
#[must_use]
pub fn no_name() -> UserError {
    UserError {
        code: PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
        message: "the name of the subscription must not be null".into(),
        detail: "Events are received from one subscription.".into(),
        hint: "SELECT name FROM inbox.subscriptions; shows them.".into(),
    }
}
