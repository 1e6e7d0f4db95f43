//! The demo's figures, and whether they are right.

use std::fmt;

use event_outbox_lab::progress::grouped;
use event_outbox_lab::verdict::Verdict;

use crate::subscriber::Received;

/// The demo's result.
pub struct Report {
    pub committed: usize,
    pub rolled_back: usize,
    /// Rows in `outbox.events` at the end.
    pub left: usize,
    pub verdict: Verdict,
    /// What the other database has received.
    pub received: Received,
    /// Of the events committed at full speed; includes the wait for a processor.
    pub fast: Latency,
    /// Of the events committed at a steady rate, with processors to spare.
    pub steady: Latency,
}

/// From commit to Kafka, in milliseconds.
#[derive(Clone, Copy)]
pub struct Latency {
    p50: f64,
    p99: f64,
    max: f64,
}

impl From<Verdict> for Latency {
    fn from(verdict: Verdict) -> Self {
        let [p50, p99, max] = [50, 99, 100].map(|percent| verdict.latency_ms(percent));
        Latency { p50, p99, max }
    }
}

impl Report {
    pub fn is_right(&self) -> bool {
        self.verdict.is_clean()
            && self.verdict.published == self.committed
            && self.left == 0
            && self.received.events == self.verdict.published + self.verdict.duplicated
            && self.received.repeated == self.verdict.duplicated
            && self.received.out_of_order == 0
            && self.rolled_back > 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = &self.verdict;
        let busy = format!("within a key; {} keys have several events", grouped(verdict.busy_keys));
        let complete = verdict.published == self.committed;
        let (received, arrived) = (&self.received, verdict.published + verdict.duplicated);
        let rows = [
            ("committed", self.committed, true, "rows in pgbench_history".into()),
            ("rolled back", self.rolled_back, self.rolled_back > 0, "transactions, on purpose".into()),
            ("published", verdict.published, complete, "records in Kafka".into()),
            ("lost", verdict.lost, verdict.lost == 0, "committed, not in Kafka".into()),
            ("invented", verdict.invented, verdict.invented == 0, "in Kafka, not committed".into()),
            ("duplicated", verdict.duplicated, verdict.duplicated == 0, "in Kafka once more".into()),
            (
                "altered",
                verdict.altered,
                verdict.altered == 0,
                "another key or payload than committed".into(),
            ),
            ("out of order", verdict.out_of_order, verdict.out_of_order == 0, busy),
            ("outbox.events", self.left, self.left == 0, "rows left".into()),
            ("received", received.events, received.events == arrived, "in the other database".into()),
            (
                "twice",
                received.repeated,
                received.repeated == verdict.duplicated,
                "received once more".into(),
            ),
            (
                "out of order",
                received.out_of_order,
                received.out_of_order == 0,
                "received within a key".into(),
            ),
        ];
        writeln!(f)?;
        for (name, number, right, remark) in rows {
            let mark = if right { ' ' } else { '!' };
            writeln!(f, "{mark} {name:<14}{:>10}   {remark}", grouped(number))?;
        }
        // From the commit timestamp of the transaction to the time at which Kafka appended the record, both by
        // this machine's clock, the latter in whole milliseconds.
        writeln!(f, "\n  commit to Kafka           p50       p99       max")?;
        for (name, latency) in [("at full speed", self.fast), ("at a steady rate", self.steady)] {
            let Latency { p50, p99, max } = latency;
            writeln!(f, "  {name:<17}{p50:>10.1}{p99:>10.1}{max:>10.1}   milliseconds")?;
        }
        let verdict = if self.is_right() { "All figures are right." } else { "Figures marked ! are wrong." };
        write!(f, "\n{verdict}")
    }
}
