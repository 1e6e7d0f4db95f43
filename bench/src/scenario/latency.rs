//! `latency`: the time from a commit to a Kafka consumer.

use std::sync::Arc;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use super::Bench;
use crate::arrival::Watch;
use crate::contender::bare::Bare;
use crate::contender::debezium::Debezium;
use crate::contender::ours::Ours;
use crate::contender::polling::Polling;
use crate::contender::{Headers, Outbox};
use crate::figures::{Rounds, Samples};
use crate::pace::{self, Pace, Times};
use crate::stage::{OURS, Stage, Wal};

/// Events per second, and the number of sessions that write them.
const RATES: [(u64, usize); 2] = [(100, 1), (2000, 8)];
const ROUNDS: usize = 3;
const SECONDS: u64 = 8;
/// The beginning of each run does not count: connections are opened and plans cached.
pub const WARM_UP_SECONDS: u64 = 2;

/// The row that is written beside the bare loop.
pub const BESIDE_TABLE: &str = "CREATE TABLE IF NOT EXISTS beside (topic text, n bigint, filling text)";
/// Writes such a row, instead of an event.
pub const BESIDE: &str = "INSERT INTO beside VALUES ($1, $2, repeat('x', 400))";

/// The milliseconds of each event from COMMIT's return to the consumer. For the bare loop they begin with the call that
/// produces the record, and a second series ends with the acknowledgement.
pub struct Run {
    /// To the consumer.
    pub visible: Vec<f64>,
    acknowledged: Option<Vec<f64>>,
}

/// Measures all contenders in turn, at both rates.
pub fn run(bench: &mut Bench) -> Result<()> {
    bench.stage.restart(Wal::Logical)?;
    let stage = &bench.stage;
    let rounds = bench.rounds(ROUNDS);
    let seconds = bench.size(SECONDS, 2);
    let mut outboxes: Vec<Box<dyn Outbox + '_>> = vec![
        Box::new(Ours::new(stage, Headers::Own)?),
        Box::new(Debezium::new(stage)?),
        Box::new(Polling::new(stage)?),
    ];
    let mut percentiles = Rounds::default();
    stage.connect(OURS)?.batch_execute(BESIDE_TABLE)?;
    for round in 0..=rounds {
        for (rate, sessions) in RATES {
            let pace = Pace::new(rate, rate * (WARM_UP_SECONDS + if round == 0 { 2 } else { seconds }));
            let bare_loops = [("bare", 0), ("bare_writing", sessions)];
            let turns = outboxes.len() + bare_loops.len();
            for turn in 0..turns {
                let at = if round % 2 == 0 { turn } else { turns - 1 - turn };
                let (beside, outbox) = (at.checked_sub(outboxes.len()), outboxes.get_mut(at));
                let (name, writers) = match (&outbox, beside) {
                    (None, Some(beside)) => bare_loops[beside],
                    _ => (outbox.as_ref().map_or("", |outbox| outbox.name()), sessions),
                };
                let topic = format!("latency-{name}-{rate}-{round}");
                let watch = stage.topic(&topic)?;
                let run = match outbox {
                    Some(outbox) => through(stage, outbox.as_mut(), &watch, &topic, pace, writers)
                        .with_context(|| format!("{name}\n{}", outbox.trouble()))?,
                    None => bare(stage, &topic, pace, writers, alone).context(name)?,
                };
                stage.remove_topic(&topic)?;
                let visible: Samples = run.visible.into_iter().collect();
                announce(round, rate, name, &visible);
                if round == 0 {
                    continue;
                }
                note(&mut percentiles, &format!("latency.{rate}.{name}."), &visible);
                if let Some(acknowledged) = run.acknowledged {
                    let acknowledged = acknowledged.into_iter().collect();
                    note(&mut percentiles, &format!("latency.{rate}.{name}.ack_"), &acknowledged);
                }
            }
        }
    }
    drop(outboxes);
    for percentile in ["p50", "p99"] {
        for peer in ["bare", "bare_writing", "debezium", "polling"] {
            let [ours, other] = ["ours", peer].map(|name| format!("latency.100.{name}.{percentile}_ms"));
            percentiles.ratio(format!("latency.{percentile}_ratio_{peer}"), &ours, &other);
        }
    }
    bench.figures.summarise_rounds(&percentiles);
    Ok(())
}

