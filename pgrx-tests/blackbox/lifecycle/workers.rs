//! Background workers: many databases, and too few workers.

use event_outbox_lab::{Broker, Cluster, Result, StopMode, wait};

use crate::support::database::DEADLINE;
use crate::support::events::emit;
use crate::support::relay::{status, until_drained, until_idle, until_processes, until_status};

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

/// Other extensions, or parallel queries, can use all background workers.
#[test]
fn a_relay_for_which_others_leave_no_worker_says_so() -> Result<()> {
    let broker = Broker::shared()?;
    // One worker is Postgres' own and one the launcher, so none is left for relays.
    let options = Cluster::options("few")
        .set("event_outbox.bootstrap_servers", broker.bootstrap_servers())
        .set("max_worker_processes", 2);
    let mut server = options.start()?;
    let database = server.create_database()?;
    let mut client = server.connect(&database)?;
    client.batch_execute("CREATE EXTENSION event_outbox")?;
    emit(&mut client, "few.waits", 1)?;
    until_status(&mut client, "the relay to wait for a process", |status| status.state == "queued")?;
    let said = format!("no background worker is left for the relay of database \"{database}\"");
    wait::until("the log to say so", DEADLINE, || server.log().contains(&said).then_some(()))?;
    assert!(server.log().contains("HINT:  Raise max_worker_processes"));
    let queued = status(&mut client)?;
    assert_eq!((queued.pid, queued.state.as_str()), (None, "queued"));
    assert!(queued.error().contains("Raise max_worker_processes"), "{queued:?}");
    let published = client.query_one("SELECT outbox.wait_published('3 s')", &[])?;
    assert!(!published.get::<_, bool>(0));
    // Several attempts were logged once.
    assert_eq!(server.log().matches(&said).count(), 1);

    drop(client);
    server.connect("postgres")?.batch_execute("ALTER SYSTEM SET max_worker_processes = 3")?;
    server.restart(StopMode::Fast)?;
    until_drained(&mut server.connect(&database)?)
}

/// The setting limits how many databases have a relay; the log names the others, which follow when a worker is free.
#[test]
fn more_databases_than_max_workers() -> Result<()> {
    let broker = Broker::shared()?;
    let options = Cluster::options("capped")
        .set("event_outbox.bootstrap_servers", broker.bootstrap_servers())
        .set("event_outbox.max_workers", 2);
    let mut server = options.start()?;
    let databases: Vec<_> = (0..4).map(|_| server.create_database()).collect::<Result<_>>()?;
    for database in &databases[..2] {
        let mut client = server.connect(database)?;
        client.batch_execute("CREATE EXTENSION event_outbox")?;
        until_idle(&mut client)?;
    }
    for database in &databases[2..] {
        let mut client = server.connect(database)?;
        client.batch_execute("CREATE EXTENSION event_outbox")?;
        emit(&mut client, "capped.waits", 1)?;
    }
    let said = format!("event_outbox.max_workers leaves no worker for database \"{}\"", databases[2]);
    wait::until("the log to say so", DEADLINE, || server.log().contains(&said).then_some(()))?;
    assert!(server.log().contains("DETAIL:  Other databases use all 2 workers."));
    assert!(server.log().contains("HINT:  Raise event_outbox.max_workers above the number of databases"));
    let mut client = server.connect(&databases[2])?;
    assert_eq!(status(&mut client)?.state, "absent");
    let sql = "SELECT verdict, finding FROM outbox.check() WHERE subject = 'workers'";
    let row = client.query_one(sql, &[])?;
    assert_eq!(row.get::<_, &str>(0), "error");
    assert!(row.get::<_, &str>(1).starts_with("event_outbox.max_workers is 2, "), "{row:?}");

    // Each relay that ends makes room for another database that emits.
    server.connect(&databases[0])?.batch_execute("DROP EXTENSION event_outbox")?;
    until_drained(&mut client)?;
    server.connect("postgres")?.batch_execute(&format!("DROP DATABASE {}", databases[1]))?;
    let mut other = server.connect(&databases[3])?;
    until_drained(&mut other)?;
    assert_eq!(server.log().matches("leaves no worker for database").count(), 1);

    // After a restart all databases are examined, though there are more of them than workers.
    drop((client, other));
    server.restart(StopMode::Fast)?;
    for database in &databases[2..] {
        until_idle(&mut server.connect(database)?)?;
    }
    let refused = server.connect("postgres")?.batch_execute("ALTER SYSTEM SET event_outbox.max_workers = 0");
    assert!(refused.is_err());
    Ok(())
}

/// One transaction can change the settings of several databases.
#[test]
fn each_database_whose_settings_change_restarts_its_relay() -> Result<()> {
    let broker = Broker::shared()?;
    let options =
        Cluster::options("several").set("event_outbox.bootstrap_servers", broker.bootstrap_servers());
    let server = options.start()?;
    let databases: Vec<_> = (0..2).map(|_| server.create_database()).collect::<Result<_>>()?;
    let mut clients: Vec<_> =
        databases.iter().map(|database| server.connect(database)).collect::<Result<_>>()?;
    for client in &mut clients {
        client.batch_execute("CREATE EXTENSION event_outbox")?;
        until_idle(client)?;
    }
    let off = |database: &String| format!("ALTER DATABASE {database} SET event_outbox.enabled = off;");
    let sql: String = databases.iter().map(off).collect();
    server.connect("postgres")?.batch_execute(&format!("BEGIN; {sql} COMMIT"))?;
    for client in &mut clients {
        until_status(client, "a disabled relay", |status| status.state == "disabled")?;
    }
    Ok(())
}
