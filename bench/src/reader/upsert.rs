//! The contenders that keep the latest value of each key of a topic in a table.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use event_outbox_lab::connect::Connect;
use postgres::Client;
use serde_json::json;

use super::Reader;
use super::jdbc_sink::TUNING;
use crate::events::Load;
use crate::stage::{OURS, PEERS, Stage};

/// The number of keys, which are those of [`key`], for each ten records.
const RECORDS_PER_KEY: i64 = 10;

/// How often the table is looked at: that takes some milliseconds.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The table of both, with the place of the record that each row comes from.
const TABLE: &str = "
DROP TABLE IF EXISTS latest;
CREATE TABLE latest (id text PRIMARY KEY, value text, of_partition integer, at_offset bigint)";

/// How far the partitions are, together.
const APPLIED: &str = "
SELECT coalesce(sum(last), 0)::bigint FROM (SELECT max(at_offset) + 1 AS last FROM latest GROUP BY of_partition) AS p";

const CENSUS: &str = r#"
SELECT count(*), count(*) FILTER (WHERE n > $1::bigint - $2::bigint AND id = 'k' || n % $2 AND octet_length(value) = $3)
  FROM (SELECT *, substring(value FROM '"n":(\d+)')::bigint AS n FROM latest) AS l"#;

/// How many keys a load has.
#[must_use]
pub fn keys(load: &Load) -> i64 {
    load.count().cast_signed() / RECORDS_PER_KEY
}

/// The key of a record.
#[must_use]
pub fn key(n: i64, keys: i64) -> String {
    format!("k{}", n % keys)
}

/// The table of a contender.
pub struct Latest {
    client: Client,
    looked: Option<(Instant, u64)>,
}

impl Latest {
    /// In a database.
    pub fn new(stage: &Stage, database: &str) -> Result<Self> {
        Ok(Self { client: stage.connect(database)?, looked: None })
    }

    /// Creates it, empty.
    pub fn create(&mut self) -> Result<()> {
        self.looked = None;
        Ok(self.client.batch_execute(TABLE)?)
    }

    /// How many records are applied.
    pub fn applied(&mut self) -> Result<u64> {
        if let Some((at, applied)) = self.looked
            && at.elapsed() < LOOK_EVERY
        {
            return Ok(applied);
        }
        let applied = u64::try_from(self.client.query_one(APPLIED, &[])?.get::<_, i64>(0))?;
        self.looked = Some((Instant::now(), applied));
        Ok(applied)
    }

    /// Fails unless the table has the last value of each key.
    pub fn ensure_latest(&mut self, load: &Load) -> Result<()> {
        let (keys, bytes) = (keys(load), i32::try_from(load.bytes)?);
        let row = self.client.query_one(CENSUS, &[&load.count().cast_signed(), &keys, &bytes])?;
        let counts: [i64; 2] = [row.get(0), row.get(1)];
        ensure!(counts == [keys; 2], "rows, and those with the last value: {counts:?} of {keys}");
        Ok(())
    }
}

/// A projection.
pub struct Projection {
    latest: Latest,
}

impl Projection {
    /// In the database `ours`.
    pub fn new(stage: &Stage) -> Result<Self> {
        stage.configure("event_outbox.enabled", "on")?;
        Ok(Self { latest: Latest::new(stage, OURS)? })
    }
}

impl Reader for Projection {
    fn name(&self) -> &'static str {
        "ours"
    }

    fn open(&mut self, topic: &str) -> Result<()> {
        self.latest.create()?;
        let project = r#"SELECT inbox.project('bench', $1, 'latest',
            columns => '{"value": "$", "of_partition": "@partition", "at_offset": "@offset"}')"#;
        self.latest.client.execute(project, &[&topic])?;
        Ok(())
    }

    fn stored(&mut self) -> Result<u64> {
        self.latest.applied()
    }

    fn close(&mut self, load: &Load) -> Result<()> {
        self.latest.client.batch_execute("SELECT inbox.unproject('bench')")?;
        self.latest.ensure_latest(load)?;
        self.latest.create()
    }
}

/// Debezium's JDBC sink in its mode for this, with its buffer that leaves the last record of each key in a batch.
pub struct JdbcUpsert<'a> {
    stage: &'a Stage,
    latest: Latest,
    connect: Connect,
    /// The name of the connector, and so of its consumer group. It is new for each run.
    name: String,
    runs: usize,
}

impl<'a> JdbcUpsert<'a> {
    /// Starts a worker. `None` if `scripts/bench` could not fetch its jars.
    pub fn new(stage: &'a Stage) -> Result<Option<Self>> {
        let Some(libs) = std::env::var_os("EVENT_OUTBOX_JDBC_SINK_LIBS").map(PathBuf::from) else {
            return Ok(None);
        };
        let connect = Connect::start_with(&libs, &stage.bootstrap_servers())?;
        let latest = Latest::new(stage, PEERS)?;
        Ok(Some(Self { stage, latest, connect, name: String::new(), runs: 0 }))
    }
}

impl Reader for JdbcUpsert<'_> {
    fn name(&self) -> &'static str {
        "jdbc_sink"
    }

    fn open(&mut self, topic: &str) -> Result<()> {
        self.latest.create()?;
        self.runs += 1;
        self.name = format!("jdbc_upsert_{}", self.runs);
        let port = self.stage.server().port();
        let mut config = json!({
            "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector",
            "topics": topic,
            "connection.url": format!("jdbc:postgresql://127.0.0.1:{port}/{PEERS}?reWriteBatchedInserts=true"),
            "connection.username": "postgres",
            "connection.password": "none",
            "insert.mode": "upsert",
            "use.reduction.buffer": "true",
            "primary.key.mode": "record_key",
            "primary.key.fields": "id",
            "schema.evolution": "none",
            "collection.name.format": "latest",
            // The buffer takes keys that are structures only.
            "transforms": "key,value,place",
            "transforms.key.type": "org.apache.kafka.connect.transforms.HoistField$Key",
            "transforms.key.field": "id",
            "transforms.value.type": "org.apache.kafka.connect.transforms.HoistField$Value",
            "transforms.value.field": "value",
            "transforms.place.type": "org.apache.kafka.connect.transforms.InsertField$Value",
            "transforms.place.partition.field": "of_partition",
            "transforms.place.offset.field": "at_offset",
        });
        for (name, value) in TUNING {
            config[name] = value.into();
        }
        self.connect.create(&self.name, &config)
    }

    fn stored(&mut self) -> Result<u64> {
        self.latest.applied()
    }

    fn close(&mut self, load: &Load) -> Result<()> {
        self.connect.delete(&self.name).context("removing the connector")?;
        self.latest.ensure_latest(load)?;
        self.latest.create()
    }

    fn trouble(&self) -> String {
        self.connect.errors()
    }
}
