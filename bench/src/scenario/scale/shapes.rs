//! `scale-shapes`: whether the rate depends on how many topics, partitions and keys a backlog has, or on what waits beside it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use event_outbox_lab::wait;
use postgres::Client;

use super::super::{Bench, round};
use crate::arrival;
use crate::contender::ours::Ours;
use crate::contender::{Contender, Headers};
use crate::figures::Rounds;
use crate::stage::{OURS, Stage, Wal};

const ROUNDS: usize = 3;
const EVENTS: (u64, u64) = (300_000, 10_000);
const DEAD: (i64, i64) = (1_000_000, 5_000);
const BLOCKED: (i64, i64) = (10_000, 100);
/// How many topics a request creates or removes.
const TOPICS_AT_ONCE: usize = 500;
const DEADLINE: Duration = Duration::from_secs(180);

/// A backlog: the topics, the partitions of each, and the keys of all.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    topics: usize,
    partitions: i32,
    keys: i64,
    beside: Beside,
}

/// What is there before the backlog.
#[derive(Clone, Copy, PartialEq)]
enum Beside {
    Nothing,
    /// Keys whose first event Kafka refuses, with events that wait behind it.
    BlockedKeys,
    DeadLetters,
}

const fn shape(name: &'static str, topics: usize, partitions: i32, keys: i64) -> Shape {
    Shape { name, topics, partitions, keys, beside: Beside::Nothing }
}

const USUAL: &str = "usual";

/// All differ from the first in one way.
const SHAPES: [Shape; 9] = [
    shape(USUAL, 1, 4, 10_000),
    shape("topics_100", 100, 4, 10_000),
    shape("topics_10k", 10_000, 1, 10_000),
    shape("partitions_100", 1, 100, 10_000),
    shape("partitions_1k", 1, 1_000, 10_000),
    shape("keys_10", 1, 4, 10),
    shape("keys_1m", 1, 4, 1_000_000),
    Shape { beside: Beside::BlockedKeys, ..shape("blocked_10k", 1, 4, 10_000) },
    Shape { beside: Beside::DeadLetters, ..shape("dead_1m", 1, 4, 10_000) },
];

const FILL: &str = "
INSERT INTO outbox.events (topic, key, payload, content_type)
SELECT $1 || '-' || n % $2, convert_to('k' || n % $3, 'UTF8'), convert_to(made_payload(n), 'UTF8'),
       'application/json'
  FROM generate_series(1, $4::bigint) AS n";

/// Kafka refuses what is larger than the topic allows. The relay remembers refused keys, so each turn has others.
const BLOCK: &str = "
INSERT INTO outbox.events (topic, key, payload)
SELECT $1 || '-0', convert_to('b' || $3 || '-' || n % $2, 'UTF8'),
       convert_to(repeat('x', CASE WHEN n <= $2 THEN 20000 ELSE 200 END), 'UTF8')
  FROM generate_series(1, $2::bigint * 6) AS n";
const LARGEST: (&str, &str) = ("max.message.bytes", "10000");

const REFUSED: &str = "SELECT count(*) FROM outbox.events WHERE attempts > 0";

const BURY: &str = "
INSERT INTO outbox.dead_letters (id, event_id, emitted_at, topic, payload, attempts, error, first_refused_at,
                                 last_refused_at)
SELECT n, gen_random_uuid(), now(), 'dead', 'x', 3, 'refused', now(), now() FROM generate_series(1, $1::bigint) AS n";

