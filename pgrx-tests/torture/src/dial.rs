//! Connects to a server that may be down, without owning the server.

use std::time::Duration;

use postgres::{Client, Config, NoTls};

use event_outbox_lab::Cluster;
use event_outbox_lab::postgres::SUPERUSER;

/// The address of a database on a server that others stop and start.
#[derive(Clone)]
pub struct Dial(Config);

impl Dial {
    /// The address of this database.
    pub fn new(cluster: &Cluster, database: &str) -> Self {
        let mut config = Config::new();
        config.host_path(cluster.socket_dir()).port(cluster.port()).user(SUPERUSER).dbname(database);
        config.connect_timeout(Duration::from_secs(5));
        Self(config)
    }

    /// Connects, if the server accepts connections now.
    pub fn connect(&self, settings: &str) -> Option<Client> {
        let mut client = self.0.connect(NoTls).ok()?;
        client.batch_execute(settings).ok()?;
        Some(client)
    }
}
