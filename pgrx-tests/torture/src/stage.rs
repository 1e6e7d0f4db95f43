//! The stage of the test: the server, the brokers, the writers' shared state and the timeline of faults.

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use postgres::Client;
use uuid::Uuid;

use super::Options;
use super::clock;
use super::dial::Dial;
use super::evidence::{Delivery, Inbox, Seen, Span, WAL_WRITER_DELAY, is_poison};
use super::journal::Millis;
use super::kafka::Kafka;
use super::listener::Generations;
use super::random::Random;
use super::receivers::{self, Receivers};
use super::topics::{self, KEYS};
use super::writers::{Pulse, Shared};
use event_outbox_lab::{Cluster, KafkaCluster, process, run_as, wait};

/// The private tree with failpoints: see `scripts/build-failpoints`.
pub const TREE: &str = "failpoints";
const DATABASE: &str = "torture";
/// The database in which the extension is created and dropped.
pub const SECOND: &str = "second";
const SETUP: &str = include_str!("setup.sql");

/// How long a fault at a failpoint may wait for the relay to reach it.
const MOMENT: Duration = Duration::from_secs(90);
/// How long faults stay active after the recovery: events that were returned are delayed.
const AFTERMATH: Millis = 3_000;

/// An injected fault, on the timeline.
#[derive(Debug)]
pub struct Injection {
    /// Its name.
    pub name: String,
    /// When it was active; `None` if it cannot cause duplicates.
    pub span: Option<Span>,
    /// When it made the server crash.
    pub crash: Option<Span>,
    /// The time from its end until the relay had recovered.
    pub recovery: Duration,
}

/// What a fault may do to events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// Nothing.
    None,
    /// Events may be published twice.
    Repetition,
    /// The same, and the server loses commits that are not on disk.
    Crash,
}

/// How often a fault hits all brokers at once.
const ALL_PERMILLE: usize = 250;