/// Measures all shapes, round by round, in alternating order.
pub fn run(bench: &mut Bench) -> Result<()> {
    bench.stage.restart(Wal::Replica)?;
    let server = bench.stage.server();
    // A blocked key stays blocked.
    let settings = [("retry_backoff", "30min"), ("retry_backoff_max", "30min"), ("max_attempts", "1000")];
    for (name, value) in settings {
        server.set(&format!("event_outbox.{name}"), value)?;
    }
    server.reload()?;
    let stage = &bench.stage;
    let events = bench.size(EVENTS.0, EVENTS.1);
    let mut shapes = SHAPES;
    if bench.quick {
        shapes.iter_mut().for_each(|shape| shape.topics = shape.topics.min(50));
    }
    let mut ours = Ours::new(stage, Headers::Own)?;
    let mut measured = Rounds::default();
    for shape in &shapes {
        create(stage, shape)?;
    }
    for turn in 0..=bench.rounds(ROUNDS) {
        for shape in &shapes {
            let beside = match shape.beside {
                Beside::Nothing => 0,
                Beside::BlockedKeys => bench.size(BLOCKED.0, BLOCKED.1),
                Beside::DeadLetters => bench.size(DEAD.0, DEAD.1),
            };
            let rate = drain(stage, &mut ours, shape, turn, events, beside).context(shape.name)?;
            eprintln!("    {:<8} {:<16} {rate:>10.0} events/s", round(turn), shape.name);
            if turn > 0 {
                measured.add(format!("scale.shapes.{}_rate", shape.name), rate);
            }
        }
        shapes.reverse();
    }
    let memory = ours.memory();
    drop(ours);
    memory.note(&mut bench.figures, "memory.shapes");
    for shape in &shapes {
        remove(&bench.stage, shape)?;
    }
    for (name, _) in settings {
        bench.stage.server().unset(&format!("event_outbox.{name}"))?;
    }
    for shape in SHAPES.iter().filter(|shape| shape.name != USUAL) {
        let rate = |name: &str| format!("scale.shapes.{name}_rate");
        measured.ratio(format!("scale.shapes.{}", shape.name), &rate(shape.name), &rate(USUAL));
    }
    bench.figures.summarise_rounds(&measured);
    Ok(())
}

/// Publishes a backlog. Returns how many events a second the relay settles.
fn drain(
    stage: &Stage,
    ours: &mut Ours<'_>,
    shape: &Shape,
    turn: usize,
    events: u64,
    beside: i64,
) -> Result<f64> {
    let mut client = stage.connect(OURS)?;
    match shape.beside {
        Beside::Nothing => {}
        Beside::DeadLetters => {
            client.execute(BURY, &[&beside])?;
        }
        Beside::BlockedKeys => {
            client.execute(BLOCK, &[&shape.prefix(), &beside, &turn.to_string()])?;
            ours.open()?;
            wait::until_ok("refusals of all keys", DEADLINE, || {
                Ok((client.query_one(REFUSED, &[])?.get::<_, i64>(0) == beside).then_some(()))
            })?;
            ours.disable()?;
        }
    }
    let topics = i64::try_from(shape.topics)?;
    client.execute(FILL, &[&shape.prefix(), &topics, &shape.keys, &events.cast_signed()])?;
    client.batch_execute("VACUUM (ANALYZE) outbox.events")?;
    stage.checkpoint()?;
    let before = published(&mut client)?;
    let begin = Instant::now();
    ours.open()?;
    let settled = || Ok(published(&mut client)? - before);
    let arrival = arrival::until("events settled", events, begin, settled, |_| {})?;
    ours.disable()?;
    let left: i64 = client.query_one("SELECT count(*) FROM outbox.events", &[])?.get(0);
    let blocked = if shape.beside == Beside::BlockedKeys { beside * 6 } else { 0 };
    ensure!(left == blocked, "{left} events are left");
    client.batch_execute("TRUNCATE outbox.events, outbox.dead_letters")?;
    Ok(arrival.rate())
}

fn published(client: &mut Client) -> Result<u64> {
    let published: i64 = client.query_one("SELECT published FROM outbox.status", &[])?.get(0);
    Ok(u64::try_from(published)?)
}

impl Shape {
    fn prefix(&self) -> String {
        format!("shape-{}", self.name)
    }

    fn topics(&self) -> Vec<String> {
        (0..self.topics).map(|n| format!("{}-{n}", self.prefix())).collect()
    }
}

fn create(stage: &Stage, shape: &Shape) -> Result<()> {
    for names in shape.topics().chunks(TOPICS_AT_ONCE) {
        stage.broker().create_topics(names, shape.partitions, &[LARGEST])?;
    }
    Ok(())
}

fn remove(stage: &Stage, shape: &Shape) -> Result<()> {
    for names in shape.topics().chunks(TOPICS_AT_ONCE) {
        stage.broker().delete_topics(names)?;
    }
    Ok(())
}
