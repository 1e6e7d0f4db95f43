//! Debezium's connector for PostgreSQL, which reads pgbench's tables from the log.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use event_outbox_lab::connect::Connect;
use event_outbox_lab::wait;
use postgres::Client;
use serde_json::{Value, json};

use super::{CHANGES, PEERS, Stage};
use crate::arrival::{self, Watch};
use crate::contender::debezium::TUNING;
use crate::tpcb::{self, TABLES};

const PREFIX: &str = "bench";

const DEADLINE: Duration = Duration::from_secs(60);

/// Enough changes that the connector is seen to read.
const FIRST: u64 = 40;

/// A worker. Its connector runs only while it is measured: a slot has the server decode what others write, too.
pub struct TableReader<'a> {
    stage: &'a Stage,
    client: Client,
    connect: Connect,
    watches: Vec<Watch>,
    arrived: u64,
    runs: usize,
}

impl<'a> TableReader<'a> {
    /// Starts the worker. PostgreSQL must have `wal_level = logical`, and the tables in the database of the peers.
    pub fn new(stage: &'a Stage) -> Result<Self> {
        let mut client = stage.connect(PEERS)?;
        let tables = TABLES.map(|(table, _)| table);
        for table in tables {
            // So that events have the whole row before the change, as captured ones have.
            client.batch_execute(&format!("ALTER TABLE {table} REPLICA IDENTITY FULL"))?;
        }
        client.batch_execute(&format!("CREATE PUBLICATION captured FOR TABLE {}", tables.join(", ")))?;
        let watches = tables.map(|table| stage.topic(&format!("{PREFIX}.public.{table}")));
        let watches = watches.into_iter().collect::<Result<Vec<_>>>()?;
        let connect = Connect::start(&stage.bootstrap_servers())?;
        Ok(Self { stage, client, connect, watches, arrived: 0, runs: 0 })
    }

    /// The CPU time of the server and of Connect for transactions whose changes arrive in Kafka.
    pub fn measure(&mut self, transactions: u64) -> Result<Duration> {
        self.runs += 1;
        // Connect remembers offsets by name.
        let name = format!("captured_{}", self.runs);
        self.client.query_one("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", &[&name])?;
        self.connect.create(&name, &config(self.stage, &name))?;
        // Only then does it read.
        self.transact(FIRST)?;
        let (stage, worker) = (self.stage, self.connect.pid());
        let used = super::used(stage, Some(worker), || self.transact(transactions))?;
        self.connect.delete(&name)?;
        let free = "SELECT NOT active FROM pg_replication_slots WHERE slot_name = $1";
        wait::until_ok("Debezium to leave its slot", DEADLINE, || {
            Ok(self.client.query_one(free, &[&name])?.get::<_, bool>(0).then_some(()))
        })?;
        self.client.query_one("SELECT pg_drop_replication_slot($1)", &[&name])?;
        Ok(used)
    }

    fn transact(&mut self, transactions: u64) -> Result<()> {
        tpcb::run(self.stage, PEERS, transactions)?;
        self.arrived += transactions * CHANGES;
        let present = || self.watches.iter().map(Watch::records).sum::<Result<u64>>();
        let all = arrival::until("changes arrived", self.arrived, Instant::now(), present, |_| {});
        all.map(drop).with_context(|| self.connect.log_tail())
    }
}

fn config(stage: &Stage, name: &str) -> Value {
    let mut config = json!({
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "tasks.max": "1",
        "database.hostname": "127.0.0.1",
        "database.port": stage.server().port().to_string(),
        "database.user": "postgres",
        "database.password": "none",
        "database.dbname": PEERS,
        "topic.prefix": PREFIX,
        "plugin.name": "pgoutput",
        "slot.name": name,
        "publication.name": "captured",
        "publication.autocreate.mode": "disabled",
        "snapshot.mode": "no_data",
        // The worker's converters write text.
        "key.converter": "org.apache.kafka.connect.json.JsonConverter",
        "key.converter.schemas.enable": "false",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter.schemas.enable": "false",
        // The keys that the captures have.
        "message.key.columns": "public.pgbench_history:aid",
    });
    for (setting, value) in TUNING {
        config[setting] = value.into();
    }
    config
}
