//! Owns `outbox.is_topic_name()` and `outbox.is_topic_pattern()`: the policy's rules for SQL.
//!
//! Runs in: client backends.

use event_outbox_policy::event::topic::{self, Pattern};
use pgrx::prelude::*;

use crate::pg::function::{Arguments, sql_function};

sql_function!(outbox_is_topic_name, pg_finfo_outbox_is_topic_name, is_topic_name);
sql_function!(outbox_is_topic_pattern, pg_finfo_outbox_is_topic_pattern, is_topic_pattern);

fn is_topic_name(arguments: &Arguments) -> Option<pg_sys::Datum> {
    topic::is_valid(arguments.text(0)?).into_datum()
}

fn is_topic_pattern(arguments: &Arguments) -> Option<pg_sys::Datum> {
    Pattern::new(arguments.text(0)?).is_valid().into_datum()
}
