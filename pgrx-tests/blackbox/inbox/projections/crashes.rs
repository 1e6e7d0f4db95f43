//! A record whose row crashes the server is a dead letter in the end, and no other record suffers.

use std::time::Duration;

use event_outbox_lab::producer::NewRecord;
use event_outbox_lab::{Broker, Producer, Result, StopMode, wait};

use super::rows;
use crate::support::server::DedicatedServer;

/// Several crashes and restarts of the server.
const CRASHES: Duration = Duration::from_secs(180);

/// The number of records, in two partitions.
const RECORDS: i32 = 2000;
/// The record whose row kills the process that writes it.
const POISON: i32 = 777;

/// A trigger that crashes the server.
fn crashes_on(operation: &str) -> String {
    format!(
        "CREATE FUNCTION crash() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             COPY (SELECT 1) TO PROGRAM 'kill -9 $PPID';
             PERFORM pg_sleep(60);
             RETURN NEW;
         END $$;
         CREATE TRIGGER crash BEFORE {operation} ON state FOR EACH ROW WHEN (NEW.v = {POISON}) EXECUTE FUNCTION crash()"
    )
}

fn send(topic: &str, values: impl Iterator<Item = i32>) -> Result<()> {
    let producer = Producer::new(&Broker::shared()?.bootstrap_servers())?;
    for n in values {
        let (key, value) = (n.to_string(), format!("{{\"v\": {n}}}"));
        let (key, value) = (Some(key.as_bytes()), Some(value.as_bytes()));
        producer.send(&NewRecord { topic, partition: n % 2, key, value, ..NewRecord::default() })?;
    }
    producer.flush()
}

/// Waits for a query of one row, through crashes.
fn until(dedicated: &DedicatedServer, sql: &str, expected: &str) -> Result<()> {
    let mut last = String::new();
    wait::until_ok(&format!("{sql} to be {expected}"), CRASHES, || {
        let found = dedicated.connect().and_then(|mut client| rows(&mut client, sql));
        last = format!("{found:?}");
        Ok(found.is_ok_and(|found| found == [expected]).then_some(()))
    })
    .map_err(|error| error.context(last))
}

#[test]
fn a_record_whose_row_crashes_the_server_dies_alone() -> Result<()> {
    let broker = Broker::shared()?;
    let dedicated = DedicatedServer::start(&broker.bootstrap_servers())?;
    let topic = format!("{}.{}.poison", dedicated.database, dedicated.server.port());
    broker.create_topic(&topic, 2, &[])?;
    let mut client = dedicated.connect()?;
    client.batch_execute(&format!(
        "CREATE TABLE state (id int PRIMARY KEY, v int); {}",
        crashes_on("INSERT")
    ))?;
    send(&topic, 0..RECORDS)?;
    client.execute("SELECT inbox.project('p', $1, 'state')", &[&topic])?;
    drop(client);
    until(&dedicated, "SELECT count(*), sum(v) FROM state", &sums(0))?;
    until(&dedicated, "SELECT count(*) FROM inbox.dead_letters", "(1)")?;
    let mut client = dedicated.connect()?;
    let dead =
        rows(&mut client, "SELECT convert_from(key, 'UTF8'), attempts, last_error FROM inbox.dead_letters")?;
    assert!(dead[0].starts_with(&format!("({POISON},1,")) && dead[0].contains("crashed"), "{dead:?}");
    let crashes = dedicated.server.log().matches("was terminated by signal 9").count();
    assert_eq!(crashes, 3, "{}", dedicated.server.log());
    // It goes on as before.
    send(&topic, RECORDS..RECORDS + 10)?;
    super::settle(&mut client, "p")?;
    assert_eq!(rows(&mut client, "SELECT count(*), sum(v) FROM state")?, [sums(10)]);
    Ok(())
}

/// How many rows there are besides the poison, and their sum.
fn sums(more: i32) -> String {
    let last = RECORDS + more;
    format!("({},{})", last - 1, last * (last - 1) / 2 - POISON)
}

