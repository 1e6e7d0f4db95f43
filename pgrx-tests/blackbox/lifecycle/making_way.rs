//! The relay makes way for commands that need its database to themselves, and comes back afterwards. Only roles that may
//! run such a command can send it away.

use std::time::{Duration, Instant};

use event_outbox_lab::{Result, wait};
use postgres::Client;
use postgres::error::SqlState;

use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::relay::{
    processes, until_another, until_drained, until_idle, until_processes, until_status,
};

/// The most time for a command that sends an idle relay away. Postgres gives up after five seconds.
const PROMPT: Duration = Duration::from_secs(3);

fn promptly(client: &mut Client, sql: &str) -> Result<()> {
    let begin = Instant::now();
    client.batch_execute(sql)?;
    let took = begin.elapsed();
    assert!(took < PROMPT, "{sql} took {took:?}");
    Ok(())
}

/// A database with a running relay and no other connection, and a client outside it.
fn alone() -> Result<(TestDatabase, Client)> {
    let mut db = TestDatabase::new()?;
    until_idle(&mut db.client)?;
    db.client = db.server.connect("postgres")?;
    let (server, name) = (db.server, db.database.clone());
    let mut outside = server.connect("postgres")?;
    wait::until_ok("the session to leave", DEADLINE, || {
        let sql =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND backend_type = 'client backend'";
        let left: i64 = outside.query_one(sql, &[&name])?.get(0);
        Ok((left == 0).then_some(()))
    })?;
    Ok((db, outside))
}

/// Asserts that an event of the database arrives.
fn works(db: &TestDatabase, database: &str) -> Result<()> {
    let mut client = db.server.connect(database)?;
    client.query_one("SELECT outbox.emit($1, '{}')", &[&format!("{database}.works")])?;
    until_drained(&mut client)
}

#[test]
fn drop_database() -> Result<()> {
    let (db, mut outside) = alone()?;
    promptly(&mut outside, &format!("DROP DATABASE {}", db.database))?;
    assert_eq!(processes(db.server, &db.database)?, [0_i32; 0]);
    Ok(())
}

#[test]
fn drop_database_while_events_wait_for_kafka() -> Result<()> {
    let (db, mut outside) = alone()?;
    outside.batch_execute(&format!(
        "ALTER DATABASE {} SET event_outbox.bootstrap_servers = '127.0.0.1:1'",
        db.database
    ))?;
    let mut client = db.server.connect(&db.database)?;
    client.query_one("SELECT outbox.emit('nowhere', '{}')", &[])?;
    until_status(&mut client, "an event in flight", |status| status.in_flight == 1)?;
    client.close()?;
    promptly(&mut outside, &format!("DROP DATABASE {}", db.database))
}

#[test]
fn rename_database() -> Result<()> {
    let (mut db, mut outside) = alone()?;
    let renamed = format!("{}_renamed", db.database);
    promptly(&mut outside, &format!("ALTER DATABASE {} RENAME TO {renamed}", db.database))?;
    until_processes(db.server, &renamed, 1)?;
    db.database.clone_from(&renamed);
    works(&db, &renamed)
}

#[test]
fn copy_database() -> Result<()> {
    let (db, mut outside) = alone()?;
    let copy = format!("{}_copied", db.database);
    promptly(&mut outside, &format!("CREATE DATABASE {copy} TEMPLATE {}", db.database))?;
    until_processes(db.server, &db.database, 1)?;
    works(&db, &db.database)?;
    works(&db, &copy)?;
    Ok(outside.batch_execute(&format!("DROP DATABASE {copy} WITH (FORCE)"))?)
}

#[test]
fn move_database() -> Result<()> {
    let (db, mut outside) = alone()?;
    let space = format!("{}_space", db.database);
    outside.batch_execute("SET allow_in_place_tablespaces = on")?;
    outside.batch_execute(&format!("CREATE TABLESPACE {space} LOCATION ''"))?;
    promptly(&mut outside, &format!("ALTER DATABASE {} SET TABLESPACE {space}", db.database))?;
    works(&db, &db.database)?;
    promptly(&mut outside, &format!("ALTER DATABASE {} SET TABLESPACE pg_default", db.database))?;
    works(&db, &db.database)?;
    Ok(outside.batch_execute(&format!("DROP TABLESPACE {space}"))?)
}

#[test]
fn a_drop_refused_because_of_another_session_brings_the_relay_back() -> Result<()> {
    let (db, mut outside) = alone()?;
    let [before] = processes(db.server, &db.database)?[..] else { panic!("not one relay") };
    let mut session = db.server.connect(&db.database)?;
    let error = outside.batch_execute(&format!("DROP DATABASE {}", db.database)).expect_err("dropped");
    assert_eq!(error.code(), Some(&SqlState::OBJECT_IN_USE));
    until_another(&mut session, before)?;
    works(&db, &db.database)
}

#[test]
fn those_who_may_not_cannot_disturb_the_relay() -> Result<()> {
    let (db, mut outside) = alone()?;
    let name = db.database.clone();
    let before = processes(db.server, &name)?;
    assert_eq!(before.len(), 1);
    let role = format!("{name}_stranger");
    outside.batch_execute(&format!("CREATE ROLE {role} LOGIN CREATEDB"))?;
    let mut stranger = db.server.connect_as("postgres", &role)?;
    for attempt in [
        format!("DROP DATABASE {name}"),
        format!("DROP DATABASE {name} WITH (FORCE)"),
        format!("ALTER DATABASE {name} RENAME TO {name}_mine"),
        format!("ALTER DATABASE {name} SET TABLESPACE pg_default"),
        format!("ALTER DATABASE {name} SET event_outbox.enabled = off"),
        format!("CREATE DATABASE {name}_mine TEMPLATE {name}"),
        format!("ALTER ROLE {role} IN DATABASE {name} SET event_outbox.enabled = off"),
    ] {
        let error = stranger.batch_execute(&attempt).expect_err(&attempt);
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{attempt}: {error}");
        assert_eq!(processes(db.server, &name)?, before, "{attempt}");
    }
    works(&db, &name)?;
    assert_eq!(processes(db.server, &name)?, before);
    drop(stranger);
    Ok(outside.batch_execute(&format!("DROP ROLE {role}"))?)
}
