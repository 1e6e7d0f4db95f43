//! Owns the SQL functions that need no table: `uuid_v7()`, `channel()`, `readable()`.
//!
//! Runs in: client backends.

use event_outbox_policy::event::topic;
use pgrx::prelude::*;

use crate::pg::function::{Arguments, new_uuid, sql_function};
use crate::pg::varlena;

sql_function!(outbox_uuid_v7, pg_finfo_outbox_uuid_v7, uuid_v7);
sql_function!(outbox_channel, pg_finfo_outbox_channel, channel);
sql_function!(outbox_readable, pg_finfo_outbox_readable, readable);

fn uuid_v7(_arguments: &Arguments) -> Option<pg_sys::Datum> {
    new_uuid().into_datum()
}

fn channel(arguments: &Arguments) -> Option<pg_sys::Datum> {
    topic::channel(arguments.text(0)?).into_datum()
}

fn readable(arguments: &Arguments) -> Option<pg_sys::Datum> {
    let bytes = arguments.bytes(0)?;
    Some(match std::str::from_utf8(bytes) {
        // Postgres' text can hold every character except NUL.
        Ok(text) if !text.contains('\0') => varlena::filled(bytes.len(), |text| text.copy_from_slice(bytes)),
        _ => varlena::filled(2 + 2 * bytes.len(), |text| {
            let (mark, digits) = text.split_at_mut(2);
            mark.copy_from_slice(b"\\x");
            for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
                pair.copy_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
        }),
    })
}

const HEX: &[u8; 16] = b"0123456789abcdef";
