//! The torture test: many writers, a seeded sequence of real faults, and a checker that compares what the writers wrote
//! with what Kafka holds.
//!
//! ```text
//!   writers ──▶ PostgreSQL ──▶ relay ──▶ proxy ──▶ Kafka ──────────────────────▶ evidence ──▶ checker ──▶ verdict
//!      │            ▲            ▲         ▲       ▲ │                              ▲ ▲
//!      │            └────────────┴─ faults ┴───────┘ └▶ inbox ──▶ receivers ────────┘ │
//!      └───────────────────────────────── journal ────────────────────────────────────┘
//! ```
//!
//! All randomness comes from the seed. Threads interleave differently in each run: a seed repeats what is done, but not
//! when.

pub mod checker;
pub mod clock;
pub mod dial;
mod dump;
pub mod evidence;
pub mod faults;
pub mod journal;
pub mod kafka;
pub mod listener;
pub mod random;
pub mod reader;
pub mod receivers;
pub mod report;
pub mod stage;
pub mod steps;
pub mod store;
pub mod topics;
pub mod writers;

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

pub use checker::{Verdict, Violation};
pub use evidence::Delivery;
use evidence::{Evidence, Inbox, Span};
pub use faults::Fault;
use faults::FaultSchedule;
use journal::Journal;
use kafka::Kafka;
pub use kafka::Mode;
use listener::{Heard, Listener};
use reader::Reader;
pub use report::Report;
use stage::{Injection, Stage};
use store::Store;
use writers::{Habits, Writers};

use event_outbox_lab::progress::{grouped, milestone, passed, passing, step};

/// The options of a run.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long faults are inflicted. The run finishes what it has begun, so it takes longer.
    pub duration: Duration,
    /// Where all randomness comes from.
    pub seed: u64,
    /// The broker that the relay publishes to.
    pub mode: Mode,
    /// The faults, drawn in random order again and again. Without faults, writers just write.
    pub faults: Vec<Fault>,
    /// How many writers there are.
    pub writers: usize,
    /// What they do.
    pub habits: Habits,
    /// How many sessions receive, beside a handler. The mock cluster has none: it keeps few records.
    pub receivers: usize,
    /// How events are delivered.
    pub delivery: Delivery,
    /// A mistake that the relay makes on purpose: see `src/failpoints.rs`.
    pub sabotage: Option<&'static str>,
    /// `event_outbox.sweep_interval`.
    pub sweep_interval: &'static str,
    /// How long the relay may take to recover from a fault.
    pub recovery: Duration,
    /// How long the outbox may stay equally full at the end.
    pub patience: Duration,
}

impl Options {
    /// Delivery at most once, with three brokers: whatever happens, nothing arrives twice.
    pub fn at_most_once(duration: Duration, seed: u64) -> Self {
        let options = Self::new(Mode::Cluster, duration, seed);
        let habits = Habits { poison: 0, oversized: false, lost: 0, ..options.habits };
        Self {
            faults: faults::at_most_once(),
            habits,
            receivers: 0,
            delivery: Delivery::AtMostOnce,
            ..options
        }
    }

    /// Delivery exactly once, with three brokers: whatever happens, readers of committed records see each event once.
    pub fn exactly_once(duration: Duration, seed: u64) -> Self {
        let options = Self::new(Mode::Cluster, duration, seed);
        Self { faults: faults::exactly_once(), delivery: Delivery::ExactlyOnce, ..options }
    }

    /// All faults of a mode.
    pub fn new(mode: Mode, duration: Duration, seed: u64) -> Self {
        // The mock cluster takes events of any size, and creates each topic that it is asked for.
        let is_real = mode != Mode::Mock;
        Self {
            duration,
            seed,
            mode,
            faults: faults::all(mode),
            writers: 8,
            habits: Habits {
                poison: 3,
                by_hand: 60,
                asynchronous: 250,
                oversized: is_real,
                lost: if is_real { 5 } else { 0 },
                rest: 50,
            },
            receivers: if is_real { 4 } else { 0 },
            delivery: Delivery::AtLeastOnce,
            sabotage: None,
            sweep_interval: "1min",
            recovery: Duration::from_secs(120),
            patience: Duration::from_secs(90),
        }
    }
}

/// The pause between two faults, in milliseconds; now and then a longer one, in which nothing may be published twice.
const CALM: (usize, usize) = (100, 1000);
const LONG_CALM: (usize, usize) = (4000, 8000);
const LONG_CALMS_PERMILLE: usize = 150;

