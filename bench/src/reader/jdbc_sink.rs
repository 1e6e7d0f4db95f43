//! Debezium's JDBC sink in Kafka Connect, tuned as its manual says.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use event_outbox_lab::connect::Connect;
use postgres::Client;
use serde_json::json;

use super::Reader;
use crate::events::Load;
use crate::stage::{PARTITIONS, PEERS, Stage};

/// The value has become a structure with the place of the record and the two headers. The sink reads from the offsets that are
/// committed to Kafka, and does not store the records' keys.
const TABLE: &str = "
DROP TABLE IF EXISTS jdbc_sink;
CREATE TABLE jdbc_sink (
    of_partition integer,
    at_offset    bigint,
    value        text,
    id           text,
    trace        text,
    PRIMARY KEY (of_partition, at_offset)
) WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off)";

const STORED: &str = "
SELECT coalesce(sum(last.next), 0)::bigint
  FROM generate_series(0, $1 - 1) AS p,
       LATERAL (SELECT max(at_offset) + 1 AS next FROM jdbc_sink WHERE of_partition = p) AS last";

const CENSUS: &str = r#"
SELECT count(*), count(DISTINCT n), count(*) FILTER (WHERE octet_length(value) = $1 AND id = made_id(n) AND trace = made_trace(n))
  FROM (SELECT *, substring(value FROM '"n":(\d+)')::bigint AS n FROM jdbc_sink) AS e"#;

/// The settings that differ from the defaults: those for throughput.
pub const TUNING: [(&str, &str); 6] = [
    ("tasks.max", "4"),
    ("batch.size", "10000"),
    ("dialect.postgres.unnest.insert.enabled", "true"),
    ("consumer.override.max.poll.records", "10000"),
    ("consumer.override.max.partition.fetch.bytes", "10000000"),
    ("consumer.override.fetch.max.bytes", "50000000"),
];

/// The table, the worker, and the connector while it runs.
pub struct JdbcSink<'a> {
    stage: &'a Stage,
    client: Client,
    connect: Connect,
    /// The name of the connector, and so of its consumer group. It is new for each run.
    name: String,
    runs: usize,
}

impl<'a> JdbcSink<'a> {
    /// Starts a worker. `None` if `scripts/bench` could not fetch its jars.
    pub fn new(stage: &'a Stage) -> Result<Option<Self>> {
        let Some(libs) = std::env::var_os("EVENT_OUTBOX_JDBC_SINK_LIBS").map(PathBuf::from) else {
            return Ok(None);
        };
        let connect = Connect::start_with(&libs, &stage.bootstrap_servers())?;
        let client = stage.connect(PEERS)?;
        Ok(Some(Self { stage, client, connect, name: String::new(), runs: 0 }))
    }
}

impl Reader for JdbcSink<'_> {
    fn name(&self) -> &'static str {
        "jdbc_sink"
    }

    fn open(&mut self, topic: &str) -> Result<()> {
        self.client.batch_execute(TABLE)?;
        self.runs += 1;
        self.name = format!("jdbc_sink_{}", self.runs);
        let port = self.stage.server().port();
        let mut config = json!({
            "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector",
            "topics": topic,
            "connection.url": format!("jdbc:postgresql://127.0.0.1:{port}/{PEERS}?reWriteBatchedInserts=true"),
            "connection.username": "postgres",
            "connection.password": "none",
            "insert.mode": "insert",
            // Its mode for the place of a record, `kafka`, does not go together with the fastest kind of INSERT.
            "primary.key.mode": "record_value",
            "primary.key.fields": "of_partition,at_offset",
            "schema.evolution": "none",
            "collection.name.format": "jdbc_sink",
            "transforms": "value,place,headers",
            "transforms.value.type": "org.apache.kafka.connect.transforms.HoistField$Value",
            "transforms.value.field": "value",
            "transforms.place.type": "org.apache.kafka.connect.transforms.InsertField$Value",
            "transforms.place.partition.field": "of_partition",
            "transforms.place.offset.field": "at_offset",
            "transforms.headers.type": "io.debezium.transforms.HeaderToValue",
            "transforms.headers.headers": "id,trace",
            "transforms.headers.fields": "id,trace",
            "transforms.headers.operation": "move",
        });
        for (name, value) in TUNING {
            config[name] = value.into();
        }
        self.connect.create(&self.name, &config)
    }

    fn stored(&mut self) -> Result<u64> {
        let row = self.client.query_one(STORED, &[&PARTITIONS])?;
        Ok(u64::try_from(row.get::<_, i64>(0))?)
    }

    fn close(&mut self, load: &Load) -> Result<()> {
        self.connect.delete(&self.name).context("removing the connector")?;
        let row = self.client.query_one(CENSUS, &[&i32::try_from(load.bytes)?])?;
        let counts: [i64; 3] = [row.get(0), row.get(1), row.get(2)];
        ensure!(
            counts == [load.count().cast_signed(); 3],
            "jdbc_sink has events, distinct and right ones: {counts:?} of {}",
            load.count()
        );
        Ok(self.client.batch_execute(TABLE)?)
    }

    fn trouble(&self) -> String {
        self.connect.errors()
    }
}
