//! What tests get that stop, crash or reconfigure: a server of their own, and the broker for trouble.

use std::sync::{Mutex, MutexGuard, PoisonError};

use event_outbox_lab::kafka::BrokerOptions;
use event_outbox_lab::postgres::ClusterOptions;
use event_outbox_lab::{Broker, Cluster, Result, wait};
use postgres::Client;

use crate::support::database::DEADLINE;

/// A server of its own, with one database that has the extension.
pub struct Own {
    pub server: Cluster,
    pub database: String,
}

impl Own {
    /// A server that publishes to these brokers.
    pub fn start(bootstrap_servers: &str) -> Result<Self> {
        Self::with(Cluster::options("own"), bootstrap_servers)
    }

    /// A server with settings of its own.
    pub fn with(options: ClusterOptions, bootstrap_servers: &str) -> Result<Self> {
        let server = options.set("event_outbox.bootstrap_servers", bootstrap_servers).start()?;
        let database = server.create_database()?;
        let own = Self { server, database };
        own.connect()?.batch_execute("CREATE EXTENSION event_outbox")?;
        Ok(own)
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

/// The broker that tests may stop, kill and freeze, one after the other. It runs, and creates no topic
/// unasked.
pub struct Troubled(MutexGuard<'static, Option<Broker>>);

impl Troubled {
    /// Waits until no other test has it.
    pub fn take() -> Result<Self> {
        static BROKER: Mutex<Option<Broker>> = Mutex::new(None);
        // A test that failed may have left it in any condition.
        let mut broker = BROKER.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *broker {
            None => {
                *broker = Some(BrokerOptions::default().set("auto.create.topics.enable", "false").start()?)
            }
            Some(broker) if broker.pid().is_ok() => {
                broker.resume()?;
                wait::until("the broker to answer", DEADLINE, || broker.answers().then_some(()))?;
            }
            Some(broker) => broker.start()?,
        }
        Ok(Self(broker))
    }
}

impl std::ops::Deref for Troubled {
    type Target = Broker;

    fn deref(&self) -> &Broker {
        self.0.as_ref().expect("it is there since take()")
    }
}

impl std::ops::DerefMut for Troubled {
    fn deref_mut(&mut self) -> &mut Broker {
        self.0.as_mut().expect("it is there since take()")
    }
}
