//! An idle relay sleeps.

use std::fs;
use std::time::Duration;

use event_outbox_lab::{Broker, Cluster, Result, wait};

use crate::support::relay::{status, until_drained, until_idle};
use crate::support::server::DedicatedServer;

/// A little less than the time between two full sweeps: a whole minute can have one at each of its ends.
const OBSERVED: Duration = Duration::from_secs(59);

/// Ample for the sixty seconds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// Context switches that one wake-up may cost.
const SWITCHES: u64 = 5;

/// How often the main thread of a process has gone to sleep.
fn sleeps(pid: i32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/task/{pid}/status"))?;
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    Ok(count.unwrap_or_default().trim().parse()?)
}

#[test]
fn sixty_idle_seconds_cost_one_wake_up_at_most() -> Result<()> {
    let broker = Broker::shared()?;
    for topic in ["idle.before", "idle.after"] {
        broker.create_topic(topic, 1, &[])?;
    }
    // If Kafka auto-creates topics, the relay replaces its producer after a while, so that it does not ask for deleted
    // ones.
    let options = Cluster::options("idle").set("event_outbox.auto_create_topics", "off");
    let dedicated = DedicatedServer::with(options, &broker.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    client.query_one("SELECT outbox.emit('idle.before', '{}')", &[])?;
    until_drained(&mut client)?;
    let pid = until_idle(&mut client)?;
    // The notification of its own settlement wakes it once more.
    wait::until_ok("the relay to fall asleep", PATIENCE, || {
        let before = status(&mut client)?.wakeups;
        client.execute("SELECT pg_sleep(0.2)", &[])?;
        Ok((status(&mut client)?.wakeups == before).then_some(()))
    })?;
    let (woken, slept) = (status(&mut client)?.wakeups, sleeps(pid)?);
    let begin: f64 = client.query_one("SELECT extract(epoch FROM clock_timestamp())::float8", &[])?.get(0);
    let sql = "SELECT extract(epoch FROM clock_timestamp())::float8 - $1 >= $2";
    wait::until_ok("sixty seconds by the server's clock", PATIENCE, || {
        let over: bool = client.query_one(sql, &[&begin, &OBSERVED.as_secs_f64()])?.get(0);
        Ok(over.then_some(()))
    })?;
    let woken = status(&mut client)?.wakeups - woken;
    let slept = sleeps(pid)? - slept;
    assert!(woken <= 1 && slept <= SWITCHES, "{woken} wake-ups, {slept} context switches");
    assert_eq!(until_idle(&mut client)?, pid);
    // It was asleep and still works.
    client.query_one("SELECT outbox.emit('idle.after', '{}')", &[])?;
    until_drained(&mut client)
}
