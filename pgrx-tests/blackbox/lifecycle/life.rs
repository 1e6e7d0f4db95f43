//! A relay starts with the extension and ends with it.

use event_outbox_lab::{Broker, Cluster, Result, StopMode};
use postgres::error::SqlState;

use crate::support::database::TestDatabase;
use crate::support::relay::{status, until_drained, until_idle, until_processes, until_status};
use crate::support::server::DedicatedServer;

const EMIT: &str = "SELECT outbox.emit($1, '{}')";

#[test]
fn creating_the_extension_starts_a_relay_at_once() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let pid = until_idle(&mut db.client)?;
    assert_eq!(until_processes(db.server, &db.database, 1)?, [pid]);
    let name =
        db.client.query_one("SELECT application_name FROM pg_stat_activity WHERE pid = $1", &[&pid])?;
    assert_eq!(name.get::<_, String>(0), "event_outbox relay");
    Ok(())
}

#[test]
fn creating_it_in_vain_leaves_no_relay() -> Result<()> {
    let db = TestDatabase::new()?;
    let server = db.server;
    let other = server.create_database()?;
    let mut client = server.connect(&other)?;
    client.batch_execute("BEGIN; CREATE EXTENSION event_outbox; ROLLBACK")?;
    // The launcher has handled all requests once a later database has its relay.
    until_idle(&mut TestDatabase::new()?.client)?;
    until_processes(server, &other, 0)?;
    // The attempt does not hinder the next one.
    client.batch_execute("CREATE EXTENSION event_outbox")?;
    until_idle(&mut client)?;
    drop(client);
    Ok(server.connect("postgres")?.batch_execute(&format!("DROP DATABASE {other}"))?)
}

#[test]
fn dropping_the_extension_ends_the_relay() -> Result<()> {
    let mut db = TestDatabase::new()?;
    until_idle(&mut db.client)?;
    for _ in 0..2 {
        db.client.batch_execute("DROP EXTENSION event_outbox")?;
        until_processes(db.server, &db.database, 0)?;
        db.client.batch_execute("CREATE EXTENSION event_outbox")?;
        until_idle(&mut db.client)?;
    }
    let topic = db.topic("again");
    db.client.query_one(EMIT, &[&topic])?;
    assert_eq!(db.drained(&topic)?.len(), 1);
    Ok(())
}

#[test]
fn a_drop_that_rolls_back_leaves_the_relay_alone() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let pid = until_idle(&mut db.client)?;
    db.client.batch_execute("BEGIN; DROP EXTENSION event_outbox; ROLLBACK")?;
    let topic = db.topic("kept");
    db.client.query_one(EMIT, &[&topic])?;
    assert_eq!(db.drained(&topic)?.len(), 1);
    assert_eq!(status(&mut db.client)?.pid, Some(pid));
    Ok(())
}

#[test]
fn the_schema_goes_only_with_the_extension() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let pid = until_idle(&mut db.client)?;
    let error = db.client.batch_execute("DROP SCHEMA outbox CASCADE").expect_err("it was dropped");
    assert_eq!(error.code(), Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST));
    assert_eq!(until_idle(&mut db.client)?, pid);
    Ok(())
}

#[test]
fn dropping_what_a_role_owns_ends_the_relay() -> Result<()> {
    let db = TestDatabase::new()?;
    let database = db.server.create_database()?;
    let role = format!("{database}_owner");
    db.server.connect("postgres")?.batch_execute(&format!("CREATE ROLE {role} SUPERUSER LOGIN"))?;
    db.server.connect_as(&database, &role)?.batch_execute("CREATE EXTENSION event_outbox")?;
    let mut client = db.server.connect(&database)?;
    until_idle(&mut client)?;
    client.batch_execute(&format!("DROP OWNED BY {role} CASCADE"))?;
    until_processes(db.server, &database, 0)?;
    drop(client);
    let mut admin = db.server.connect("postgres")?;
    admin.batch_execute(&format!("DROP DATABASE {database}"))?;
    Ok(admin.batch_execute(&format!("DROP ROLE {role}"))?)
}

