//! Emits events that are refused by the thousand, or too large for any request.

use std::sync::atomic::Ordering;

use postgres::{Error, Row};

use super::Writer;
use super::events::Target;
use crate::journal::{Entry, Expected};
use crate::topics::{KEYS, NO_PARTITION};

const FLOOD: &str = "INSERT INTO outbox.events (topic, payload, key, partition) \
                     SELECT $1, convert_to(n::text, 'UTF8'), CASE WHEN $2 THEN convert_to(n::text, 'UTF8') END, $3 \
                       FROM generate_series($4, $5::int) AS n RETURNING event_id, id";

/// Rows from a dump or from replication are not checked by triggers either.
const BY_NO_TRIGGER: &str = "SET LOCAL session_replication_role = replica";
const HUGE: &str = "INSERT INTO outbox.events (topic, payload, key) \
                    VALUES ($1, 'huge', convert_to(repeat('k', $2), 'UTF8')) RETURNING event_id, id";
const NOTIFY: &str = "NOTIFY outbox";

impl Writer {
    /// Emits `count` events that each broker refuses, in one transaction; each with a key of its own, or without.
    pub(super) fn flood(&mut self, topic: usize, count: usize, is_keyed: bool) -> Result<(), Error> {
        let number = self.begin_notes();
        self.begin(number)?;
        let Some(client) = self.client.as_mut() else { return Ok(()) };
        let first = KEYS as i32;
        let last = first + count as i32 - 1;
        let rows =
            client.query(FLOOD, &[&self.shared.topics[topic], &is_keyed, &NO_PARTITION, &first, &last])?;
        self.note_refused(number, topic, &rows);
        self.commit(number)
    }

    /// Emits an event whose key has `bytes` bytes, more than any request can carry.
    pub(super) fn emit_huge(&mut self, topic: usize, bytes: usize) -> Result<(), Error> {
        let number = self.begin_notes();
        self.begin(number)?;
        self.execute(BY_NO_TRIGGER)?;
        let Some(client) = self.client.as_mut() else { return Ok(()) };
        let row = client.query_one(HUGE, &[&self.shared.topics[topic], &(bytes as i32)])?;
        self.note_refused(number, topic, &[row]);
        self.execute(NOTIFY)?;
        self.commit(number)
    }

    /// Their keys are unique, so no other event waits for them.
    fn note_refused(&mut self, transaction: i64, topic: usize, rows: &[Row]) {
        let Target { topic, key } = Target { topic, key: None };
        self.journal.entries.extend(rows.iter().map(|row| {
            let (event_id, id) = (row.get(0), row.get(1));
            Entry { event_id, id, transaction, topic, key, content: 0, expected: Expected::Dies }
        }));
        self.shared.written.fetch_add(rows.len(), Ordering::Relaxed);
    }
}
