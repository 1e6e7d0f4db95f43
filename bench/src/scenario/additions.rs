//! `additions`: what the options of `emit()` cost, and what the archive and scheduled events cost the relay.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use postgres::Client;

use super::Bench;
use super::drain::Drain;
use super::emit::{CPU_EMIT, Session};
use crate::contender::ours::Ours;
use crate::contender::{Contender, Headers};
use crate::events::Load;
use crate::figures::Rounds;
use crate::processes;
use crate::stage::{OURS, PARTITIONS, Stage, Wal};

/// The slices of each option, which take turns, and the transactions in each.
const SLICES: usize = 30;
const SLICE: usize = 300;

/// An option: its name in the figures, what the session sets, and further arguments of `emit()`.
const OPTIONS: [(&str, &str, &str); 9] = [
    ("plain", "", ""),
    ("trace", "SET event_outbox.traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'", ""),
    ("transaction", "SET event_outbox.transaction_headers = on", ""),
    ("naming", "SET event_outbox.naming = error", ", event_type => 'order.placed'"),
    ("backlog", "SET event_outbox.max_backlog = 1000000000", ""),
    ("expires", "", ", expires_at => now() + interval '1 day'"),
    ("scheduled", "", ", deliver_at => now() + interval '1 day'"),
    ("idempotent", "", ", idempotency_key => gen_random_uuid()::text"),
    // Of another topic; ten thousand keys.
    ("numbered", "SELECT outbox.sequence_topic('numbered')", ""),
];

const WAITING: i64 = 1_000_000;
const DRAINED: u64 = 300_000;
const OBSERVED: Duration = Duration::from_secs(30);

/// Measures sessions first, with the relay off, then the relay.
pub fn run(bench: &mut Bench) -> Result<()> {
    bench.stage.restart(Wal::Replica)?;
    let mut client = bench.stage.connect(OURS)?;
    bench.stage.broker().create_topic("emit", PARTITIONS, &[])?;
    let measured = options(&bench.stage, bench.size(SLICES, 3)).context("options")?;
    bench.figures.summarise_rounds(&measured);
    client.batch_execute(
        "TRUNCATE outbox.events, outbox.scheduled, outbox.idempotency_a, outbox.idempotency_b;
         SELECT outbox.unsequence_topic('numbered')",
    )?;
    bench.stage.remove_topic("emit")?;
    let measured = relay(bench, &mut client).context("relay")?;
    bench.figures.summarise_rounds(&measured);
    Ok(())
}

/// Microseconds of CPU that a transaction of one event takes the server.
fn options(stage: &Stage, slices: usize) -> Result<Rounds> {
    let mut sessions = Vec::new();
    for (name, setting, arguments) in OPTIONS {
        let mut sql = CPU_EMIT.replace("$3::text::jsonb)", &format!("$3::text::jsonb{arguments})"));
        if name == "numbered" {
            sql = sql.replace("'emit'", "'numbered'");
        }
        sessions.push((format!("additions.{name}_cpu_us"), Session::with(stage, setting, &sql)?));
    }
    let mut measured = Rounds::default();
    for slice in 0..=slices {
        for (key, session) in &mut sessions {
            let used = session.run(SLICE)?;
            if slice > 0 {
                measured.add(key.clone(), used.as_secs_f64() * 1e6 / SLICE as f64);
            }
        }
    }
    for (name, _, _) in OPTIONS.iter().skip(1) {
        let (with, plain) = (format!("additions.{name}_cpu_us"), "additions.plain_cpu_us");
        measured.ratio(format!("additions.{name}_ratio"), &with, plain);
    }
    Ok(measured)
}

/// The relay's CPU for an event: alone, with an archive, and while a million events wait for tomorrow.
fn relay(bench: &Bench, client: &mut Client) -> Result<Rounds> {
    let (stage, events) = (&bench.stage, bench.size(DRAINED, 5_000));
    let waiting = bench.size(WAITING, 10_000);
    let mut measured = Rounds::default();
    let mut ours = Ours::new(stage, Headers::CloudEvents)?;
    for round in 0..=bench.rounds(3) {
        for (name, before, after) in [
            ("plain", String::new(), ""),
            (
                "archive",
                "SELECT outbox.set_archive('archived', '1 day')".into(),
                "SELECT outbox.set_archive('archived', NULL); TRUNCATE outbox.archive_0",
            ),
            ("waiting", wait_until_tomorrow(waiting), "TRUNCATE outbox.scheduled"),
        ] {
            client.batch_execute(&before)?;
            let used = drained(stage, &mut ours, events)?;
            client.batch_execute(after)?;
            if round > 0 {
                measured
                    .add(format!("additions.relay.{name}_cpu_us"), used.as_secs_f64() * 1e6 / events as f64);
            }
        }
    }
    for name in ["archive", "waiting"] {
        let (with, plain) = (format!("additions.relay.{name}_cpu_us"), "additions.relay.plain_cpu_us");
        measured.ratio(format!("additions.relay.{name}_ratio"), &with, plain);
    }
    // And while there is nothing else to do.
    client.batch_execute(&wait_until_tomorrow(waiting))?;
    ours.open()?;
    ours.until_idle()?;
    let look = |client: &mut Client, relay: u32| -> Result<(i64, Duration)> {
        Ok((client.query_one("SELECT wakeups FROM outbox.status", &[])?.get(0), processes::cpu(relay)?))
    };
    let (relay, observed) = (ours.pid()?, bench.size(OBSERVED, Duration::from_secs(3)));
    let before = look(client, relay)?;
    sleep(observed);
    let after = look(client, relay)?;
    let minutes = observed.as_secs_f64() / 60.0;
    measured.add("additions.waiting.wakeups_per_min", (after.0 - before.0) as f64 / minutes);
    measured.add("additions.waiting.cpu_ms_per_min", (after.1 - before.1).as_secs_f64() * 1e3 / minutes);
    ours.close()?;
    client.batch_execute("TRUNCATE outbox.scheduled")?;
    Ok(measured)
}

fn wait_until_tomorrow(count: i64) -> String {
    format!(
        "INSERT INTO outbox.scheduled (deliver_at, topic, key, payload)
         SELECT now() + interval '1 day' + n * interval '1 ms', 'later', made_key(n)::bytea, made_payload(n)::bytea
           FROM generate_series(1, {count}) AS n; ANALYZE outbox.scheduled"
    )
}

/// The CPU time that the relay takes for a backlog.
fn drained(stage: &Stage, ours: &mut Ours<'_>, events: u64) -> Result<Duration> {
    let load = Load::new("archived", events);
    let drain = Drain::new(stage, &load)?;
    ours.fill(&load)?;
    let relay = ours.pid()?;
    let before = processes::cpu(relay)?;
    drain.measure(ours, load.count())?;
    ours.until_idle()?;
    let used = processes::cpu(relay)? - before;
    drain.finish(ours)?;
    Ok(used)
}
