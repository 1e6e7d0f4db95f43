//! Runs the programs of `docs/guides/drivers.md` and `docs/guides/receivers.md` with the real drivers, which `scripts/drivers-test`
//! installs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use event_outbox_lab::process::{Fate, Process};
use event_outbox_lab::{Broker, Cluster, layout, wait};
use postgres::Client;

const EMITTING: &str = "docs/guides/drivers.md";
const RECEIVING: &str = "docs/guides/receivers.md";
const DEADLINE: Duration = Duration::from_secs(90);

fn drivers() -> Result<PathBuf> {
    Ok(std::env::var_os("EVENT_OUTBOX_DRIVERS").context("run scripts/drivers-test")?.into())
}

/// Writes the program below a heading of the guide to a file beside its driver.
fn write(guide: &str, heading: &str, file: &str) -> Result<PathBuf> {
    let text = fs::read_to_string(layout::repository().join(guide))?;
    let section = text.split("\n## ").find(|section| section.starts_with(heading));
    let code = section.and_then(|section| section.split("```").nth(1)).with_context(|| heading.to_owned())?;
    let path = drivers()?.join(file);
    fs::write(&path, code.split_once('\n').context("no program")?.1)?;
    Ok(path)
}

fn directory(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// The variables by which a program connects.
fn variables(server: &Cluster, database: &str) -> [(&'static str, String); 4] {
    [
        ("PGHOST", server.socket_dir().display().to_string()),
        ("PGPORT", server.port().to_string()),
        ("PGUSER", "postgres".to_owned()),
        ("PGDATABASE", database.to_owned()),
    ]
}

/// Runs a program that emits.
fn emit(heading: &str, file: &str, command: &mut Command) -> Result<()> {
    let path = write(EMITTING, heading, file)?;
    let server = Cluster::options("drivers").set("event_outbox.enabled", "off").start()?;
    let database = server.create_database()?;
    let mut client = server.connect(&database)?;
    client.batch_execute("CREATE EXTENSION event_outbox")?;
    let output =
        command.arg(&path).current_dir(directory(&path)).envs(variables(&server, &database)).output()?;
    ensure!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let emitted: Vec<String> = client
        .query(
            "SELECT format('%s %s %s %s %s', topic, convert_from(key, 'UTF8'), convert_from(payload, 'UTF8')::jsonb->'id',
                           coalesce(partition::text, '-'), CASE WHEN partition = 0 THEN event_id::text END)
               FROM outbox.events ORDER BY id",
            &[],
        )?
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(emitted, ["orders 7 7 - ", "orders 8 8 0 01890a5d-ac96-774b-bcce-b302099a8057"]);
    Ok(())
}

fn python() -> Result<Command> {
    Ok(Command::new(drivers()?.join("python/bin/python")))
}

#[test]
fn psycopg() -> Result<()> {
    emit("Python: psycopg 3", "python/with_psycopg.py", &mut python()?)
}

#[test]
fn asyncpg() -> Result<()> {
    emit("Python: asyncpg", "python/with_asyncpg.py", &mut python()?)
}

#[test]
fn pg8000() -> Result<()> {
    emit("Python: pg8000", "python/with_pg8000.py", &mut python()?)
}

#[test]
fn sqlalchemy() -> Result<()> {
    emit("Python: SQLAlchemy", "python/with_sqlalchemy.py", &mut python()?)
}

#[test]
fn node_postgres() -> Result<()> {
    emit("Node.js: node-postgres", "node/emit.js", &mut Command::new("node"))
}

#[test]
fn pgx() -> Result<()> {
    emit("Go: pgx", "go/main.go", Command::new("go").arg("run"))
}

#[test]
fn jdbc() -> Result<()> {
    let driver = drivers()?.join("java/postgresql-42.7.4.jar");
    emit("Java: JDBC", "java/Emit.java", Command::new("java").arg("-cp").arg(driver))
}

/// What the receiving programs meet: a conflict with another transaction that lasts for more tries than an event has attempts; a
/// connection that is lost within a transaction.
const TROUBLE: &str = "
    CREATE TABLE shipments (event_id text PRIMARY KEY, order_id integer NOT NULL);
    CREATE SEQUENCE conflicts;
    CREATE SEQUENCE losses;
    CREATE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.order_id = 3 AND nextval('conflicts') <= 5 THEN
            RAISE SQLSTATE '40001' USING MESSAGE = 'could not serialize access';
        ELSIF NEW.order_id = 33 AND nextval('losses') = 1 THEN
            PERFORM pg_terminate_backend(pg_backend_pid());
        END IF;
        RETURN NEW;
    END
    $$;
    CREATE TRIGGER trouble BEFORE INSERT ON shipments FOR EACH ROW EXECUTE FUNCTION trouble();
    SELECT inbox.subscribe('shipping', '{orders}', 'latest');";

/// A program that receives, and the database in which it does.
struct Receiver {
    client: Client,
    program: Process,
    log: PathBuf,
    _server: Cluster,
}

impl Receiver {
    fn start(mut command: Command, path: &Path) -> Result<Self> {
        let broker = Broker::shared()?;
        if !broker.has_topic("orders")? {
            broker.create_topic("orders", 2, &[])?;
        }
        let options = Cluster::options("receivers")
            .set("event_outbox.bootstrap_servers", broker.bootstrap_servers())
            .set("event_outbox.retry_backoff", "10ms");
        let server = options.start()?;
        let database = server.create_database()?;
        let mut client = server.connect(&database)?;
        client.batch_execute("CREATE EXTENSION event_outbox")?;
        client.batch_execute(TROUBLE)?;
        let log = path.with_extension("log");
        let output = File::create(&log)?;
        command
            .current_dir(directory(path))
            .envs(variables(&server, &database))
            .stdout(output.try_clone()?)
            .stderr(output);
        let program = Process::spawn(command, libc::SIGTERM, Fate::DiesWithUs)?;
        Ok(Self { client, program, log, _server: server })
    }

    /// Emits orders with these numbers; waits until there are shipments up to the last one, each once.
    fn ship(&mut self, numbers: std::ops::RangeInclusive<i32>) -> Result<()> {
        let sql = "SELECT outbox.emit('orders', jsonb_build_object('id', n), key => n) FROM generate_series($1::int, $2) AS n";
        self.client.execute(sql, &[numbers.start(), numbers.end()])?;
        let all: Vec<i32> = (1..=*numbers.end()).collect();
        self.until(&format!("{numbers:?} to be shipped"), |client| {
            let shipped: Vec<i32> = client
                .query("SELECT order_id FROM shipments ORDER BY order_id", &[])?
                .iter()
                .map(|row| row.get(0))
                .collect();
            assert!(shipped.len() <= all.len(), "{shipped:?}");
            Ok(shipped == all)
        })
    }

    fn until(&mut self, what: &str, is_so: impl Fn(&mut Client) -> Result<bool>) -> Result<()> {
        let waited = wait::until_ok(what, DEADLINE, || {
            let ended = self.program.exited()?;
            ensure!(ended.is_none(), "the program has ended: {ended:?}");
            Ok(is_so(&mut self.client)?.then_some(()))
        });
        waited.with_context(|| fs::read_to_string(&self.log).unwrap_or_default())
    }

    fn number(&mut self, sql: &str) -> Result<i64> {
        Ok(self.client.query_one(sql, &[])?.get(0))
    }
}

/// Runs a program that receives, until it has been through all trouble.
fn receive(path: &Path, command: Command) -> Result<()> {
    let mut receiver = Receiver::start(command, path)?;
    receiver.ship(1..=20)?;
    // Each conflict was answered by a repetition, and was no attempt.
    assert_eq!(receiver.number("SELECT last_value FROM conflicts")?, 6);
    assert_eq!(receiver.number("SELECT count(*) FROM inbox.retries")?, 0);
    assert_eq!(receiver.number("SELECT count(*) FROM inbox.dead_letters")?, 0);

    receiver.client.execute("SELECT outbox.emit('orders', '{\"id\": \"seven\"}', key => 'x')", &[])?;
    receiver.ship(21..=30)?;
    receiver.until("the poison event to die", |client| {
        Ok(client.query_one("SELECT count(*) FROM inbox.dead_letters", &[])?.get::<_, i64>(0) == 1)
    })?;
    receiver.ship(31..=40)?;
    assert!(receiver.number("SELECT last_value FROM losses")? >= 2, "the connection was not lost");

    let others = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                   WHERE backend_type = 'client backend' AND datname = current_database() AND pid <> pg_backend_pid()";
    assert_eq!(receiver.number(others)?, 1, "the program has one session");
    receiver.ship(41..=50)?;
    assert_eq!(receiver.number("SELECT count(*) FROM inbox.dead_letters")?, 1);
    Ok(())
}

#[test]
fn psycopg_receives() -> Result<()> {
    let path = write(RECEIVING, "Python: psycopg 3", "python/receive.py")?;
    let mut command = python()?;
    command.arg(&path);
    receive(&path, command)
}

#[test]
fn node_postgres_receives() -> Result<()> {
    let path = write(RECEIVING, "Node.js: node-postgres", "node/receive.js")?;
    let mut command = Command::new("node");
    command.arg(&path);
    receive(&path, command)
}

#[test]
fn jdbc_receives() -> Result<()> {
    let path = write(RECEIVING, "Java: JDBC", "java/Receive.java")?;
    let mut command = Command::new("java");
    command.arg("-cp").arg(drivers()?.join("java/postgresql-42.7.4.jar")).arg(&path);
    receive(&path, command)
}

#[test]
fn pgx_receives() -> Result<()> {
    let path = write(RECEIVING, "Go: pgx", "go/receive.go")?;
    compile(Command::new("go").args(["build", "-o", "receive"]).arg(&path), &path)?;
    receive(&path, Command::new(path.with_extension("")))
}

#[test]
fn tokio_postgres_receives() -> Result<()> {
    let path = write(RECEIVING, "Rust: tokio-postgres", "rust/receive.rs")?;
    let target = directory(&path).join("target");
    compile(Command::new("cargo").args(["build", "--quiet", "--target-dir"]).arg(&target), &path)?;
    receive(&path, Command::new(target.join("debug/receive")))
}

fn compile(command: &mut Command, path: &Path) -> Result<()> {
    let output = command.current_dir(directory(path)).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
