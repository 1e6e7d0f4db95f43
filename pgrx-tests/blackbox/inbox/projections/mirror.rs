//! A table that one database captures and another one projects is the same in both.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use event_outbox_lab::{Broker, Result, process, wait};
use postgres::Client;
use postgres::error::SqlState;

use super::{PROJECTED, rows};
use crate::support::database::TestDatabase;
use crate::support::relay::{Status, until_status};
use crate::support::server::DedicatedServer;

const TABLE: &str =
    "CREATE TABLE mirrored (id int, part text, v int, note text, at timestamptz, amount numeric, tags int[],
                                            doc jsonb, PRIMARY KEY (id, part))";

const ALL: &str = "SELECT * FROM mirrored ORDER BY id, part";

/// Random writes from a seed: inserts, updates, changed keys and deletes, some of which are rolled back.
fn write(client: &mut Client, seed: i32, rounds: i32) -> Result<()> {
    for round in 0..rounds {
        let n = i64::from(seed * 1000 + round);
        let sql = format!(
            "INSERT INTO mirrored (id, part, v, note, at, amount, tags, doc)
             SELECT (({n} * 7 + g * 3) % 128)::int, 'p' || ({n} % 3), g, repeat('x', g % 40) || E'\\n\"{n}\"', now(), g / 7.0,
                    ARRAY[g, NULL, {n}], jsonb_build_object('g', g, 'deep', jsonb_build_array(1, 'a', NULL))
               FROM generate_series(1, 40) AS g
             ON CONFLICT (id, part) DO UPDATE SET v = excluded.v, note = NULL, tags = '{{}}';
             UPDATE mirrored SET v = v + 1 WHERE id % 5 = {n} % 5;
             UPDATE mirrored AS m SET id = m.id + 200
              WHERE m.id % 11 = {n} % 11 AND NOT EXISTS (SELECT FROM mirrored AS o WHERE o.id = m.id + 200 AND o.part = m.part);
             DELETE FROM mirrored WHERE id % 7 = {n} % 7;"
        );
        let mut transaction = client.transaction()?;
        transaction.batch_execute(&sql)?;
        if round % 4 == 3 {
            transaction.rollback()?;
        } else {
            transaction.commit()?;
        }
    }
    Ok(())
}

fn until_equal(source: &mut Client, target: &mut Client) -> Result<()> {
    let mut last = (Vec::new(), Vec::new());
    let equal = wait::until_ok("both tables to be equal", PROJECTED, || {
        last = (rows(source, ALL)?, rows(target, ALL)?);
        Ok((last.0 == last.1).then_some(()))
    });
    equal.map_err(|error| {
        let (source, target) = &last;
        let other: Vec<_> = source.iter().filter(|row| !target.contains(row)).take(5).collect();
        error.context(format!("{} and {} rows, such as {other:?}", source.len(), target.len()))
    })
}

