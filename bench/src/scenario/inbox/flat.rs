//! The rate at which events are received while an old snapshot keeps all dead rows, and while none does.

use anyhow::{Context, Result};
use event_outbox_lab::progress::grouped;

use super::super::{Bench, round};
use super::receive::{stored_for, take};
use crate::events::Load;
use crate::figures::Rounds;
use crate::queue::deleting::Deleting;
use crate::queue::ours::Receiving;
use crate::queue::{Handler, Queue};
use crate::stage::{OURS, PEERS, Stage, Wal};

const ROUNDS: usize = 3;
/// Received before, with the snapshot open: in batches that leave as many states of lanes as ten minutes at 2,000 events a
/// second, if 40 events come with a call.
const EARLIER: (u64, u64) = (300_000, 20_000);
const EARLIER_BATCH: i32 = 10;
/// Received in the time that is measured.
const MEASURED: (u64, u64) = (100_000, 10_000);
const BATCH: i32 = 100;
const TOPIC: &str = "inbox-flat";

/// Measures the inbox and the queue table, both with and without an old snapshot. The first round is a warm-up.
pub fn run(bench: &mut Bench) -> Result<()> {
    let rounds = bench.rounds(ROUNDS);
    let (earlier, count) = (bench.size(EARLIER.0, EARLIER.1), bench.size(MEASURED.0, MEASURED.1));
    bench.stage.restart(Wal::Replica)?;
    let stage = &bench.stage;
    let load = Load::new(TOPIC, stored_for(earlier + count));
    super::produce(stage, &load).context("filling the topic")?;
    let mut ours = Receiving::new(stage, TOPIC, load.count())?;
    let mut deleting = Deleting::new(stage, Handler::Client)?;
    let mut measured = Rounds::default();
    let mut cases = [("free", false), ("held_xmin", true)];
    for number in 0..=rounds {
        for (case, is_held) in cases {
            let queues: [(&mut dyn Queue, _); 2] = [(&mut ours, OURS), (&mut deleting, PEERS)];
            for (queue, database) in queues {
                let name = queue.name();
                let held = is_held.then_some(database);
                let rate = one(stage, queue, &load, [earlier, count], held).context(name)?;
                eprintln!(
                    "    {:<8} {case:<10} {name:<14} {:>10} events/s",
                    round(number),
                    grouped(rate as usize)
                );
                if number > 0 {
                    measured.add(format!("inbox.flat.{name}.{case}"), rate);
                }
            }
        }
        cases.reverse();
    }
    for name in [ours.name(), deleting.name()] {
        let key = |case: &str| format!("inbox.flat.{name}.{case}");
        measured.ratio(key("ratio"), &key("held_xmin"), &key("free"));
    }
    stage.remove_topic(TOPIC)?;
    bench.figures.summarise_rounds(&measured);
    Ok(())
}

/// Takes the earlier events, then those that are measured. `held`: the database in which a snapshot stays open.
fn one(
    stage: &Stage,
    queue: &mut dyn Queue,
    load: &Load,
    [earlier, count]: [u64; 2],
    held: Option<&str>,
) -> Result<f64> {
    queue.fill(load)?;
    let mut holder = held.map(|database| stage.connect(database)).transpose()?;
    if let Some(holder) = &mut holder {
        // The first query takes the snapshot.
        holder.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")?;
    }
    stage.checkpoint()?;
    take(queue, EARLIER_BATCH, earlier)?;
    let taken = take(queue, BATCH, count)?;
    drop(holder);
    queue.empty()?;
    Ok(taken.rate())
}
