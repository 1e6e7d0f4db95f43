//! The receivers: sessions that receive from a subscription in a database of their own, beside a handler of another one.

mod rounds;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use postgres::Client;
use uuid::Uuid;

use super::dial::Dial;
use super::evidence::{Burial, Inbox, ProjectedRow, Receipt, Seek, key_digest};
use super::random::Random;
use super::topics::{self, EXISTING, VOLATILE};
use event_outbox_lab::{Cluster, wait};

/// The database that receives.
pub const DATABASE: &str = "receiving";
const SETUP: &str = include_str!("setup.sql");

/// The subscriptions. Sessions receive from the first one, which has all that Kafka has; the handler from the second one, which
/// drops duplicates. Sessions receive from the third one, too, which has the topic that is deleted and created again.
pub const SUBSCRIPTIONS: [&str; 3] = [SESSIONS, HANDLER, RECREATED];
/// The subscription of the sessions.
pub const SESSIONS: &str = "sessions";
/// The subscription of the handler.
pub const HANDLER: &str = "handler";
/// The subscription of the topic that faults delete.
pub const RECREATED: &str = "recreated";

/// Poison fails this often before it dies. No other event does, because receivers fail on purpose only at early attempts.
const MAX_ATTEMPTS: i32 = 12;
/// At later attempts, only faults make an event fail that is not poison.
const CARELESS_ATTEMPTS: i32 = 3;

/// The topic, by number, that a projection keeps in a table.
pub const PROJECTED: usize = 0;
/// Creates the projection.
const PROJECT: &str = "SELECT inbox.project('projection', $1, 'torture.latest', \
                          columns => '{\"of_partition\": \"@partition\", \"at_offset\": \"@offset\"}')";

const SUBSCRIBE: &str = "SELECT inbox.subscribe($1, $2, 'earliest', retention => '1 s', max_attempts => $3, \
                            deduplicate => $4::text::interval, on_data_loss => 'earliest')";
/// Has the handler called.
pub const HANDLE: &str = "SELECT inbox.grant_subscription('torture_handler', $1), \
                             inbox.handle($1, 'torture.handle(inbox.event)', workers => 2, batch => 40)";

/// How long the first answer of Kafka to the new database may take.
const SUBSCRIBED: Duration = Duration::from_secs(60);
/// How long it may take until all that Kafka has of a topic is stored.
const STORED: Duration = Duration::from_secs(90);
/// How long a receiver may take at the end to finish its prepared transaction.
const LAST_DEADLINE: Duration = Duration::from_secs(60);
/// How long a receiver without a server waits before it tries again.
const RECONNECT: Duration = Duration::from_millis(50);

const SESSION: &str = "SET lock_timeout = '5s'; SET statement_timeout = '60s'; SET log_min_messages = fatal; \
                       SET application_name = 'torture receiver'";

/// What receivers and faults share.
pub struct Sharing {
    /// The address of the database.
    pub dial: Dial,
    /// A receiver holds it during a round; who has it alone knows that no session receives.
    pub rounds: RwLock<()>,
    /// Whether no receiver fails on purpose any more.
    is_careful: AtomicBool,
    /// Events that sessions have handled so far.
    handled: AtomicUsize,
    stop: AtomicBool,
}

/// Creates the database that receives; returns its oid.
pub fn create_database(cluster: &Cluster) -> Result<u32> {
    cluster.connect("postgres")?.batch_execute(&format!("CREATE DATABASE {DATABASE}"))?;
    let mut client = cluster.connect(DATABASE)?;
    Ok(client.query_one("SELECT oid FROM pg_database WHERE datname = current_database()", &[])?.get(0))
}

/// The receivers at work.
pub struct Receivers {
    /// The oid of the database.
    pub oid: u32,
    /// What they share with faults.
    pub sharing: Arc<Sharing>,
    threads: Vec<JoinHandle<Result<usize>>>,
}

/// One session after the other.
struct Receiver {
    number: usize,
    rounds: usize,
    random: Random,
    sharing: Arc<Sharing>,
    client: Option<Client>,
    /// A prepared transaction that may not have ended: its name, and whether it shall commit.
    limbo: Option<(String, bool)>,
    /// The subscription of the round.
    subscription: &'static str,
}

