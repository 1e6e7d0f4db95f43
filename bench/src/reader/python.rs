//! The same consumer in Python, with confluent-kafka and psycopg: `bench/inbox/copying.py`.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use event_outbox_lab::layout;
use event_outbox_lab::process::{Fate, Process};
use postgres::Client;

use super::{Reader, table};
use crate::events::Load;
use crate::stage::{PARTITIONS, PEERS, Stage};

const TABLE: &str = "python";
const END_DEADLINE: Duration = Duration::from_secs(10);

/// The tables, and the process while it runs.
pub struct Python<'a> {
    stage: &'a Stage,
    client: Client,
    interpreter: PathBuf,
    process: Option<Process>,
}

impl<'a> Python<'a> {
    /// The contender. `None` if `scripts/bench` could not install its packages.
    pub fn new(stage: &'a Stage) -> Result<Option<Self>> {
        let Some(interpreter) = std::env::var_os("EVENT_OUTBOX_BENCH_PYTHON").map(PathBuf::from) else {
            return Ok(None);
        };
        Ok(Some(Self { stage, client: stage.connect(PEERS)?, interpreter, process: None }))
    }
}

impl Reader for Python<'_> {
    fn name(&self) -> &'static str {
        "python_copy"
    }

    fn open(&mut self, topic: &str) -> Result<()> {
        table::create(&mut self.client, TABLE)?;
        let port = self.stage.server().port();
        let database = format!("host=127.0.0.1 port={port} user=postgres dbname={PEERS}");
        let mut command = Command::new(&self.interpreter);
        command.arg(layout::repository().join("bench/inbox/copying.py"));
        command.args([&database, &self.stage.bootstrap_servers(), topic, &PARTITIONS.to_string()]);
        command.stdin(Stdio::null());
        self.process = Some(Process::spawn(command, libc::SIGTERM, Fate::DiesWithUs)?);
        Ok(())
    }

    fn stored(&mut self) -> Result<u64> {
        if let Some(process) = &mut self.process {
            let ended = process.exited()?;
            ensure!(ended.is_none(), "the consumer ended: {ended:?}");
        }
        table::stored(&mut self.client, TABLE)
    }

    fn close(&mut self, load: &Load) -> Result<()> {
        let mut process = self.process.take().context("the consumer is not running")?;
        process.signal(libc::SIGTERM)?;
        process.wait(END_DEADLINE)?;
        table::ensure_exact(&mut self.client, "python_log", load)?;
        table::create(&mut self.client, TABLE)
    }
}
