//! The rate at which sessions take stored events, in batches and one by one, for a handler that does nothing.

use std::collections::HashSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use event_outbox_lab::progress::grouped;

use super::super::{Bench, round};
use crate::events::Load;
use crate::figures::Rounds;
use crate::processes;
use crate::queue::deleting::Deleting;
use crate::queue::limit::Limit;
use crate::queue::ours::Receiving;
use crate::queue::pgmq::{Handled, Pgmq};
use crate::queue::{Handler, Queue, Session};
use crate::stage::{Stage, Wal};

const ROUNDS: usize = 3;
/// How many sessions take events.
pub const SESSIONS: usize = 4;
const TOPIC: &str = "inbox-receive";
/// When to look again if other sessions have all there is.
const PAUSE: Duration = Duration::from_millis(1);

/// A way to take events: its name, the number of events in a batch, and in a full run and a quick one.
struct Way {
    name: &'static str,
    batch: i32,
    events: (u64, u64),
    handler: Handler,
    /// What pgmq does with a message in this case.
    pgmq: Handled,
}

const WAYS: [Way; 3] = [
    Way {
        name: "batch",
        batch: 100,
        events: (200_000, 20_000),
        handler: Handler::Client,
        pgmq: Handled::Archived,
    },
    Way {
        name: "handled",
        batch: 100,
        events: (200_000, 20_000),
        handler: Handler::Function,
        pgmq: Handled::Archived,
    },
    Way { name: "one", batch: 1, events: (20_000, 2_000), handler: Handler::Client, pgmq: Handled::Deleted },
];

/// Measures all contenders in turn, in alternating order. The first round is a warm-up.
pub fn run(bench: &mut Bench) -> Result<()> {
    let rounds = bench.rounds(ROUNDS);
    let counts = WAYS.map(|way| bench.size(way.events.0, way.events.1));
    bench.stage.restart(Wal::Replica)?;
    let stage = &bench.stage;
    let [most, ..] = counts.map(stored_for);
    super::produce(stage, &Load::new(TOPIC, most)).context("filling the topic")?;
    let mut measured = Rounds::default();
    for (way, count) in WAYS.iter().zip(counts) {
        let ours = Receiving::new(stage, TOPIC, most)?.handled_by(way.handler);
        let mut queues: Vec<Box<dyn Queue + '_>> = vec![
            Box::new(ours),
            Box::new(Deleting::new(stage, way.handler)?),
            Box::new(Limit::new(stage, way.handler)?),
        ];
        match Pgmq::new(stage, way.handler, way.pgmq)? {
            Some(pgmq) => queues.push(Box::new(pgmq)),
            None => eprintln!("    without pgmq: its SQL was not found"),
        }
        for number in 0..=rounds {
            for queue in &mut queues {
                let name = queue.name();
                let taken = fill_and_take(stage, queue.as_mut(), way.batch, count).context(name)?;
                announce(number, way.name, name, &taken);
                if number > 0 {
                    let key = format!("inbox.receive.{}.{name}", way.name);
                    measured.add(format!("{key}.cpu_us_per_call"), taken.cpu_per_call());
                    measured.add(key, taken.rate());
                }
            }
            queues.reverse();
        }
        let ours = format!("inbox.receive.{}.ours", way.name);
        for peer in queues.iter().map(|queue| queue.name()).filter(|name| *name != "ours") {
            let key = format!("inbox.receive.{}.{peer}", way.name);
            measured.ratio(format!("inbox.receive.{}.ratio_{peer}", way.name), &ours, &key);
            let cpu = |key: &str| format!("{key}.cpu_us_per_call");
            measured.ratio(format!("inbox.receive.{}.cpu_ratio_{peer}", way.name), &cpu(&key), &cpu(&ours));
        }
    }
    stage.remove_topic(TOPIC)?;
    bench.figures.summarise_rounds(&measured);
    Ok(())
}

fn announce(number: usize, way: &str, name: &str, taken: &Taken) {
    let (round, rate) = (round(number), grouped(taken.rate() as usize));
    let cpu = taken.cpu_per_call();
    eprintln!("    {round:<8} {way:<8} {name:<14} {rate:>10} events/s, {cpu:>6.0} µs of CPU a call");
}

/// How many events are stored so that sessions can take `count` of them without ever meeting the end.
pub fn stored_for(count: u64) -> u64 {
    count + count / 5
}

fn fill_and_take(stage: &Stage, queue: &mut dyn Queue, batch: i32, count: u64) -> Result<Taken> {
    queue.fill(&Load::new(TOPIC, stored_for(count)))?;
    stage.checkpoint()?;
    let taken = take(queue, batch, count)?;
    queue.empty()?;
    Ok(taken)
}

/// What sessions have taken.
pub struct Taken {
    events: usize,
    calls: u64,
    elapsed: Duration,
    /// The CPU time of the sessions' backends.
    cpu: Duration,
}

impl Taken {
    /// The events per second.
    pub fn rate(&self) -> f64 {
        self.events as f64 / self.elapsed.as_secs_f64()
    }

    fn cpu_per_call(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.calls as f64
    }
}

/// Has sessions take `count` of the stored events.
pub fn take(queue: &dyn Queue, batch: i32, count: u64) -> Result<Taken> {
    let sessions = (0..SESSIONS).map(|_| queue.session()).collect::<Result<Vec<_>>>()?;
    let (start, taken) = (Barrier::new(SESSIONS + 1), AtomicU64::new(0));
    scope(|threads| {
        let work = |session| take_some(session, batch, count, &taken, &start);
        let threads: Vec<_> =
            sessions.into_iter().map(|session| threads.spawn(move || work(session))).collect();
        start.wait();
        let begin = Instant::now();
        let mut all = Taken { events: 0, calls: 0, elapsed: Duration::ZERO, cpu: Duration::ZERO };
        let mut distinct = HashSet::new();
        for thread in threads {
            let part = thread.join().map_err(|_| anyhow!("a session panicked"))??;
            all.events += part.ids.len();
            all.calls += part.calls;
            all.cpu += part.cpu;
            all.elapsed = all.elapsed.max(part.ended - begin);
            distinct.extend(part.ids);
        }
        ensure!(
            distinct.len() == all.events,
            "of {} events only {} are distinct",
            all.events,
            distinct.len()
        );
        Ok(all)
    })
}

/// What one session has taken.
struct Part {
    ids: Vec<i64>,
    calls: u64,
    cpu: Duration,
    ended: Instant,
}

/// Takes events until all sessions together have enough.
fn take_some(
    mut session: Box<dyn Session>,
    batch: i32,
    count: u64,
    taken: &AtomicU64,
    start: &Barrier,
) -> Result<Part> {
    let (mut all, mut calls) = (Vec::new(), 0);
    let backend = session.backend();
    start.wait();
    let before = processes::cpu(backend)?;
    while taken.load(Ordering::Relaxed) < count {
        let ids = session.take(batch)?;
        calls += 1;
        if ids.is_empty() {
            sleep(PAUSE);
        }
        taken.fetch_add(ids.len() as u64, Ordering::Relaxed);
        all.extend(ids);
    }
    let ended = Instant::now();
    Ok(Part { ids: all, calls, cpu: processes::cpu(backend)?.saturating_sub(before), ended })
}
