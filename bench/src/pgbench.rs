//! pgbench, PostgreSQL's own load generator.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use event_outbox_lab::layout;

use crate::events;
use crate::stage::{OURS, Stage};

/// A run of a script in `bench/emit`.
pub struct Pgbench {
    /// The script's name without its extension.
    pub script: &'static str,
    /// The number of concurrent sessions.
    pub clients: usize,
    /// The length of the run in seconds.
    pub seconds: u64,
}

/// The results that pgbench prints.
#[derive(Clone, Copy, Debug)]
pub struct Ran {
    /// Transactions per second.
    pub tps: f64,
    /// Mean time of a transaction in milliseconds.
    pub latency_ms: f64,
    /// The total number of transactions.
    pub transactions: u64,
}

impl Pgbench {
    /// Runs the script in the extension's database, and waits for its end.
    pub fn run(&self, stage: &Stage) -> Result<Ran> {
        let mut pgbench = stage.server().client_program("pgbench", OURS);
        let script: PathBuf = layout::repository().join(format!("bench/emit/{}.sql", self.script));
        pgbench.args(["-n", "-M", "prepared", "-T", &self.seconds.to_string()]);
        pgbench.args(["-c", &self.clients.to_string(), "-j", &self.clients.min(2).to_string()]);
        pgbench.args(["-D", &format!("payload={}", events::payload(1, events::PAYLOAD_BYTES))]);
        pgbench.args(["-D", &format!("headers={}", events::headers(1))]);
        Ran::of(pgbench.arg("-f").arg(script))
    }
}

impl Ran {
    /// Runs pgbench, and waits for its end.
    pub fn of(pgbench: &mut Command) -> Result<Self> {
        let output = pgbench.output().context("pgbench")?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "pgbench: {said}{}", String::from_utf8_lossy(&output.stderr));
        let ran = Self {
            tps: number(&said, "tps = ")?,
            latency_ms: number(&said, "latency average = ")?,
            transactions: number(&said, "number of transactions actually processed: ")? as u64,
        };
        ensure!(number(&said, "number of failed transactions: ")? == 0.0, "pgbench failed:\n{said}");
        Ok(ran)
    }
}

/// The number after a label.
fn number(said: &str, label: &str) -> Result<f64> {
    let rest = said.split_once(label).map(|(_, rest)| rest);
    let digits = rest.and_then(|rest| rest.split(|c: char| !c.is_ascii_digit() && c != '.').next());
    digits.and_then(|digits| digits.parse().ok()).with_context(|| format!("no \"{label}\" in:\n{said}"))
}
