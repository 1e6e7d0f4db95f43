//! The tests of single steps: the relay is killed after one of its steps, with commits that stay in memory, and all that
//! arrived is compared with what was emitted.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::Result;
use postgres::Client;

use super::evidence::Delivery;
use super::stage::{TREE, place};
use event_outbox_lab::{Broker, Cluster, Consumer, Record, wait};

const DEADLINE: Duration = Duration::from_secs(60);

const KEYS: i64 = 10;

/// The events before the kill.
pub const BEFORE: i64 = 3_000;
/// The events after it.
pub const AFTER: i64 = 500;

/// A server whose relay has not begun.
pub struct Run {
    server: Cluster,
    database: String,
    topic: String,
}

/// What arrived.
pub struct Outcome {
    records: Vec<Record>,
    /// How many events the relay counts as lost.
    pub given_up: i64,
}

impl Run {
    /// Starts a server, and perhaps has its relay make a mistake: see `src/failpoints.rs`.
    pub fn start(delivery: Delivery, name: &str, mistake: Option<&str>) -> Result<Self> {
        let broker = Broker::shared()?;
        let topic = format!("{}.{name}", delivery.setting());
        broker.create_topic(&topic, 3, &[])?;
        let server = Cluster::options("steps")
            .tree(TREE)
            .set("event_outbox.bootstrap_servers", broker.bootstrap_servers())
            .set("event_outbox.delivery", delivery.setting())
            .set("event_outbox.enabled", "off")
            // What does not wait for the disk is lost in a crash.
            .set("wal_writer_delay", "10s")
            .set("synchronous_commit", "off")
            .start()?;
        let database = server.create_database()?;
        let run = Self { server, database, topic };
        let mut client = run.connect()?;
        if let Some(mistake) = mistake {
            place(&run.server, &format!("event_outbox.sabotage.{}", run.oid(&mut client)?), mistake)?;
        }
        client.batch_execute("SET synchronous_commit = on; CREATE EXTENSION event_outbox")?;
        Ok(run)
    }

    fn connect(&self) -> Result<Client> {
        self.server.connect(&self.database)
    }

    fn oid(&self, client: &mut Client) -> Result<u32> {
        let sql = "SELECT oid FROM pg_database WHERE datname = current_database()";
        Ok(client.query_one(sql, &[])?.get(0))
    }

    fn emit(&self, client: &mut Client, from: i64, count: i64) -> Result<()> {
        client.batch_execute("SET synchronous_commit = on")?;
        client.execute(
            "SELECT outbox.emit($1, to_jsonb(n), key => (n % $4)::text) FROM generate_series($2::int8, $2::int8 + $3::int8 - 1) AS n",
            &[&self.topic, &from, &count, &KEYS],
        )?;
        Ok(())
    }

    /// Kills the relay at a step, and publishes more.
    pub fn kill_at(&self, step: &str) -> Result<Outcome> {
        let mut client = self.connect()?;
        self.emit(&mut client, 1, BEFORE)?;
        let failpoint = format!("event_outbox.failpoint.{}", self.oid(&mut client)?);
        place(&self.server, &failpoint, &format!("{step} kill"))?;
        self.server.set("event_outbox.enabled", "on")?;
        self.server.reload()?;
        let path = self.server.data_dir().join(&failpoint);
        wait::until("the relay to come to the failpoint", DEADLINE, || (!path.exists()).then_some(()))?;
        wait::until("the server to end all its sessions", DEADLINE, || client.simple_query("").err())?;
        let mut client = wait::until("the server to recover", DEADLINE, || {
            let mut client = self.connect().ok()?;
            client.simple_query("SELECT pid FROM outbox.status WHERE pid IS NOT NULL").ok()?;
            Some(client)
        })?;
        self.emit(&mut client, BEFORE + 1, AFTER)?;
        let idle =
            "SELECT NOT EXISTS (SELECT FROM outbox.events) AND NOT EXISTS (SELECT FROM outbox.unconfirmed)
                       AND state = 'idle' FROM outbox.status";
        wait::until_ok("all to be published", DEADLINE, || {
            Ok(client.query_one(idle, &[])?.get::<_, Option<bool>>(0).unwrap_or(false).then_some(()))
        })?;
        let given_up = client.query_one("SELECT given_up FROM outbox.status", &[])?.get(0);
        let records = Consumer::read_all(&Broker::shared()?.bootstrap_servers(), &[&self.topic])?;
        Ok(Outcome { records, given_up })
    }
}

impl Outcome {
    /// The keys and numbers of the events that arrived.
    pub fn numbers(&self) -> Vec<(String, i64)> {
        let number = |record: &Record| record.value_text().and_then(|value| value.parse().ok());
        let key = |record: &Record| record.key_text().unwrap_or_default().to_owned();
        self.records.iter().filter_map(|record| Some((key(record), number(record)?))).collect()
    }

    /// How many records are not the first of their event.
    pub fn duplicates(&self) -> usize {
        let numbers = self.numbers();
        let distinct: HashSet<_> = numbers.iter().map(|(_, number)| number).collect();
        numbers.len() - distinct.len()
    }

    /// How many of the first events did not arrive, and how many of those after the kill.
    pub fn lost(&self) -> (usize, usize) {
        let arrived: HashSet<i64> = self.numbers().into_iter().map(|(_, number)| number).collect();
        let lost = |numbers: std::ops::RangeInclusive<i64>| {
            numbers.filter(|number| !arrived.contains(number)).count()
        };
        (lost(1..=BEFORE), lost(BEFORE + 1..=BEFORE + AFTER))
    }

    /// Panics if an event arrived after a later one of its key.
    ///
    /// # Panics
    /// See above.
    pub fn assert_ordered(&self, step: &str) {
        let mut last: HashMap<String, i64> = HashMap::new();
        for (key, number) in self.numbers() {
            let before = last.insert(key.clone(), number).unwrap_or(0);
            assert!(before < number, "{step}: {number} of key {key} after {before}");
        }
    }
}
