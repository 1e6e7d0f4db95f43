//! Debezium: the connector for PostgreSQL with its Outbox Event Router, in Kafka Connect.

use std::time::Duration;

use anyhow::Result;
use event_outbox_lab::connect::Connect;
use event_outbox_lab::wait;
use postgres::Client;
use serde_json::{Value, json};

use super::{Contender, Outbox};
use crate::events::{self, Load};
use crate::processes::Work;
use crate::stage::{PEERS, Stage};

const DEADLINE: Duration = Duration::from_secs(60);

/// The table that the Event Router expects, with a column for the second header.
const TABLE: &str = "
CREATE TABLE IF NOT EXISTS debezium_outbox (
    id            uuid PRIMARY KEY,
    aggregatetype varchar(255) NOT NULL,
    aggregateid   varchar(255) NOT NULL,
    type          varchar(255) NOT NULL,
    payload       text,
    trace         text
);
DROP PUBLICATION IF EXISTS debezium_outbox;
CREATE PUBLICATION debezium_outbox FOR TABLE debezium_outbox WITH (publish = 'insert')";

const INSERT: &str = "
INSERT INTO debezium_outbox (id, aggregatetype, aggregateid, type, payload, trace)
SELECT made_id(n)::uuid, $1, made_key(n), 'made', made_payload(n, $4, $5), made_trace(n)
  FROM generate_series($2::bigint, $3::bigint) AS n";

const INSERT_ONE: &str = "
INSERT INTO debezium_outbox (id, aggregatetype, aggregateid, type, payload, trace)
VALUES (made_id($2)::uuid, $1, made_key($2), 'made', made_payload($2), made_trace($2))";

/// The settings that differ from the connector's defaults. For throughput its manual advises a larger queue and larger
/// batches, for latency a shorter poll interval. The producer has the settings of all contenders, under their Java names.
pub const TUNING: [(&str, &str); 11] = [
    ("max.batch.size", "10240"),
    ("max.queue.size", "40960"),
    ("poll.interval.ms", "5"),
    ("producer.override.acks", "all"),
    ("producer.override.enable.idempotence", "true"),
    ("producer.override.linger.ms", "0"),
    ("producer.override.batch.size", "1000000"),
    ("producer.override.max.request.size", "2000000"),
    ("producer.override.buffer.memory", "134217728"),
    ("producer.override.max.in.flight.requests.per.connection", "5"),
    ("producer.override.compression.type", "none"),
];

/// The table, the worker, and the connector while it runs.
pub struct Debezium<'a> {
    stage: &'a Stage,
    client: Client,
    connect: Connect,
    /// The name of the connector and of its slot. It is new for each run, since Connect remembers offsets by name.
    name: String,
    runs: usize,
}

impl<'a> Debezium<'a> {
    /// Starts a worker whose records are committed with their offsets, in transactions of Kafka.
    pub fn exactly_once(stage: &'a Stage) -> Result<Self> {
        Self::with(stage, Connect::start_exactly_once(&stage.bootstrap_servers())?)
    }

    /// Starts a worker. PostgreSQL must have `wal_level = logical`.
    pub fn new(stage: &'a Stage) -> Result<Self> {
        Self::with(stage, Connect::start(&stage.bootstrap_servers())?)
    }

    fn with(stage: &'a Stage, connect: Connect) -> Result<Self> {
        let mut client = stage.connect(PEERS)?;
        client.batch_execute(TABLE)?;
        Ok(Self { stage, client, connect, name: String::new(), runs: 0 })
    }

    fn config(&self) -> Value {
        let mut config = json!({
            "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
            "tasks.max": "1",
            "database.hostname": "127.0.0.1",
            "database.port": self.stage.server().port().to_string(),
            "database.user": "postgres",
            "database.password": "none",
            "database.dbname": PEERS,
            "topic.prefix": "bench",
            "plugin.name": "pgoutput",
            "slot.name": self.name,
            "publication.name": "debezium_outbox",
            "publication.autocreate.mode": "disabled",
            "table.include.list": "public.debezium_outbox",
            "snapshot.mode": "no_data",
            "tombstones.on.delete": "false",
            "transforms": "outbox",
            "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
            "transforms.outbox.route.topic.replacement": "${routedByValue}",
            "transforms.outbox.table.fields.additional.placement": "trace:header",
        });
        for (name, value) in TUNING {
            config[name] = value.into();
        }
        config
    }

    /// Creates a slot, which keeps all changes from now on.
    fn create_slot(&mut self) -> Result<()> {
        self.runs += 1;
        self.name = format!("debezium_{}", self.runs);
        let sql = "SELECT pg_create_logical_replication_slot($1, 'pgoutput')";
        self.client.query_one(sql, &[&self.name])?;
        Ok(())
    }
}

impl Contender for Debezium<'_> {
    fn name(&self) -> &'static str {
        "debezium"
    }

    fn fill(&mut self, load: &Load) -> Result<()> {
        self.create_slot()?;
        let (bytes, filling) = (i32::try_from(load.bytes)?, events::filling(load.bytes));
        self.client
            .execute(INSERT, &[&load.topic, load.numbers.start(), load.numbers.end(), &bytes, &filling])?;
        Ok(())
    }

    fn open(&mut self) -> Result<()> {
        if self.name.is_empty() {
            self.create_slot()?;
        }
        self.connect.create(&self.name, &self.config())
    }

    fn close(&mut self) -> Result<()> {
        self.connect.delete(&self.name)?;
        let free = "SELECT NOT active FROM pg_replication_slots WHERE slot_name = $1";
        wait::until_ok("Debezium to leave its slot", DEADLINE, || {
            Ok(self.client.query_one(free, &[&self.name])?.get::<_, bool>(0).then_some(()))
        })?;
        self.client.execute("SELECT pg_drop_replication_slot($1)", &[&self.name])?;
        self.name.clear();
        Ok(self.client.batch_execute("TRUNCATE debezium_outbox")?)
    }

    fn trouble(&self) -> String {
        self.connect.log_tail()
    }
}

impl Outbox for Debezium<'_> {
    fn database(&self) -> &'static str {
        PEERS
    }

    fn insert_one(&self) -> &'static str {
        INSERT_ONE
    }

    fn relay(&mut self) -> Result<Work> {
        Ok(Work::Process(self.connect.pid()))
    }
}
