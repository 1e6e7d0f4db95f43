//! Where the test plays: the server, the broker, the writers' shared state, and the timeline of faults.

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use postgres::Client;

use super::Options;
use super::clock;
use super::dial::Dial;
use super::evidence::{Seen, Span, WAL_WRITER_DELAY};
use super::journal::Millis;
use super::kafka::Kafka;
use super::listener::Generations;
use super::random::Random;
use super::topics::{self, KEYS};
use super::writers::{Pulse, Shared};
use event_outbox_lab::{Cluster, KafkaCluster, run_as, wait};

/// The private tree with the failpoints in it: see `scripts/build-failpoints`.
const TREE: &str = "failpoints";
const DATABASE: &str = "torture";
/// The database in which the extension comes and goes.
pub const SECOND: &str = "second";
const SETUP: &str = include_str!("setup.sql");

/// How long a placed fault may wait for its moment.
const MOMENT: Duration = Duration::from_secs(90);
/// How long faults are at work beyond the recovery: what came back from the broker rests a while.
const AFTERMATH: Millis = 3_000;

/// A fault on the timeline.
#[derive(Debug)]
pub struct Stroke {
    /// What it was.
    pub name: String,
    /// When it was at work; nothing was, if it may cause no duplicates.
    pub span: Option<Span>,
    /// When the server crashed of it.
    pub crash: Option<Span>,
    /// From its end to the relay at work again.
    pub recovery: Duration,
}

/// What a fault may do to events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// Nothing.
    None,
    /// They may be published twice.
    Repetition,
    /// That, and the server forgets commits that are not on disk.
    Crash,
}

/// How often a fault is one of all brokers at once.
const ALL_PERMILLE: usize = 250;

/// The stage.
pub struct Stage {
    /// The server.
    pub cluster: Cluster,
    /// The broker.
    pub kafka: Kafka,
    /// What writers see.
    pub shared: Arc<Shared>,
    /// How often each topic has been deleted.
    pub generations: Generations,
    /// Topics that were created after their events had died.
    pub mended: HashSet<usize>,
    /// Records of topics that have been deleted.
    pub archive: Vec<Seen>,
    /// Since when writers write.
    pub from: Millis,
    /// The faults so far.
    pub strokes: Vec<Stroke>,
    /// The faults' own randomness.
    pub random: Random,
    /// The writer that feels whether the relay lives.
    pub pulse: Pulse,
    recovery: Duration,
    oid: u32,
}

impl Stage {
    /// Starts the server, which publishes to `kafka`.
    pub fn set(options: &Options, kafka: Kafka) -> Result<Self> {
        let cluster = Cluster::options("torture")
            .tree(TREE)
            .set("event_outbox.bootstrap_servers", kafka.bootstrap_servers())
            .set("event_outbox.kafka_properties", kafka.properties())
            .set("event_outbox.max_attempts", 4)
            .set("event_outbox.retry_backoff", "100ms")
            .set("event_outbox.retry_backoff_max", "400ms")
            .set("event_outbox.sweep_interval", options.sweep_interval)
            .set("max_prepared_transactions", 100)
            .set("max_connections", 100)
            // What nobody waits for stays in memory for long, so that crashes find some of it.
            .set("wal_writer_delay", format!("{WAL_WRITER_DELAY}ms"))
            .start()?;
        cluster.connect("postgres")?.batch_execute(&format!("CREATE DATABASE {DATABASE}"))?;
        cluster.connect("postgres")?.batch_execute(&format!("CREATE DATABASE {SECOND}"))?;
        let mut client = cluster.connect(DATABASE)?;
        let oid =
            client.query_one("SELECT oid FROM pg_database WHERE datname = current_database()", &[])?.get(0);
        if let Some(mistake) = options.sabotage {
            place(&cluster, &format!("event_outbox.sabotage.{oid}"), mistake)?;
        }
        client.batch_execute(SETUP).context("setup.sql")?;
        let names = topics::names();
        client.execute(
            "INSERT INTO torture.aggregates SELECT t, k::text FROM unnest($1::text[]) AS t, generate_series(0, $2) AS k",
            &[&&names[..topics::EXISTING], &(KEYS as i32)],
        )?;
        let shared = Arc::new(Shared::new(Dial::new(&cluster, DATABASE), options.habits));
        Ok(Self {
            cluster,
            kafka,
            pulse: Pulse::new(options.seed, shared.clone()),
            generations: Arc::new(names.iter().map(|_| AtomicUsize::new(0)).collect()),
            shared,
            mended: HashSet::new(),
            archive: Vec::new(),
            from: clock::now(),
            strokes: Vec::new(),
            recovery: options.recovery,
            random: Random::new(options.seed, u64::MAX),
            oid,
        })
    }

    /// A connection to the database, which is up.
    pub fn connect(&self) -> Result<Client> {
        self.cluster.connect(DATABASE)
    }

    /// Lets time pass: the duration of a fault, or of calm.
    pub fn hold(&mut self, from_millis: usize, to_millis: usize) {
        sleep(self.random.millis(from_millis, to_millis));
    }

    /// Changes a setting for all, and has it read.
    pub fn configure(&self, name: &str, value: &str) -> Result<()> {
        self.cluster.set(name, value)?;
        self.cluster.reload()
    }

