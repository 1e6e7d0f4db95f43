//! Runs a Kafka Connect worker, controlled through its REST interface.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::process::{Fate, Process};
use crate::scratch::Scratch;
use crate::{layout, ports, wait};

const START_DEADLINE: Duration = Duration::from_secs(240);
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);
const LOG_TAIL: usize = 30;

/// The heap size of Connect's own script.
pub const JAVA: [&str; 3] = ["-Xms256m", "-Xmx2g", "-XX:+UseG1GC"];

/// What a worker in distributed mode needs besides. It would take a file for its offsets for a setting of their topic.
const DISTRIBUTED: &str = "group.id=connect
exactly.once.source.support=enabled
config.storage.topic=connect-configs
config.storage.replication.factor=1
offset.storage.topic=connect-offsets
offset.storage.replication.factor=1
offset.storage.partitions=1
status.storage.topic=connect-status
status.storage.replication.factor=1
status.storage.partitions=1
";

/// A worker with its own directory and port. Dropping it ends it.
pub struct Connect {
    // Fields are dropped in this order: the worker before its directory.
    process: Process,
    scratch: Scratch,
    port: u16,
}

impl Connect {
    /// Starts a worker with Debezium's connector for PostgreSQL, and waits until it answers. No connector runs yet.
    pub fn start(bootstrap_servers: &str) -> Result<Self> {
        Self::with(&libs()?, bootstrap_servers, "ConnectStandalone", "")
    }

    /// The same in distributed mode, which exactly-once support of sources needs.
    pub fn start_exactly_once(bootstrap_servers: &str) -> Result<Self> {
        Self::with(&libs()?, bootstrap_servers, "ConnectDistributed", DISTRIBUTED)
    }

    /// A worker with the jars of this directory.
    pub fn start_with(libs: &Path, bootstrap_servers: &str) -> Result<Self> {
        Self::with(libs, bootstrap_servers, "ConnectStandalone", "")
    }

    fn with(libs: &Path, bootstrap_servers: &str, class: &str, further: &str) -> Result<Self> {
        let scratch = Scratch::new("connect", Fate::DiesWithUs)?;
        let port = ports::free()?;
        let properties = scratch.path().join("worker.properties");
        let further = match further {
            "" => format!("offset.storage.file.filename={}\n", scratch.path().join("offsets").display()),
            further => further.to_owned(),
        };
        let text = |class: &str| format!("{class}=org.apache.kafka.connect.storage.StringConverter\n");
        fs::write(
            &properties,
            format!(
                "bootstrap.servers={bootstrap_servers}\nlisteners=http://127.0.0.1:{port}\n\
                 {}{}{}{further}",
                text("key.converter"),
                text("value.converter"),
                text("header.converter"),
            ),
        )?;
        let log = File::create(scratch.path().join("connect.log"))?;
        let mut command = Command::new("java");
        let class_path = format!("{}/*:{}", libs.display(), layout::kafka_logging().display());
        let class = format!("org.apache.kafka.connect.cli.{class}");
        command.args(JAVA).args(["-cp", &class_path, &class]);
        command.arg(&properties).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut process = Process::spawn(command, libc::SIGKILL, Fate::DiesWithUs)?;
        let waited = wait::until_ok("Kafka Connect to answer", START_DEADLINE, || {
            if let Some(status) = process.exited()? {
                bail!("Kafka Connect ended at once ({status})");
            }
            Ok(ask(port, "GET", "/connectors", None).ok())
        });
        let connect = Self { process, scratch, port };
        waited.with_context(|| format!("its errors are\n{}\n", connect.errors()))?;
        Ok(connect)
    }

    /// Creates a connector, which starts at once.
    pub fn create(&self, name: &str, config: &Value) -> Result<()> {
        let body = serde_json::json!({"name": name, "config": config});
        self.ask("POST", "/connectors", Some(&body.to_string()))?;
        Ok(())
    }

    /// Stops a connector and removes it.
    pub fn delete(&self, name: &str) -> Result<()> {
        self.ask("DELETE", &format!("/connectors/{name}"), None)?;
        Ok(())
    }

    /// The worker's process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The end of the worker's log.
    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.scratch.path().join("connect.log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
    }

    /// What has gone wrong, by the worker's log.
    pub fn errors(&self) -> String {
        let log = fs::read_to_string(self.scratch.path().join("connect.log")).unwrap_or_default();
        let is_error = |line: &&str| line.contains(" ERROR ") || line.starts_with("Caused by:");
        let lines: Vec<_> = log.lines().filter(is_error).collect();
        lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
    }

    fn ask(&self, method: &str, path: &str, body: Option<&str>) -> Result<String> {
        ask(self.port, method, path, body).with_context(|| format!("{method} {path}\n{}", self.log_tail()))
    }
}

/// The directory into which `scripts/debezium.sh` puts the jars.
fn libs() -> Result<PathBuf> {
    let libs = std::env::var_os("EVENT_OUTBOX_DEBEZIUM_LIBS")
        .map_or_else(|| layout::repository().join("target/debezium/libs"), PathBuf::from);
    ensure!(libs.join("stamp").exists(), "Debezium is not in {}: run scripts/debezium-test", libs.display());
    Ok(libs)
}

/// Sends a request. Returns the answer's body if the request succeeded.
fn ask(port: u16, method: &str, path: &str, body: Option<&str>) -> Result<String> {
    let mut connection = TcpStream::connect(("127.0.0.1", port))?;
    connection.set_read_timeout(Some(ANSWER_DEADLINE))?;
    let body = body.unwrap_or_default();
    write!(
        connection,
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    let status = answer.split_whitespace().nth(1).unwrap_or_default();
    ensure!(status.starts_with('2'), "Kafka Connect answered\n{answer}");
    Ok(answer.split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.to_string()))
}
