//! The relay's memory stays within `event_outbox.relay_memory` over its idle size, whatever waits.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{env, sync::Arc};

use event_outbox_lab::postgres::ClusterOptions;
use event_outbox_lab::{Broker, Cluster, Result, wait};
use postgres::Client;
use rdkafka::mocking::MockCluster;

use crate::support::events::pending_count;
use crate::support::relay::{status, until_drained, until_idle, until_status};
use crate::support::server::DedicatedServer;

/// The default of `event_outbox.relay_memory`.
const BOUND: u64 = 64 * MEBIBYTE;
const MEBIBYTE: u64 = 1 << 20;

/// How often the memory is measured.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The window counts as full when it has not grown for this long: longer than the Kafka thread blocks on a broker.
const AT_REST: Duration = Duration::from_secs(2);

/// Time for a backlog of hundreds of megabytes on a busy machine.
const DRAINED: Duration = Duration::from_secs(300);

/// Time for some full sweeps on a busy machine.
const GIVEN_BACK: Duration = Duration::from_secs(180);

/// The private memory of a process, in bytes, without shared buffers.
fn own_memory(pid: i32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or_default();
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// Measures the peak memory of a process.
struct Watch {
    idle: u64,
    peak: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts while the process is idle.
    fn start(pid: i32) -> Result<Self> {
        let (peak, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (to, end) = (peak.clone(), over.clone());
        let thread = thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                to.fetch_max(own_memory(pid).unwrap_or(0), Ordering::Relaxed);
                thread::sleep(LOOK_EVERY);
            }
        });
        Ok(Self { idle: own_memory(pid)?, peak, over, thread: Some(thread) })
    }

    /// The peak over the idle size.
    fn growth(&self) -> u64 {
        self.peak.load(Ordering::Relaxed).saturating_sub(self.idle)
    }

    fn assert_bounded(&self, what: &str) {
        let (idle, growth) = (self.idle / MEBIBYTE, self.growth() / MEBIBYTE);
        println!("{what}: {growth} MiB over {idle} MiB");
        assert!(self.growth() <= BOUND, "{what}: {growth} MiB over the idle size of {idle} MiB");
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A relay that has published something and is idle again.
fn warm(client: &mut Client) -> Result<Watch> {
    client
        .execute("SELECT outbox.emit('memory.warm', to_jsonb(n)) FROM generate_series(1, 100) AS n", &[])?;
    until_drained(client)?;
    Watch::start(until_idle(client)?)
}

fn emit_bytes(client: &mut Client, topic: &str, count: i32, bytes: i32) -> Result<()> {
    let sql = "SELECT count(outbox.emit_bytes($1, p.payload, key => int4send(n % 1000)))
                 FROM generate_series(1, $2::int) AS n, (SELECT convert_to(repeat('x', $3::int), 'UTF8') AS payload) AS p";
    client.execute(sql, &[&topic, &count, &bytes])?;
    Ok(())
}

fn until_empty(client: &mut Client) -> Result<()> {
    wait::until_ok("outbox.events to be empty", DRAINED, || {
        let any = client.query_opt("SELECT FROM outbox.events LIMIT 1", &[])?;
        Ok(any.is_none().then_some(()))
    })
}

/// A backlog far larger than the window; `EVENT_OUTBOX_MEMORY_EVENTS` sets its size.
#[test]
fn a_large_backlog() -> Result<()> {
    let count = env::var("EVENT_OUTBOX_MEMORY_EVENTS").map_or(Ok(150_000), |count| count.parse())?;
    let dedicated = DedicatedServer::start(&Broker::shared()?.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let watch = warm(&mut client)?;
    emit_bytes(&mut client, "memory.backlog", count, 1000)?;
    until_empty(&mut client)?;
    watch.assert_bounded("a large backlog that is published");
    Ok(())
}

/// With more events in flight than by default: it is the memory that bounds them.
fn wide_window() -> ClusterOptions {
    Cluster::options("memory").set("event_outbox.max_in_flight", "50000")
}

/// Kafka acknowledges nothing, so the window is full; the events of `fill` must fit all the same.
fn in_an_outage(what: &str, fill: impl FnOnce(&mut Client) -> Result<()>) -> Result<()> {
    // With ordering, a producer whose topic has no answer yet would get only one event of it.
    let options = wide_window().set("event_outbox.ordering", "none");
    // Brokers that answered once: before that, events do not reach librdkafka's queue.
    let brokers = MockCluster::new(1)?;
    brokers.create_topic("memory.warm", 1, 1)?;
    let dedicated = DedicatedServer::with(options, &brokers.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let watch = warm(&mut client)?;
    drop(brokers);
    until_status(&mut client, "the outage", |status| status.is_disconnected())?;
    fill(&mut client)?;
    let at_rest = until_at_rest(&mut client)?;
    let waiting = pending_count(&mut client)?;
    assert!(waiting > at_rest, "only {waiting} events are not more than the window holds");
    assert!(watch.growth() > BOUND / 8, "the window was not full: {at_rest} events");
    watch.assert_bounded(what);
    Ok(())
}

/// Waits until no more events are read; returns their number.
fn until_at_rest(client: &mut Client) -> Result<i64> {
    let (mut last, mut since) = (0, Instant::now());
    wait::until_ok("a full window", DRAINED, || {
        let now = status(client)?.in_flight;
        if now != last {
            (last, since) = (now, Instant::now());
        }
        Ok((last > 0 && since.elapsed() > AT_REST).then_some(last))
    })
}

#[test]
fn a_large_backlog_in_an_outage() -> Result<()> {
    in_an_outage("a large backlog in an outage", |client| emit_bytes(client, "memory.outage", 60_000, 1000))
}

#[test]
fn small_events_in_an_outage() -> Result<()> {
    in_an_outage("small events in an outage", |client| emit_bytes(client, "memory.outage", 100_000, 1))
}

#[test]
fn large_events_in_an_outage() -> Result<()> {
    in_an_outage("events of 900 kB in an outage", |client| emit_bytes(client, "memory.outage", 60, 900_000))
}

/// librdkafka's memory for headers counts, too.
#[test]
fn many_headers_in_an_outage() -> Result<()> {
    in_an_outage("events with many headers in an outage", |client| {
        let sql = "SELECT count(outbox.emit('memory.outage', '0', headers => h.headers))
                     FROM generate_series(1, 20000),
                          (SELECT jsonb_build_object('h', jsonb_agg(n % 10)) AS headers
                             FROM generate_series(1, 200) AS n) AS h";
        client.execute(sql, &[])?;
        Ok(())
    })
}

#[test]
fn large_events() -> Result<()> {
    let dedicated = DedicatedServer::start(&Broker::shared()?.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let watch = warm(&mut client)?;
    emit_bytes(&mut client, "memory.large", 400, 900_000)?;
    until_empty(&mut client)?;
    watch.assert_bounded("events of 900 kB");
    Ok(())
}

/// The relay keeps freed memory for the next batch, but not for ever.
#[test]
fn memory_goes_back_when_there_is_nothing_to_do() -> Result<()> {
    let options = wide_window().set("event_outbox.sweep_interval", "10");
    let dedicated = DedicatedServer::with(options, &Broker::shared()?.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let watch = warm(&mut client)?;
    emit_bytes(&mut client, "memory.backlog", 100_000, 1000)?;
    until_empty(&mut client)?;
    assert!(watch.growth() > BOUND / 4, "only {} MiB were in use", watch.growth() / MEBIBYTE);
    let pid = until_idle(&mut client)?;
    wait::until_ok("memory to go back", GIVEN_BACK, || {
        Ok((own_memory(pid)? < watch.idle + BOUND / 8).then_some(()))
    })
}

/// As many tiny events as may be in flight.
#[test]
fn small_events() -> Result<()> {
    let dedicated = DedicatedServer::start(&Broker::shared()?.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let watch = warm(&mut client)?;
    emit_bytes(&mut client, "memory.small", 300_000, 1)?;
    until_empty(&mut client)?;
    watch.assert_bounded("a large backlog of small events");
    Ok(())
}

/// librdkafka remembers every topic of an event, whether it exists or not.
#[test]
fn names_that_no_topic_has_are_not_kept() -> Result<()> {
    const NAMES: i32 = 20_000;
    let broker = Broker::options().set("auto.create.topics.enable", "false").start()?;
    let options = Cluster::options("ghosts")
        .set("event_outbox.kafka_properties", "topic.metadata.propagation.max.ms=1000")
        .set("event_outbox.max_attempts", 1)
        .set("event_outbox.auto_create_topics", "off")
        .set("event_outbox.grace_period", 0);
    let dedicated = DedicatedServer::with(options, &broker.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let pid = until_idle(&mut client)?;
    let idle = own_memory(pid)?;
    let sql = "SELECT count(outbox.emit('ghost.' || n, '1')) FROM generate_series(1, $1::int) AS n";
    client.query_one(sql, &[&NAMES])?;
    wait::until_ok("all to be refused", DRAINED, || {
        let row = client.query_one("SELECT count(*) FROM outbox.dead_letters", &[])?;
        Ok((row.get::<_, i64>(0) == i64::from(NAMES)).then_some(()))
    })?;
    until_idle(&mut client)?;
    let taken = own_memory(pid)?.saturating_sub(idle);
    assert!(taken <= BOUND, "{} MB over idle", taken / MEBIBYTE);
    Ok(())
}
