//! Private PostgreSQL servers.

mod standby;
mod template;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ::postgres::{Client, Config, NoTls};
use anyhow::{Context, Result, bail, ensure};

use crate::process::{self, Fate, Process};
use crate::scratch::Scratch;
use crate::{layout, ports, run_as, wait};

/// The database superuser of every cluster.
pub const SUPERUSER: &str = "postgres";

const START_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(60);
/// Lines of the server's log shown when it does not start.
const LOG_TAIL: usize = 30;

/// The three modes of `pg_ctl stop`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StopMode {
    /// Waits for the clients to leave.
    Smart,
    /// Breaks off running transactions, writes a checkpoint.
    Fast,
    /// A crash: the next start recovers from the log.
    Immediate,
}

impl StopMode {
    fn signal(self) -> i32 {
        match self {
            StopMode::Smart => libc::SIGTERM,
            StopMode::Fast => libc::SIGINT,
            StopMode::Immediate => libc::SIGQUIT,
        }
    }
}

/// The options of a new cluster.
#[derive(Clone)]
pub struct ClusterOptions {
    name: String,
    home: fn() -> Result<PathBuf>,
    tree: &'static str,
    settings: BTreeMap<String, String>,
    environment: BTreeMap<String, OsString>,
    fate: Fate,
}

impl ClusterOptions {
    /// Sets a setting in the server's configuration.
    pub fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.settings.insert(name.into(), value.to_string());
        self
    }

    /// Starts without the extension's library.
    pub fn without_preload(self) -> Self {
        self.set("shared_preload_libraries", "")
    }

    /// Uses another private tree than that of the release build.
    pub fn tree(mut self, tree: &'static str) -> Self {
        self.tree = tree;
        self
    }

    /// Uses the newer PostgreSQL that the test of pg_upgrade needs.
    pub fn newer(mut self) -> Self {
        self.home = layout::newer_postgres_home;
        self
    }

    /// With fsync, as in production; tests do without.
    pub fn durable(self) -> Self {
        self.set("fsync", "on").set("full_page_writes", "on")
    }

    /// Sets a variable in the server's environment.
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    /// Whether the server may outlive this process: see [`Cluster::leave`].
    pub fn fate(mut self, fate: Fate) -> Self {
        self.fate = fate;
        self
    }

    /// Creates the cluster and starts its server.
    pub fn start(self) -> Result<Cluster> {
        let mut cluster = self.create()?;
        cluster.start()?;
        Ok(cluster)
    }

    /// Creates the cluster.
    pub fn create(self) -> Result<Cluster> {
        self.create_with(template::copy)
    }

    /// Creates the cluster. `make` creates the data directory from the home of the trees, the programs and its path.
    fn create_with(self, make: impl FnOnce(&Path, &Path, &Path) -> Result<()>) -> Result<Cluster> {
        let home = (self.home)()?;
        let bin = layout::tree_bin(&home, self.tree)?;
        let scratch = Scratch::new(&self.name, self.fate)?;
        let sockets = Scratch::for_sockets(self.fate)?;
        make(&home, &bin, &scratch.path().join("data"))?;
        let port = ports::free()?;
        let mut settings = self.settings;
        let socket_dir = sockets.path().display().to_string();
        settings.insert("port".into(), port.to_string());
        settings.insert("unix_socket_directories".into(), socket_dir);
        let settings = Mutex::new(settings);
        let (environment, fate) = (self.environment, self.fate);
        let cluster = Cluster { bin, scratch, sockets, port, settings, environment, fate, process: None };
        cluster.write_settings()?;
        Ok(cluster)
    }
}

/// A server with its own data directory, socket directory and port. Dropping it ends it and removes its data.
pub struct Cluster {
    // Fields are dropped in this order: the server before its directories.
    process: Option<Process>,
    bin: PathBuf,
    scratch: Scratch,
    sockets: Scratch,
    port: u16,
    settings: Mutex<BTreeMap<String, String>>,
    environment: BTreeMap<String, OsString>,
    fate: Fate,
}

impl Cluster {
    /// The options of a cluster that preloads the extension, does without fsync, creates topics as events name them,
    /// and does not wait for missing ones.
    pub fn options(name: &str) -> ClusterOptions {
        let options = ClusterOptions {
            name: name.into(),
            home: layout::postgres_home,
            tree: layout::RELEASE,
            settings: BTreeMap::new(),
            environment: BTreeMap::new(),
            fate: Fate::default(),
        };
        options
            .set("shared_preload_libraries", "event_outbox")
            .set("listen_addresses", "127.0.0.1")
            .set("fsync", "off")
            .set("full_page_writes", "off")
            .set("max_prepared_transactions", 20)
            .set("max_worker_processes", 16)
            .set("timezone", "UTC")
            .set("event_outbox.auto_create_topics", "on")
            .set("event_outbox.grace_period", 0)
            .set("log_line_prefix", "%m [%p] %b %d: ")
    }

    /// Starts the server again after [`Cluster::stop`]; waits until it answers.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the server is already running");
        let log = OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let mut command = run_as::server_command(self.bin.join("postgres"))?;
        command.envs(&self.environment);
        command.arg("-D").arg(self.data_dir()).stdin(std::process::Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        let mut process = Process::spawn(command, StopMode::Immediate.signal(), self.fate)?;
        wait::until_ok("the server to answer", START_DEADLINE, || {
            if let Some(status) = process.exited()? {
                bail!("it exited ({status})");
            }
            // A server that is still starting up refuses the connection.
            Ok(self.connect("postgres").ok())
        })
        .with_context(|| format!("PostgreSQL did not start; its log ends with\n{}\n", self.log_tail()))?;
        self.process = Some(process);
        Ok(())
    }

