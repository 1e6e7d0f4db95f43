//! The figures, and whether they are right.

use std::fmt;

use event_outbox_tests::progress::grouped;
use event_outbox_tests::verdict::Verdict;

/// What the demo found out.
pub struct Report {
    pub committed: usize,
    pub rolled_back: usize,
    pub seconds: u32,
    /// Rows in `outbox.events` at the end.
    pub left: usize,
    pub verdict: Verdict,
}

impl Report {
    pub fn is_right(&self) -> bool {
        self.verdict.is_clean()
            && self.verdict.published == self.committed
            && self.left == 0
            && self.rolled_back > 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = &self.verdict;
        let rate = grouped(self.committed / self.seconds.max(1) as usize);
        let busy = format!("within a key; {} keys have several events", grouped(verdict.busy_keys));
        let complete = verdict.published == self.committed;
        let rows = [
            ("committed", self.committed, true, format!("rows in pgbench_history, {rate} a second")),
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
        ];
        writeln!(f)?;
        for (name, number, right, remark) in rows {
            let mark = if right { ' ' } else { '!' };
            writeln!(f, "{mark} {name:<14}{:>10}   {remark}", grouped(number))?;
        }
        // From the commit timestamp of the transaction to the time at which Kafka appended the record, both by
        // this machine's clock, the latter in whole milliseconds.
        let (p50, p99) = (verdict.latency_ms(50), verdict.latency_ms(99));
        let max = verdict.latency_ms(100);
        writeln!(
            f,
            "  latency           p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms   commit to Kafka"
        )?;
        let verdict = if self.is_right() { "All figures are right." } else { "Figures marked ! are wrong." };
        write!(f, "\n{verdict}")
    }
}
