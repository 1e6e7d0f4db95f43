//! A server of its own for a test that stops, crashes or reconfigures it.

use event_outbox_lab::postgres::ClusterOptions;
use event_outbox_lab::{Broker, Cluster, Result};
use postgres::Client;

use crate::support::ledger::Ledger;
use crate::support::relay::until_status;

/// A server of its own, with one database that has the extension.
pub struct DedicatedServer {
    pub server: Cluster,
    pub database: String,
}

impl DedicatedServer {
    /// Starts a server that publishes to these brokers.
    pub fn start(bootstrap_servers: &str) -> Result<Self> {
        Self::with(Cluster::options("own"), bootstrap_servers)
    }

    /// Starts a server with these options.
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

    /// Changes a setting of its database.
    pub fn alter(&self, setting: &str, value: &str) -> Result<()> {
        let sql = format!("ALTER DATABASE {} SET event_outbox.{setting} = '{value}'", self.database);
        Ok(self.server.connect("postgres")?.batch_execute(&sql)?)
    }
}

/// A server with a backlog and a relay that has just begun to publish it in small steps.
pub fn draining(topic: &str) -> Result<(DedicatedServer, Client, Ledger)> {
    let options =
        Cluster::options("crash").set("event_outbox.batch_size", 100).set("event_outbox.max_in_flight", 1000);
    let dedicated = DedicatedServer::with(options, &Broker::shared()?.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let ledger = Ledger::open(&mut client, topic)?;
    dedicated.alter("enabled", "off")?;
    until_status(&mut client, "the relay to pause", |status| status.state == "disabled")?;
    ledger.emit(&mut client, 30_000)?;
    dedicated.alter("enabled", "on")?;
    until_status(&mut client, "the first to be published", |status| status.published > 500)?;
    Ok((dedicated, client, ledger))
}
