//! Owns the mapping from the policy's reasons why an event is invalid to Postgres errors.
//!
//! Runs in: client backends.

use event_outbox_policy::event::draft::{Draft, Invalid};
use event_outbox_policy::event::headers::HeaderError;
use pgrx::prelude::*;

use crate::pg::user_error::UserError;
use crate::settings::events;

/// Raises an error if Kafka could never accept the event.
pub fn check(draft: &Draft<'_>) {
    if let Err(invalid) = draft.check(events::max_event_bytes()) {
        UserError::from(invalid).raise();
    }
}

impl From<Invalid> for UserError {
    fn from(invalid: Invalid) -> Self {
        let code = match &invalid {
            Invalid::NoTopic | Invalid::TombstoneWithoutKey => PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            Invalid::Topic(_) | Invalid::TopicTooLong(_) => PgSqlErrorCode::ERRCODE_INVALID_NAME,
            Invalid::InternalTopic(_) | Invalid::Headers(HeaderError::Reserved(_)) => {
                PgSqlErrorCode::ERRCODE_RESERVED_NAME
            }
            Invalid::Partition(_) | Invalid::EmptyType | Invalid::Headers(_) => {
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE
            }
            Invalid::Time => PgSqlErrorCode::ERRCODE_DATETIME_FIELD_OVERFLOW,
            Invalid::TooLarge { .. } | Invalid::JsonTooLarge { .. } => {
                PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED
            }
        };
        Self { code, message: invalid.message(), detail: invalid.detail(), hint: invalid.hint() }
    }
}
