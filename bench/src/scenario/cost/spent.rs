//! Owns the division of CPU time among those who spend it.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::processes::{self, Work};
use crate::stage::Stage;

/// The names of the parts, in the order of [`Spent::parts`].
pub const PARTS: [&str; 5] = ["sessions", "wal", "server", "relay", "kafka"];

/// The processes of PostgreSQL that write what was logged and changed to disk.
const WRITERS: [&str; 4] = ["walwriter", "checkpointer", "background writer", "io worker"];

/// CPU time used so far.
#[derive(Clone, Copy)]
pub struct Spent {
    /// The applications' sessions.
    sessions: Duration,
    /// Writing the write-ahead log in the background, and checkpoints.
    wal: Duration,
    /// All of PostgreSQL but a relay of its own: with sessions, writers, vacuum and logical decoding.
    server: Duration,
    /// What carries events to Kafka.
    relay: Duration,
    /// The broker.
    kafka: Duration,
}

impl Spent {
    /// Until now. A relay may be a process of the server.
    pub fn until_now(stage: &Stage, relay: &Work) -> Result<Self> {
        let rows = stage
            .connect("postgres")?
            .query("SELECT pid, backend_type FROM pg_stat_activity WHERE pid <> pg_backend_pid()", &[])?;
        let (mut sessions, mut wal, mut own_relay) = Default::default();
        for row in &rows {
            let (pid, kind): (i32, Option<&str>) = (row.get(0), row.get(1));
            let (pid, kind) = (u32::try_from(pid)?, kind.unwrap_or_default());
            // A process may end meanwhile; its parent has its time then.
            let used = processes::cpu(pid).unwrap_or_default();
            if matches!(relay, Work::Process(relay) if *relay == pid) {
                own_relay = used;
            } else if kind == "client backend" {
                sessions += used;
            } else if WRITERS.contains(&kind) {
                wal += used;
            }
        }
        Ok(Self {
            sessions,
            wal,
            server: processes::cpu_of_tree(stage.server().pid()?)?.saturating_sub(own_relay),
            relay: relay.cpu().context("the relay")?,
            kafka: processes::cpu(stage.broker().pid()?)?,
        })
    }

    /// What was spent since an earlier time, part by part.
    pub fn since(&self, earlier: &Self) -> [Duration; PARTS.len()] {
        let (now, then) = (self.parts(), earlier.parts());
        std::array::from_fn(|part| now[part].saturating_sub(then[part]))
    }

    /// Adds time that the relay's threads spent which cannot be seen any more.
    pub fn add_to_relay(&mut self, more: Duration) {
        self.relay += more;
    }

    fn parts(&self) -> [Duration; PARTS.len()] {
        [self.sessions, self.wal, self.server, self.relay, self.kafka]
    }
}
