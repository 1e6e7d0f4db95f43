//! Standbys: servers that stream from a primary until they are promoted.

use std::path::Path;

use anyhow::{Context, Result};

use super::{Cluster, ClusterOptions, SUPERUSER, run};
use crate::run_as;

impl ClusterOptions {
    /// Creates a hot standby that streams from `primary`, and starts its server.
    pub fn start_standby_of(self, primary: &Cluster) -> Result<Cluster> {
        let mut standby = self.create_with(|_, bin, data| base_backup(bin, primary, data))?;
        standby.start()?;
        Ok(standby)
    }
}

impl Cluster {
    /// Promotes a standby; waits until it takes writes.
    pub fn promote(&self) -> Result<()> {
        let promoted = self.connect("postgres")?.query_one("SELECT pg_promote()", &[])?;
        anyhow::ensure!(promoted.get::<_, bool>(0), "the standby was not promoted in time");
        Ok(())
    }
}

fn base_backup(bin: &Path, primary: &Cluster, data: &Path) -> Result<()> {
    let mut command = run_as::server_command(bin.join("pg_basebackup"))?;
    command.args(["--wal-method=stream", "--checkpoint=fast", "--write-recovery-conf", "--no-sync"]);
    command.arg("--host").arg(primary.socket_dir()).arg("--port").arg(primary.port().to_string());
    command.args(["--username", SUPERUSER]).arg("--pgdata").arg(data);
    run(command).context("pg_basebackup")
}
