//! Emits events in each way that an application has.

use std::io::Write;
use std::sync::atomic::Ordering;

use postgres::{Client, Error, Row};
use serde_json::json;
use uuid::Uuid;

use super::Writer;
use crate::journal::{Entry, Expected, Header, JSON, digest};
use crate::topics::{self, KEYS, NO_PARTITION, key_text};

/// Where an event goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    pub topic: usize,
    pub key: Option<u16>,
}

/// Most payloads are padded up to the first number of bytes, a few to the second.
const PADDING: (usize, usize) = (300, 20_000);
const LARGE_PERMILLE: usize = 2;
/// Too large for the topic with small batches.
const OVERSIZED: usize = 100_000;

const EMIT: &str = "SELECT outbox.emit($1, $2, key => $3, event_type => $4, headers => $5, partition => $6), \
                           currval('outbox.events_id_seq')";
const EMIT_BYTES: &str = "SELECT outbox.emit_bytes($1, $2, key => convert_to($3, 'UTF8'), headers => $4, \
                                                   partition => $5, content_type => 'text/x-torture'), \
                                 currval('outbox.events_id_seq')";
const INSERT: &str = "INSERT INTO outbox.events (topic, payload, key, event_type, partition) \
                      VALUES ($1, $2, convert_to($3, 'UTF8'), 'inserted', $4) RETURNING event_id, id";
const COPY: &str = "COPY outbox.events (event_id, topic, key, payload) FROM STDIN";
const IDS: &str = "SELECT event_id, id FROM outbox.events WHERE event_id = ANY ($1)";

fn header(name: &str, value: impl Into<Vec<u8>>) -> Header {
    (name.into(), Some(value.into()))
}

impl Writer {
    /// A random topic and, mostly, a key.
    pub fn choose_target(&mut self) -> Target {
        let topic = match self.random.below(10) {
            0..=3 => 0,
            4..=5 => 1,
            6..=7 => 2,
            8 => topics::SMALL,
            _ => topics::VOLATILE,
        };
        let key = (!self.random.permille(50)).then(|| self.random.below(KEYS) as u16);
        Target { topic, key }
    }

    /// Whether the next event shall be one that each broker refuses.
    pub fn wants_poison(&mut self) -> bool {
        self.random.permille(self.shared.habits.poison)
    }

    /// Emits an event in a random way, and records it.
    pub fn emit(&mut self, transaction: i64, target: Target, expected: Expected) -> Result<Uuid, Error> {
        let draft = self.draft(transaction, target, expected);
        let way = self.random.below(3);
        let varied = self.random.permille(500);
        let is_tombstone = draft.may_be_empty && self.random.permille(100);
        let Some(client) = self.client.as_mut() else { return Ok(Uuid::nil()) };
        let (row, content) = match way {
            0 => draft.emit(client, varied)?,
            1 => draft.emit_bytes(client, varied)?,
            _ => draft.insert(client, is_tombstone)?,
        };
        let (event_id, id) = (row.get(0), row.get(1));
        let Target { topic, key } = target;
        self.journal.entries.push(Entry { event_id, id, transaction, topic, key, content, expected });
        self.shared.written.fetch_add(1, Ordering::Relaxed);
        Ok(event_id)
    }

    fn draft(&mut self, transaction: i64, target: Target, expected: Expected) -> Draft {
        let is_poison = expected == Expected::Dies && target.topic < topics::EXISTING;
        let is_oversized = is_poison && target.topic == topics::SMALL && self.shared.habits.oversized;
        let padding = match self.random.permille(LARGE_PERMILLE) {
            _ if is_oversized => OVERSIZED,
            true => PADDING.1,
            false => self.random.below(PADDING.0),
        };
        Draft {
            topic: self.shared.topics[target.topic].clone(),
            key: target.key.map(key_text),
            // Oversized events go where their key says; other poison asks for a partition that does not exist.
            partition: (is_poison && !is_oversized).then_some(NO_PARTITION),
            number: format!("{transaction:x}-{:x}", self.random.bits()),
            pad: "p".repeat(padding),
            may_be_empty: target.key.is_some() && !is_oversized,
        }
    }

