//! Faults of the PostgreSQL server and of the relay's process.

use std::time::Duration;

use anyhow::Result;

use crate::stage::{SECOND, Stage};
use event_outbox_lab::{StopMode, process, wait};

const GONE: Duration = Duration::from_secs(60);

impl Stage {
    pub(super) fn terminate_relay(&mut self) -> Result<()> {
        let relay = self.relay()?;
        let mut client = self.connect()?;
        client.execute("SELECT pg_terminate_backend($1)", &[&i32::try_from(relay)?])?;
        wait::until_ok("the end of the relay", GONE, || {
            let sql = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)";
            Ok(client.query_one(sql, &[&i32::try_from(relay)?])?.get::<_, bool>(0).then_some(()))
        })
    }

    pub(super) fn kill_relay(&mut self) -> Result<()> {
        let mut witness = self.connect()?;
        process::send(self.relay()?, libc::SIGKILL)?;
        wait::until("the server to end all its sessions", GONE, || witness.simple_query("").err())?;
        Ok(())
    }

    pub(super) fn restart(&mut self, mode: StopMode) -> Result<()> {
        self.cluster.restart(mode).map(drop)
    }

    /// The WAL writer is stopped first: otherwise it would write all but the last page of the WAL.
    pub(super) fn power_failure(&mut self) -> Result<()> {
        let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'";
        let writer: i32 = self.connect()?.query_one(sql, &[])?.get(0);
        self.shared.set_hasty(true);
        let stopped = process::send(u32::try_from(writer)?, libc::SIGSTOP);
        self.hold(500, 1500);
        let killed = self.cluster.kill();
        self.shared.set_hasty(false);
        stopped.and(killed)?;
        self.cluster.start()
    }

    /// The events that the relay has read wait for a broker, and the crash forgets them.
    pub(super) fn crash_in_outage(&mut self) -> Result<()> {
        self.kafka.set_reachable(false)?;
        self.hold(1000, 2000);
        let restarted = self.restart(StopMode::Immediate);
        self.kafka.set_reachable(true)?;
        restarted
    }

    pub(super) fn second_database(&mut self) -> Result<()> {
        let mut client = self.cluster.connect(SECOND)?;
        client.batch_execute("CREATE EXTENSION event_outbox")?;
        // To a topic that is not judged and need not exist.
        client.batch_execute(
            "SELECT outbox.emit('torture.second', to_jsonb(n)) FROM generate_series(1, 5) AS n",
        )?;
        if self.random.permille(500) {
            self.hold(500, 1500);
        }
        client.batch_execute("DROP EXTENSION event_outbox")?;
        Ok(())
    }
}
