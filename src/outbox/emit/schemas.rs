//! Owns the way of payloads to the schemas of their topics ([`crate::schemas::encode`]).
//!
//! Runs in: client backends, and workers that write to captured tables.

use pgrx::prelude::*;

use crate::schemas::encode;
pub use crate::schemas::encode::Encoded;
use crate::settings::events;

/// Checks and encodes the payload of an event, if its topic is bound to a schema. An ERROR if it breaks the schema. The check
/// of the topic's grants has just accepted invalidations.
pub fn apply(
    topic: &str,
    event_type: Option<&str>,
    payload: Option<pg_sys::Datum>,
    content_type: Option<&str>,
) -> Option<Encoded> {
    encode::apply(topic, event_type, payload, content_type, events::max_event_bytes())
}