/// A crash that is nobody's fault charges nobody, even if one record alone was being applied.
#[test]
fn a_crash_while_a_record_is_applied_charges_nobody() -> Result<()> {
    let broker = Broker::shared()?;
    let mut dedicated = DedicatedServer::start(&broker.bootstrap_servers())?;
    let topic = format!("{}.{}.once", dedicated.database, dedicated.server.port());
    broker.create_topic(&topic, 2, &[])?;
    let mut client = dedicated.connect()?;
    client.batch_execute(
        "CREATE TABLE state (id int PRIMARY KEY, v int);
         CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN NEW; END $$;
         CREATE TRIGGER wait BEFORE INSERT ON state FOR EACH ROW EXECUTE FUNCTION wait()",
    )?;
    client.execute("SELECT inbox.project('p', $1, 'state')", &[&topic])?;
    send(&topic, std::iter::once(5))?;
    for _ in 0..2 {
        until(
            &dedicated,
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'event_outbox projection' AND wait_event = 'PgSleep'",
            "(1)",
        )?;
        dedicated.server.restart(StopMode::Immediate)?;
    }
    // The third try.
    let mut client = dedicated.connect()?;
    client.batch_execute("DROP TRIGGER wait ON state")?;
    super::settle(&mut client, "p")?;
    assert_eq!(rows(&mut client, "SELECT id, v FROM state")?, ["(5,5)"]);
    assert_eq!(rows(&mut client, "SELECT count(*) FROM inbox.dead_letters")?, ["(0)"]);
    Ok(())
}

/// The table's triggers see the rows of a rebuild only when these are written into it.
#[test]
fn a_rebuild_that_crashes_the_server_leaves_the_table_as_it_is() -> Result<()> {
    let broker = Broker::shared()?;
    let dedicated = DedicatedServer::start(&broker.bootstrap_servers())?;
    let topic = format!("{}.{}.rebuild", dedicated.database, dedicated.server.port());
    broker.create_topic(&topic, 2, &[])?;
    let mut client = dedicated.connect()?;
    client.batch_execute("CREATE TABLE state (id int PRIMARY KEY, v int)")?;
    send(&topic, 0..RECORDS)?;
    client.execute("SELECT inbox.project('p', $1, 'state')", &[&topic])?;
    super::settle(&mut client, "p")?;
    client.batch_execute(&format!("UPDATE state SET v = -1 WHERE id IN (5, {POISON})"))?;
    client.batch_execute(&crashes_on("UPDATE"))?;
    client.batch_execute("SELECT inbox.rebuild('p')")?;
    drop(client);
    let sql = "SELECT count(*) FROM inbox.projections WHERE rebuild_of = 'p' AND state = 'failing' AND copy_crashes = 3
                  AND last_error LIKE '%crashed 3 times%' AND what_to_do LIKE '%inbox.unproject(''p.rebuild-%'";
    until(&dedicated, sql, "(1)")?;
    let mut client = dedicated.connect()?;
    assert_eq!(rows(&mut client, "SELECT count(*) FROM state WHERE v = -1")?, ["(2)"]);
    let crashes = dedicated.server.log().matches("was terminated by signal 9").count();
    assert_eq!(crashes, 3, "{}", dedicated.server.log());
    // The projection goes on, and a rebuild can begin again.
    send(&topic, RECORDS..RECORDS + 10)?;
    super::settle(&mut client, "p")?;
    for sql in [
        "DROP TRIGGER crash ON state",
        "SELECT inbox.unproject(name) FROM inbox.projections WHERE rebuild_of = 'p'",
        "SELECT inbox.rebuild('p')",
    ] {
        client.batch_execute(sql)?;
    }
    until(&dedicated, "SELECT name, state FROM inbox.projections", "(p,following)")?;
    let all = i64::from(RECORDS) + 10;
    let expected = format!("({all},{})", all * (all - 1) / 2);
    assert_eq!(rows(&mut client, "SELECT count(*), sum(v) FROM state")?, [expected]);
    Ok(())
}