    /// Stops the server; returns the time it took.
    pub fn stop(&mut self, mode: StopMode) -> Result<Duration> {
        let Some(mut process) = self.process.take() else { bail!("the server is not running") };
        let begin = Instant::now();
        process.signal(mode.signal())?;
        process.wait(STOP_DEADLINE).with_context(|| format!("{mode:?} stop:\n{}", self.log_tail()))?;
        Ok(begin.elapsed())
    }

    /// Kills all of the server's processes at once, as a power failure would: nothing more is written.
    pub fn kill(&mut self) -> Result<()> {
        self.kill_with(|child| {
            // It may have ended already.
            let _ = process::send(child, libc::SIGKILL);
        })
    }

    /// Kills the postmaster alone; waits until its processes have noticed, and have ended.
    pub fn kill_postmaster(&mut self) -> Result<()> {
        self.kill_with(|_| ())
    }

    fn kill_with(&mut self, end: impl Fn(u32)) -> Result<()> {
        let Some(mut server) = self.process.take() else { bail!("the server is not running") };
        // It starts no further process while they are listed.
        server.signal(libc::SIGSTOP)?;
        let children = process::children(server.pid())?;
        // The postmaster first: otherwise it would begin to recover.
        server.signal(libc::SIGKILL)?;
        children.iter().for_each(|child| end(*child));
        server.wait(STOP_DEADLINE)?;
        wait::until("the server's processes to be gone", STOP_DEADLINE, || {
            children.iter().all(|child| !process::is_alive(*child)).then_some(())
        })
    }

    /// Stops and starts the server; returns the time that stopping took.
    pub fn restart(&mut self, mode: StopMode) -> Result<Duration> {
        let stopped = self.stop(mode)?;
        self.start()?;
        Ok(stopped)
    }

    /// Sets a setting in the configuration file, for [`Cluster::reload`] or a restart to apply.
    pub fn set(&self, name: &str, value: impl ToString) -> Result<()> {
        self.lock_settings().insert(name.into(), value.to_string());
        self.write_settings()
    }

    /// Removes a setting from the configuration file.
    pub fn unset(&self, name: &str) -> Result<()> {
        self.lock_settings().remove(name);
        self.write_settings()
    }

    /// Has the server reload its configuration (SIGHUP).
    pub fn reload(&self) -> Result<()> {
        process::send(self.pid()?, libc::SIGHUP)
    }

    /// A connection as superuser.
    pub fn connect(&self, database: &str) -> Result<Client> {
        self.connect_as(database, SUPERUSER)
    }

    /// A connection as `user`.
    pub fn connect_as(&self, database: &str, user: &str) -> Result<Client> {
        let mut config = Config::new();
        config.host_path(self.socket_dir()).port(self.port).user(user).dbname(database);
        config.connect(NoTls).with_context(|| format!("connect to database {database} as {user}"))
    }

    /// Creates a database with a unique name; returns the name.
    pub fn create_database(&self) -> Result<String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("db{}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.connect("postgres")?.batch_execute(&format!("CREATE DATABASE {name}"))?;
        Ok(name)
    }

    /// A client program of this PostgreSQL (`psql`, `pgbench`, …) that finds this server by its environment.
    pub fn client_program(&self, name: &str, database: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        command.env("PGHOST", self.socket_dir()).env("PGPORT", self.port.to_string());
        command.env("PGUSER", SUPERUSER).env("PGDATABASE", database);
        command
    }

    /// The directory of this PostgreSQL's programs.
    pub fn bin_dir(&self) -> &Path {
        &self.bin
    }

    /// The postmaster's process id.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("the server is not running")?.pid())
    }

    /// The server's port on 127.0.0.1 and of its socket.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of the Unix socket.
    pub fn socket_dir(&self) -> &Path {
        self.sockets.path()
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    /// All that the server has logged so far, also before restarts.
    pub fn log(&self) -> String {
        fs::read(self.log_path()).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default()
    }

    /// The file of [`Cluster::log`].
    pub fn log_path(&self) -> PathBuf {
        self.scratch.path().join("postgres.log")
    }

    /// Detaches a running server ([`Fate::CanStay`]); returns its pid and the directories to remove after its end.
    pub fn leave(self) -> Result<(u32, Vec<PathBuf>)> {
        let process = self.process.context("the server is not running")?;
        Ok((process.leave(), vec![self.scratch.keep(), self.sockets.keep()]))
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
    }

    fn lock_settings(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_settings(&self) -> Result<()> {
        let settings = self.lock_settings();
        // Within quotes a backslash begins an escape, as in C.
        let quoted = |value: &str| value.replace('\\', "\\\\").replace('\'', "''");
        let lines: String =
            settings.iter().map(|(name, value)| format!("{name} = '{}'\n", quoted(value))).collect();
        // Renamed into place, so that a reload never sees half a file.
        let file = self.data_dir().join("lab.conf");
        let new = self.data_dir().join("lab.conf.new");
        fs::write(&new, lines)?;
        run_as::give_to_server(&new)?;
        Ok(fs::rename(new, file)?)
    }
}

fn run(mut command: impl std::borrow::BorrowMut<Command>) -> Result<()> {
    let command = command.borrow_mut();
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
