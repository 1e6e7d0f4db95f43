//! Owns the goals that the figures are compared with.

use crate::figures::Figures;

/// A goal for one figure.
struct Goal {
    what: &'static str,
    key: &'static str,
    bound: Bound,
}

enum Bound {
    Least(f64),
    Most(f64),
    /// At most another figure times a factor plus a constant.
    MostOf(&'static str, f64, f64),
}

const GOALS: [Goal; 49] = [
    goal("drain: times Debezium", "drain.ratio_debezium", Bound::Least(10.0)),
    goal("drain: share of rdkafka alone", "drain.ratio_rdkafka", Bound::Least(0.75)),
    goal("drain: times a polling relay", "drain.ratio_polling", Bound::Least(3.0)),
    goal(
        "latency p50, 100/s: 1.3 x bare + 0.5 ms",
        "latency.100.ours.p50_ms",
        Bound::MostOf("latency.100.bare.p50_ms", 1.3, 0.5),
    ),
    goal(
        "latency p99, 100/s: 3 x bare",
        "latency.100.ours.p99_ms",
        Bound::MostOf("latency.100.bare.p99_ms", 3.0, 0.0),
    ),
    goal("latency p99, 100/s: share of Debezium's", "latency.p99_ratio_debezium", Bound::Most(0.1)),
    goal("delivery, drain: at most / at least once", "delivery.drain.ratio_at_most_once", Bound::Least(0.7)),
    goal("delivery, p50: at most / at least once", "delivery.latency.ratio_at_most_once", Bound::Most(2.0)),
    goal("delivery, drain: exactly / at least once", "delivery.drain.ratio_exactly_once", Bound::Least(0.7)),
    goal("delivery, p50: exactly / at least once", "delivery.latency.ratio_exactly_once", Bound::Most(2.0)),
    goal(
        "delivery, p50: exactly once / bare transactions",
        "delivery.latency.ratio_bare_transactions",
        Bound::Most(1.3),
    ),
    goal("delivery: times Debezium exactly once", "delivery.drain.ratio_debezium", Bound::Least(10.0)),
    goal("crash in a drain: duplicates", "crash.drain.duplicates.max", Bound::Most(2_000.0)),
    goal("crash at 2,000/s: duplicates", "crash.steady.duplicates.max", Bound::Most(2_000.0)),
    goal("crash in a drain: of the bound", "crash.drain.of_bound", Bound::Most(1.0)),
    goal("emit, 8 clients: share of INSERT's tps", "emit.ratio_insert_8", Bound::Least(0.95)),
    goal("emit, 1 client: times INSERT's CPU", "emit.cpu_ratio_1", Bound::Most(1.25)),
    goal("emit, 32 clients: times INSERT + NOTIFY", "emit.ratio_notify_32", Bound::Least(1.5)),
    goal(
        "additions, a million later: wake-ups a minute",
        "additions.waiting.wakeups_per_min",
        Bound::Most(2.0),
    ),
    goal("capture, TPC-B: by hand, times capture()", "capture.tpcb.ratio_by_hand", Bound::Least(1.5)),
    goal("capture, bulk: by row, times by statement", "capture.bulk.ratio_row", Bound::Least(2.0)),
    goal("capture, to Kafka: Debezium, times ours", "capture.kafka.ratio_debezium", Bound::Least(1.0)),
    goal("cost, idle: share of Debezium's", "cost.0.ratio_debezium", Bound::Most(0.5)),
    goal("cost, 100/s: share of Debezium's", "cost.100.ratio_debezium", Bound::Most(0.5)),
    goal("cost, 2,000/s: share of Debezium's", "cost.2000.ratio_debezium", Bound::Most(0.5)),
    goal("cost, 10,000/s: share of Debezium's", "cost.10000.ratio_debezium", Bound::Most(0.5)),
    goal("cost, 2,000/s: Kafka, times bare + linger", "cost.2000.ratio_kafka_bare_linger", Bound::Most(1.5)),
    goal("sustained: the backlog is bounded", "sustained.backlog_bounded", Bound::Least(1.0)),
    goal("flat: 10M pending", "flat.10m", Bound::Least(0.9)),
    goal("flat: xmin horizon held", "flat.held_xmin", Bound::Least(0.9)),
    goal("flat: long writing transaction", "flat.long_writer", Bound::Least(0.9)),
    goal("memory: MB over idle", "memory.peak_over_idle_mb", Bound::Most(64.0)),
    goal("idle: wake-ups a minute", "idle.wakeups_per_min", Bound::Most(1.0)),
    goal("idle: CPU, ms a minute", "idle.cpu_ms_per_min", Bound::Most(10.0)),
    goal("inbox, ingest: times Debezium's JDBC sink", "inbox.ingest.ratio_jdbc_sink", Bound::Least(5.0)),
    goal("inbox, ingest: times a consumer in Rust", "inbox.ingest.ratio_rust_copy", Bound::Least(1.0)),
    goal("inbox, ingest: times a consumer in Python", "inbox.ingest.ratio_python_copy", Bound::Least(3.0)),
    goal("projection: times Debezium's JDBC sink", "inbox.projection.ratio_jdbc_sink", Bound::Least(5.0)),
    goal("inbox, batches: times pgmq", "inbox.receive.batch.ratio_pgmq", Bound::Least(10.0)),
    goal("inbox, batches: times SKIP LOCKED", "inbox.receive.batch.ratio_skip_locked", Bound::Least(3.0)),
    goal("inbox, one by one: times pgmq", "inbox.receive.one.ratio_pgmq", Bound::Least(2.0)),
    goal("inbox, 5 ms of work: times a group", "inbox.work.ratio_group", Bound::Least(12.0)),
    goal("inbox, flat: xmin horizon held", "inbox.flat.ours.ratio", Bound::Least(0.9)),
    goal("inbox, memory: MB over idle", "inbox.memory.over_idle_mb", Bound::Most(64.0)),
    goal("inbox, idle: CPU, ms a minute", "inbox.idle.cpu_ms_per_min", Bound::Most(20.0)),
    goal("inbox, relay's p99 beside: times alone", "inbox.beside.p99_ratio", Bound::Most(2.0)),
    goal("store, 8 streams: times message-db", "store.distinct.ratio_message_db", Bound::Least(4.0)),
    goal("store, one stream: times message-db", "store.one.ratio_message_db", Bound::Least(1.0)),
    goal("inbox, latency p50: times bare", "inbox.latency.p50_ratio_bare", Bound::Most(1.3)),
];

const fn goal(what: &'static str, key: &'static str, bound: Bound) -> Goal {
    Goal { what, key, bound }
}

/// Prints each goal that has a figure. Returns how many goals were missed.
pub fn report(figures: &Figures) -> usize {
    let mut missed = 0;
    println!("\n{:<44}{:>12}  {:<14}", "goal", "measured", "wanted");
    for goal in &GOALS {
        let Some(measured) = figures.get(goal.key) else { continue };
        let Some((met, wanted)) = goal.bound.judge(measured, figures) else { continue };
        missed += usize::from(!met);
        let verdict = if met { "met" } else { "MISSED" };
        println!("{:<44}{:>12}  {wanted:<14}{verdict}", goal.what, short(measured));
    }
    missed
}

impl Bound {
    fn judge(&self, measured: f64, figures: &Figures) -> Option<(bool, String)> {
        Some(match self {
            Self::Least(bound) => (measured >= *bound, format!(">= {}", short(*bound))),
            Self::Most(bound) => (measured <= *bound, format!("<= {}", short(*bound))),
            Self::MostOf(key, factor, constant) => {
                let bound = figures.get(key)? * factor + constant;
                (measured <= bound, format!("<= {}", short(bound)))
            }
        })
    }
}

/// Formats a number for reading.
pub fn short(number: f64) -> String {
    match number.abs() {
        n if n >= 1000.0 => event_outbox_lab::progress::grouped(number.round() as usize),
        n if n >= 100.0 => format!("{number:.0}"),
        n if n >= 10.0 => format!("{number:.1}"),
        n if n >= 0.1 || n == 0.0 => format!("{number:.2}"),
        _ => format!("{number:.4}"),
    }
}
