//! Owns the columns of `outbox.events`: their names, their types, and their positions in a table.
//!
//! Runs in: client backends and relays.

use std::ffi::{CStr, c_int};

use pgrx::prelude::*;

use crate::pg::catalog;
use crate::pg::relation::OpenRelation;
use crate::pg::user_error::UserError;

/// A column of `outbox.events`.
#[allow(missing_docs, reason = "each variant has the name of its column")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    Id,
    EventId,
    EmittedAt,
    Topic,
    Partition,
    Key,
    Payload,
    Headers,
    EventType,
    ContentType,
    Attempts,
    NextAttemptAt,
    LastError,
    ErrorClass,
    FirstRefusedAt,
    Paused,
    ExpiresAt,
}

impl Column {
    /// All columns.
    pub const ALL: [Self; 17] = [
        Self::Id,
        Self::EventId,
        Self::EmittedAt,
        Self::Topic,
        Self::Partition,
        Self::Key,
        Self::Payload,
        Self::Headers,
        Self::EventType,
        Self::ContentType,
        Self::Attempts,
        Self::NextAttemptAt,
        Self::LastError,
        Self::ErrorClass,
        Self::FirstRefusedAt,
        Self::Paused,
        Self::ExpiresAt,
    ];

    /// The columns that `emit()` fills, in the order of its values.
    pub const GIVEN: [Self; 9] = [
        Self::EventId,
        Self::EmittedAt,
        Self::Topic,
        Self::Partition,
        Self::Key,
        Self::Payload,
        Self::Headers,
        Self::EventType,
        Self::ContentType,
    ];

    /// The columns that the relay reads.
    const READ: [Self; 13] = [
        Self::Id,
        Self::EventId,
        Self::EmittedAt,
        Self::Topic,
        Self::Partition,
        Self::Key,
        Self::Payload,
        Self::Headers,
        Self::EventType,
        Self::ContentType,
        Self::NextAttemptAt,
        Self::ErrorClass,
        Self::ExpiresAt,
    ];

    /// The name and the type.
    const fn definition(self) -> (&'static CStr, pg_sys::Oid) {
        match self {
            Self::Id => (c"id", pg_sys::INT8OID),
            Self::EventId => (c"event_id", pg_sys::UUIDOID),
            Self::EmittedAt => (c"emitted_at", pg_sys::TIMESTAMPTZOID),
            Self::Topic => (c"topic", pg_sys::TEXTOID),
            Self::Partition => (c"partition", pg_sys::INT4OID),
            Self::Key => (c"key", pg_sys::BYTEAOID),
            Self::Payload => (c"payload", pg_sys::BYTEAOID),
            Self::Headers => (c"headers", pg_sys::JSONOID),
            Self::EventType => (c"event_type", pg_sys::TEXTOID),
            Self::ContentType => (c"content_type", pg_sys::TEXTOID),
            Self::Attempts => (c"attempts", pg_sys::INT4OID),
            Self::NextAttemptAt => (c"next_attempt_at", pg_sys::TIMESTAMPTZOID),
            Self::LastError => (c"last_error", pg_sys::TEXTOID),
            Self::ErrorClass => (c"error_class", pg_sys::TEXTOID),
            Self::FirstRefusedAt => (c"first_refused_at", pg_sys::TIMESTAMPTZOID),
            Self::Paused => (c"paused", pg_sys::BOOLOID),
            Self::ExpiresAt => (c"expires_at", pg_sys::TIMESTAMPTZOID),
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static CStr {
        self.definition().0
    }

    /// Its type.
    #[must_use]
    pub const fn of_type(self) -> pg_sys::Oid {
        self.definition().1
    }

    /// Whether the column is never null.
    #[must_use]
    pub fn is_required(self) -> bool {
        matches!(self, Self::Id | Self::EventId | Self::EmittedAt | Self::Topic | Self::Attempts)
    }

    /// Whether the column is null in a row of the fast path, which Kafka has never refused.
    #[must_use]
    pub fn is_null_at_first(self) -> bool {
        matches!(
            self,
            Self::NextAttemptAt
                | Self::LastError
                | Self::ErrorClass
                | Self::FirstRefusedAt
                | Self::Paused
                | Self::ExpiresAt
        )
    }

    /// The column of this name.
    #[must_use]
    pub fn named(name: &CStr) -> Option<Self> {
        Self::ALL.into_iter().find(|column| column.name() == name)
    }
}

/// The positions of the columns that the relay reads, counted from 0. They vary: an upgrade appends columns
/// that a new installation has elsewhere.
pub struct Positions {
    /// By the column's number; `ABSENT` for one that the table lacks.
    positions: [usize; Column::ALL.len()],
    /// The number of columns of a row that must be deformed.
    pub width: c_int,
}

impl Positions {
    /// The positions in this table. An ERROR if a column is missing or has another type than the extension
    /// gave it. The table's owner can change the type, and the values are read by their expected types.
    #[must_use]
    pub fn of(relation: &OpenRelation) -> Self {
        // SAFETY: the relation is open.
        let columns = unsafe { catalog::columns(relation.raw()) };
        let mut positions = [ABSENT; Column::ALL.len()];
        for wanted in Column::READ {
            let is_wanted = |(name, column): (&CStr, &pg_sys::FormData_pg_attribute)| {
                !column.attisdropped && name == wanted.name() && column.atttypid == wanted.of_type()
            };
            let found = columns.clone().position(is_wanted);
            let is_new =
                wanted == Column::ExpiresAt && columns.clone().all(|(name, _)| name != wanted.name());
            positions[wanted as usize] = match found {
                Some(at) => at,
                // The extension is not updated yet.
                None if is_new => ABSENT,
                None => unreadable(wanted.name()),
            };
        }
        let read = Column::READ.into_iter().map(|column| positions[column as usize]);
        let last = read.filter(|at| *at != ABSENT).max().unwrap_or(0);
        Self { positions, width: c_int::try_from(last + 1).unwrap_or(c_int::MAX) }
    }

    /// The position of a column that the relay reads.
    #[must_use]
    pub fn at(&self, column: Column) -> usize {
        self.positions[column as usize]
    }

    /// Whether the table has the column.
    #[must_use]
    pub fn has(&self, column: Column) -> bool {
        self.at(column) != ABSENT
    }
}

/// The position of a column that the table lacks.
const ABSENT: usize = usize::MAX;

fn unreadable(column: &CStr) -> ! {
    UserError {
        code: PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
        message: format!(
            "outbox.events has no column \"{}\" of the type that the extension gave it",
            column.to_string_lossy()
        ),
        detail: "The column was changed or dropped. Events wait in the outbox.".into(),
        hint: "Change it back, or drop and create the extension.".into(),
    }
    .raise()
}
