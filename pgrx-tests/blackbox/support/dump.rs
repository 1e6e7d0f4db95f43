//! Dumps databases and restores them.

use std::io::Write;
use std::process::Stdio;

use anyhow::{Context, ensure};
use event_outbox_lab::{Cluster, Result};

use crate::support::database::TestDatabase;

/// Copies a database into another one of the same server.
pub fn dump_and_restore(from: &TestDatabase, to: &str) -> Result<()> {
    restore(&dump(from, &[])?, from.server, to, &[])
}

pub fn dump(from: &TestDatabase, options: &[&str]) -> Result<Vec<u8>> {
    let dump = from.server.client_program("pg_dump", &from.database).arg("-Fc").args(options).output()?;
    ensure!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    Ok(dump.stdout)
}

pub fn restore(dump: &[u8], server: &Cluster, to: &str, options: &[&str]) -> Result<()> {
    let mut restore = server
        .client_program("pg_restore", to)
        .args(["--exit-on-error", "--dbname", to])
        .args(options)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    restore.stdin.take().context("no stdin")?.write_all(dump)?;
    let restored = restore.wait_with_output()?;
    ensure!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    Ok(())
}

/// Restores a dump by several processes at once.
pub fn restore_in_parallel(dump: &[u8], server: &Cluster, to: &str) -> Result<()> {
    let file = std::env::temp_dir().join(format!("{to}.dump"));
    std::fs::write(&file, dump)?;
    let restored = server
        .client_program("pg_restore", to)
        .args(["--exit-on-error", "--jobs", "2", "--dbname", to])
        .arg(&file)
        .output()?;
    std::fs::remove_file(&file)?;
    ensure!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    Ok(())
}
