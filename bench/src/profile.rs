//! Samples processes with perf, and draws flame graphs.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use event_outbox_lab::process::{Fate, Process};
use event_outbox_lab::scratch::Scratch;
use inferno::collapse::Collapse;
use inferno::collapse::perf::{Folder, Options as FolderOptions};
use inferno::flamegraph::{self, Options as GraphOptions};

/// Samples per second. The number is odd, so that sampling does not run in step with a timer.
const FREQUENCY: &str = "499";
/// Bytes of stack kept with each sample, since the server and librdkafka are compiled without frame pointers.
const STACK: &str = "dwarf,32768";

/// How long perf may take to write the samples of some seconds.
const WRITE_DEADLINE: Duration = Duration::from_secs(60);

/// A running perf.
pub struct Profile {
    perf: Process,
    data: PathBuf,
    _scratch: Scratch,
}

/// Whether perf is installed and allowed to sample.
pub fn is_possible() -> bool {
    let mut perf = Command::new("perf");
    perf.args(["record", "-q", "-e", "cpu-clock", "-o", "-", "--", "true"]);
    perf.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    perf.status().is_ok_and(|status| status.success())
}

impl Profile {
    /// Starts sampling a process with all its threads.
    pub fn start(pid: u32) -> Result<Self> {
        let scratch = Scratch::new("profile", Fate::DiesWithUs)?;
        let data = scratch.path().join("perf.data");
        let mut perf = Command::new("perf");
        perf.args(["record", "-q", "-e", "cpu-clock", "-F", FREQUENCY, "--call-graph", STACK]);
        perf.arg("-o").arg(&data).args(["-p", &pid.to_string()]);
        perf.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // perf completes its file when it is interrupted.
        let perf = Process::spawn(perf, libc::SIGINT, Fate::DiesWithUs)?;
        Ok(Self { perf, data, _scratch: scratch })
    }

    /// Stops sampling and draws the flame graph.
    pub fn finish(mut self, title: &str, file: &Path) -> Result<()> {
        self.perf.signal(libc::SIGINT)?;
        self.perf.wait(WRITE_DEADLINE)?;
        let mut script = Command::new("perf");
        // Leave out line numbers: finding them would take minutes.
        script
            .args(["script", "--no-inline", "-F", "comm,pid,tid,time,event,ip,sym,dso", "-i"])
            .arg(&self.data);
        let output = script.stdin(Stdio::null()).stderr(Stdio::null()).output().context("perf script")?;
        ensure!(output.status.success(), "perf script failed");
        let mut folded = Vec::new();
        Folder::from(FolderOptions::default()).collapse(output.stdout.as_slice(), &mut folded)?;
        let mut options = GraphOptions::default();
        options.title = title.to_string();
        let graph = BufWriter::new(File::create(file)?);
        flamegraph::from_reader(&mut options, folded.as_slice(), graph)?;
        Ok(())
    }
}

/// How long the emitting session is sampled.
pub const EMIT_TIME: Duration = Duration::from_secs(5);
