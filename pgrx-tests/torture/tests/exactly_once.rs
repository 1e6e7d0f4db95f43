//! Delivery exactly once: the relay is killed after each of its steps, and a reader of committed records sees each event once.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::time::Duration;

use event_outbox_lab::{Broker, Cluster, Consumer, Record, Result, run_as, wait};
use postgres::Client;

/// The private tree with failpoints: see `scripts/build-failpoints`.
const TREE: &str = "failpoints";
const DEADLINE: Duration = Duration::from_secs(60);

const KEYS: i64 = 10;

/// The events before the kill, and after it.
const BEFORE: i64 = 3_000;
const AFTER: i64 = 500;

/// The steps, in their order.
const STEPS: [&str; 7] = [
    "after_read",
    "after_produce",
    "before_commit",
    "after_commit",
    "after_ack",
    "in_settle",
    "after_settle",
];

struct Run {
    server: Cluster,
    database: String,
    topic: String,
}

/// What arrived.
struct Outcome {
    records: Vec<Record>,
}

impl Run {
    fn start(name: &str, mistake: Option<&str>) -> Result<Self> {
        let broker = Broker::shared()?;
        let topic = format!("exactly.{name}");
        broker.create_topic(&topic, 3, &[])?;
        let server = Cluster::options("exactly")
            .tree(TREE)
            .set("event_outbox.bootstrap_servers", broker.bootstrap_servers())
            .set("event_outbox.delivery", "exactly_once")
            .set("event_outbox.enabled", "off")
            // What does not wait for the disk is lost in a crash.
            .set("wal_writer_delay", "10s")
            .set("synchronous_commit", "off")
            .start()?;
        let database = server.create_database()?;
        let run = Self { server, database, topic };
        let mut client = run.connect()?;
        let oid: u32 =
            client.query_one("SELECT oid FROM pg_database WHERE datname = current_database()", &[])?.get(0);
        if let Some(mistake) = mistake {
            run.place(&format!("event_outbox.sabotage.{oid}"), mistake)?;
        }
        client.batch_execute("SET synchronous_commit = on; CREATE EXTENSION event_outbox")?;
        Ok(run)
    }

    fn connect(&self) -> Result<Client> {
        self.server.connect(&self.database)
    }

    fn place(&self, name: &str, content: &str) -> Result<()> {
        let path = self.server.data_dir().join(name);
        let new = path.with_extension("new");
        fs::write(&new, content)?;
        run_as::give_to_server(&new)?;
        Ok(fs::rename(new, path)?)
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
    fn kill_at(&self, step: &str) -> Result<Outcome> {
        let mut client = self.connect()?;
        self.emit(&mut client, 1, BEFORE)?;
        let oid: u32 =
            client.query_one("SELECT oid FROM pg_database WHERE datname = current_database()", &[])?.get(0);
        let failpoint = format!("event_outbox.failpoint.{oid}");
        self.place(&failpoint, &format!("{step} kill"))?;
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
        let idle = "SELECT NOT EXISTS (SELECT FROM outbox.events) AND state = 'idle' FROM outbox.status";
        wait::until_ok("all to be published", DEADLINE, || {
            Ok(client.query_one(idle, &[])?.get::<_, Option<bool>>(0).unwrap_or(false).then_some(()))
        })?;
        let records = Consumer::read_all(&Broker::shared()?.bootstrap_servers(), &[&self.topic])?;
        Ok(Outcome { records })
    }
}

impl Outcome {
    fn numbers(&self) -> Vec<(String, i64)> {
        let number = |record: &Record| record.value_text().and_then(|value| value.parse().ok());
        let key = |record: &Record| record.key_text().unwrap_or_default().to_owned();
        self.records.iter().filter_map(|record| Some((key(record), number(record)?))).collect()
    }

    fn duplicates(&self) -> usize {
        let numbers = self.numbers();
        let distinct: HashSet<_> = numbers.iter().map(|(_, number)| number).collect();
        numbers.len() - distinct.len()
    }

    fn assert_ordered(&self, step: &str) {
        let mut last: HashMap<String, i64> = HashMap::new();
        for (key, number) in self.numbers() {
            let before = last.insert(key.clone(), number).unwrap_or(0);
            assert!(before < number, "{step}: {number} of key {key} after {before}");
        }
    }
}

#[test]
fn a_kill_at_each_step_repeats_and_loses_nothing() -> Result<()> {
    for step in STEPS {
        let outcome = Run::start(step, None)?.kill_at(step)?;
        assert_eq!(outcome.duplicates(), 0, "{step}");
        outcome.assert_ordered(step);
        let arrived: HashSet<i64> = outcome.numbers().into_iter().map(|(_, number)| number).collect();
        let lost = (1..=BEFORE + AFTER).filter(|number| !arrived.contains(number)).count();
        assert_eq!(lost, 0, "{step}");
    }
    Ok(())
}

/// A relay that does not read what was published before it is found out by the same test.
#[test]
fn a_relay_that_skips_the_markers() -> Result<()> {
    let outcome = Run::start("mistake", Some("skip_markers"))?.kill_at("after_commit")?;
    assert!(outcome.duplicates() > 0, "{} records", outcome.records.len());
    Ok(())
}
