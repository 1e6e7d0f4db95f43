//! A database of its own for a test, on the server and broker that tests share.

use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, anyhow};
use event_outbox_lab::{Broker, Cluster, Consumer, Record, Result, released, wait};
use postgres::Client;

/// Ample for anything that should take milliseconds, on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// A wake-up at commit takes milliseconds; the periodic sweep comes much later than this.
pub const PROMPTLY: Duration = Duration::from_secs(15);

/// A database of its own on the shared server; dropped with the test.
pub struct TestDatabase {
    pub server: &'static Cluster,
    pub broker: &'static Broker,
    pub database: String,
    pub client: Client,
}

impl TestDatabase {
    pub fn new() -> Result<Self> {
        let mut db = Self::of(shared_server()?.create_database()?)?;
        db.client.batch_execute("CREATE EXTENSION event_outbox")?;
        Ok(db)
    }

    /// With a relay that publishes nothing, so that events stay in the table.
    pub fn disabled() -> Result<Self> {
        let mut db = Self::new()?;
        db.configure("event_outbox.enabled", "off")?;
        Ok(db)
    }

    /// With the extension as an earlier release installed it.
    pub fn of_version(version: &str) -> Result<Self> {
        assert!(released::versions()?.iter().any(|known| known == version), "{version} was never released");
        let mut db = Self::of(shared_server()?.create_database()?)?;
        db.client.batch_execute(&format!("CREATE EXTENSION event_outbox VERSION '{version}'"))?;
        Ok(db)
    }

    /// With an existing database of the shared server.
    pub fn of(database: String) -> Result<Self> {
        let (server, broker) = (shared_server()?, Broker::shared()?);
        let client = server.connect(&database)?;
        Ok(Self { server, broker, database, client })
    }

    /// A database with this one as its template.
    pub fn copy(&mut self) -> Result<Self> {
        let name = format!("{}_copy", self.database);
        let copy = format!("CREATE DATABASE {name} TEMPLATE {}", self.database);
        // A template must have no connections; its workers make way by themselves.
        self.client = self.server.connect("postgres")?;
        self.client.batch_execute(&copy)?;
        self.client = self.connect()?;
        Self::of(name)
    }

    /// The full name of a topic that no other test uses.
    pub fn topic(&self, name: &str) -> String {
        format!("{}.{name}", self.database)
    }

    /// A topic that no other test uses, created with one partition.
    pub fn own_topic(&self, name: &str) -> Result<String> {
        let topic = self.topic(name);
        self.broker.create_topic(&topic, 1, &[])?;
        Ok(topic)
    }

    /// Another connection to the database.
    pub fn connect(&self) -> Result<Client> {
        self.server.connect(&self.database)
    }

    /// Another connection, as `user`.
    pub fn connect_as(&self, user: &str) -> Result<Client> {
        self.server.connect_as(&self.database, user)
    }

    /// Changes a setting of this database; waits until the relay uses it.
    pub fn configure(&mut self, setting: &str, value: &str) -> Result<()> {
        self.alter_database(&format!("SET {setting} = '{value}'"))
    }

    /// Runs ALTER DATABASE with `change`; waits until a new relay has read it.
    pub fn alter_database(&mut self, change: &str) -> Result<()> {
        let before = self.relay()?;
        self.client.batch_execute(&format!("ALTER DATABASE {} {change}", self.database))?;
        if !change.contains("event_outbox.") && change != "RESET ALL" {
            // Other settings than the extension's do not restart the relay.
            self.client.query_one("SELECT outbox.restart_relay()", &[])?;
        }
        wait::until_ok("the relay to read its settings", DEADLINE, || {
            Ok((self.relay()? != before).then_some(()))
        })
    }

    /// The process id of the relay, once it works.
    pub fn relay(&mut self) -> Result<i32> {
        let found = wait::until_ok("a relay", DEADLINE, || {
            let sql = "SELECT pid FROM outbox.status WHERE state NOT IN ('absent', 'starting', 'stopping')";
            Ok(self.client.query_opt(sql, &[])?.map(|row| row.get(0)))
        });
        found.map_err(|error| error.context(self.status()))
    }

    /// The row of `outbox.status`, for messages.
    fn status(&mut self) -> String {
        let row = self.client.query_one("SELECT s::text FROM outbox.status AS s", &[]);
        row.map_or_else(|error| error.to_string(), |row| row.get(0))
    }

    /// Waits until the relay is in this state; returns its last error.
    pub fn until_state(&mut self, state: &str) -> Result<String> {
        wait::until_ok(&format!("a relay that is {state}"), DEADLINE, || {
            let sql = "SELECT coalesce(last_error, '') FROM outbox.status WHERE state = $1";
            Ok(self.client.query_opt(sql, &[&state])?.map(|row| row.get(0)))
        })
    }

    /// Waits until `count` records of the topic have arrived; long before the periodic sweep.
    pub fn promptly(&self, topic: &str, count: usize) -> Result<Vec<Record>> {
        let mut consumer = Consumer::new(&self.broker.bootstrap_servers(), &[topic])?;
        let arrived = consumer.read_until(count, PROMPTLY).map(<[Record]>::to_vec);
        arrived.with_context(|| self.describe_relay())
    }

    /// What the status says of the relay, for the error of a test.
    fn describe_relay(&self) -> String {
        let sql = "SELECT (SELECT row_to_json(s)::text FROM outbox.status AS s) || ' ' ||
                          (SELECT string_agg(concat_ws(' ', pid, wait_event_type, wait_event, state, query), '; ')
                             FROM pg_stat_activity WHERE datname = current_database() AND backend_type LIKE 'event_outbox%')";
        let described = self.connect().and_then(|mut client| Ok(client.query_one(sql, &[])?.get(0)));
        described.unwrap_or_else(|error| format!("no status: {error:#}"))
    }

    /// Waits until nothing is left to publish; returns the values in the topic, as text.
    pub fn drained_values(&mut self, topic: &str) -> Result<Vec<String>> {
        Ok(values(&self.drained(topic)?))
    }

    /// Waits until nothing is left to publish; returns the records in the topic.
    pub fn drained(&mut self, topic: &str) -> Result<Vec<Record>> {
        wait::until_ok("outbox.events to be empty", DEADLINE, || {
            let empty = self.client.query_one("SELECT NOT EXISTS (SELECT FROM outbox.events)", &[])?;
            Ok(empty.get::<_, bool>(0).then_some(()))
        })?;
        Consumer::read_all(&self.broker.bootstrap_servers(), &[topic])
    }
}

/// The values of records, as text.
pub fn values(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| record.value_text().unwrap_or("(no text)").to_string()).collect()
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        // Frees the relay's worker slot.
        if let Ok(mut client) = self.server.connect("postgres") {
            let _ = client.batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", self.database));
        }
    }
}

pub fn shared_server() -> Result<&'static Cluster> {
    static SHARED: OnceLock<Result<Cluster>> = OnceLock::new();
    SHARED
        .get_or_init(|| {
            let bootstrap = Broker::shared()?.bootstrap_servers();
            Cluster::options("shared")
                .set("event_outbox.bootstrap_servers", bootstrap)
                .set("max_worker_processes", 64)
                .set("max_connections", 200)
                .start()
        })
        .as_ref()
        .map_err(|error| anyhow!("the shared server did not start: {error:#}"))
}
