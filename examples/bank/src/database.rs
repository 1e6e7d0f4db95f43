//! Connections to the databases, each as an ordinary role.

use anyhow::Result;
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use tokio_postgres::{Config, NoTls};

/// Connections of one role to one database.
const CONNECTIONS: usize = 8;

/// How money is shown: an argument of `to_char()`.
pub const MONEY: &str = "FM999,999,999,990.00";

/// The way to a database as a role.
pub fn config(port: u16, database: &str, role: &str) -> Config {
    let mut config = Config::new();
    config.host("127.0.0.1").port(port).dbname(database).user(role).application_name("bank");
    config
}

/// A pool of connections that opens them when they are needed.
pub fn pool(port: u16, database: &str, role: &str) -> Result<Pool> {
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = Manager::from_config(config(port, database, role), NoTls, recycling);
    Ok(Pool::builder(manager).max_size(CONNECTIONS).build()?)
}
