//! The table of faults, the figures, and the verdict.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::Options;
use super::checker::Verdict;
use super::evidence::Evidence;
use super::stage::Stroke;
use crate::progress::grouped;

/// Lines of the server's log that are shown if something is wrong.
const LOG_TAIL: usize = 40;

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    /// The judge's.
    pub verdict: Verdict,
    /// What kept the test from going on.
    pub trouble: Option<anyhow::Error>,
    title: String,
    strokes: Vec<Stroke>,
    figures: Vec<(&'static str, String)>,
    aside: String,
}

impl Report {
    /// Puts the report together.
    pub fn new(
        options: &Options,
        verdict: Verdict,
        strokes: Vec<Stroke>,
        evidence: &Evidence,
        trouble: Option<anyhow::Error>,
        status: String,
        server_log: &str,
    ) -> Self {
        let Options { seed, mode, duration, writers, .. } = options;
        let title = format!("{mode:?}, {} s, {writers} writers, SEED={seed}", duration.as_secs());
        let transactions = evidence.journal.endings.len();
        let figures = vec![
            (
                "transactions",
                format!(
                    "{}: {} committed, {} prepared, {} of unknown end, {} deadlocks",
                    grouped(transactions),
                    grouped(evidence.committed.len()),
                    grouped(evidence.journal.prepared),
                    grouped(verdict.unknown),
                    grouped(evidence.journal.deadlocks)
                ),
            ),
            (
                "events",
                format!(
                    "{} committed, {} rolled back, of {} keys",
                    grouped(verdict.committed),
                    grouped(verdict.rolled_back),
                    grouped(verdict.keys)
                ),
            ),
            (
                "records",
                format!(
                    "{}, of which {} duplicates",
                    grouped(verdict.records),
                    grouped(verdict.duplicates.values().sum())
                ),
            ),
            (
                "dead",
                format!(
                    "{} dead letters, {} sent again and published",
                    grouped(verdict.dead),
                    grouped(verdict.revived)
                ),
            ),
            (
                "notifications",
                format!(
                    "{} events told of, {} settled while nobody listened",
                    grouped(verdict.heard),
                    grouped(verdict.unheard_of)
                ),
            ),
        ];
        let lines: Vec<_> = server_log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n");
        let aside = format!("status: {status}\nthe server's log ends with\n{tail}");
        Self { verdict, trouble, title, strokes, figures, aside }
    }

    /// Whether all is as it should be.
    pub fn is_clean(&self) -> bool {
        self.verdict.is_clean() && self.trouble.is_none()
    }
}

/// What is told of one kind of fault.
#[derive(Default)]
struct Line {
    count: usize,
    longest: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines: BTreeMap<&str, Line> = BTreeMap::new();
        for stroke in &self.strokes {
            let line = lines.entry(&stroke.name).or_default();
            line.count += 1;
            line.longest = line.longest.max(stroke.recovery);
        }
        writeln!(
            f,
            "\n{}\n\n  {:<44}{:>7}{:>12}{:>14}",
            self.title, "fault", "count", "duplicates", "recovery"
        )?;
        for (name, Line { count, longest }) in lines {
            let duplicates = grouped(self.verdict.duplicates.get(name).copied().unwrap_or(0));
            writeln!(f, "  {name:<44}{count:>7}{duplicates:>12}{:>12.1} s", longest.as_secs_f64())?;
        }
        writeln!(f, "  {:<44}{:>7}\n", "all", self.strokes.len())?;
        for (name, figure) in &self.figures {
            writeln!(f, "  {name:<16}{figure}")?;
        }
        writeln!(f)?;
        for (crime, count) in &self.verdict.crimes {
            writeln!(f, "! {crime:?}: {}", grouped(*count))?;
        }
        for (crime, case) in &self.verdict.cases {
            writeln!(f, "!   {crime:?}: {case}")?;
        }
        if let Some(trouble) = &self.trouble {
            writeln!(f, "! {trouble:#}")?;
        }
        if self.is_clean() {
            write!(f, "PASSED")
        } else {
            write!(f, "\n{}\n\nFAILED ({})", self.aside, self.title)
        }
    }
}
