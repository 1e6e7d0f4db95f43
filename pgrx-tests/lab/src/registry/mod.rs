//! Runs a Schema Registry: Apicurio Registry, through its Confluent-compatible interface. It keeps its schemas in memory.

mod odd;
mod tls;

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Value, json};

use crate::process::{Fate, Process};
use crate::scratch::Scratch;
use crate::{layout, ports, wait};

pub use odd::{OddRegistry, Oddity};
pub use tls::TlsRegistry;

const START_DEADLINE: Duration = Duration::from_secs(120);
const STOP_DEADLINE: Duration = Duration::from_secs(20);
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);
const LOG_TAIL: usize = 30;
const MEDIA_TYPE: &str = "application/vnd.schemaregistry.v1+json";

/// Where its Confluent-compatible interface begins.
const INTERFACE: &str = "/apis/ccompat/v7";

/// It starts in seconds, and does little.
const JAVA: [&str; 3] = ["-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];

/// A registry with its own directory and port. Dropping it ends it.
pub struct SchemaRegistry {
    // Fields are dropped in this order: the process before its directory.
    process: Option<Process>,
    scratch: Scratch,
    port: u16,
}

impl SchemaRegistry {
    /// Starts a registry without schemas, and waits until it answers.
    pub fn start() -> Result<Self> {
        let scratch = Scratch::new("registry", Fate::DiesWithUs)?;
        let mut registry = Self { process: None, scratch, port: ports::free()? };
        registry.resume()?;
        Ok(registry)
    }

    /// The registry that all of this process shares, started on first use. Tests take subjects of their own.
    pub fn shared() -> Result<&'static Self> {
        static SHARED: OnceLock<Result<SchemaRegistry>> = OnceLock::new();
        SHARED
            .get_or_init(Self::start)
            .as_ref()
            .map_err(|error| anyhow!("the shared registry did not start: {error:#}"))
    }

    /// Starts its process again, on the same port. It has forgotten all schemas.
    pub fn resume(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the registry is already running");
        let log = OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let mut command = Command::new("java");
        command.args(JAVA).arg("-jar").arg(program()?);
        command.env("QUARKUS_HTTP_HOST", "127.0.0.1").env("QUARKUS_HTTP_PORT", self.port.to_string());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.process = Some(Process::spawn(command, libc::SIGKILL, Fate::DiesWithUs)?);
        let answered = wait::until_ok("the registry to answer", START_DEADLINE, || {
            let process = self.process.as_mut().context("the registry is not running")?;
            if let Some(status) = process.exited()? {
                bail!("it ended at once ({status})");
            }
            Ok(ask(self.port, "GET", "/subjects", None).ok().filter(|(status, _)| *status == 200))
        });
        answered.with_context(|| format!("its log ends with\n{}\n", self.log_tail()))?;
        Ok(())
    }

    /// Kills it. It forgets all schemas.
    pub fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the registry is not running")?;
        process.signal(libc::SIGKILL)?;
        process.wait(STOP_DEADLINE)?;
        Ok(())
    }

    /// Freezes it: connections stay open, nothing is answered.
    pub fn freeze(&self) -> Result<()> {
        self.process.as_ref().context("the registry is not running")?.signal(libc::SIGSTOP)
    }

    /// Lets it go on.
    pub fn thaw(&self) -> Result<()> {
        self.process.as_ref().context("the registry is not running")?.signal(libc::SIGCONT)
    }

    /// Its port of 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address, as clients are told it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}{INTERFACE}", self.port)
    }

    /// Registers a schema (`AVRO`, `PROTOBUF`, `JSON`); returns its id.
    pub fn register(&self, subject: &str, schema_type: &str, definition: &str) -> Result<i64> {
        let (status, answer) = self.try_register(subject, schema_type, definition)?;
        answer["id"].as_i64().with_context(|| format!("{status} {answer}"))
    }

    /// Registers a schema that refers to others: by a name, to a version of a subject. Returns its id.
    pub fn register_with(
        &self,
        subject: &str,
        schema_type: &str,
        definition: &str,
        references: &[(&str, &str, i32)],
    ) -> Result<i64> {
        let reference = |(name, subject, version): &(&str, &str, i32)| json!({"name": name, "subject": subject, "version": version});
        let references: Vec<Value> = references.iter().map(reference).collect();
        let body = json!({"schema": definition, "schemaType": schema_type, "references": references});
        let (status, answer) = self.ask("POST", &format!("/subjects/{subject}/versions"), Some(&body))?;
        answer["id"].as_i64().with_context(|| format!("{status} {answer}"))
    }

    /// The status and the answer to a registration.
    pub fn try_register(&self, subject: &str, schema_type: &str, definition: &str) -> Result<(u16, Value)> {
        let body = json!({"schema": definition, "schemaType": schema_type});
        self.ask("POST", &format!("/subjects/{subject}/versions"), Some(&body))
    }

    /// Sets the compatibility of a subject, such as `BACKWARD`.
    pub fn set_compatibility(&self, subject: &str, level: &str) -> Result<()> {
        let (status, answer) =
            self.ask("PUT", &format!("/config/{subject}"), Some(&json!({"compatibility": level})))?;
        ensure!(status == 200, "{status} {answer}");
        Ok(())
    }

    /// Whether the registry would accept a schema as the next version of a subject.
    pub fn is_compatible(&self, subject: &str, schema_type: &str, definition: &str) -> Result<bool> {
        let body = json!({"schema": definition, "schemaType": schema_type});
        let path = format!("/compatibility/subjects/{subject}/versions/latest");
        let (status, answer) = self.ask("POST", &path, Some(&body))?;
        answer["is_compatible"].as_bool().with_context(|| format!("{status} {answer}"))
    }

    /// The versions of a subject; empty if it has none.
    pub fn versions(&self, subject: &str) -> Result<Vec<i64>> {
        let (_, answer) = self.ask("GET", &format!("/subjects/{subject}/versions"), None)?;
        Ok(answer.as_array().map(|all| all.iter().filter_map(Value::as_i64).collect()).unwrap_or_default())
    }

    /// The status and the answer to a request.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        let body = body.map(Value::to_string);
        let answered = ask(self.port, method, path, body.as_deref());
        answered.with_context(|| format!("{method} {path}\n{}", self.log_tail()))
    }

    fn log_path(&self) -> PathBuf {
        self.scratch.path().join("registry.log")
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
    }
}

/// What `scripts/registry.sh` has unpacked.
fn program() -> Result<PathBuf> {
    let home = layout::registry()?;
    let is_program = |name: &str| name.starts_with("apicurio-registry-app-") && name.ends_with("-runner.jar");
    let programs = fs::read_dir(&home)?.flatten().map(|entry| entry.path());
    let mut programs =
        programs.filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(is_program));
    programs.next().with_context(|| format!("no program in {}", home.display()))
}

/// Sends a request. Returns the status and the body of the answer.
fn ask(port: u16, method: &str, path: &str, body: Option<&str>) -> Result<(u16, Value)> {
    let mut connection = TcpStream::connect(("127.0.0.1", port))?;
    connection.set_read_timeout(Some(ANSWER_DEADLINE))?;
    let body = body.unwrap_or_default();
    // HTTP/1.0 answers in one piece.
    write!(
        connection,
        "{method} {INTERFACE}{path} HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    let status = answer.split_whitespace().nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let status = status.with_context(|| format!("no answer of HTTP: {answer}"))?;
    Ok((status, serde_json::from_str(body).unwrap_or(Value::Null)))
}