#[test]
fn a_table_is_mirrored_through_kafka_under_load_faults_and_changes() -> Result<()> {
    let mut source = TestDatabase::new()?;
    let topic = source.topic("mirrored");
    source.broker.create_topic(&topic, 3, &[("cleanup.policy", "compact")])?;
    source.client.batch_execute(TABLE)?;
    source.client.execute("SELECT outbox.capture('mirrored', 'fat', topic => $1)", &[&topic])?;
    write(&mut source.client, 1, 10)?;
    let mut target = TestDatabase::new()?;
    target.client.batch_execute(TABLE)?;
    target.client.execute("SELECT inbox.project('m', $1, 'mirrored', format => 'capture')", &[&topic])?;
    for round in 2..6 {
        write(&mut source.client, round, 10)?;
        // Each process on the way ends once.
        target.client.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
              WHERE datname = current_database() AND backend_type IN ('event_outbox projection', 'event_outbox inbox')",
            &[],
        )?;
        source.client.execute("SELECT outbox.restart_relay()", &[])?;
    }
    until_equal(&mut source.client, &mut target.client)?;
    // A column more: first where it is read.
    for client in [&mut target.client, &mut source.client] {
        client.batch_execute("ALTER TABLE mirrored ADD COLUMN later text")?;
    }
    source.client.batch_execute("UPDATE mirrored SET later = 'l' || id")?;
    write(&mut source.client, 7, 8)?;
    until_equal(&mut source.client, &mut target.client)?;
    // A column less: last where it is read.
    for client in [&mut source.client, &mut target.client] {
        client.batch_execute("ALTER TABLE mirrored DROP COLUMN note, ADD COLUMN note text")?;
    }
    source.client.batch_execute("UPDATE mirrored SET note = 'again'")?;
    until_equal(&mut source.client, &mut target.client)?;
    let dead = rows(&mut target.client, "SELECT last_error FROM inbox.dead_letters LIMIT 3")?;
    assert_eq!(dead, Vec::<String>::new());
    // A rebuild finds nothing to do.
    target.client.batch_execute(
        "CREATE TABLE fired (n int);
         CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.fired VALUES (1); RETURN NULL; END $$;
         CREATE TRIGGER fire AFTER INSERT OR UPDATE OR DELETE ON mirrored FOR EACH ROW EXECUTE FUNCTION fire();
         SELECT inbox.rebuild('m')",
    )?;
    wait::until_ok("the rebuild to end", PROJECTED, || {
        let state = rows(&mut target.client, "SELECT name, ready FROM inbox.projections")?;
        Ok((state == ["(m,t)"]).then_some(()))
    })?;
    until_equal(&mut source.client, &mut target.client)?;
    assert_eq!(rows(&mut target.client, "SELECT count(*) FROM fired")?, ["(0)"]);
    Ok(())
}

#[test]
fn a_truncate_is_mirrored_where_it_has_an_order() -> Result<()> {
    let mut source = TestDatabase::new()?;
    let topic = source.own_topic("truncated")?;
    source.client.batch_execute(TABLE)?;
    source.client.execute("SELECT outbox.capture('mirrored', 'fat', topic => $1)", &[&topic])?;
    let mut target = TestDatabase::new()?;
    target.client.batch_execute(TABLE)?;
    target.client.execute("SELECT inbox.project('m', $1, 'mirrored', format => 'capture')", &[&topic])?;
    write(&mut source.client, 1, 3)?;
    until_equal(&mut source.client, &mut target.client)?;
    source.client.batch_execute("TRUNCATE mirrored; INSERT INTO mirrored (id, part) VALUES (1, 'after')")?;
    until_equal(&mut source.client, &mut target.client)?;
    assert_eq!(rows(&mut target.client, "SELECT id, part FROM mirrored")?, ["(1,after)"]);
    Ok(())
}

/// Whether the statement was done. It was not if the other session that changes many rows has ended it by a deadlock.
fn is_done(result: Result<(), postgres::Error>) -> Result<bool> {
    match result {
        Err(error) if error.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED) => Ok(false),
        result => Ok(result.map(|()| true)?),
    }
}

/// Writes until it is told to stop; the columns that change meanwhile are written by others. Returns how many rounds it wrote.
fn keep_writing(source: &DedicatedServer, stop: &AtomicBool) -> Result<i64> {
    let mut client = source.connect()?;
    let mut round = 0_i64;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let mut transaction = client.transaction()?;
        let written = transaction.batch_execute(&format!(
            "INSERT INTO mirrored (id, part, v) SELECT ({round} * 7 + g * 3) % 500, 'p' || g % 3, {round} FROM generate_series(1, 20) AS g
             ON CONFLICT (id, part) DO UPDATE SET v = excluded.v;
             DELETE FROM mirrored WHERE id % 97 = {round} % 97"
        ));
        if !is_done(written)? {
            continue;
        }
        if round % 5 == 4 {
            transaction.rollback()?;
        } else {
            transaction.commit()?;
        }
    }
    Ok(round)
}