#[test]
fn two_databases_have_a_relay_each() -> Result<()> {
    let (mut one, mut two) = (TestDatabase::new()?, TestDatabase::new()?);
    let (pid_one, pid_two) = (until_idle(&mut one.client)?, until_idle(&mut two.client)?);
    assert_ne!(pid_one, pid_two);
    let (topic_one, topic_two) = (one.topic("x"), two.topic("x"));
    one.client.execute("SELECT outbox.emit($1, '1') FROM generate_series(1, 3)", &[&topic_one])?;
    two.client.execute("SELECT outbox.emit($1, '2') FROM generate_series(1, 5)", &[&topic_two])?;
    for (db, topic, value, count) in [(&mut one, &topic_one, "1", 3), (&mut two, &topic_two, "2", 5)] {
        let records = db.drained(topic)?;
        assert_eq!(records.len(), count);
        assert!(records.iter().all(|record| record.value_text() == Some(value)));
        let published = until_status(&mut db.client, "the count", |status| status.published >= count as i64)?;
        assert_eq!(published.published, count as i64);
    }
    // The end of one relay does not affect the other.
    one.client.batch_execute("DROP EXTENSION event_outbox")?;
    until_processes(one.server, &one.database, 0)?;
    assert_eq!(status(&mut two.client)?.pid, Some(pid_two));
    Ok(())
}

#[test]
fn a_copy_of_a_database_gets_a_relay_by_its_first_event() -> Result<()> {
    let mut db = TestDatabase::new()?;
    until_idle(&mut db.client)?;
    let (server, original) = (db.server, db.database.clone());
    let copy = format!("{original}_copy");
    // The copy needs an original without other connections.
    db.client = server.connect("postgres")?;
    db.client.batch_execute(&format!("CREATE DATABASE {copy} TEMPLATE {original}"))?;
    let mut client = server.connect(&copy)?;
    let topic = format!("{copy}.first");
    client.query_one(EMIT, &[&topic])?;
    until_drained(&mut client)?;
    until_processes(server, &copy, 1)?;
    drop(client);
    Ok(db.client.batch_execute(&format!("DROP DATABASE {copy}"))?)
}

/// The relay comes back without an emit.
#[test]
fn a_database_that_takes_no_connections_gets_a_relay_when_it_does() -> Result<()> {
    let dedicated = DedicatedServer::start(&Broker::shared()?.bootstrap_servers())?;
    let (mut client, mut admin) = (dedicated.connect()?, dedicated.server.connect("postgres")?);
    until_idle(&mut client)?;
    admin.batch_execute(&format!("ALTER DATABASE {} ALLOW_CONNECTIONS false", dedicated.database))?;
    // The running relay goes on, as any session does.
    client.query_one(EMIT, &[&"life.closed"])?;
    until_drained(&mut client)?;

    let pid = until_idle(&mut client)?;
    client.query_one("SELECT pg_terminate_backend($1)", &[&pid])?;
    until_processes(&dedicated.server, &dedicated.database, 0)?;
    client.query_one(EMIT, &[&"life.closed"])?;
    let published = client.query_one("SELECT outbox.wait_published('3 s')", &[])?;
    assert!(!published.get::<_, bool>(0));
    admin.batch_execute(&format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", dedicated.database))?;
    until_drained(&mut client)?;
    assert!(!dedicated.server.log().contains("not currently accepting connections"));
    Ok(())
}

#[test]
fn after_a_restart_the_databases_with_the_extension_are_found() -> Result<()> {
    let broker = Broker::shared()?;
    let options = Cluster::options("found").set("event_outbox.bootstrap_servers", broker.bootstrap_servers());
    let mut server = options.start()?;
    // In this order, so that the launcher has examined all others when it reaches the last.
    let without: Vec<_> = (0..3).map(|_| server.create_database()).collect::<Result<_>>()?;
    let with: Vec<_> = (0..3).map(|_| server.create_database()).collect::<Result<_>>()?;
    for database in &with {
        let mut client = server.connect(database)?;
        client.batch_execute("CREATE EXTENSION event_outbox")?;
        until_idle(&mut client)?;
    }
    for mode in [StopMode::Smart, StopMode::Fast, StopMode::Immediate] {
        server.restart(mode)?;
        for database in &with {
            until_idle(&mut server.connect(database)?)?;
        }
        for database in without.iter().map(String::as_str).chain(["postgres", "template1"]) {
            until_processes(&server, database, 0)?;
        }
    }
    Ok(())
}
