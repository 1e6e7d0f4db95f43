//! `schemas`: what checking and encoding by a schema costs the application, beside `emit()` to a topic without one.

use anyhow::{Context, Result};
use postgres::{Client, Statement};

use super::Bench;
use crate::contender::Headers;
use crate::contender::ours::Ours;
use crate::figures::Rounds;
use crate::processes;
use crate::stage::{OURS, Stage, Wal};

/// The payloads, by their approximate size in bytes and the number of their lines.
const SIZES: [(&str, usize); 3] = [("100", 1), ("1000", 14), ("10000", 145)];

/// Topics without a schema, and with one of each format.
const TOPICS: [&str; 4] = ["none", "json", "avro", "protobuf"];

/// The number of slices of each, measured alternately, and of events in each.
const SLICES: usize = 20;
const SLICE: usize = 300;

const JSON: &str = r#"{"type": "object", "required": ["id", "lines"], "additionalProperties": false, "properties": {
    "id": {"type": "integer"}, "lines": {"type": "array", "items": {"type": "object",
    "required": ["sku", "count", "price"], "additionalProperties": false, "properties": {
    "sku": {"type": "string", "maxLength": 40}, "count": {"type": "integer", "minimum": 1},
    "price": {"type": "number"}, "note": {"type": ["string", "null"]}}}}}}"#;

const AVRO: &str = r#"{"type": "record", "name": "Order", "fields": [{"name": "id", "type": "long"},
    {"name": "lines", "type": {"type": "array", "items": {"type": "record", "name": "Line", "fields": [
    {"name": "sku", "type": "string"}, {"name": "count", "type": "int"}, {"name": "price", "type": "double"},
    {"name": "note", "type": ["null", "string"]}]}}}]}"#;

const PROTOBUF: &str = r#"syntax = "proto3"; message Order { int64 id = 1; repeated Line lines = 2;
    message Line { string sku = 1; int32 count = 2; double price = 3; optional string note = 4; } }"#;

/// Measures the CPU of a session for one event each, in microseconds.
pub fn run(bench: &mut Bench) -> Result<()> {
    bench.stage.restart(Wal::Replica)?;
    let slices = bench.size(SLICES, 2);
    let mut ours = Ours::new(&bench.stage, Headers::Own)?;
    ours.disable()?;
    let mut client = bench.stage.connect(OURS)?;
    bind(&mut client)?;
    let mut measured = Rounds::default();
    for (size, lines) in SIZES {
        let mut sessions = TOPICS
            .map(|topic| Session::new(&bench.stage, topic))
            .into_iter()
            .collect::<Result<Vec<_>>>()
            .with_context(|| size.to_string())?;
        for slice in 0..=slices {
            for (topic, session) in TOPICS.iter().zip(&mut sessions) {
                let used = session.run(lines)?;
                if slice > 0 {
                    measured.add(format!("schemas.{size}.{topic}_us"), used);
                }
            }
            client.batch_execute("TRUNCATE outbox.events")?;
        }
        for topic in &TOPICS[1..] {
            let [with, without] = [*topic, "none"].map(|topic| format!("schemas.{size}.{topic}_us"));
            measured.ratio(format!("schemas.{size}.ratio_{topic}"), &with, &without);
        }
    }
    bench.figures.summarise_rounds(&measured);
    Ok(())
}

fn bind(client: &mut Client) -> Result<()> {
    for (format, definition) in [("json", JSON), ("avro", AVRO), ("protobuf", PROTOBUF)] {
        client.execute("SELECT outbox.register_schema($1, $1, $2)", &[&format, &definition])?;
        client.execute("SELECT outbox.bind_schema($1, NULL, $1)", &[&format])?;
    }
    Ok(())
}

/// A session that emits to one topic.
struct Session {
    client: Client,
    statement: Statement,
    topic: &'static str,
    backend: u32,
}

impl Session {
    fn new(stage: &Stage, topic: &'static str) -> Result<Self> {
        let mut client = stage.connect(OURS)?;
        let backend: i32 = client.query_one("SELECT pg_backend_pid()", &[])?.get(0);
        let statement = client.prepare("SELECT outbox.emit($1, $2::text::jsonb, key => 'k')")?;
        Ok(Self { client, statement, topic, backend: u32::try_from(backend)? })
    }

    /// The microseconds of CPU that the server takes for an event, on average.
    fn run(&mut self, lines: usize) -> Result<f64> {
        let line = r#"{"sku":"AB-1234567","count":3,"price":19.95,"note":"as agreed"}"#;
        let lines = vec![line; lines].join(",");
        let before = processes::cpu(self.backend)?;
        for n in 0..SLICE {
            let payload = format!("{{\"id\":{n},\"lines\":[{lines}]}}");
            self.client.execute(&self.statement, &[&self.topic, &payload])?;
        }
        Ok((processes::cpu(self.backend)? - before).as_secs_f64() * 1e6 / SLICE as f64)
    }
}