    /// Copies many events of one key.
    pub fn copy(&mut self, transaction: i64, target: Target, count: usize) -> Result<(), Error> {
        let Some(client) = self.client.as_mut() else { return Ok(()) };
        let topic = &self.shared.topics[target.topic];
        let mut events = Vec::new();
        let mut lines = String::new();
        for _ in 0..count {
            let event_id = Uuid::from_u64_pair(self.random.bits(), self.random.bits());
            let payload = format!("{transaction:x}-{:x}", self.random.bits());
            let key = target.key.map_or("\\N".into(), key_text);
            lines += &format!("{event_id}\t{topic}\t{key}\t{payload}\n");
            events.push((event_id, digest(Some(payload.as_bytes()), vec![header("ce_type", &**topic)])));
        }
        copy_in(client, &lines)?;
        let event_ids: Vec<Uuid> = events.iter().map(|(event_id, _)| *event_id).collect();
        let ids: std::collections::HashMap<Uuid, i64> =
            client.query(IDS, &[&event_ids])?.iter().map(|row| (row.get(0), row.get(1))).collect();
        let Target { topic, key } = target;
        for (event_id, content) in events {
            let id = ids.get(&event_id).copied().unwrap_or_default();
            let expected = Expected::Arrives;
            self.journal.entries.push(Entry { event_id, id, transaction, topic, key, content, expected });
        }
        self.shared.written.fetch_add(count, Ordering::Relaxed);
        Ok(())
    }
}

/// An event that is about to be emitted.
struct Draft {
    topic: String,
    key: Option<String>,
    partition: Option<i32>,
    /// A unique text.
    number: String,
    pad: String,
    /// Whether it may be a tombstone, which needs a key.
    may_be_empty: bool,
}

/// The event's ids and a digest of its content.
type Emitted = (Row, u64);

impl Draft {
    fn emit(&self, client: &mut Client, has_type: bool) -> Result<Emitted, Error> {
        let Self { topic, key, partition, number, pad, .. } = self;
        let payload = json!({"pad": pad, "transaction": number, "nested": [1, {"a": null}]});
        let headers = json!({"trace": number, "retry": [1, "two"], "origin": null});
        let kind = has_type.then_some("torture.event");
        let row = client.query_one(EMIT, &[topic, &payload, key, &kind, &headers, partition])?;
        let told = vec![
            header("trace", &**number),
            header("retry", "1"),
            header("retry", "two"),
            ("origin".into(), None),
            header("content-type", JSON),
            header("ce_type", kind.unwrap_or(topic)),
        ];
        Ok((row, digest(Some(payload.to_string().as_bytes()), told)))
    }

    fn emit_bytes(&self, client: &mut Client, has_headers: bool) -> Result<Emitted, Error> {
        let Self { topic, key, partition, number, .. } = self;
        let payload = self.bytes();
        let headers = has_headers.then(|| json!({"trace": number}));
        let row = client.query_one(EMIT_BYTES, &[topic, &payload, key, &headers, partition])?;
        let mut told = vec![header("content-type", "text/x-torture"), header("ce_type", &**topic)];
        told.extend(headers.map(|_| header("trace", &**number)));
        Ok((row, digest(Some(&payload), told)))
    }

    fn insert(&self, client: &mut Client, is_tombstone: bool) -> Result<Emitted, Error> {
        let Self { topic, key, partition, .. } = self;
        let payload = (!is_tombstone).then(|| self.bytes());
        let row = client.query_one(INSERT, &[topic, &payload, key, partition])?;
        Ok((row, digest(payload.as_deref(), vec![header("ce_type", "inserted")])))
    }

    fn bytes(&self) -> Vec<u8> {
        (self.number.clone() + &self.pad).into_bytes()
    }
}

fn copy_in(client: &mut Client, lines: &str) -> Result<(), Error> {
    let mut copy = client.copy_in(COPY)?;
    // finish() reports what fails here.
    let _ = copy.write_all(lines.as_bytes());
    copy.finish()?;
    Ok(())
}