/// Adds the percentiles of a round under a prefix.
pub fn note(percentiles: &mut Rounds, prefix: &str, samples: &Samples) {
    for (name, percent) in [("p50", 50.0), ("p99", 99.0), ("max", 100.0)] {
        percentiles.add(format!("{prefix}{name}_ms"), samples.percentile(percent));
    }
}

/// Prints the result of a round.
pub fn announce(round: usize, rate: u64, name: &str, visible: &Samples) {
    let [p50, p99, max] = [50.0, 99.0, 100.0].map(|percent| visible.percentile(percent));
    let round = super::round(round);
    eprintln!("    {round:<8} {rate:>5}/s {name:<10} p50 {p50:>8.2}  p99 {p99:>8.2}  max {max:>8.2} ms");
}

/// A producer that waits for no further record.
fn alone(bootstrap_servers: &str, acknowledged: Arc<Times>) -> Result<Bare> {
    Bare::new(bootstrap_servers, Duration::ZERO, acknowledged)
}

/// Commits events at this pace, and reads them from Kafka.
pub fn through(
    stage: &Stage,
    outbox: &mut dyn Outbox,
    watch: &Watch,
    topic: &str,
    pace: Pace,
    sessions: usize,
) -> Result<Run> {
    outbox.open()?;
    // The start is not measured: an event that does not count comes first.
    stage.connect(outbox.database())?.execute(outbox.insert_one(), &[&topic, &pace::FORERUNNER])?;
    watch.until(1, Instant::now(), |_| {}).context("the first event")?;
    let consumer = pace::reader(&stage.bootstrap_servers(), topic)?;
    let mut clients = (0..sessions).map(|_| stage.connect(outbox.database())).collect::<Result<Vec<_>>>()?;
    let begin = Instant::now();
    let (committed, visible) = (Times::new(begin, pace.count), Times::new(begin, pace.count));
    scope(|threads| {
        let reader = threads.spawn(|| pace::read(&consumer, pace.count, &visible));
        pace::write(&mut clients, outbox.insert_one(), topic, pace, &committed)?;
        reader.join().map_err(|_| anyhow!("the reader panicked"))?
    })?;
    outbox.close()?;
    let skipped = pace.rate * WARM_UP_SECONDS;
    Ok(Run { visible: visible.since(&committed, skipped), acknowledged: None })
}

/// Produces the same records without an outbox, with a producer that `open` creates. Meanwhile as many sessions commit rows at the same pace to the same disk.
pub fn bare(
    stage: &Stage,
    topic: &str,
    pace: Pace,
    writers: usize,
    open: impl FnOnce(&str, Arc<Times>) -> Result<Bare>,
) -> Result<Run> {
    let servers = stage.bootstrap_servers();
    let consumer = pace::reader(&servers, topic)?;
    let mut clients = (0..writers).map(|_| stage.connect(OURS)).collect::<Result<Vec<_>>>()?;
    // The other contenders have this time while they connect.
    sleep(Duration::from_millis(200));
    let begin = Instant::now();
    let times = || Times::new(begin, pace.count);
    let (sent, visible, acknowledged, committed) = (times(), times(), Arc::new(times()), times());
    scope(|threads| {
        let reader = threads.spawn(|| pace::read(&consumer, pace.count, &visible));
        let beside = (writers > 0)
            .then(|| threads.spawn(|| pace::write(&mut clients, BESIDE, topic, pace, &committed)));
        open(&servers, acknowledged.clone())?.produce(topic, pace, begin, &sent)?;
        if let Some(beside) = beside {
            beside.join().map_err(|_| anyhow!("a writer panicked"))??;
        }
        reader.join().map_err(|_| anyhow!("the reader panicked"))?
    })?;
    let skipped = pace.rate * WARM_UP_SECONDS;
    let acknowledged = Some(acknowledged.since(&sent, skipped));
    Ok(Run { visible: visible.since(&sent, skipped), acknowledged })
}
