//! Owns the publication of appended events: they are emitted through the outbox, in the same transaction.
//!
//! Runs in: client backends.

use pgrx::prelude::*;
use serde_json::{Map, json};

use super::new_events::NewEvent;
use crate::pg::spi::{self, Access, Statement};
use crate::pg::user_context::{Owner, UserContext};
use crate::pg::varlena;

/// An event without data is no tombstone.
static EMIT: Statement = Statement::new(
    c"SELECT outbox.emit($1, coalesce($2, 'null'::pg_catalog.jsonb), $3, $4, $5::pg_catalog.jsonb, $6)",
    &[pg_sys::TEXTOID, pg_sys::JSONBOID, pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::UUIDOID],
);

/// What was stored of an event.
#[derive(Debug, Clone, Copy)]
pub struct Recorded {
    /// Its id.
    pub id: pgrx::Uuid,
    /// Its place in the stream.
    pub version: i64,
    /// Its place in the store.
    pub position: i64,
}

/// Where appended events go.
pub struct Publication<'a> {
    /// The topic that an administrator has bound the category to.
    pub bound: Option<String>,
    /// The topic that the caller asks for.
    pub asked: Option<&'a str>,
    /// The owner of the tables, who publishes what is bound.
    pub owner: Owner,
    /// The stream, whose name is the key.
    pub stream: &'a str,
    /// What caused the events.
    pub causation_id: Option<pgrx::Uuid>,
    /// What they belong to.
    pub correlation_id: Option<pgrx::Uuid>,
}

impl Publication<'_> {
    /// Emits the events, once to each topic.
    pub fn publish(&self, events: &[NewEvent<'_>], recorded: &[Recorded]) {
        if recorded.is_empty() {
            return;
        }
        if let Some(topic) = &self.bound {
            let _owner = UserContext::switch_to(self.owner);
            self.emit(topic, events, recorded);
        }
        // With the rights of the caller.
        if let Some(topic) = self.asked.filter(|topic| self.bound.as_deref() != Some(topic)) {
            self.emit(topic, events, recorded);
        }
    }

    fn emit(&self, topic: &str, events: &[NewEvent<'_>], recorded: &[Recorded]) {
        spi::connected(|| {
            for (event, recorded) in events.iter().zip(recorded) {
                let arguments = [
                    topic.into_datum(),
                    event.data,
                    self.stream.into_datum(),
                    event.event_type.into_datum(),
                    self.headers(event, recorded).into_datum(),
                    recorded.id.into_datum(),
                ];
                EMIT.execute(&arguments, Access::Write, 0).free();
            }
        });
    }

    fn headers(&self, event: &NewEvent<'_>, recorded: &Recorded) -> String {
        let mut headers = Map::new();
        headers.insert("stream".into(), self.stream.into());
        headers.insert("version".into(), recorded.version.to_string().into());
        headers.insert("position".into(), recorded.position.to_string().into());
        for (name, id) in [("causation_id", self.causation_id), ("correlation_id", self.correlation_id)] {
            if let Some(id) = id {
                headers.insert(name.into(), uuid::Uuid::from_bytes(*id.as_bytes()).to_string().into());
            }
        }
        if let Some(metadata) = event.metadata {
            // SAFETY: a jsonb that was made of the document, alive as long as the call; its text lives as long.
            let text = unsafe { varlena::text(varlena::json_of(metadata)) };
            headers.insert("metadata".into(), text.into());
        }
        json!(headers).to_string()
    }
}