    /// Places a fault at a point of the relay; waits until it has happened.
    pub fn strike_at(&self, point: &str, action: &str) -> Result<()> {
        let name = format!("event_outbox.failpoint.{}", self.oid);
        let path = self.cluster.data_dir().join(&name);
        place(&self.cluster, &name, &format!("{point} {action}"))?;
        let happened =
            wait::until("the relay to come to a failpoint", MOMENT, || (!path.exists()).then_some(()));
        if happened.is_err() {
            fs::remove_file(path)?;
        }
        happened.with_context(|| format!("{point} {action}"))
    }

    /// The relay's process.
    pub fn relay(&self) -> Result<u32> {
        let mut client = self.connect()?;
        wait::until_ok("a relay", self.recovery, || {
            let row = client.query_opt("SELECT pid FROM outbox.status WHERE pid IS NOT NULL", &[])?;
            Ok(row.and_then(|row| u32::try_from(row.get::<_, i32>(0)).ok()))
        })
    }

    /// Does something to the stage, and waits until the relay is at work again.
    pub fn strike(
        &mut self,
        name: &str,
        harm: Harm,
        fault: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let from = clock::now();
        let mut done = fault(self).with_context(|| name.to_string());
        let healed = clock::now();
        if done.is_ok() {
            done = self.recover().with_context(|| format!("after {name}"));
        }
        let now = clock::now();
        let span = (harm != Harm::None).then_some(Span { from, to: now + AFTERMATH });
        let crash = (harm == Harm::Crash).then_some(Span { from, to: now });
        let recovery = Duration::from_millis(u64::try_from(now - healed).unwrap_or(0));
        self.strokes.push(Stroke { name: name.into(), span, crash, recovery });
        done
    }

    /// Waits until an event that is emitted now has been published and settled.
    pub fn recover(&mut self) -> Result<()> {
        let (pulse, recovery) = (&mut self.pulse, self.recovery);
        wait::until("the relay to be at work again", recovery, || {
            let id = pulse.beat()?;
            wait::until("a pulse", recovery, || pulse.is_gone(id)).ok()?.then_some(())
        })
        .with_context(|| self.status())
    }

    /// Waits until a statement says true.
    pub fn until(&self, what: &str, deadline: Duration, sql: &str, topic: &str) -> Result<()> {
        let mut client = self.connect()?;
        wait::until_ok(what, deadline, || {
            Ok(client.query_one(sql, &[&topic])?.get::<_, bool>(0).then_some(()))
        })
        .with_context(|| self.status())
    }

    /// All that the relay shows.
    pub fn status(&self) -> String {
        let row = self.connect().and_then(|mut client| {
            Ok(client.query_one("SELECT s::text FROM outbox.status AS s", &[])?.get::<_, String>(0))
        });
        row.unwrap_or_else(|error| format!("{error:#}"))
    }

    /// Waits until the outbox is empty, for as long as it gets emptier; says how many are left.
    pub fn drain(&self, patience: Duration) -> Result<usize> {
        let mut client = self.connect()?;
        let mut left = i64::MAX;
        loop {
            let emptier = wait::until_ok("the outbox to get emptier", patience, || {
                let now: i64 = client.query_one("SELECT count(*) FROM outbox.events", &[])?.get(0);
                Ok((now < left).then_some(now))
            });
            match emptier {
                Ok(0) => return Ok(0),
                Ok(now) => left = now,
                Err(_) if left < i64::MAX => return Ok(usize::try_from(left)?),
                Err(error) => return Err(error),
            }
        }
    }

    /// Has all run again, whatever a fault has left behind that was broken off.
    pub fn heal(&mut self) -> Result<()> {
        if self.cluster.pid().is_err() {
            self.cluster.start()?;
        }
        if let Kafka::Real { cluster, .. } = &mut self.kafka {
            for broker in cluster.brokers() {
                if broker.pid().is_ok() {
                    broker.resume()?;
                }
            }
            cluster.start_all()?;
        }
        self.kafka.heal()
    }

    /// The next generation of a topic begins.
    pub fn next_generation(&self, topic: usize) -> usize {
        self.generations[topic].fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The real brokers.
    pub fn real(&mut self) -> Result<&mut KafkaCluster> {
        match &mut self.kafka {
            Kafka::Real { cluster, .. } => Ok(cluster),
            Kafka::Mock(_) => bail!("there is no real broker"),
        }
    }

    /// One of the real brokers, or now and then all of several.
    pub fn some_brokers(&mut self) -> Result<Vec<usize>> {
        let count = self.real()?.brokers().len();
        let all = self.random.permille(ALL_PERMILLE);
        Ok(if all { (0..count).collect() } else { vec![self.random.below(count)] })
    }
}

/// Puts a file into the data directory, whole.
fn place(cluster: &Cluster, name: &str, content: &str) -> Result<()> {
    let path = cluster.data_dir().join(name);
    ensure!(!path.exists(), "{name} is there already");
    let new = path.with_extension("new");
    fs::write(&new, content)?;
    run_as::give_to_server(&new)?;
    Ok(fs::rename(new, path)?)
}
