//! The report of a run: the table of faults, the figures and the verdict.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::Options;
use super::checker::Verdict;
use super::evidence::Evidence;
use super::stage::Injection;
use super::store::Findings;
use event_outbox_lab::progress::grouped;

/// Lines of the server's log that a failed run shows.
const LOG_TAIL: usize = 40;

/// The report of a run.
#[derive(Debug)]
pub struct Report {
    /// The checker's verdict.
    pub verdict: Verdict,
    /// The error that stopped the test.
    pub failure: Option<anyhow::Error>,
    /// What must not be in the event store.
    pub store: Vec<String>,
    title: String,
    lines: BTreeMap<String, Line>,
    figures: Vec<(&'static str, String)>,
    aside: String,
}

impl Report {
    /// Puts the report together; `aside` are the relay's status and the server's log.
    pub fn new(
        options: &Options,
        verdict: Verdict,
        injections: &[Injection],
        evidence: &Evidence,
        failure: Option<anyhow::Error>,
        aside: &(String, String),
    ) -> Self {
        let Options { seed, mode, duration, writers, .. } = options;
        let title = format!("{mode:?}, {} s, {writers} writers, SEED={seed}", duration.as_secs());
        let figures = figures(&verdict, evidence);
        let (status, log) = aside;
        let log: Vec<_> = log.lines().collect();
        let tail = log[log.len().saturating_sub(LOG_TAIL)..].join("\n");
        let inbox = evidence.inbox.as_ref().map_or("", |inbox| &inbox.status);
        let aside = format!("status: {status}\nthe inbox:\n{inbox}\nthe server's log ends with\n{tail}");
        let mut lines: BTreeMap<String, Line> = BTreeMap::new();
        for injection in injections {
            let line = lines.entry(injection.name.clone()).or_default();
            line.count += 1;
            line.longest = line.longest.max(injection.recovery);
        }
        Self { verdict, failure, store: Vec::new(), title, lines, figures, aside }
    }

    /// Adds what was found of the event store.
    #[must_use]
    pub fn with_store(mut self, findings: Option<Findings>) -> Self {
        if let Some(Findings { wrong, figures }) = findings {
            self.store = wrong;
            self.figures.push(("store", figures));
        }
        self
    }

    /// Whether the run passed.
    pub fn is_clean(&self) -> bool {
        self.verdict.is_clean() && self.failure.is_none() && self.store.is_empty()
    }
}

/// The line of one kind of fault.
#[derive(Debug, Default)]
struct Line {
    count: usize,
    longest: Duration,
}

fn figures(verdict: &Verdict, evidence: &Evidence) -> Vec<(&'static str, String)> {
    let [transactions, committed, prepared, unknown, deadlocks, asynchronous, taken_back] = [
        evidence.journal.endings.len(),
        evidence.committed.len(),
        evidence.journal.prepared,
        verdict.unknown,
        evidence.journal.deadlocks,
        verdict.asynchronous,
        verdict.taken_back,
    ]
    .map(grouped);
    let [events, rolled_back, keys] = [verdict.committed, verdict.rolled_back, verdict.keys].map(grouped);
    let [records, duplicates] = [verdict.records, verdict.duplicates.values().sum()].map(grouped);
    let [by_sessions, by_handlers, recreated] = verdict.handled.map(grouped);
    let [buried, handled_keys, sought] = [verdict.buried, verdict.handled_keys, verdict.sought].map(grouped);
    let [dead, revived] = [verdict.dead, verdict.revived].map(grouped);
    let [heard, unheard_of] = [verdict.heard, verdict.unheard_of].map(grouped);
    vec![
        (
            "transactions",
            format!(
                "{transactions}: {committed} committed, {prepared} prepared, {unknown} of unknown end, \
                 {deadlocks} deadlocks"
            ),
        ),
        (
            "asynchronous",
            format!(
                "{asynchronous} commits that did not wait for the disk, of which crashes undid {taken_back}"
            ),
        ),
        ("events", format!("{events} committed, {rolled_back} rolled back, {keys} keys with several")),
        ("calm", format!("{} % of the time, in which no event may arrive twice", evidence.calm_percent())),
        ("records", format!("{records}, of which {duplicates} duplicates")),
        ("given up", format!("{} events of delivery at most once, around faults", grouped(verdict.given_up))),
        ("dead", format!("{dead} dead letters, {revived} sent again and published")),
        ("notifications", format!("{heard} events announced, {unheard_of} settled while nobody listened")),
        (
            "handled",
            format!(
                "{by_sessions} records by sessions, {by_handlers} events by handlers, {recreated} records of a topic \
                 that was created again, {handled_keys} keys with several, {buried} poisoned and dead, {sought} \
                 taken back by seeks"
            ),
        ),
        ("projected", format!("{} keys, whose last records are in the table", grouped(verdict.projected))),
    ]
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{}\n", self.title)?;
        writeln!(f, "  {:<44}{:>7}{:>12}{:>14}", "fault", "count", "duplicates", "recovery")?;
        for (name, Line { count, longest }) in &self.lines {
            let duplicates = grouped(self.verdict.duplicates.get(name).copied().unwrap_or(0));
            writeln!(f, "  {name:<44}{count:>7}{duplicates:>12}{:>12.1} s", longest.as_secs_f64())?;
        }
        let faults: usize = self.lines.values().map(|line| line.count).sum();
        writeln!(f, "  {:<44}{faults:>7}\n", "all")?;
        for (name, figure) in &self.figures {
            writeln!(f, "  {name:<16}{figure}")?;
        }
        writeln!(f)?;
        for (violation, count) in &self.verdict.violations {
            writeln!(f, "! {violation:?}: {}", grouped(*count))?;
        }
        for (violation, case) in &self.verdict.cases {
            writeln!(f, "!   {violation:?}: {case}")?;
        }
        for wrong in &self.store {
            writeln!(f, "! the event store: {wrong}")?;
        }
        if let Some(failure) = &self.failure {
            writeln!(f, "! {failure:#}")?;
        }
        if self.is_clean() {
            write!(f, "PASSED")
        } else {
            write!(f, "\n{}\n\nFAILED ({})", self.aside, self.title)
        }
    }
}