impl Receivers {
    /// Creates the subscriptions in the database of this oid, and starts `count` receivers.
    pub fn start(count: usize, seed: u64, cluster: &Cluster, oid: u32) -> Result<Self> {
        let mut client = cluster.connect(DATABASE)?;
        client.batch_execute(SETUP).context("setup.sql of the receivers")?;
        let topics = topics::names();
        let (lasting, recreated) = (&topics[..VOLATILE], &topics[VOLATILE..=VOLATILE]);
        let plans =
            [(SESSIONS, lasting, None), (HANDLER, lasting, Some("1 day")), (RECREATED, recreated, None)];
        for (name, topics, deduplicate) in plans {
            // Its relay, which asks Kafka, has just been started.
            wait::until_ok("a subscription", SUBSCRIBED, || {
                Ok(client.execute(SUBSCRIBE, &[&name, &topics, &MAX_ATTEMPTS, &deduplicate]).ok())
            })?;
        }
        client.execute(HANDLE, &[&HANDLER])?;
        wait::until_ok("the projection", SUBSCRIBED, || {
            Ok(client.execute(PROJECT, &[&topics[PROJECTED]]).ok())
        })?;
        let sharing = Arc::new(Sharing {
            dial: Dial::new(cluster, DATABASE),
            rounds: RwLock::new(()),
            is_careful: AtomicBool::new(false),
            handled: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let threads = (1..=count).map(|number| {
            let receiver = Receiver::new(number, seed, sharing.clone());
            spawn(move || receiver.work())
        });
        Ok(Self { threads: threads.collect(), sharing, oid })
    }

    /// Whether both subscriptions have handled an event.
    pub fn have_handled(&self, cluster: &Cluster, event_id: Uuid) -> Result<bool> {
        let mut client = cluster.connect(DATABASE)?;
        Ok(client.query_one(HANDLED, &[&event_id.to_string()])?.get(0))
    }

    /// Waits until all of a topic is stored, up to the end of each partition.
    pub fn await_stored(&self, cluster: &Cluster, topic: &str, ends: &[(i32, i64)]) -> Result<()> {
        let mut client = cluster.connect(DATABASE)?;
        wait::until_ok("a topic to be stored", STORED, || {
            let rows = client.query(NEXT_OFFSETS, &[&topic])?;
            let next: HashMap<i32, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
            let is_stored =
                ends.iter().all(|(partition, end)| next.get(partition).is_some_and(|next| next >= end));
            Ok(is_stored.then_some(()))
        })
        .with_context(|| self.status(cluster))
    }

    /// What the inbox says of itself.
    pub fn status(&self, cluster: &Cluster) -> String {
        let row = cluster
            .connect(DATABASE)
            .and_then(|mut client| Ok(client.query_one(STATUS, &[])?.get::<_, String>(0)));
        row.unwrap_or_else(|error| format!("{error:#}"))
    }

    /// Waits until all that Kafka has is received, as long as there is progress. Returns how many events are left, by what the
    /// inbox says.
    pub fn drain(&self, cluster: &Cluster, patience: Duration) -> Result<usize> {
        self.sharing.is_careful.store(true, Ordering::Relaxed);
        let mut client = cluster.connect(DATABASE)?;
        let mut before = (i64::MAX, 0);
        loop {
            let progress = wait::until_ok("receivers to handle something", patience, || {
                let Some(left) = left(&mut client)? else { return Ok(None) };
                let handled: i64 = client.query_one("SELECT count(*) FROM torture.handled", &[])?.get(0);
                Ok((left == 0 || left < before.0 || handled > before.1).then_some((left, handled)))
            });
            match progress {
                Ok((0, _)) => return Ok(0),
                Ok(now) => before = now,
                Err(_) if before.0 < i64::MAX => return Ok(usize::try_from(before.0)?),
                Err(error) => return Err(error),
            }
        }
    }

    /// Stops the receivers; returns what was handled and what died. The server must be up.
    pub fn stop(self, cluster: &Cluster, left: usize) -> Result<Inbox> {
        let status = self.status(cluster);
        self.sharing.stop.store(true, Ordering::Relaxed);
        let mut received = 0;
        for thread in self.threads {
            received += thread.join().map_err(|_| anyhow!("a receiver panicked"))??;
        }
        ensure!(received > 0, "the receivers have received nothing");
        let mut client = cluster.connect(DATABASE)?;
        Ok(Inbox {
            receipts: receipts(&mut client)?,
            burials: burials(&mut client)?,
            seeks: seeks(&mut client)?,
            rows: projected(&mut client)?,
            left,
            status,
        })
    }
}

const NEXT_OFFSETS: &str = "SELECT partition, next_offset FROM inbox.partitions WHERE topic = $1";
const HANDLED: &str = "SELECT count(DISTINCT subscription) = 2 FROM torture.handled WHERE event_id = $1";
const STATUS: &str = "SELECT concat((SELECT string_agg(concat_ws(' ', a.pid, a.backend_type, a.state, a.wait_event, a.query), E'\\n') \
                                       FROM pg_stat_activity AS a WHERE a.datname = current_database()), E'\\n', \
                                    (SELECT string_agg(c::text, E'\\n') FROM inbox.consumers AS c), E'\\n', \
                                    (SELECT string_agg(s::text, E'\\n') FROM inbox.subscriptions AS s), E'\\n', \
                                    (SELECT string_agg(l::text, E'\\n') FROM inbox.lag AS l))";
const LEFT: &str = "SELECT sum(l.to_store + l.to_receive)::int8 + (SELECT count(*) FROM inbox.retry), \
                           count(*) FILTER (WHERE l.to_store IS NULL) FROM inbox.lag AS l";

/// How many events are to be stored or received; `None` if Kafka does not answer.
fn left(client: &mut Client) -> Result<Option<i64>> {
    let row = client.query_one(LEFT, &[])?;
    Ok(row.get::<_, Option<i64>>(0).filter(|_| row.get::<_, i64>(1) == 0))
}

const RECEIPTS: &str = "SELECT place, subscription, topic, partition, \"offset\", event_id, key_start, key_length \
                          FROM torture.handled ORDER BY place";
const BURIALS: &str = "SELECT s.name, d.topic, d.partition, d.\"offset\", d.last_error FROM inbox.dead_letters AS d \
                         JOIN inbox.subscription AS s ON s.id = d.subscription_id WHERE NOT s.is_local AND s.name <> 'projection'";
const PROJECTED_ROWS: &str = "SELECT key, of_partition, at_offset FROM torture.latest";
const SEEKS: &str = "SELECT place, subscription, topic, partition, from_offset FROM torture.seeks";

fn receipts(client: &mut Client) -> Result<Vec<Receipt>> {
    let rows = client.query(RECEIPTS, &[])?;
    let receipt = |row: &postgres::Row| {
        let key: Option<String> = row.get(6);
        Receipt {
            place: row.get(0),
            subscription: subscription(row.get(1)),
            topic: topic(row.get(2)),
            partition: row.get(3),
            offset: row.get(4),
            event_id: row.get::<_, Option<&str>>(5).and_then(|id| id.parse().ok()),
            key: key.map(|start| (start, row.get::<_, i32>(7))),
        }
    };
    Ok(rows.iter().map(receipt).collect())
}

fn burials(client: &mut Client) -> Result<Vec<Burial>> {
    let rows = client.query(BURIALS, &[])?;
    let burial = |row: &postgres::Row| Burial {
        subscription: subscription(row.get(0)),
        topic: topic(row.get(1)),
        partition: row.get(2),
        offset: row.get(3),
        error: row.get(4),
    };
    Ok(rows.iter().map(burial).collect())
}

fn projected(client: &mut Client) -> Result<Vec<ProjectedRow>> {
    let rows = client.query(PROJECTED_ROWS, &[])?;
    let projected = |row: &postgres::Row| ProjectedRow {
        key: key_digest(Some(row.get::<_, &str>(0).as_bytes())),
        partition: row.get(1),
        offset: row.get(2),
    };
    Ok(rows.iter().map(projected).collect())
}

fn seeks(client: &mut Client) -> Result<Vec<Seek>> {
    let rows = client.query(SEEKS, &[])?;
    let seek = |row: &postgres::Row| Seek {
        place: row.get(0),
        subscription: subscription(row.get(1)),
        topic: topic(row.get(2)),
        partition: row.get(3),
        from_offset: row.get(4),
    };
    Ok(rows.iter().map(seek).collect())
}

/// A subscription's number; one too many if there is none of this name.
fn subscription(name: &str) -> usize {
    SUBSCRIPTIONS.iter().position(|known| *known == name).unwrap_or(SUBSCRIPTIONS.len())
}

/// A topic's number; one too many if there is none of this name.
fn topic(name: &str) -> usize {
    topics::names()[..EXISTING].iter().position(|known| known == name).unwrap_or(EXISTING)
}
