//! Owns the servers that all contenders share: one PostgreSQL and one Apache Kafka.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use event_outbox_lab::{Broker, Cluster, StopMode, wait};
use postgres::Client;

use crate::arrival::Watch;
use crate::events;

/// The number of partitions of every topic, the same for all contenders.
pub const PARTITIONS: i32 = 4;

/// Kafka's own defaults. Those of the tests make it start quickly.
const KAFKA_JAVA: [&str; 3] = ["-Xms1g", "-Xmx1g", "-XX:+UseG1GC"];

/// The settings that differ from PostgreSQL's defaults, for all contenders. The settings of durability keep their
/// defaults: all are on.
const POSTGRES: [(&str, &str); 7] = [
    ("shared_buffers", "1GB"),
    ("max_wal_size", "8GB"),
    ("min_wal_size", "2GB"),
    ("max_connections", "200"),
    ("synchronous_commit", "on"),
    // One relay is measured. Others would only disturb it.
    ("max_worker_processes", "16"),
    // This is for statements of the benchmark itself; no contender's plan is large enough for it.
    ("jit", "off"),
];

/// How long PostgreSQL may take to recover from a crash.
const START_DEADLINE: Duration = Duration::from_secs(60);

const TOPIC_DEADLINE: Duration = Duration::from_secs(30);

/// The database of the extension, and of the tables that it is compared with.
pub const OURS: &str = "ours";
/// The database of the peers' tables.
pub const PEERS: &str = "peers";

/// Both running servers.
pub struct Stage {
    // Fields are dropped in this order: the relay before its Kafka.
    server: Cluster,
    broker: Broker,
}

/// How much PostgreSQL writes to its write-ahead log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wal {
    /// The default.
    Replica,
    /// Enough for logical decoding.
    Logical,
}

impl Stage {
    /// Starts both servers and creates the databases. The relay is off.
    pub fn start() -> Result<Self> {
        let broker = Broker::options().java_options(&KAFKA_JAVA).start()?;
        let mut options = Cluster::options("bench").durable();
        for (name, value) in POSTGRES {
            options = options.set(name, value);
        }
        let server = options
            .set("event_outbox.bootstrap_servers", broker.bootstrap_servers())
            .set("event_outbox.source", OUR_SOURCE)
            .set("event_outbox.enabled", "off")
            .start()?;
        let mut client = server.connect("postgres")?;
        for database in [OURS, PEERS] {
            client.batch_execute(&format!("CREATE DATABASE {database}"))?;
            events::create_functions(&mut server.connect(database)?)?;
        }
        server.connect(OURS)?.batch_execute("CREATE EXTENSION event_outbox")?;
        Ok(Self { server, broker })
    }

    /// Restarts PostgreSQL with this `wal_level` and the relay off, so that no scenario depends on another.
    pub fn restart(&mut self, wal: Wal) -> Result<()> {
        let level = match wal {
            Wal::Replica => "replica",
            Wal::Logical => "logical",
        };
        self.server.set("wal_level", level)?;
        self.server.set("event_outbox.enabled", "off")?;
        self.server.restart(StopMode::Fast)?;
        Ok(())
    }

    /// Kills all processes of PostgreSQL at once, and starts it again.
    pub fn crash(&mut self) -> Result<()> {
        self.server.kill()?;
        // A session that was being opened keeps the shared memory for a moment.
        wait::until_ok("PostgreSQL to start", START_DEADLINE, || Ok(self.server.start().ok()))
    }

    /// PostgreSQL.
    pub fn server(&self) -> &Cluster {
        &self.server
    }

    /// Kafka.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Kafka's address.
    pub fn bootstrap_servers(&self) -> String {
        self.broker.bootstrap_servers()
    }

    /// A connection as superuser.
    pub fn connect(&self, database: &str) -> Result<Client> {
        self.server.connect(database)
    }

    /// Changes a setting of the server.
    pub fn configure(&self, setting: &str, value: &str) -> Result<()> {
        self.server.set(setting, value)?;
        self.server.reload()
    }

    /// Runs a checkpoint, so that the next measurement does not pay for earlier work.
    pub fn checkpoint(&self) -> Result<()> {
        Ok(self.connect("postgres")?.batch_execute("CHECKPOINT")?)
    }

    /// Creates a topic, and returns a watch of it.
    pub fn topic(&self, name: &str) -> Result<Watch> {
        self.broker.create_topic(name, PARTITIONS, &[])?;
        let watch = Watch::new(&self.bootstrap_servers(), name, PARTITIONS)?;
        // Its partitions have their leaders a moment later.
        wait::until_ok("leaders of the topic's partitions", TOPIC_DEADLINE, || Ok(watch.records().ok()))?;
        Ok(watch)
    }

    /// Removes a topic with its records.
    pub fn remove_topic(&self, name: &str) -> Result<()> {
        self.broker.delete_topic(name)
    }

    /// The settings under which the figures were measured.
    pub fn settings(&self) -> Result<BTreeMap<String, String>> {
        let sql = "SELECT name, current_setting(name) FROM pg_settings
                    WHERE name IN ('fsync', 'full_page_writes', 'wal_level', 'checkpoint_timeout', 'autovacuum')
                       OR name = ANY($1) OR name LIKE 'event\\_outbox.%' AND source <> 'default'";
        let changed: Vec<_> = POSTGRES.iter().map(|(name, _)| *name).collect();
        let rows = self.connect(OURS)?.query(sql, &[&changed]).context("settings")?;
        let mut settings: BTreeMap<_, _> = rows
            .iter()
            .map(|row| (format!("setting.postgresql.{}", row.get::<_, &str>(0)), row.get(1)))
            .collect();
        settings.insert("setting.kafka.java".into(), KAFKA_JAVA.join(" "));
        settings.insert("setting.kafka.partitions".into(), PARTITIONS.to_string());
        settings.insert("setting.kafka.replication".into(), "1".into());
        Ok(settings)
    }
}

/// Sent as `ce_source` where the envelope is on.
pub const OUR_SOURCE: &str = "postgresql://bench/ours";
