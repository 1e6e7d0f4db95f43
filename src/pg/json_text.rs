//! Owns JSON text that is built in Postgres' memory.
//!
//! Appending calls Postgres only when the memory is used up: each call costs as much as many bytes.
//!
//! Runs in: client backends.

use std::ffi::{CStr, c_char};

use event_outbox_policy::event::json;
use pgrx::prelude::*;

/// Enough for most documents.
const FIRST_BYTES: usize = 1024;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Text that becomes a value of type json, text or bytea. Postgres raises an ERROR if it grows beyond a gigabyte.
pub struct JsonText {
    data: *mut u8,
    end: usize,
    capacity: usize,
}

impl Default for JsonText {
    fn default() -> Self {
        Self::new()
    }
}

impl JsonText {
    /// Empty text with room for a document, in the current memory context.
    #[must_use]
    pub fn new() -> Self {
        Self::with_room(FIRST_BYTES)
    }

    /// Empty text with room for this many bytes.
    #[must_use]
    pub fn with_room(bytes: usize) -> Self {
        let capacity = bytes + pg_sys::VARHDRSZ;
        // SAFETY: the memory begins with room for the value's header, which is written at the end.
        let data = unsafe { pg_sys::palloc(capacity) }.cast();
        Self { data, end: pg_sys::VARHDRSZ, capacity }
    }

    /// Its length in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.end - pg_sys::VARHDRSZ
    }

    /// The place behind what was appended.
    #[must_use]
    pub fn end(&self) -> usize {
        self.end
    }

    /// Appends text that is JSON, or a part of it.
    pub fn push(&mut self, text: &str) {
        self.push_bytes(text.as_bytes());
    }

    /// The same, for bytes.
    pub fn push_bytes(&mut self, bytes: &[u8]) {
        self.make_room(bytes.len());
        // SAFETY: there is room behind the end, and the bytes are elsewhere.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.data.add(self.end), bytes.len()) };
        self.end += bytes.len();
    }

    /// The same, for a C string.
    ///
    /// # Safety
    /// It is one.
    pub unsafe fn push_c(&mut self, text: *const c_char) {
        // SAFETY: as promised by the caller.
        self.push_bytes(unsafe { CStr::from_ptr(text) }.to_bytes());
    }

    /// Appends a string with its quotes.
    pub fn push_quoted(&mut self, text: &[u8]) {
        self.push_bytes(b"\"");
        let mut begin = 0;
        for (at, byte) in text.iter().enumerate() {
            if *byte >= b' ' && *byte != b'"' && *byte != b'\\' {
                continue;
            }
            self.push_bytes(&text[begin..at]);
            begin = at + 1;
            match byte {
                8 => self.push_bytes(b"\\b"),
                12 => self.push_bytes(b"\\f"),
                b'\n' => self.push_bytes(b"\\n"),
                b'\r' => self.push_bytes(b"\\r"),
                b'\t' => self.push_bytes(b"\\t"),
                b'"' => self.push_bytes(b"\\\""),
                b'\\' => self.push_bytes(b"\\\\"),
                _ => {
                    let [high, low] = [byte >> 4, byte & 15].map(|digit| HEX[usize::from(digit)]);
                    self.push_bytes(&[b'\\', b'u', b'0', b'0', high, low]);
                }
            }
        }
        self.push_bytes(&text[begin..]);
        self.push_bytes(b"\"");
    }

    /// Appends a number.
    pub fn push_integer(&mut self, number: i64) {
        let mut digits = [0_u8; 20];
        let mut at = digits.len();
        let mut rest = number.unsigned_abs();
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if number < 0 {
            at -= 1;
            digits[at] = b'-';
        }
        self.push_bytes(&digits[at..]);
    }

    /// Appends a UUID, without quotes.
    pub fn push_uuid(&mut self, bytes: &[u8; 16]) {
        let mut text = [b'-'; 36];
        let mut at = 0;
        for (place, byte) in bytes.iter().enumerate() {
            at += usize::from([4, 6, 8, 10].contains(&place));
            text[at] = HEX[usize::from(byte >> 4)];
            text[at + 1] = HEX[usize::from(byte & 15)];
            at += 2;
        }
        self.push_bytes(&text);
    }

    /// Removes white space from what was appended since `begin`.
    pub fn compact(&mut self, begin: usize) {
        // SAFETY: these bytes were written.
        let written = unsafe { std::slice::from_raw_parts_mut(self.data.add(begin), self.end - begin) };
        self.end = begin + json::compact_in_place(written);
    }

    /// The finished value.
    #[must_use]
    pub fn into_datum(self) -> pg_sys::Datum {
        // SAFETY: the memory begins with room for the header; its size is below a gigabyte.
        unsafe {
            pgrx::set_varsize_4b(self.data.cast(), self.end as i32);
            pg_sys::Datum::from(self.data)
        }
    }

    fn make_room(&mut self, bytes: usize) {
        let needed = self.end.saturating_add(bytes);
        if needed > self.capacity {
            let capacity = needed.max(self.capacity.saturating_mul(2).min(1 << 29));
            // SAFETY: memory of `new`, or of an earlier call.
            self.data = unsafe { pg_sys::repalloc(self.data.cast(), capacity) }.cast();
            self.capacity = capacity;
        }
    }
}

/// A string as JSON, with its quotes. For names, which are short.
#[must_use]
pub fn quoted(name: &CStr) -> String {
    let mut text = JsonText::new();
    text.push_quoted(name.to_bytes());
    // SAFETY: these bytes were written.
    let written = unsafe { std::slice::from_raw_parts(text.data.add(pg_sys::VARHDRSZ), text.bytes()) };
    String::from_utf8_lossy(written).into_owned()
}
