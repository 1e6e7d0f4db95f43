//! Runs the programs of `docs/guides/drivers.md` with the real drivers, which `scripts/drivers-test` installs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use event_outbox_lab::{Cluster, layout};

const GUIDE: &str = "docs/guides/drivers.md";

fn drivers() -> Result<PathBuf> {
    Ok(std::env::var_os("EVENT_OUTBOX_DRIVERS").context("run scripts/drivers-test")?.into())
}

/// The program below a heading of the guide.
fn program(heading: &str) -> Result<String> {
    let guide = fs::read_to_string(layout::repository().join(GUIDE))?;
    let section = guide.split("\n## ").find(|section| section.starts_with(heading));
    let code = section.and_then(|section| section.split("```").nth(1)).with_context(|| heading.to_owned())?;
    Ok(code.split_once('\n').context("no program")?.1.to_owned())
}

/// Writes the program to a file beside its driver, and runs it there.
fn run(heading: &str, file: &str, command: &mut Command) -> Result<()> {
    let path = drivers()?.join(file);
    fs::write(&path, program(heading)?)?;
    let server = Cluster::options("drivers").set("event_outbox.enabled", "off").start()?;
    let database = server.create_database()?;
    let mut client = server.connect(&database)?;
    client.batch_execute("CREATE EXTENSION event_outbox")?;
    let directory = path.parent().map_or(Path::new("/"), |directory| directory);
    let variables = [
        ("PGHOST", server.socket_dir().display().to_string()),
        ("PGPORT", server.port().to_string()),
        ("PGUSER", "postgres".to_string()),
        ("PGDATABASE", database),
    ];
    let output = command.arg(&path).current_dir(directory).envs(variables).output()?;
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
    run("Python: psycopg 3", "python/with_psycopg.py", &mut python()?)
}

#[test]
fn asyncpg() -> Result<()> {
    run("Python: asyncpg", "python/with_asyncpg.py", &mut python()?)
}

#[test]
fn pg8000() -> Result<()> {
    run("Python: pg8000", "python/with_pg8000.py", &mut python()?)
}

#[test]
fn sqlalchemy() -> Result<()> {
    run("Python: SQLAlchemy", "python/with_sqlalchemy.py", &mut python()?)
}

#[test]
fn node_postgres() -> Result<()> {
    run("Node.js: node-postgres", "node/emit.js", &mut Command::new("node"))
}

#[test]
fn pgx() -> Result<()> {
    run("Go: pgx", "go/main.go", Command::new("go").arg("run"))
}

#[test]
fn jdbc() -> Result<()> {
    let driver = drivers()?.join("java/postgresql-42.7.4.jar");
    run("Java: JDBC", "java/Emit.java", Command::new("java").arg("-cp").arg(driver))
}
