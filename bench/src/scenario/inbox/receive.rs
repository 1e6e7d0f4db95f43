//! The rate at which sessions take stored events, in batches and one by one.

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
use crate::queue::deleting::Deleting;
use crate::queue::ours::Receiving;
use crate::queue::pgmq::{Handled, Pgmq};
use crate::queue::{Queue, Session};
use crate::stage::Stage;

const ROUNDS: usize = 3;
const SESSIONS: usize = 4;
const TOPIC: &str = "inbox-receive";
/// When to look again if other sessions have all there is.
const PAUSE: Duration = Duration::from_millis(1);

/// A size of batches: its name, the number of events in a batch, and in a full run and a quick one.
struct Size {
    name: &'static str,
    batch: i32,
    events: (u64, u64),
    /// What pgmq does with a message in this case.
    pgmq: Handled,
}

const SIZES: [Size; 2] = [
    Size { name: "batch", batch: 100, events: (200_000, 20_000), pgmq: Handled::Archived },
    Size { name: "one", batch: 1, events: (20_000, 2_000), pgmq: Handled::Deleted },
];

/// Measures all contenders in turn, in alternating order. The first round is a warm-up.
pub fn run(bench: &mut Bench) -> Result<()> {
    let rounds = bench.rounds(ROUNDS);
    let counts = SIZES.map(|size| bench.size(size.events.0, size.events.1));
    let stage = &bench.stage;
    let [most, ..] = counts.map(stored_for);
    super::produce(stage, &Load::new(TOPIC, most)).context("filling the topic")?;
    let mut measured = Rounds::default();
    for (size, count) in SIZES.iter().zip(counts) {
        let mut queues: Vec<Box<dyn Queue + '_>> =
            vec![Box::new(Receiving::new(stage, TOPIC, most)?), Box::new(Deleting::new(stage)?)];
        match Pgmq::new(stage, size.pgmq)? {
            Some(pgmq) => queues.push(Box::new(pgmq)),
            None => eprintln!("    without pgmq: its SQL was not found"),
        }
        for number in 0..=rounds {
            for queue in &mut queues {
                let name = queue.name();
                let rate = take(stage, queue.as_mut(), size.batch, count).context(name)?;
                let (round, rate_shown) = (round(number), grouped(rate as usize));
                eprintln!("    {round:<8} {:<5} {name:<14} {rate_shown:>10} events/s", size.name);
                if number > 0 {
                    measured.add(format!("inbox.receive.{}.{name}", size.name), rate);
                }
            }
            queues.reverse();
        }
        let ours = format!("inbox.receive.{}.ours", size.name);
        for peer in queues.iter().map(|queue| queue.name()).filter(|name| *name != "ours") {
            let key = format!("inbox.receive.{}.{peer}", size.name);
            measured.ratio(format!("inbox.receive.{}.ratio_{peer}", size.name), &ours, &key);
        }
    }
    stage.remove_topic(TOPIC)?;
    bench.figures.summarise_rounds(&measured);
    Ok(())
}

/// How many events are stored so that sessions can take `count` of them without ever meeting the end.
fn stored_for(count: u64) -> u64 {
    count + count / 5
}

/// Takes `count` of the stored events. Returns the number per second.
fn take(stage: &Stage, queue: &mut dyn Queue, batch: i32, count: u64) -> Result<f64> {
    queue.fill(&Load::new(TOPIC, stored_for(count)))?;
    stage.checkpoint()?;
    let sessions = (0..SESSIONS).map(|_| queue.session()).collect::<Result<Vec<_>>>()?;
    let (start, taken) = (Barrier::new(SESSIONS + 1), AtomicU64::new(0));
    let (ids, elapsed) = scope(|threads| {
        let work = |session| || take_some(session, batch, count, &taken, &start);
        let threads: Vec<_> = sessions.into_iter().map(|session| threads.spawn(work(session))).collect();
        start.wait();
        let begin = Instant::now();
        let mut ids = Vec::new();
        for thread in threads {
            ids.extend(thread.join().map_err(|_| anyhow!("a session panicked"))??);
        }
        anyhow::Ok((ids, begin.elapsed()))
    })?;
    let distinct = ids.iter().collect::<HashSet<_>>().len();
    ensure!(distinct == ids.len(), "of {} events only {distinct} are distinct", ids.len());
    queue.empty()?;
    Ok(ids.len() as f64 / elapsed.as_secs_f64())
}

/// Takes events until all sessions together have enough.
fn take_some(
    mut session: Box<dyn Session>,
    batch: i32,
    count: u64,
    taken: &AtomicU64,
    start: &Barrier,
) -> Result<Vec<i64>> {
    let mut all = Vec::new();
    start.wait();
    while taken.load(Ordering::Relaxed) < count {
        let ids = session.take(batch)?;
        if ids.is_empty() {
            sleep(PAUSE);
        }
        taken.fetch_add(ids.len() as u64, Ordering::Relaxed);
        all.extend(ids);
    }
    Ok(all)
}
