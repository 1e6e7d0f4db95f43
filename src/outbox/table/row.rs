//! Owns the relay's view of a row of `outbox.events`.
//!
//! Runs in: the relay's main thread.

use std::borrow::Cow;
use std::cell::RefCell;

use event_outbox_policy::delivery::error_class::ErrorClass;
use event_outbox_policy::event::draft::Event;
use event_outbox_policy::event::size::{self, Size};
use event_outbox_policy::event::topic::MAX_TOPIC_BYTES;
use pgrx::prelude::*;

use super::columns::{Column, Positions};
use super::identity::{RowIdentity, RowPlace};
use crate::pg::{compat, varlena};

/// A row whose values are read on demand: a large payload is fetched only if its event is taken.
pub struct EventRow<'a> {
    slot: &'a pg_sys::TupleTableSlot,
    columns: &'a Positions,
    /// Detoasted copies of values.
    unpacked: &'a RefCell<Vec<*mut pg_sys::varlena>>,
}

impl<'a> EventRow<'a> {
    /// Wraps the row in a slot, whose columns have been deformed up to the last one that is read. Detoasted
    /// copies of values are left in `unpacked`; the caller frees them when the row is no longer used.
    ///
    /// # Safety
    /// The slot holds such a row as long as this value lives.
    #[must_use]
    pub unsafe fn new(
        slot: *const pg_sys::TupleTableSlot,
        columns: &'a Positions,
        unpacked: &'a RefCell<Vec<*mut pg_sys::varlena>>,
    ) -> Self {
        // SAFETY: as promised by the caller.
        Self { slot: unsafe { &*slot }, columns, unpacked }
    }

    fn datum(&self, column: Column) -> Option<pg_sys::Datum> {
        let column = self.columns.at(column);
        // SAFETY: the columns have been deformed up to the last one that is read.
        unsafe { (!*self.slot.tts_isnull.add(column)).then(|| *self.slot.tts_values.add(column)) }
    }

    /// The bytes of a value of variable length, detoasted if it is stored compressed or out of line.
    fn bytes(&self, column: Column) -> Option<Cow<'_, [u8]>> {
        let stored = self.datum(column)?.cast_mut_ptr::<pg_sys::varlena>();
        // SAFETY: a column of type text, bytea or json, which lives as long as the slot holds the row. A
        // detoasted value is our own copy, which is freed before the next row is read.
        unsafe {
            let mut value = stored;
            if varlena::is_packed(stored) {
                value = pg_sys::pg_detoast_datum_packed(stored);
                self.unpacked.borrow_mut().push(value);
            }
            Some(Cow::Borrowed(pgrx::varlena::varlena_to_byte_slice(value)))
        }
    }

    /// The number of bytes of a value of variable length, which is not detoasted.
    fn length(&self, column: Column) -> usize {
        // SAFETY: a column of such a type, which lives as long as the slot holds the row.
        self.datum(column).map_or(0, |value| unsafe { varlena::length(value) })
    }

    /// The event's size, as far as it is known without reading its headers.
    #[must_use]
    pub fn size(&self) -> Size {
        Size {
            payload: self.length(Column::Payload),
            key: self.length(Column::Key),
            headers: self.length(Column::Headers),
            event_type: self.length(Column::EventType),
            content_type: self.length(Column::ContentType),
        }
    }

    /// A value as text. Bytes that are not UTF-8, in a database with another encoding, become replacement
    /// characters.
    fn text(&self, column: Column) -> Option<Cow<'_, str>> {
        Some(match self.bytes(column)? {
            // Two steps, because checking for UTF-8 is far cheaper than the lossy conversion.
            Cow::Borrowed(bytes) => {
                std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
            }
            Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
        })
    }

    /// The event's position.
    #[must_use]
    pub fn id(&self) -> i64 {
        self.datum(Column::Id).map_or(0, |datum| datum.value() as i64)
    }

    /// The time before which the event must not be tried, in microseconds since 1970.
    #[must_use]
    pub fn next_attempt_at(&self) -> Option<i64> {
        let datum = self.datum(Column::NextAttemptAt)?;
        Some(compat::unix_micros(datum.value() as i64))
    }

    /// From when on the event must not be published, in microseconds since 1970.
    #[must_use]
    pub fn expires_at(&self) -> Option<i64> {
        let datum = self.columns.has(Column::ExpiresAt).then(|| self.datum(Column::ExpiresAt))??;
        Some(compat::unix_micros(datum.value() as i64))
    }

    /// The event's own identity.
    #[must_use]
    pub fn event_id(&self) -> [u8; 16] {
        let datum = self.datum(Column::EventId);
        // SAFETY: a uuid is a pointer to its 16 bytes, in the row.
        datum.map_or([0; 16], |datum| unsafe { *datum.cast_mut_ptr::<[u8; 16]>() })
    }

    /// The row's identity, with the fingerprint of its content if that is known.
    #[must_use]
    pub fn identity(&self, content: Option<u64>) -> RowIdentity {
        let place = RowPlace::of(self.slot.tts_tid);
        RowIdentity { id: self.id(), event_id: self.event_id(), place, content }
    }

    /// The transaction that wrote the row; see [`compat::writer_of`].
    #[must_use]
    pub fn writer(&self) -> Option<pg_sys::TransactionId> {
        // SAFETY: the slot holds a row.
        unsafe { compat::writer_of(std::ptr::from_ref(self.slot).cast_mut()) }
    }

    /// The number of bytes of the topic's name.
    #[must_use]
    pub fn topic_bytes(&self) -> usize {
        self.length(Column::Topic)
    }

    /// The topic; empty if the name is longer than Kafka allows.
    #[must_use]
    pub fn topic(&self) -> Cow<'_, str> {
        if self.topic_bytes() > MAX_TOPIC_BYTES {
            return Cow::default();
        }
        self.text(Column::Topic).unwrap_or_default()
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> Option<Cow<'_, [u8]>> {
        self.bytes(Column::Key)
    }

    /// Whether Kafka last refused the event because of its timestamp.
    #[must_use]
    pub fn is_untimely(&self) -> bool {
        self.bytes(Column::ErrorClass)
            .is_some_and(|class| *class == *ErrorClass::InvalidTimestamp.as_str().as_bytes())
    }

    /// The time of its emission, in microseconds since 1970.
    #[must_use]
    pub fn emitted_at(&self) -> i64 {
        self.datum(Column::EmittedAt).map_or(0, |datum| compat::unix_micros(datum.value() as i64))
    }

    /// The fingerprint of its content, if the event is small enough to be published.
    #[must_use]
    pub fn content(&self) -> Option<u64> {
        let fits = size::unsendable(self.topic_bytes(), self.size()).is_none();
        fits.then(|| self.event(&self.topic()).fingerprint())
    }

    /// The whole event. The caller passes the topic, which [`EventRow::topic`] returned.
    #[must_use]
    pub fn event<'e>(&'e self, topic: &'e str) -> Event<'e> {
        Event {
            id: self.id(),
            event_id: self.event_id(),
            emitted_at: self.emitted_at(),
            record_time: self.emitted_at(),
            topic,
            partition: self.datum(Column::Partition).map(|datum| datum.value() as i32),
            key: self.bytes(Column::Key),
            payload: self.bytes(Column::Payload),
            headers: self.text(Column::Headers),
            event_type: self.text(Column::EventType),
            content_type: self.text(Column::ContentType),
        }
    }
}
