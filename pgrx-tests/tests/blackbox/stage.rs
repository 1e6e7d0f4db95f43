//! What a test gets: the shared server and broker, and a database of its own with the extension.

use std::sync::OnceLock;
use std::time::Duration;

use anyhow::anyhow;
use event_outbox_tests::{Broker, Cluster, Consumer, Record, Result, wait};
use postgres::Client;

/// Ample for anything that should take milliseconds, on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// A database of its own on the shared server; dropped with the test.
pub struct Stage {
    pub server: &'static Cluster,
    pub broker: &'static Broker,
    pub database: String,
    pub client: Client,
}

impl Stage {
    pub fn new() -> Result<Self> {
        let (server, broker) = (shared_server()?, Broker::shared()?);
        let database = server.create_database()?;
        let mut client = server.connect(&database)?;
        client.batch_execute("CREATE EXTENSION event_outbox")?;
        Ok(Self { server, broker, database, client })
    }

    /// The full name of a topic that no other test uses.
    pub fn topic(&self, name: &str) -> String {
        format!("{}.{name}", self.database)
    }

    /// Waits until nothing is left to publish; gives all that the topic then holds.
    pub fn drained(&mut self, topic: &str) -> Result<Vec<Record>> {
        wait::until_ok("outbox.events to be empty", DEADLINE, || {
            let empty = self.client.query_one("SELECT NOT EXISTS (SELECT FROM outbox.events)", &[])?;
            Ok(empty.get::<_, bool>(0).then_some(()))
        })?;
        Consumer::read_all(&self.broker.bootstrap_servers(), &[topic])
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Gives the relay's worker slot back.
        if let Ok(mut client) = self.server.connect("postgres") {
            let _ = client.batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", self.database));
        }
    }
}

fn shared_server() -> Result<&'static Cluster> {
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