/// The stage.
pub struct Stage {
    /// The server.
    pub cluster: Cluster,
    /// The brokers.
    pub kafka: Kafka,
    /// What writers and faults share.
    pub shared: Arc<Shared>,
    /// How often each topic has been deleted.
    pub generations: Generations,
    /// Topics that were created after their events had died.
    pub created_late: HashSet<usize>,
    /// Records of topics that have been deleted.
    pub archive: Vec<Seen>,
    /// When the writers started.
    pub from: Millis,
    /// The faults so far.
    pub injections: Vec<Injection>,
    /// The generator of the faults.
    pub random: Random,
    /// The writer that checks whether the relay works.
    pub pulse: Pulse,
    /// The receivers, if there are any.
    pub receivers: Option<Receivers>,
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
            .set("event_outbox.delivery", options.delivery.setting())
            .set("event_outbox.max_attempts", 4)
            .set("event_outbox.retry_backoff", "100ms")
            .set("event_outbox.retry_backoff_max", "400ms")
            .set("event_outbox.sweep_interval", options.sweep_interval)
            .set("max_prepared_transactions", 100)
            .set("max_connections", 100)
            .set("max_worker_processes", 20)
            // Asynchronous commits stay in memory for long, so that crashes lose some.
            .set("wal_writer_delay", format!("{WAL_WRITER_DELAY}ms"))
            .start()?;
        if options.delivery == Delivery::ExactlyOnce {
            kafka.create_progress()?;
        }
        cluster.connect("postgres")?.batch_execute(&format!("CREATE DATABASE {DATABASE}"))?;
        cluster.connect("postgres")?.batch_execute(&format!("CREATE DATABASE {SECOND}"))?;
        let mut client = cluster.connect(DATABASE)?;
        let oid =
            client.query_one("SELECT oid FROM pg_database WHERE datname = current_database()", &[])?.get(0);
        if let Some(mistake) = options.sabotage {
            place(&cluster, &format!("event_outbox.sabotage.{oid}"), mistake)?;
        }
        let oid_of_receivers = receivers::create_database(&cluster)?;
        if let Some(mistake) = options.sabotage {
            place(&cluster, &format!("event_outbox.sabotage.{oid_of_receivers}"), mistake)?;
        }
        client.batch_execute(SETUP).context("setup.sql")?;
        let names = topics::names();
        client.execute(
            "INSERT INTO torture.aggregates SELECT t, k::text FROM unnest($1::text[]) AS t, generate_series(0, $2) AS k",
            &[&&names[..topics::EXISTING], &(KEYS as i32)],
        )?;
        let shared = Arc::new(Shared::new(Dial::new(&cluster, DATABASE), options.habits));
        let receivers = (options.receivers > 0)
            .then(|| Receivers::start(options.receivers, options.seed, &cluster, oid_of_receivers))
            .transpose()?;
        Ok(Self {
            cluster,
            kafka,
            pulse: Pulse::new(options.seed, shared.clone()),
            generations: Arc::new(names.iter().map(|_| AtomicUsize::new(0)).collect()),
            shared,
            receivers,
            created_late: HashSet::new(),
            archive: Vec::new(),
            from: clock::now(),
            injections: Vec::new(),
            recovery: options.recovery,
            random: Random::new(options.seed, u64::MAX),
            oid,
        })
    }

    /// A connection to the database, which must be up.
    pub fn connect(&self) -> Result<Client> {
        self.cluster.connect(DATABASE)
    }

    /// Lets time pass: the duration of a fault or of a pause.
    pub fn hold(&mut self, from_millis: usize, to_millis: usize) {
        sleep(self.random.millis(from_millis, to_millis));
    }

    /// Changes a setting and reloads the configuration.
    pub fn configure(&self, name: &str, value: &str) -> Result<()> {
        self.cluster.set(name, value)?;
        self.cluster.reload()
    }

    /// Places a fault at a failpoint; waits until it has happened.
    pub fn strike_at(&self, point: &str, action: &str) -> Result<()> {
        self.strike_in(self.oid, point, action)
    }

    /// The same in the database that receives.
    pub fn strike_inbox_at(&self, point: &str, action: &str) -> Result<()> {
        let Some(receivers) = &self.receivers else { bail!("there are no receivers") };
        self.strike_in(receivers.oid, point, action)
    }

    /// The same at a failpoint that only a starting relay comes to.
    pub fn strike_at_start(&mut self, point: &str, action: &str) -> Result<()> {
        let relay = self.relay()?;
        self.strike_while(self.oid, point, action, || process::send(relay, libc::SIGTERM))
    }

    fn strike_in(&self, oid: u32, point: &str, action: &str) -> Result<()> {
        self.strike_while(oid, point, action, || Ok(()))
    }

    fn strike_while(
        &self,
        oid: u32,
        point: &str,
        action: &str,
        then: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let name = format!("event_outbox.failpoint.{oid}");
        let path = self.cluster.data_dir().join(&name);
        place(&self.cluster, &name, &format!("{point} {action}"))?;
        then()?;
        let happened =
            wait::until("a process to come to a failpoint", MOMENT, || (!path.exists()).then_some(()));
        if happened.is_err() {
            fs::remove_file(path)?;
        }
        happened.with_context(|| format!("{point} {action}"))
    }

    /// The relay's process id.
    pub fn relay(&self) -> Result<u32> {
        let mut client = self.connect()?;
        wait::until_ok("a relay", self.recovery, || {
            let row = client.query_opt("SELECT pid FROM outbox.status WHERE pid IS NOT NULL", &[])?;
            Ok(row.and_then(|row| u32::try_from(row.get::<_, i32>(0)).ok()))
        })
    }

    /// Inflicts a fault, and waits until the relay has recovered.
    pub fn strike(
        &mut self,
        name: &str,
        harm: Harm,
        concerns_inbox: bool,
        fault: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let from = clock::now();
        let mut done = fault(self).with_context(|| name.to_string());
        let healed = clock::now();
        if done.is_ok() {
            done = self.recover().and_then(|id| match concerns_inbox {
                true => self.recover_inbox(id),
                false => Ok(()),
            });
            done = done.with_context(|| format!("after {name}"));
        }
        let now = clock::now();
        let span = (harm != Harm::None).then_some(Span { from, to: now + AFTERMATH });
        let crash = (harm == Harm::Crash).then_some(Span { from, to: now });
        let recovery = Duration::from_millis(u64::try_from(now - healed).unwrap_or(0));
        self.injections.push(Injection { name: name.into(), span, crash, recovery });
        done
    }

    /// Waits until a new event has been published and settled; returns its id.
    pub fn recover(&mut self) -> Result<Uuid> {
        let (pulse, recovery) = (&mut self.pulse, self.recovery);
        wait::until("the relay to be at work again", recovery, || {
            let id = pulse.beat()?;
            let event_id = pulse.last_event_id()?;
            wait::until("a pulse", recovery, || pulse.is_gone(id)).ok()?.then_some(event_id)
        })
        .with_context(|| self.status())
    }

    /// Waits until a session and the handler have handled this event, if it is none at which they fail.
    fn recover_inbox(&self, event_id: Uuid) -> Result<()> {
        let Some(receivers) = &self.receivers else { return Ok(()) };
        let (recovery, cluster) = (self.recovery, &self.cluster);
        wait::until("receivers to be at work again", recovery, || {
            (is_poison(event_id) || receivers.have_handled(cluster, event_id).unwrap_or(false)).then_some(())
        })
        .with_context(|| receivers.status(cluster))
    }

    /// Waits until a statement returns true.
    pub fn until(&self, what: &str, deadline: Duration, sql: &str, topic: &str) -> Result<()> {
        let mut client = self.connect()?;
        wait::until_ok(what, deadline, || {
            Ok(client.query_one(sql, &[&topic])?.get::<_, bool>(0).then_some(()))
        })
        .with_context(|| self.status())
    }

    /// The row of `outbox.status`, as text.
    pub fn status(&self) -> String {
        let row = self.connect().and_then(|mut client| {
            Ok(client.query_one("SELECT s::text FROM outbox.status AS s", &[])?.get::<_, String>(0))
        });
        row.unwrap_or_else(|error| format!("{error:#}"))
    }

    /// Waits until the outbox is empty, as long as it gets emptier; returns how many events are left.
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

    /// Waits until the receivers have handled everything, and stops them.
    pub fn end_receivers(&mut self, patience: Duration) -> Result<Option<Inbox>> {
        let Some(receivers) = self.receivers.take() else { return Ok(None) };
        let left = receivers.drain(&self.cluster, patience)?;
        receivers.stop(&self.cluster, left).map(Some)
    }

    /// Gets everything running again after a fault that failed half-way.
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

    /// Begins the next generation of a topic.
    pub fn next_generation(&self, topic: usize) -> usize {
        self.generations[topic].fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The real brokers.
    pub fn real(&mut self) -> Result<&mut KafkaCluster> {
        match &mut self.kafka {
            Kafka::Real { cluster, .. } => Ok(cluster),
            Kafka::Mock(_) => bail!("this mode has no real broker"),
        }
    }

    /// One of the real brokers, or now and then all.
    pub fn some_brokers(&mut self) -> Result<Vec<usize>> {
        let count = self.real()?.brokers().len();
        let all = self.random.permille(ALL_PERMILLE);
        Ok(if all { (0..count).collect() } else { vec![self.random.below(count)] })
    }
}

/// Puts a complete file into the data directory.
pub fn place(cluster: &Cluster, name: &str, content: &str) -> Result<()> {
    let path = cluster.data_dir().join(name);
    ensure!(!path.exists(), "{name} already exists");
    let new = path.with_extension("new");
    fs::write(&new, content)?;
    run_as::give_to_server(&new)?;
    Ok(fs::rename(new, path)?)
}