/// What happens to the two databases, and to Kafka between them, while rows are written.
fn trouble(source: &DedicatedServer, target: &mut DedicatedServer, broker: &mut Broker) -> Result<()> {
    let change = |of: &DedicatedServer, sql: &str| {
        while !is_done(of.connect()?.batch_execute(sql))? {}
        Ok(()) as Result<()>
    };
    // A new column and a wider type: first where they are read.
    for of in [&*target, source] {
        change(of, "ALTER TABLE mirrored ADD COLUMN later text DEFAULT 'none', ALTER COLUMN v TYPE bigint")?;
    }
    change(source, "UPDATE mirrored SET later = 'l' || id, v = v + 3000000000 WHERE id % 2 = 0")?;
    target.server.kill()?;
    change(source, "UPDATE mirrored SET note = 'while it was dead' WHERE id % 3 = 0")?;
    target.server.start()?;
    broker.kill()?;
    until_status(&mut source.connect()?, "Kafka to be missed", Status::is_disconnected)?;
    change(source, "UPDATE mirrored SET note = 'without Kafka' WHERE id % 3 = 1")?;
    broker.start()?;
    let mut session = target.connect()?;
    let ended: Vec<i32> = session
        .query(
            "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity
              WHERE backend_type IN ('event_outbox projection', 'event_outbox inbox')",
            &[],
        )?
        .iter()
        .map(|row| row.get(0))
        .collect();
    // One killed process takes the server down, and it comes up by itself.
    let killed: i32 = wait::until_ok("another projection to kill", PROJECTED, || {
        let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'event_outbox projection' AND pid <> ALL ($1)";
        Ok(session.query_opt(sql, &[&ended])?.map(|row| row.get(0)))
    })?;
    process::send(u32::try_from(killed)?, libc::SIGKILL)?;
    wait::until("the server to end all its sessions", PROJECTED, || session.simple_query("").err())?;
    wait::until("the server to be back", PROJECTED, || target.connect().ok())?;
    // Another name: rows that were captured under the old one come once more.
    for of in [&*target, source] {
        change(of, "ALTER TABLE mirrored RENAME COLUMN note TO remark")?;
    }
    change(source, "UPDATE mirrored SET remark = 'renamed' WHERE id % 3 = 2")?;
    // A column less: last where it is read.
    for of in [source, &*target] {
        change(of, "ALTER TABLE mirrored DROP COLUMN at")?;
    }
    change(source, "CALL outbox.emit_snapshot('mirrored')")
}

#[test]
fn a_mirror_stays_equal_through_crashes_outages_and_schema_changes() -> Result<()> {
    let mut broker = Broker::options().start()?;
    let source = DedicatedServer::start(&broker.bootstrap_servers())?;
    let mut target = DedicatedServer::start(&broker.bootstrap_servers())?;
    broker.create_topic("mirrored", 3, &[("cleanup.policy", "compact")])?;
    for of in [&source, &target] {
        of.connect()?.batch_execute(TABLE)?;
    }
    source.connect()?.batch_execute("SELECT outbox.capture('mirrored', 'fat', topic => 'mirrored')")?;
    let project = "SELECT inbox.project('m', 'mirrored', 'mirrored', format => 'capture')";
    target.connect()?.batch_execute(project)?;
    let stop = AtomicBool::new(false);
    let (rounds, troubled) = thread::scope(|scope| {
        let writer = scope.spawn(|| keep_writing(&source, &stop));
        let troubled = trouble(&source, &mut target, &mut broker);
        stop.store(true, Ordering::Relaxed);
        (writer.join(), troubled)
    });
    let rounds = rounds.map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    troubled?;
    assert!(rounds > 50, "{rounds}");
    let (mut source, mut target) = (source.connect()?, target.connect()?);
    until_equal(&mut source, &mut target)?;
    let dead = rows(&mut target, "SELECT last_error FROM inbox.dead_letters LIMIT 3")?;
    assert_eq!(dead, Vec::<String>::new());
    assert!(rows(&mut source, ALL)?.len() > 100);
    Ok(())
}
