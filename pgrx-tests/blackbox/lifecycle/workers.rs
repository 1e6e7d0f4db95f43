//! Background workers: many of them, and too few.

use std::time::{Duration, Instant};

use event_outbox_lab::{Broker, Cluster, Result, StopMode, wait};

use crate::support::database::{DEADLINE, emit};
use crate::support::relay::{status, until_drained, until_idle, until_processes};

#[test]
fn twenty_databases_have_a_relay_each() -> Result<()> {
    let broker = Broker::shared()?;
    let options = Cluster::options("crowd")
        .set("event_outbox.bootstrap_servers", broker.bootstrap_servers())
        .set("max_worker_processes", 24);
    let mut server = options.start()?;
    let databases: Vec<_> = (0..20).map(|_| server.create_database()).collect::<Result<_>>()?;
    for database in &databases {
        server.connect(database)?.batch_execute("CREATE EXTENSION event_outbox")?;
    }
    for mode in [None, Some(StopMode::Fast), Some(StopMode::Immediate)] {
        if let Some(mode) = mode {
            server.restart(mode)?;
        }
        for (database, number) in databases.iter().zip(1..) {
            emit(&mut server.connect(database)?, &format!("crowd.{database}"), number)?;
        }
        for database in &databases {
            until_drained(&mut server.connect(database)?)?;
            until_processes(&server, database, 1)?;
        }
    }
    // They make way all the same.
    let mut admin = server.connect("postgres")?;
    for database in &databases {
        admin.batch_execute(&format!("DROP DATABASE {database}"))?;
    }
    assert!(!server.log().contains("PANIC"));
    Ok(())
}

#[test]
fn a_relay_for_which_no_worker_is_left_is_started_when_one_is_free() -> Result<()> {
    let broker = Broker::shared()?;
    // One is Postgres' own, one the launcher, so two are left for relays.
    let options = Cluster::options("few")
        .set("event_outbox.bootstrap_servers", broker.bootstrap_servers())
        .set("max_worker_processes", 4);
    let server = options.start()?;
    let databases: Vec<_> = (0..3).map(|_| server.create_database()).collect::<Result<_>>()?;
    for database in &databases[..2] {
        let mut client = server.connect(database)?;
        client.batch_execute("CREATE EXTENSION event_outbox")?;
        until_idle(&mut client)?;
    }
    let mut client = server.connect(&databases[2])?;
    client.batch_execute("CREATE EXTENSION event_outbox")?;
    emit(&mut client, "few.waits", 1)?;
    let said = format!("no background worker is left for the relay of database \"{}\"", databases[2]);
    wait::until("the log to say so", DEADLINE, || server.log().contains(&said).then_some(()))?;
    assert!(server.log().contains("HINT:  Raise max_worker_processes"));
    let absent = status(&mut client)?;
    assert_eq!((absent.pid, absent.state.as_str()), (None, "absent"));
    assert!(absent.error().contains("Raise max_worker_processes"), "{absent:?}");

    // By now it is tried every eight seconds and more; but not where a relay has ended.
    let published = client.query_one("SELECT outbox.wait_published('8 s')", &[])?;
    assert!(!published.get::<_, bool>(0));
    let begin = Instant::now();
    server.connect(&databases[0])?.batch_execute("DROP EXTENSION event_outbox")?;
    until_drained(&mut client)?;
    assert!(begin.elapsed() < Duration::from_secs(5), "it took {:?}", begin.elapsed());
    // It was tried again meanwhile, and said once.
    assert_eq!(server.log().matches(&said).count(), 1);
    Ok(())
}
