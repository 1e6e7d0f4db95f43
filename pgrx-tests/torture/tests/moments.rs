//! Moments that are too short to meet by chance: what a relay or a session must do then, and that a wrong one is noticed.

use std::fs;
use std::time::Duration;

use event_outbox_lab::{Broker, Cluster, Result, inbox_log, process, run_as, wait};
use postgres::Client;
use postgres::error::SqlState;

/// The private tree with failpoints: see `scripts/build-failpoints`.
const TREE: &str = "failpoints";
const DEADLINE: Duration = Duration::from_secs(60);

struct Stage {
    server: Cluster,
    database: String,
}

impl Stage {
    fn start(name: &str) -> Result<Self> {
        let server = Cluster::options(name)
            .tree(TREE)
            .set("event_outbox.bootstrap_servers", Broker::shared()?.bootstrap_servers())
            .set("event_outbox.idle_timeout", "1s")
            .start()?;
        let database = server.create_database()?;
        let stage = Self { server, database };
        stage.connect()?.batch_execute("CREATE EXTENSION event_outbox")?;
        Ok(stage)
    }

    fn connect(&self) -> Result<Client> {
        self.server.connect(&self.database)
    }

    /// Places a file that controls the failpoints of the database. Returns its path.
    fn place(&self, kind: &str, content: &str) -> Result<std::path::PathBuf> {
        let sql = "SELECT oid FROM pg_database WHERE datname = current_database()";
        let oid: u32 = self.connect()?.query_one(sql, &[])?.get(0);
        let path = self.server.data_dir().join(format!("event_outbox.{kind}.{oid}"));
        let new = path.with_extension("new");
        fs::write(&new, content)?;
        run_as::give_to_server(&new)?;
        fs::rename(new, &path)?;
        Ok(path)
    }
}

/// The state of the relay, and whether it has a process.
fn relay(client: &mut Client) -> Result<(String, bool)> {
    let row = client.query_one("SELECT state, pid IS NOT NULL FROM outbox.status", &[])?;
    Ok((row.get(0), row.get(1)))
}

/// An event is committed after a relay has decided to end for want of work, and before it says that it sleeps. It is as good as
/// asleep then: the launcher starts it at once, and not after the pause that follows an end by a signal.
#[test]
fn a_commit_while_a_relay_falls_asleep_starts_it_at_once() -> Result<()> {
    let stage = Stage::start("asleep")?;
    let mut client = stage.connect()?;
    let path = stage.place("failpoint", "before_sleep pause 3000")?;
    wait::until("the relay to be about to sleep", DEADLINE, || (!path.exists()).then_some(()))?;
    let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'event_outbox launcher'";
    let launcher = u32::try_from(client.query_one(sql, &[])?.get::<_, i32>(0))?;
    client.batch_execute("SELECT outbox.emit('moments.asleep', '1')")?;
    assert!(relay(&mut client)?.1, "the relay has ended before the event was committed");
    // So that the phase in which the relay leaves its slot can be seen.
    process::send(launcher, libc::SIGSTOP)?;
    let left = wait::until_ok("the relay to end", DEADLINE, || {
        Ok(Some(relay(&mut client)?).filter(|(_, has_process)| !has_process))
    });
    process::send(launcher, libc::SIGCONT)?;
    assert_eq!(left?.0, "asleep");
    wait::until_ok("the event to be published", DEADLINE, || {
        let waiting: i64 = client.query_one("SELECT count(*) FROM outbox.events", &[])?.get(0);
        Ok((waiting == 0).then_some(()))
    })
}

/// A transaction that keeps to one snapshot receives although the lane behind its last one has moved on since, if that has
/// nothing for it. Returns what it receives.
fn receive_by_an_old_snapshot(stage: &Stage) -> Result<Result<Vec<i64>, postgres::Error>> {
    fn receive(client: &mut Client) -> Result<Vec<i64>, postgres::Error> {
        let rows = client.query("SELECT position FROM inbox.receive('s', 1)", &[])?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
    fn store(client: &mut Client, position: i64, lane: i16) -> Result<()> {
        let sql = "INSERT INTO inbox.log_0 (source_id, lane, position, partition, \"offset\") VALUES (1000, $2, $1, 0, $1)";
        client.execute(sql, &[&position, &lane])?;
        Ok(())
    }
    let (mut client, mut other) = (stage.connect()?, stage.connect()?);
    client.batch_execute(&inbox_log::subscription("key"))?;
    store(&mut client, 1, 7)?;
    assert_eq!(receive(&mut client)?, [1]);
    store(&mut client, 2, 8)?;
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")?;
    assert_eq!(receive(&mut other)?, [2]);
    store(&mut other, 3, 20)?;
    Ok(receive(&mut client))
}

#[test]
fn a_lane_that_is_taken_without_a_look_fails_a_transaction_without_need() -> Result<()> {
    let stage = Stage::start("looked")?;
    assert_eq!(receive_by_an_old_snapshot(&stage)??, [3]);
    let stage = Stage::start("unlooked")?;
    stage.place("sabotage", "lanes_unlooked")?;
    let refused = receive_by_an_old_snapshot(&stage)?.expect_err("the mistake is not noticed");
    assert_eq!(refused.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE), "{refused}");
    Ok(())
}
