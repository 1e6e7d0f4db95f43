//! Owns the check of sources that users write.
//!
//! Runs in: client backends.

use event_outbox_policy::inbox::projection::source::Source;
use pgrx::prelude::*;

use crate::pg::function::{Arguments, sql_function};

sql_function!(inbox_source_error, pg_finfo_inbox_source_error, source_error);

fn source_error(arguments: &Arguments) -> Option<pg_sys::Datum> {
    Source::parse(arguments.text(0).unwrap_or_default()).err().into_datum()
}
