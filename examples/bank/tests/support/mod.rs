//! Starts the bank as `make example` does, and talks to it as a browser does.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use event_outbox_lab::process::{Fate, Process};
use event_outbox_lab::scratch::Scratch;
use event_outbox_lab::wait;
use uuid::Uuid;

const OPEN: Duration = Duration::from_secs(300);
const ANSWER: Duration = Duration::from_secs(60);
/// What the page shows is there within this time.
pub const SHOWN: Duration = Duration::from_secs(60);

/// A running bank. Dropping it ends it.
pub struct Bank {
    // Fields are dropped in this order: the process before its directory.
    process: Process,
    output: Scratch,
    /// The port of the web application.
    pub port: u16,
}

/// An answer.
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Bank {
    /// Starts the bank with these arguments; waits until it is open.
    pub fn open(arguments: &[&str]) -> Result<Self> {
        let output = Scratch::new("bank-output", Fate::DiesWithUs)?;
        let file = File::create(output.path().join("output"))?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_bank"));
        command.args(["--port", "0"]).args(arguments).stdin(Stdio::null());
        command.stdout(file.try_clone()?).stderr(file);
        let mut bank =
            Self { process: Process::spawn(command, libc::SIGTERM, Fate::DiesWithUs)?, output, port: 0 };
        bank.port = wait::until_ok("the bank to open", OPEN, || {
            let text = bank.output();
            if let Some(status) = bank.process.exited()? {
                bail!("it ended ({status}):\n{text}");
            }
            let port = text.split_once("http://127.0.0.1:").and_then(|(_, rest)| rest.split_once('/'));
            Ok(port.map(|(port, _)| port.parse()).transpose()?)
        })?;
        Ok(bank)
    }

    /// All that it has printed.
    pub fn output(&self) -> String {
        fs::read_to_string(self.output.path().join("output")).unwrap_or_default()
    }

    /// Waits until it has ended by itself; whether it succeeded.
    pub fn ended(&mut self) -> Result<bool> {
        Ok(self.process.wait(OPEN)?.success())
    }

    /// The port of PostgreSQL, as the bank prints it.
    pub fn postgres(&self) -> Result<u16> {
        let text = self.output();
        let (_, rest) = text.split_once("-h 127.0.0.1 -p ").context("no port of PostgreSQL")?;
        Ok(rest.split_whitespace().next().context("no port")?.parse()?)
    }

    /// Asks for a page.
    pub fn get(&self, path: &str) -> Result<Answer> {
        self.ask("GET", path, &self.host(), None, "")
    }

    /// The text of a page that is there.
    pub fn page(&self, path: &str) -> Result<String> {
        let answer = self.get(path)?;
        ensure!(answer.status == 200, "{path}: {}\n{}\n{}", answer.status, answer.body, self.output());
        Ok(answer.body)
    }

    /// Sends a form of the application's own.
    pub fn post(&self, path: &str, fields: &[(&str, &str)]) -> Result<Answer> {
        let origin = format!("http://{}", self.host());
        self.ask("POST", path, &self.host(), Some(&origin), &encoded(fields))
    }

    /// Sends a form that succeeds.
    pub fn succeed(&self, path: &str, fields: &[(&str, &str)]) -> Result<Answer> {
        let answer = self.post(path, fields)?;
        ensure!(answer.status == 303, "{path} {fields:?}: {}\n{}", answer.status, answer.body);
        Ok(answer)
    }

    /// Opens an account; returns its number.
    pub fn account(&self, name: &str, country: &str, deposit: &str) -> Result<String> {
        let command = Uuid::new_v4().to_string();
        let fields = [
            ("command", command.as_str()),
            ("name", name),
            ("email", "somebody@example.com"),
            ("country", country),
            ("deposit", deposit),
            ("daily_limit", "50000"),
        ];
        let answer = self.succeed("/accounts", &fields)?;
        let (_, rest) = answer.head.split_once("location: /accounts/").context("no number")?;
        Ok(rest.lines().next().unwrap_or_default().trim().to_owned())
    }

    /// Sends a transfer with this command.
    pub fn transfer(&self, command: &str, from: &str, to: &str, amount: &str) -> Result<Answer> {
        let fields = [
            ("command", command),
            ("source", from),
            ("target", to),
            ("amount", amount),
            ("reference", "Test"),
        ];
        self.post("/transfers", &fields)
    }

    /// Waits until a page shows what is expected.
    pub fn shows(&self, path: &str, what: &str, is_there: impl Fn(&str) -> bool) -> Result<String> {
        let mut last = String::new();
        let found = wait::until_ok(what, SHOWN, || {
            last = self.page(path)?;
            Ok(is_there(&last).then(|| last.clone()))
        });
        found.with_context(|| format!("{path} shows\n{last}\n{}", self.output()))
    }

    /// The host by which a browser asks.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Sends a request as it is.
    pub fn ask(
        &self,
        method: &str,
        path: &str,
        host: &str,
        origin: Option<&str>,
        form: &str,
    ) -> Result<Answer> {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port))?;
        connection.set_read_timeout(Some(ANSWER))?;
        let origin = origin.map_or_else(String::new, |origin| format!("Origin: {origin}\r\n"));
        write!(
            connection,
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\n{origin}Connection: close\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
            form.len()
        )?;
        let mut text = String::new();
        connection.read_to_string(&mut text)?;
        let status = text.split_whitespace().nth(1).context("no status")?.parse()?;
        let (head, body) = text.split_once("\r\n\r\n").context("no body")?;
        Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
    }
}

fn encoded(fields: &[(&str, &str)]) -> String {
    let encode = |text: &str| -> String { text.bytes().map(|byte| format!("%{byte:02X}")).collect() };
    let pairs: Vec<String> =
        fields.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    pairs.join("&")
}
