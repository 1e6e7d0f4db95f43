//! Owns rows of captured tables: their columns, the comparison of two rows, and rows as JSON.
//!
//! Runs in: client backends, and workers that write to captured tables.

use std::ffi::CStr;

use event_outbox_policy::event::capture::change::Update;
use event_outbox_policy::event::size::LARGEST_EVENT;
use pgrx::prelude::*;

use crate::pg::image::{self, Storage};
use crate::pg::json_text::{self, JsonText};
use crate::pg::json_value::Encoder;
use crate::pg::varlena;

/// A column of a captured table.
pub struct Column {
    /// Its place in a row.
    at: usize,
    /// Its name as the name of a JSON member, with the colon.
    member: String,
    storage: Storage,
    encoder: Encoder,
}

impl Column {
    /// Describes a column at this place. It lives as long as the current memory context.
    #[must_use]
    pub fn of(at: usize, name: &CStr, stored: &pg_sys::FormData_pg_attribute) -> Self {
        Self {
            at,
            member: format!("{}:", json_text::quoted(name)),
            storage: Storage { by_value: stored.attbyval, length: stored.attlen },
            encoder: Encoder::of_type(stored.atttypid),
        }
    }

    /// How its values become text.
    #[must_use]
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }
}

/// A row of a captured table, alive as long as its slot holds it.
#[derive(Clone, Copy)]
pub struct Row {
    values: *const pg_sys::Datum,
    nulls: *const bool,
}

impl Row {
    /// The row in a slot.
    ///
    /// # Safety
    /// The slot holds a row of the captured table, for as long as the row is used.
    #[must_use]
    pub unsafe fn of_slot(slot: *mut pg_sys::TupleTableSlot) -> Self {
        // SAFETY: as promised by the caller.
        unsafe {
            pg_sys::slot_getallattrs(slot);
            Self { values: (*slot).tts_values, nulls: (*slot).tts_isnull }
        }
    }

    /// The value of a column.
    #[must_use]
    pub fn value(&self, column: &Column) -> Option<pg_sys::Datum> {
        // SAFETY: a slot of the table has all its columns.
        unsafe { (!*self.nulls.add(column.at)).then(|| *self.values.add(column.at)) }
    }

    /// Whether two rows have the same value in a column.
    #[must_use]
    pub fn is_same(&self, other: &Self, column: &Column) -> bool {
        match (self.value(column), other.value(column)) {
            (None, None) => true,
            // SAFETY: both are values of the column.
            (Some(one), Some(other)) => unsafe { image::is_same(one, other, column.storage) },
            _ => false,
        }
    }

    /// Appends columns as a JSON object.
    pub fn put<'a>(&self, columns: impl Iterator<Item = &'a Column>, text: &mut JsonText) {
        let mut mark = "{";
        for column in columns {
            text.push(mark);
            text.push(&column.member);
            mark = ",";
            match self.value(column) {
                None => text.push("null"),
                // SAFETY: a value of the column.
                Some(value) => unsafe { column.encoder.put(value, text) },
            }
        }
        text.push(if mark == "{" { "{}" } else { "}" });
    }
}

/// What an UPDATE did to a row, as far as a capture with this key and these columns is concerned.
#[must_use]
pub fn compare(key: &[Column], columns: &[Column], old: &Row, new: &Row) -> Update {
    let differs = |columns: &[Column]| columns.iter().any(|column| !old.is_same(new, column));
    if differs(key) {
        Update::Key
    } else if differs(columns) {
        Update::Values
    } else {
        Update::Nothing
    }
}

/// The sizes of values that a text would be made of, before it is made.
#[derive(Default)]
pub struct Weight {
    stored: usize,
    least: usize,
}

impl Weight {
    /// Adds a row's columns.
    pub fn add<'a>(&mut self, row: &Row, columns: impl Iterator<Item = &'a Column>) {
        for column in columns.filter(|column| column.storage.length == -1) {
            // SAFETY: a value of variable length.
            let bytes = row.value(column).map_or(0, |value| unsafe { varlena::length(value) });
            self.stored = self.stored.saturating_add(bytes);
            self.least = self.least.saturating_add(bytes / column.encoder.greatest_ratio());
        }
    }

    /// Whether the text may have this size. If it does not, nothing needs to be fetched or written, which could take a
    /// gigabyte and more, and fail.
    #[must_use]
    pub fn may_fit(&self, limit: usize) -> bool {
        self.least <= limit && self.stored <= LARGEST_EVENT
    }
}
