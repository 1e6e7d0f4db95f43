//! A server of its own for a test that stops, crashes or reconfigures it.

use event_outbox_lab::postgres::ClusterOptions;
use event_outbox_lab::{Cluster, Result};
use postgres::Client;

/// A server of its own, with one database that has the extension.
pub struct DedicatedServer {
    pub server: Cluster,
    pub database: String,
}

impl DedicatedServer {
    /// A server that publishes to these brokers.
    pub fn start(bootstrap_servers: &str) -> Result<Self> {
        Self::with(Cluster::options("own"), bootstrap_servers)
    }

    /// A server with settings of its own.
    pub fn with(options: ClusterOptions, bootstrap_servers: &str) -> Result<Self> {
        let server = options.set("event_outbox.bootstrap_servers", bootstrap_servers).start()?;
        let database = server.create_database()?;
        let dedicated = Self { server, database };
        dedicated.connect()?.batch_execute("CREATE EXTENSION event_outbox")?;
        Ok(dedicated)
    }

    /// A connection to its database.
    pub fn connect(&self) -> Result<Client> {
        self.server.connect(&self.database)
    }

    /// Sets a setting of its database.
    pub fn alter(&self, setting: &str, value: &str) -> Result<()> {
        let sql = format!("ALTER DATABASE {} SET event_outbox.{setting} = '{value}'", self.database);
        Ok(self.server.connect("postgres")?.batch_execute(&sql)?)
    }
}
