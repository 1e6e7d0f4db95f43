//! Fills a server's NOTIFY queue.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use postgres::Client;

use crate::postgres::Cluster;
use crate::process::Fate;
use crate::run_as;
use crate::scratch::Scratch;

const SOURCE: &str = include_str!("notify_queue.c");

/// The NOTIFY queue of a server, full until this is dropped.
pub struct FullQueue {
    client: Client,
    /// The session that keeps a queue that is really full from being emptied.
    holder: Option<Client>,
    _scratch: Scratch,
}

impl FullQueue {
    /// Whether the server has the setting `max_notify_queue_pages`, by which the queue can be made small.
    pub fn can_be_made_small(server: &Cluster) -> Result<bool> {
        let mut client = server.connect("postgres")?;
        let sql = "SELECT EXISTS (SELECT FROM pg_settings WHERE name = 'max_notify_queue_pages')";
        Ok(client.query_one(sql, &[])?.get(0))
    }

    /// Fills the queue.
    pub fn fill(server: &Cluster) -> Result<Self> {
        let mut client = server.connect("postgres")?;
        let scratch = Scratch::new("queue", Fate::DiesWithUs)?;
        let holder = if Self::can_be_made_small(server)? {
            Some(fill_in_earnest(server, &mut client)?)
        } else {
            let library = compile(server, &scratch)?;
            client.batch_execute(&format!(
                "CREATE OR REPLACE FUNCTION fill_notify_queue(bigint, boolean) RETURNS void LANGUAGE c STRICT AS '{library}'"
            ))?;
            None
        };
        let mut full = Self { client, holder, _scratch: scratch };
        full.pretend(true)?;
        Ok(full)
    }

    /// Makes room again.
    pub fn clear(mut self) -> Result<()> {
        self.pretend(false)
    }

    fn pretend(&mut self, full: bool) -> Result<()> {
        if self.holder.is_none() {
            let sql = "SELECT fill_notify_queue(size, $1) FROM pg_shmem_allocations WHERE name = 'Async Queue Control'";
            self.client.execute(sql, &[&full])?;
        }
        Ok(())
    }
}

fn fill_in_earnest(server: &Cluster, client: &mut Client) -> Result<Client> {
    let mut holder = server.connect("postgres")?;
    // Two commands: LISTEN takes effect at its commit.
    holder.batch_execute("LISTEN anything")?;
    holder.batch_execute("BEGIN; SELECT 1")?;
    let sql = "SELECT pg_notify('anything', n || repeat('x', 7900)) FROM generate_series(1, 10) AS n";
    while client.execute(sql, &[]).is_ok() {}
    Ok(holder)
}

fn compile(server: &Cluster, scratch: &Scratch) -> Result<String> {
    let told = Command::new(server.bin_dir().join("pg_config")).arg("--includedir-server").output()?;
    let headers = String::from_utf8(told.stdout)?;
    let (source, library) = (scratch.path().join("notify_queue.c"), scratch.path().join("notify_queue.so"));
    fs::write(&source, SOURCE)?;
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-I", headers.trim(), "-o"]).arg(&library).arg(&source);
    let output = compiler.output().context("run cc")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    run_as::give_to_server(&library)?;
    Ok(library.display().to_string())
}
