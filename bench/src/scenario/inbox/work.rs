//! The rate at which events are handled that take some milliseconds each, from one partition.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use event_outbox_lab::wait;

use super::super::{Bench, round};
use crate::events::Load;
use crate::figures::Rounds;
use crate::queue::group::Group;
use crate::queue::ours::Receiving;
use crate::queue::{Queue, Session};
use crate::stage::{Stage, Wal};

const ROUNDS: usize = 3;
const SESSIONS: usize = 16;
/// How long an event takes.
const WORK: Duration = Duration::from_millis(5);
/// The most events in a transaction.
const BATCH: i32 = 10;
/// All sessions have had a batch by then.
const WARM_UP: Duration = Duration::from_secs(1);
const SECONDS: (u64, u64) = (8, 2);
const TOPIC: &str = "inbox-work";
const START_DEADLINE: Duration = Duration::from_secs(60);

/// Measures both in turn, in alternating order. The first round is a warm-up.
pub fn run(bench: &mut Bench) -> Result<()> {
    let rounds = bench.rounds(ROUNDS);
    let seconds = bench.size(SECONDS.0, SECONDS.1);
    bench.stage.restart(Wal::Replica)?;
    let stage = &bench.stage;
    // No session ever waits for events.
    let most = SESSIONS as u64 * 1000 / WORK.as_millis() as u64 * (seconds + 3);
    let load = Load::new(TOPIC, most);
    super::produce_into(stage, &load, 1).context("filling the topic")?;
    let mut queues: Vec<Box<dyn Queue + '_>> = vec![
        Box::new(Receiving::new(stage, TOPIC, most)?.working(WORK)),
        Box::new(Group::new(stage, TOPIC, WORK)?),
    ];
    let mut measured = Rounds::default();
    for number in 0..=rounds {
        for queue in &mut queues {
            let name = queue.name();
            queue.fill(&load).context(name)?;
            let rate = handle(stage, queue.as_ref(), Duration::from_secs(seconds)).context(name)?;
            queue.empty()?;
            eprintln!("    {:<8} {name:<14} {rate:>10.0} events/s", round(number));
            if number > 0 {
                measured.add(format!("inbox.work.{name}"), rate);
            }
        }
        queues.reverse();
    }
    drop(queues);
    measured.ratio("inbox.work.ratio_group", "inbox.work.ours", "inbox.work.group");
    stage.remove_topic(TOPIC)?;
    bench.figures.summarise_rounds(&measured);
    Ok(())
}

/// Has all sessions handle events for a while. Returns how many a second they have committed after the warm-up.
fn handle(stage: &Stage, queue: &dyn Queue, window: Duration) -> Result<f64> {
    stage.checkpoint()?;
    let sessions = (0..SESSIONS).map(|_| queue.session()).collect::<Result<Vec<_>>>()?;
    let (stop, handled) = (AtomicBool::new(false), AtomicU64::new(0));
    scope(|threads| {
        let work = |session| work(session, &stop, &handled);
        let threads: Vec<_> =
            sessions.into_iter().map(|session| threads.spawn(move || work(session))).collect();
        let count = || handled.load(Ordering::Relaxed);
        let counted =
            wait::until("the first event", START_DEADLINE, || (count() > 0).then_some(())).map(|()| {
                sleep(WARM_UP);
                let (begin, before) = (Instant::now(), count());
                sleep(window);
                (count() - before) as f64 / begin.elapsed().as_secs_f64()
            });
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().map_err(|_| anyhow!("a session panicked"))??;
        }
        let rate = counted?;
        ensure!(rate > 0.0, "nothing was handled");
        Ok(rate)
    })
}

fn work(mut session: Box<dyn Session>, stop: &AtomicBool, handled: &AtomicU64) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let taken = session.take(BATCH)?.len() as u64;
        handled.fetch_add(taken, Ordering::Relaxed);
        if taken == 0 {
            sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}
