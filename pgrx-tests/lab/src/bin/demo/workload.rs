//! The input: pgbench's TPC-B transaction, unchanged, on few accounts, and rolled back.

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, ensure};
use event_outbox_lab::progress::{grouped, passed, passing};
use event_outbox_lab::{Cluster, Result, layout};

/// pgbench's scale: 100,000 accounts each.
const SCALE: usize = 10;
/// The rate of a second run after that at full speed, for the latency without a queue.
const STEADY_RATE: u32 = 100;
const STEADY_SECONDS: u32 = 5;
/// Weights of the three scripts.
const TPCB: u32 = 6;
const HOT_ACCOUNTS: u32 = 2;
const ROLLED_BACK: u32 = 2;

pub struct Workload {
    pub seconds: u32,
    pub clients: u32,
}

/// What pgbench reports.
pub struct Ran {
    pub rolled_back: usize,
}

impl Workload {
    /// `demo [SECONDS [CLIENTS]]`
    pub fn from_args(mut args: impl Iterator<Item = String>) -> Result<Self> {
        let mut number = |name: &str, default| match args.next() {
            Some(text) => text.parse::<u32>().with_context(|| format!("{name}: {text}")),
            None => Ok(default),
        };
        let workload = Self { seconds: number("SECONDS", 12)?, clients: number("CLIENTS", 8)? };
        ensure!(workload.seconds > 0 && workload.clients > 0, "SECONDS and CLIENTS must be positive");
        Ok(workload)
    }

    pub fn accounts(&self) -> String {
        grouped(SCALE * 100_000)
    }

    pub fn initialise(&self, cluster: &Cluster, database: &str) -> Result<()> {
        let mut pgbench = cluster.client_program("pgbench", database);
        let output = pgbench.args(["-i", "-q", "-s", &SCALE.to_string()]).output().context("pgbench")?;
        ensure!(output.status.success(), "pgbench -i: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Runs at full speed.
    pub fn run(&self, cluster: &Cluster, database: &str) -> Result<Ran> {
        self.pgbench(cluster, database, &["-T", &self.seconds.to_string()])
    }

    /// Runs for a few seconds at a steady rate, with processors to spare.
    pub fn run_steadily(&self, cluster: &Cluster, database: &str) -> Result<Ran> {
        let options = ["-T", &STEADY_SECONDS.to_string(), "-R", &STEADY_RATE.to_string()];
        self.pgbench(cluster, database, &options)
    }

    fn pgbench(&self, cluster: &Cluster, database: &str, options: &[&str]) -> Result<Ran> {
        let mut pgbench = cluster.client_program("pgbench", database);
        // -n: otherwise every run begins by emptying pgbench_history.
        pgbench.args(["-n", "-P", "1", "-j", "2", "-c", &self.clients.to_string()]).args(options);
        pgbench.args(["-b", &format!("tpcb-like@{TPCB}")]);
        pgbench.args(["-f", &script("hot-accounts.sql", HOT_ACCOUNTS)]);
        pgbench.args(["-f", &script("rolled-back.sql", ROLLED_BACK)]);
        let mut child = pgbench.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("pgbench")?;

        let mut said = String::new();
        for line in child.stderr.take().map(BufReader::new).into_iter().flat_map(BufRead::lines) {
            let line = line?;
            match line.strip_prefix("progress: ") {
                Some(progress) => passing(progress),
                None => said += &format!("{line}\n"),
            }
        }
        passed();
        let mut summary = String::new();
        child.stdout.take().context("pgbench's output")?.read_to_string(&mut summary)?;
        ensure!(child.wait()?.success(), "pgbench failed:\n{said}{summary}");
        ensure!(failed_transactions(&summary) == Some(0), "pgbench reports failures:\n{said}{summary}");
        let rolled_back = transactions_of(&summary, "rolled-back.sql");
        Ok(Ran { rolled_back: rolled_back.with_context(|| format!("no count of rollbacks in:\n{summary}"))? })
    }
}

/// What [`Workload::run_steadily`] does.
pub fn steady() -> String {
    format!("pgbench, the same at {STEADY_RATE} transactions a second")
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = 100 * ROLLED_BACK / (TPCB + HOT_ACCOUNTS + ROLLED_BACK);
        let Self { seconds, clients } = self;
        write!(f, "pgbench, TPC-B, {clients} clients, {seconds} seconds, {share} % rolled back on purpose")
    }
}

fn script(name: &str, weight: u32) -> String {
    let path: PathBuf = layout::repository().join("pgrx-tests/lab/demo").join(name);
    format!("{}@{weight}", path.display())
}

/// `number of failed transactions: 0 (0.000%)`; before PostgreSQL 15 a failure made pgbench fail.
fn failed_transactions(summary: &str) -> Option<usize> {
    let Some(line) = summary.lines().find(|line| line.starts_with("number of failed transactions:")) else {
        return Some(0);
    };
    line.split_whitespace().nth(4)?.parse().ok()
}

/// ` - 1234 transactions (20.0% of total, …)`, below the line that names the script.
fn transactions_of(summary: &str, script: &str) -> Option<usize> {
    let mut lines =
        summary.lines().skip_while(|line| !(line.starts_with("SQL script") && line.ends_with(script)));
    let line = lines.find(|line| line.contains(" transactions ("))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
