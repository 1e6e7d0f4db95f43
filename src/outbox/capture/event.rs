//! Owns the events of captures: their key, their payload, their size.
//!
//! Runs in: client backends, and workers that write to captured tables.

use event_outbox_policy::event::capture::change::{Action, Update};
use event_outbox_policy::event::capture::definition::Style;
use event_outbox_policy::event::draft::JSON;
use pgrx::prelude::*;

use super::cache::Capture;
use super::row::{Row, Weight};
use crate::outbox::emit::additions::{self, Trace};
use crate::outbox::emit::append::Values;
use crate::outbox::emit::schemas;
use crate::pg::compat;
use crate::pg::function::new_uuid;
use crate::pg::json_text::JsonText;
use crate::pg::varlena;
use crate::settings::events;

/// The end of an event that would be too large with what its style promises.
const OMITTED: &str = ",\"omitted\":\"too_large\"}";

/// Enough for most keys.
const FEW_BYTES: usize = 60;

/// A change of one row, or of all.
pub struct Change<'a> {
    /// The capture.
    pub capture: &'a Capture,
    /// What happened.
    pub action: Action,
    /// The row before.
    pub old: Option<Row>,
    /// The row after.
    pub new: Option<Row>,
}

impl<'a> Change<'a> {
    /// A change of which an action tells. Of a row with another key, the deletion knows only what was, and the creation what
    /// is.
    #[must_use]
    pub fn of(
        capture: &'a Capture,
        action: Action,
        update: Update,
        old: Option<Row>,
        new: Option<Row>,
    ) -> Self {
        let (old, new) = match update {
            Update::Key if action.is_of_old_row() => (old, None),
            Update::Key => (None, new),
            _ => (old, new),
        };
        Self { capture, action, old, new }
    }

    /// The event's values, in memory of the current context.
    #[must_use]
    pub fn to_values(&self) -> Values {
        let event_type = self.capture.event_type(self.action);
        let headers = additions::to_headers(None, &Trace::default());
        // SAFETY: a value that was just made.
        let added = headers.map_or(0, |headers| unsafe { varlena::length(headers) });
        let rest = event_type.len() + JSON.len() + added;
        let (key, payload) = self.contents(events::max_event_bytes().saturating_sub(rest));
        let topic = &self.capture.definition.topic;
        let encoded = schemas::apply(topic, Some(event_type), Some(payload), Some(JSON));
        let (payload, content_type) = match encoded {
            Some(encoded) => (encoded.payload, encoded.content_type.into_datum()),
            None => (payload, Some(self.capture.constants.content_type)),
        };
        [
            new_uuid().into_datum(),
            Some(pg_sys::Datum::from(compat::pg_timestamp(crate::pg::now()))),
            Some(self.capture.constants.topic),
            None,
            key,
            Some(payload),
            headers,
            Some(self.capture.constants.types[self.action.place()]),
            content_type,
        ]
    }

    /// Key and payload, which fit into the limit: the whole change if it does, or only the key. An application's write never
    /// fails because its row is large.
    fn contents(&self, limit: usize) -> (Option<pg_sys::Datum>, pg_sys::Datum) {
        let fits = |key: Option<pg_sys::Datum>, payload: &JsonText| {
            // SAFETY: a value that was just made.
            payload.bytes() + key.map_or(0, |key| unsafe { varlena::length(key) }) <= limit
        };
        if self.weight(true).may_fit(limit) {
            let (key, payload) = (self.key(), self.payload());
            if fits(key, &payload) {
                return (key, payload.into_datum());
            }
        }
        if self.weight(false).may_fit(limit) {
            let (key, mut payload) = (self.key(), self.begun());
            payload.push(OMITTED);
            if fits(key, &payload) {
                return (key, payload.into_datum());
            }
        }
        let mut payload = JsonText::new();
        payload.push("{\"key\":null");
        payload.push(OMITTED);
        (None, payload.into_datum())
    }

    fn weight(&self, whole: bool) -> Weight {
        let mut weight = Weight::default();
        let key = &self.capture.key;
        if let Some(row) = self.subject() {
            // In the payload, and as the key.
            weight.add(&row, key.iter().chain(key));
        }
        if !whole {
            return weight;
        }
        match self.capture.definition.style {
            Style::Notification => {}
            Style::Delta => {
                if let Some(row) = &self.new {
                    weight.add(row, self.changed());
                }
            }
            Style::Fat => {
                for row in self.old.iter().chain(&self.new) {
                    weight.add(row, self.capture.columns.iter());
                }
            }
        }
        weight
    }

    /// The row that the event is about.
    fn subject(&self) -> Option<Row> {
        if self.action.is_of_old_row() { self.old } else { self.new }
    }

    /// The columns whose values are new.
    fn changed(&self) -> impl Iterator<Item = &super::row::Column> {
        self.capture.columns.iter().filter(|column| match (&self.old, &self.new) {
            (Some(old), Some(new)) => !old.is_same(new, column),
            _ => true,
        })
    }

    /// The key of the record: the only column's value as text, or several as a JSON object.
    fn key(&self) -> Option<pg_sys::Datum> {
        let row = self.subject()?;
        if let [column] = self.capture.key.as_slice() {
            let value = row.value(column)?;
            let mut key = JsonText::with_room(FEW_BYTES);
            // SAFETY: a value of the column.
            unsafe { column.encoder().put_plain(value, &mut key) };
            return Some(key.into_datum());
        }
        let mut key = JsonText::new();
        row.put(self.capture.key.iter(), &mut key);
        Some(key.into_datum())
    }

    /// The payload up to the key, without its end.
    fn begun(&self) -> JsonText {
        let mut text = JsonText::new();
        text.push("{\"key\":");
        match self.subject() {
            None => text.push("null"),
            Some(row) => row.put(self.capture.key.iter(), &mut text),
        }
        text
    }

    fn payload(&self) -> JsonText {
        let mut text = self.begun();
        match (self.capture.definition.style, self.action) {
            (Style::Notification, _) | (Style::Delta, Action::Deleted) | (_, Action::Truncated) => {}
            (Style::Delta, _) => {
                if let Some(new) = &self.new {
                    text.push(",\"changed\":");
                    new.put(self.changed(), &mut text);
                }
            }
            (Style::Fat, _) => {
                for (member, row) in [(",\"old\":", &self.old), (",\"new\":", &self.new)] {
                    text.push(member);
                    match row {
                        None => text.push("null"),
                        Some(row) => row.put(self.capture.columns.iter(), &mut text),
                    }
                }
            }
        }
        text.push("}");
        text
    }
}
