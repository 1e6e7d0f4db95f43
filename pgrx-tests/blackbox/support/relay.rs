//! Observes a relay: its row in `outbox.status`, its process in `pg_stat_activity`.

use event_outbox_lab::{Cluster, Result, wait};
use postgres::Client;

use crate::support::database::DEADLINE;
use crate::support::events::pending_count;

/// A row of `outbox.status`.
#[derive(Debug)]
pub struct Status {
    pub pid: Option<i32>,
    pub state: String,
    pub connection: Option<String>,
    pub connection_since: Option<f64>,
    pub last_error: Option<String>,
    pub published: i64,
    pub refused: i64,
    pub in_flight: i64,
    pub wakeups: i64,
}

impl Status {
    pub fn is_connected(&self) -> bool {
        self.connection.as_deref() == Some("connected")
    }

    pub fn is_disconnected(&self) -> bool {
        self.connection.as_deref() == Some("disconnected")
    }

    pub fn error(&self) -> &str {
        self.last_error.as_deref().unwrap_or_default()
    }
}

/// The status of the relay of the client's database.
pub fn status(client: &mut Client) -> Result<Status> {
    let row = client.query_one(
        "SELECT pid, state, connection, extract(epoch FROM connection_since)::float8, last_error,
                coalesce(published, 0), coalesce(refused, 0), coalesce(in_flight, 0), coalesce(wakeups, 0)
           FROM outbox.status",
        &[],
    )?;
    Ok(Status {
        pid: row.get(0),
        state: row.get(1),
        connection: row.get(2),
        connection_since: row.get(3),
        last_error: row.get(4),
        published: row.get(5),
        refused: row.get(6),
        in_flight: row.get(7),
        wakeups: row.get(8),
    })
}

/// Waits for a status; the error shows the last one seen.
pub fn until_status(client: &mut Client, what: &str, is: impl Fn(&Status) -> bool) -> Result<Status> {
    let mut last = None;
    wait::until_ok(what, DEADLINE, || {
        let seen = status(client)?;
        Ok(if is(&seen) {
            Some(seen)
        } else {
            last = Some(seen);
            None
        })
    })
    .map_err(|error| error.context(format!("last seen: {last:?}")))
}

/// Waits for a relay that is connected and idle; returns its process id.
pub fn until_idle(client: &mut Client) -> Result<i32> {
    let is_idle = |status: &Status| status.state == "idle" && status.is_connected() && status.pid.is_some();
    let status = until_status(client, "an idle relay", is_idle)?;
    Ok(status.pid.unwrap_or_default())
}

/// Waits for a relay with another process id than `before`; returns that.
pub fn until_another(client: &mut Client, before: i32) -> Result<i32> {
    let is_another = |status: &Status| status.pid.is_some_and(|pid| pid != before);
    let status = until_status(client, &format!("a relay that is not process {before}"), is_another)?;
    Ok(status.pid.unwrap_or_default())
}

/// Waits until no event is left.
pub fn until_drained(client: &mut Client) -> Result<()> {
    wait::until_ok("outbox.events to be empty", DEADLINE, || {
        let left = pending_count(client)?;
        Ok((left == 0).then_some(()))
    })
    .map_err(|error| match status(client) {
        Ok(status) => error.context(format!("{status:?}")),
        Err(_) => error,
    })
}

/// The process ids of the relays of a database, seen from another database.
pub fn processes(server: &Cluster, database: &str) -> Result<Vec<i32>> {
    let rows = server.connect("postgres")?.query(
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'event_outbox relay' AND datname = $1",
        &[&database],
    )?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Waits until a database has this many relays.
pub fn until_processes(server: &Cluster, database: &str, count: usize) -> Result<Vec<i32>> {
    wait::until_ok(&format!("{count} relays in {database}"), DEADLINE, || {
        Ok(Some(processes(server, database)?).filter(|found| found.len() == count))
    })
}

/// The verdict and the hint of `outbox.check()` about the relay.
pub fn check_relay(client: &mut Client) -> Result<(String, String)> {
    let sql = "SELECT verdict, coalesce(hint, '') FROM outbox.check() WHERE subject = 'relay'";
    let row = client.query_one(sql, &[])?;
    Ok((row.get(0), row.get(1)))
}
