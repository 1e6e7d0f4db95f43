//! Starts what the bank runs on: a private Kafka, a private PostgreSQL, two databases with the SQL of the services.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use event_outbox_lab::progress::step;
use event_outbox_lab::{Broker, Cluster, postgres};

/// The database of the bank's own services.
pub const BANK: &str = "bank";
/// The database of the reactor.
pub const REACTOR: &str = "reactor";

/// Each file with the database and the role that runs it.
const FILES: [(&str, &str, &str); 4] = [
    ("administrator.sql", "postgres", postgres::SUPERUSER),
    ("account.sql", BANK, "account_service"),
    ("transactions.sql", BANK, "transactions_service"),
    ("reactor.sql", REACTOR, "reactor_service"),
];

/// The servers. They end when this is dropped.
pub struct Stage {
    cluster: Cluster,
    broker: Mutex<Broker>,
    kafka: AtomicU8,
    port: u16,
    commands: String,
}

/// What Kafka is doing.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(u8)]
pub enum Kafka {
    /// It answers.
    Running = 0,
    /// Somebody has stopped it.
    Stopped = 1,
    /// It has been told to start or stop, and has not done so yet.
    Changing = 2,
}

impl Stage {
    /// Starts the servers, and has each service run its SQL as its own role.
    pub fn start() -> Result<Self> {
        let broker = step("starting Apache Kafka", || Broker::options().start())?;
        let cluster = step("starting PostgreSQL", || {
            Cluster::options("bank")
                .set("event_outbox.bootstrap_servers", broker.bootstrap_servers())
                .set("event_outbox.auto_create_topics", "off")
                // Something is to be seen of the attempts, within seconds.
                .set("event_outbox.retry_backoff", "500ms")
                .start()
        })?;
        step("opening the bank", || {
            let mut client = cluster.connect("postgres")?;
            for database in [BANK, REACTOR] {
                client.batch_execute(&format!("CREATE DATABASE {database}"))?;
            }
            FILES.iter().try_for_each(|(file, database, role)| run(&cluster, file, database, role))
        })?;
        let psql = |database, role| {
            let program = cluster.bin_dir().join("psql");
            format!("{} -h 127.0.0.1 -p {} -U {role} {database}", program.display(), cluster.port())
        };
        let commands = format!(
            "\nthe databases: {}\n               {}\nKafka:         {}",
            psql(BANK, postgres::SUPERUSER),
            psql(REACTOR, postgres::SUPERUSER),
            broker.bootstrap_servers()
        );
        let port = cluster.port();
        let (broker, kafka) = (Mutex::new(broker), AtomicU8::new(Kafka::Running as u8));
        Ok(Self { cluster, broker, kafka, port, commands })
    }

    /// PostgreSQL's port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How to look at the servers from a shell.
    pub fn commands(&self) -> &str {
        &self.commands
    }

    /// The server of both databases.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// What Kafka is doing.
    pub fn kafka(&self) -> Kafka {
        match self.kafka.load(Ordering::Relaxed) {
            0 => Kafka::Running,
            1 => Kafka::Stopped,
            _ => Kafka::Changing,
        }
    }

    /// Stops or starts Kafka; blocks until that is done.
    pub fn switch_kafka(&self, on: bool) -> Result<()> {
        let mut broker = self.broker.lock().unwrap_or_else(PoisonError::into_inner);
        let (from, to) = if on { (Kafka::Stopped, Kafka::Running) } else { (Kafka::Running, Kafka::Stopped) };
        if self.kafka() != from {
            return Ok(());
        }
        self.kafka.store(Kafka::Changing as u8, Ordering::Relaxed);
        let done = if on { broker.start() } else { broker.stop() };
        let now = if done.is_ok() { to } else { from };
        self.kafka.store(now as u8, Ordering::Relaxed);
        done
    }
}

/// Runs one of the SQL files by psql, all of it or nothing that is not yet committed.
fn run(cluster: &Cluster, file: &str, database: &str, role: &str) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql").join(file);
    let mut psql: Command = cluster.client_program("psql", database);
    psql.env("PGUSER", role).args(["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--file"]).arg(path);
    let output = psql.output().context("run psql")?;
    ensure!(output.status.success(), "{file}:\n{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