/// How often a log shows the progress of the run.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Runs the test.
///
/// # Errors
/// The test itself failed. Errors of the relay are in the report.
pub fn run(options: &Options) -> Result<Report> {
    let kafka = step(&format!("starting {:?}", options.mode), || Kafka::start(options.mode))?;
    let mut stage = step("starting PostgreSQL", || Stage::set(options, kafka))?;
    let dial = stage.shared.dial.clone();
    let listener = Listener::start(&dial, &stage.shared.topics, &stage.generations)?;
    let reader = match &stage.kafka {
        Kafka::Real { .. } => None,
        Kafka::Mock(mock) => {
            Some(Reader::start(&mock.bootstrap_servers(), &stage.shared.topics[..topics::EXISTING]))
        }
    };
    let writers = Writers::start(options.writers, options.seed, &stage.shared);
    let store = (options.receivers > 0)
        .then(|| Store::start(options.seed, &stage.cluster, &stage.kafka))
        .transpose()?;
    let what = format!("{} s of writers and faults", options.duration.as_secs());
    // An error here goes into the report, beside what is found in Kafka.
    let failure = step(&what, || Ok(torture(&mut stage, options).err()))?;
    if failure.is_some() {
        stage.heal()?;
    }
    let journal = step("stopping the writers", || writers.stop())?;
    let store = store.map(Store::stop).transpose()?;
    let left = step("waiting for the outbox to be empty", || stage.drain(options.patience))?;
    let heard = listener.stop()?;
    let inbox = step("waiting for the receivers", || stage.end_receivers(options.patience))?;
    let store = match store {
        Some(store) => {
            let servers = stage.real()?.bootstrap_servers();
            let judge = || store.judge(&stage.cluster, &servers, options.patience);
            Some(step("judging the event store", judge)?)
        }
        None => None,
    };
    step("reading Kafka", || match reader {
        Some(reader) => {
            stage.archive.extend(reader.stop()?);
            Ok(())
        }
        None => read_topics(&mut stage),
    })?;
    let aside = (stage.status(), stage.cluster.log());
    let (injections, mut evidence) = collect(stage, journal, heard, (left, inbox))?;
    evidence.delivery = options.delivery;
    let verdict = step("judging", || Ok(Verdict::of(&evidence)))?;
    let report = Report::new(options, verdict, &injections, &evidence, failure, &aside).with_store(store);
    if !report.is_clean() {
        let kept = dump::write(&evidence, options.seed, &aside.1)?;
        eprintln!("journal, records and the server's log are kept in {}", kept.display());
    }
    Ok(report)
}

/// Takes the evidence from the stage, and ends the stage.
fn collect(
    mut stage: Stage,
    mut journal: Journal,
    heard: Heard,
    (left, inbox): (usize, Option<Inbox>),
) -> Result<(Vec<Injection>, Evidence)> {
    let (committed, dead, settled) = read_database(&stage)?;
    let injections = std::mem::take(&mut stage.injections);
    let Stage { created_late, archive: records, pulse, shared, from, .. } = stage;
    let lasted = Span { from, to: clock::now() };
    journal.merge(pulse.into_journal());
    let disturbed =
        injections.iter().filter_map(|injection| Some((injection.span?, injection.name.clone()))).collect();
    let crashes = injections.iter().filter_map(|injection| injection.crash).collect();
    let topics = shared.topics.clone();
    let Heard { notices, deaf } = heard;
    let evidence = Evidence {
        topics,
        journal,
        committed,
        created_late,
        records,
        dead,
        left,
        settled,
        notices,
        deaf,
        inbox,
        crashes,
        disturbed,
        lasted,
        delivery: Delivery::AtLeastOnce,
    };
    Ok((injections, evidence))
}

/// Inflicts faults until the time is over.
fn torture(stage: &mut Stage, options: &Options) -> Result<()> {
    let begin = Instant::now();
    let mut schedule = FaultSchedule::new(options.faults.clone());
    stage.recover()?;
    stage.from = clock::now();
    let mut told = begin;
    while begin.elapsed() < options.duration {
        let calm = if stage.random.permille(LONG_CALMS_PERMILLE) { LONG_CALM } else { CALM };
        stage.hold(calm.0, calm.1);
        let Some(fault) = schedule.next_fault(&mut stage.random) else { continue };
        let written = grouped(stage.shared.written.load(Ordering::Relaxed));
        let seconds = begin.elapsed().as_secs();
        let faults = stage.injections.len();
        passing(&format!("{seconds} s, {written} events, {faults} faults, now {fault}"));
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            milestone(&format!("{seconds} s: {written} events, {faults} faults"));
        }
        fault.inflict(stage)?;
    }
    passed();
    Ok(())
}

/// Reads all topics that exist now.
fn read_topics(stage: &mut Stage) -> Result<()> {
    let created_late: Vec<usize> = stage.created_late.iter().copied().collect();
    for topic in (0..topics::EXISTING).chain(created_late) {
        stage.archive(topic).with_context(|| stage.shared.topics[topic].clone())?;
    }
    Ok(())
}

type Settled = std::collections::HashMap<uuid::Uuid, journal::Millis>;

/// Reads the markers of the committed transactions, the dead letters, and when each event was last settled.
fn read_database(stage: &Stage) -> Result<(HashSet<i64>, Vec<uuid::Uuid>, Settled)> {
    let mut client = stage.connect()?;
    let committed = client.query("SELECT number FROM torture.transactions", &[])?;
    let dead = client.query("SELECT event_id FROM outbox.dead_letters", &[])?;
    let settled =
        "SELECT event_id, (extract(epoch FROM max(at)) * 1000)::int8 FROM torture.settled GROUP BY 1";
    let settled = client.query(settled, &[])?;
    Ok((
        committed.iter().map(|row| row.get(0)).collect(),
        dead.iter().map(|row| row.get(0)).collect(),
        settled.iter().map(|row| (row.get(0), row.get(1))).collect(),
    ))
}
