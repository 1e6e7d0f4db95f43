//! The extension is created while the launcher looks for it.

use event_outbox_lab::{Broker, Cluster, Result, StopMode, wait};
use postgres::Client;

use crate::support::database::{DEADLINE, TestDatabase};

const DATABASES: usize = 12;
const ROUNDS: usize = 3;

fn has_relay(client: &mut Client) -> Result<bool> {
    let sql = "SELECT state NOT IN ('absent', 'starting', 'stopping') FROM outbox.status";
    Ok(client.query_one(sql, &[])?.get(0))
}

/// After a start of the server, the launcher starts a relay in each database to look for the extension. A relay that
/// looked just before the extension was created must not be the last.
#[test]
fn an_extension_created_while_the_launcher_looks_has_its_relay() -> Result<()> {
    let mut server = Cluster::options("arrival")
        .set("event_outbox.bootstrap_servers", Broker::shared()?.bootstrap_servers())
        .set("max_worker_processes", 40)
        .start()?;
    let databases: Vec<_> = (0..DATABASES).map(|_| server.create_database()).collect::<Result<_>>()?;
    for _ in 0..ROUNDS {
        server.restart(StopMode::Fast)?;
        let mut clients: Vec<_> =
            databases.iter().map(|database| server.connect(database)).collect::<Result<_>>()?;
        for client in &mut clients {
            client.batch_execute("CREATE EXTENSION event_outbox")?;
        }
        for (client, database) in clients.iter_mut().zip(&databases) {
            wait::until_ok(&format!("a relay in {database}"), DEADLINE, || {
                Ok(has_relay(client)?.then_some(()))
            })?;
            client.batch_execute("DROP EXTENSION event_outbox")?;
        }
    }
    Ok(())
}

/// The old relay has just seen that the extension is gone when it is created again.
#[test]
fn an_extension_created_again_has_its_relay() -> Result<()> {
    let mut db = TestDatabase::new()?;
    for _ in 0..50 {
        db.relay()?;
        db.client.batch_execute("DROP EXTENSION event_outbox")?;
        db.client.batch_execute("CREATE EXTENSION event_outbox")?;
    }
    db.relay()?;
    Ok(())
}
