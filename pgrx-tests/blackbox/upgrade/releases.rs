//! Updates from earlier releases: the result of `ALTER EXTENSION … UPDATE`, and what works before it.

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::thread;

use anyhow::{anyhow, ensure};
use event_outbox_lab::{Broker, Cluster, Result, released};
use postgres::Client;

use crate::support::database::TestDatabase;
use crate::support::events::{emit, pending_count};
use crate::support::ledger::Ledger;
use crate::support::relay::{
    check_relay, processes, status, until_another, until_drained, until_idle, until_processes, until_status,
};
use crate::support::server::DedicatedServer;

const UPDATE: &str = "ALTER EXTENSION event_outbox UPDATE";

/// All catalog entries of the extension, one statement each. pg_dump omits the members of an extension, except for an
/// upgrade of the server, for which it dumps all of them.
fn catalog(db: &mut TestDatabase) -> Result<BTreeSet<String>> {
    let mut pg_dump = db.server.client_program("pg_dump", &db.database);
    let dump = pg_dump.args(["--binary-upgrade", "--schema-only"]).output()?;
    ensure!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    let dump = String::from_utf8(dump.stdout)?;
    let is_of_this_dump = |line: &&str| {
        const OF_THIS_DUMP: [&str; 6] = [
            // Comes before the first table, wherever that is.
            "SET default_table",
            "binary_upgrade_set_next_",
            "binary_upgrade_create_empty_extension",
            "relfrozenxid",
            "WHERE oid = ",
            "restrict ",
        ];
        OF_THIS_DUMP.iter().any(|part| line.contains(part))
    };
    let mut all: BTreeSet<_> = dump
        .split("\n--\n-- Name: ")
        .skip(1)
        .map(|object| object.lines().filter(|line| !is_of_this_dump(line)).collect::<Vec<_>>().join("\n"))
        .map(|object| object.trim_end().to_owned())
        .collect();
    // The entries that were left out for their oids.
    let rows = db.client.query(
        "SELECT extversion, extnamespace::regnamespace::text, extrelocatable, extowner::regrole::text,
                c.oid::regclass::text, c.condition
           FROM pg_extension LEFT JOIN unnest(extconfig, extcondition) AS c(oid, condition) ON true
          WHERE extname = 'event_outbox'",
        &[],
    )?;
    all.extend(rows.iter().map(|row| {
        let texts = [0, 1, 3].map(|at| row.get::<_, String>(at));
        let [table, condition] = [4, 5].map(|at| row.get::<_, Option<String>>(at));
        format!(
            "extension {texts:?}, relocatable {}, dumps {table:?} where {condition:?}",
            row.get::<_, bool>(2)
        )
    }));
    Ok(all)
}

#[test]
fn an_updated_extension_is_the_same_as_a_new_one() -> Result<()> {
    let fresh = catalog(&mut TestDatabase::new()?)?;
    assert!(fresh.len() > 100, "incomplete: {fresh:#?}");
    for version in released::versions()? {
        let mut db = TestDatabase::of_version(version)?;
        db.client.batch_execute(UPDATE)?;
        let updated = catalog(&mut db)?;
        let missing: Vec<_> = fresh.difference(&updated).collect();
        let left_over: Vec<_> = updated.difference(&fresh).collect();
        assert!(
            missing.is_empty() && left_over.is_empty(),
            "updated from {version}, it lacks {missing:#?} and has {left_over:#?} instead"
        );
    }
    Ok(())
}

/// The premise of the test above.
#[test]
fn a_comparison_of_catalogs_sees_any_difference() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let mut before = catalog(&mut db)?;
    assert!(before == catalog(&mut db)?, "two looks at the same differ");
    for change in [
        "ALTER FUNCTION outbox.emit(text, jsonb, text, text, jsonb, uuid, integer) STABLE",
        "ALTER FUNCTION outbox.emit(text, jsonb, text, text, jsonb, uuid, integer) SECURITY DEFINER",
        "ALTER FUNCTION outbox.emit(text, jsonb, text, text, jsonb, uuid, integer) PARALLEL SAFE",
        "ALTER FUNCTION outbox.move_to_dead_letters() SET search_path = public",
        "CREATE OR REPLACE FUNCTION outbox.move_to_dead_letters() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END'",
        "ALTER EXTENSION event_outbox DROP FUNCTION outbox.channel",
        "GRANT EXECUTE ON FUNCTION outbox.emit(text, jsonb, text, text, jsonb, uuid, integer) TO PUBLIC",
        "REVOKE EXECUTE ON FUNCTION outbox.readable FROM PUBLIC",
        "COMMENT ON FUNCTION outbox.emit(text, jsonb, text, text, jsonb, uuid, integer) IS NULL",
        "COMMENT ON COLUMN outbox.events.key IS 'other'",
        "ALTER TABLE outbox.events SET (fillfactor = 90)",
        "ALTER TABLE outbox.events RESET (autovacuum_vacuum_cost_delay)",
        "ALTER TABLE outbox.events ALTER attempts SET DEFAULT 1",
        "ALTER TABLE outbox.events ALTER attempts DROP NOT NULL",
        "ALTER TABLE outbox.events ADD more text",
        "ALTER TABLE outbox.intake ALTER attempts TYPE bigint",
        "ALTER TABLE outbox.intake DROP CONSTRAINT intake_status_check",
        "ALTER TABLE outbox.events DISABLE TRIGGER check_event",
        "DROP TRIGGER check_event ON outbox.events",
        "DROP INDEX outbox.dead_letters_event_id",
        "ALTER SEQUENCE outbox.events_id_seq CACHE 10",
        "CREATE OR REPLACE VIEW outbox.status AS SELECT * FROM outbox.relay_status(NULL) CROSS JOIN outbox.relay_delivery(NULL)",
        "ALTER VIEW outbox.status SET (security_barrier)",
        "UPDATE pg_extension SET extconfig = extconfig[2:], extcondition = extcondition[2:]
          WHERE extname = 'event_outbox'",
    ] {
        db.client.batch_execute(change)?;
        let after = catalog(&mut db)?;
        assert!(before != after, "{change}");
        before = after;
    }
    Ok(())
}

#[test]
fn what_an_earlier_release_holds_survives_the_update() -> Result<()> {
    for version in released::versions()? {
        let mut db = TestDatabase::of_version(version)?;
        let (topic, dead) = (db.topic("held"), db.topic("dead"));
        db.configure("event_outbox.enabled", "off")?;
        db.client.execute(
            "SELECT outbox.emit($1, to_jsonb(n), key => 'k', headers => '{\"h\": [\"1\", null]}') FROM generate_series(1, 50) AS n",
            &[&topic],
        )?;
        db.client.execute("SELECT outbox.emit($1, to_jsonb(n)) FROM generate_series(1, 3) AS n", &[&dead])?;
        for _ in 0..3 {
            db.client.execute("UPDATE outbox.events SET last_error = 'no' WHERE topic = $1", &[&dead])?;
        }
        db.client.execute("SELECT outbox.try_emit('m1', $1, '51', key => 'k')", &[&topic])?;
        db.client.execute("SELECT outbox.try_emit('m2', $1, '{')", &[&topic])?;
        let before = held(&mut db.client)?;
        assert_eq!((before[0].len(), before[1].len(), before[2].len()), (51, 3, 2));

        db.client.batch_execute(UPDATE)?;
        assert_eq!(held(&mut db.client)?, before);

        let again = "SELECT status FROM outbox.try_emit('m1', $1, '51', key => 'k')";
        assert_eq!(db.client.query_one(again, &[&topic])?.get::<_, &str>(0), "duplicate");
        db.client.query_one("SELECT outbox.emit($1, '52', key => 'k')", &[&topic])?;
        db.client.query_one("SELECT outbox.redrive(topic => $1)", &[&dead])?;
        db.configure("event_outbox.enabled", "on")?;
        let values = db.drained_values(&topic)?;
        assert_eq!(values, (1..=52).map(|n| n.to_string()).collect::<Vec<_>>());
        assert_eq!(db.drained(&dead)?.len(), 3);
    }
    Ok(())
}

/// An update closes what it creates, and nothing else.
#[test]
fn an_update_leaves_privileges_as_an_administrator_set_them() -> Result<()> {
    for version in released::versions()? {
        let mut db = TestDatabase::of_version(version)?;
        db.client.batch_execute(
            "GRANT EXECUTE ON FUNCTION outbox.emit(text, jsonb, text, text, jsonb, uuid, integer) TO PUBLIC;
             REVOKE EXECUTE ON FUNCTION outbox.channel(text) FROM PUBLIC;
             GRANT SELECT ON outbox.status TO PUBLIC",
        )?;
        let sql = "SELECT (SELECT array_agg(p.proacl::text ORDER BY p.oid) FROM pg_proc AS p
                            WHERE p.oid IN ('outbox.emit(text, jsonb, text, text, jsonb, uuid, integer)'::regprocedure,
                                            'outbox.channel(text)'::regprocedure))
                          || (SELECT c.relacl::text FROM pg_class AS c WHERE c.oid = 'outbox.status'::regclass)";
        let privileges =
            |client: &mut Client| -> Result<Vec<String>> { Ok(client.query_one(sql, &[])?.get(0)) };
        let before = privileges(&mut db.client)?;
        db.client.batch_execute(UPDATE)?;
        assert_eq!(privileges(&mut db.client)?, before);
    }
    Ok(())
}

/// The rows of events, dead letters and intake, by the columns that every release has.
fn held(client: &mut Client) -> Result<[Vec<String>; 3]> {
    let mut held = [const { Vec::new() }; 3];
    for (rows, sql) in held.iter_mut().zip([
        "SELECT (id, event_id, emitted_at, topic, partition, key, payload, headers, event_type, content_type,
                 attempts, next_attempt_at, last_error, error_class, first_refused_at)::text
           FROM outbox.events ORDER BY id",
        "SELECT (dead_letter_id, id, event_id, emitted_at, topic, partition, key, payload, headers, event_type,
                 content_type, attempts, error, error_class, first_refused_at, last_refused_at)::text
           FROM outbox.dead_letters ORDER BY dead_letter_id",
        "SELECT (source_id, status, attempts, event_id, error, first_at, last_at)::text
           FROM outbox.intake ORDER BY source_id",
    ]) {
        *rows = client.query(sql, &[])?.iter().map(|row| row.get(0)).collect();
    }
    Ok(held)
}

/// A package brings the new library, and days may pass until the extension of each database is updated.
#[test]
fn applications_and_the_relay_go_on_until_the_update() -> Result<()> {
    for version in released::versions()? {
        let mut db = TestDatabase::of_version(version)?;
        let topic = db.topic("between");
        until_idle(&mut db.client)?;
        let emit_all = |client: &mut Client| -> Result<()> {
            client.execute("SELECT outbox.emit($1, '1', key => 'k')", &[&topic])?;
            client.execute("SELECT outbox.emit_bytes($1, '2', key => 'k')", &[&topic])?;
            client.execute(
                "INSERT INTO outbox.events (topic, payload, key) VALUES ($1, '3', 'k')",
                &[&topic],
            )?;
            client
                .execute("SELECT outbox.try_emit(gen_random_uuid()::text, $1, '4', key => 'k')", &[&topic])?;
            let waited = client.query_one("SELECT outbox.wait_published('30 s')", &[])?;
            assert!(waited.get::<_, bool>(0));
            Ok(())
        };
        emit_all(&mut db.client)?;
        let refused = "SELECT outbox.emit('a topic', '{}')";
        assert!(db.client.execute(refused, &[]).is_err());
        let log = db.server.log();
        let hint = "HINT:  Run ALTER EXTENSION event_outbox UPDATE in this database";
        assert!(log.contains(&format!("has the older version {version}")) && log.contains(hint));

        // A session with plans and functions from before goes on after the update, and the relay is a new one.
        let before = until_idle(&mut db.client)?;
        db.client.batch_execute(UPDATE)?;
        until_another(&mut db.client, before)?;
        emit_all(&mut db.client)?;
        assert_eq!(db.drained_values(&topic)?, ["1", "2", "3", "4", "1", "2", "3", "4"]);
    }
    Ok(())
}

/// Open sessions and a relay with a backlog do not notice an update.
#[test]
fn an_update_under_load_loses_nothing_and_fails_nobody() -> Result<()> {
    let options = Cluster::options("update")
        .set("event_outbox.batch_size", 100)
        .set("event_outbox.max_in_flight", 1000);
    let broker = Broker::shared()?;
    let dedicated = DedicatedServer::with(options, &broker.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    client.batch_execute("DROP EXTENSION event_outbox")?;
    client.batch_execute(&format!("CREATE EXTENSION event_outbox VERSION '{}'", released::versions()?[0]))?;
    let backlog = Ledger::open(&mut client, "upgrade.backlog")?;
    let written = Ledger::open(&mut client, "upgrade.written")?;
    backlog.emit(&mut client, 60_000)?;
    until_status(&mut client, "the first to be published", |status| status.published > 500)?;

    let (done, is_done) = mpsc::channel::<()>();
    let mut session = dedicated.connect()?;
    let writer = thread::spawn(move || -> Result<usize> {
        let mut count = 0;
        while is_done.try_recv() == Err(mpsc::TryRecvError::Empty) {
            written.emit(&mut session, 3)?;
            session.query_one(
                "SELECT status FROM outbox.try_emit(gen_random_uuid()::text, 'upgrade.tried', '{}')",
                &[],
            )?;
            count += 1;
        }
        Ok(count)
    });
    client.batch_execute(UPDATE)?;
    let left = pending_count(&mut client)?;
    assert!(left > 0, "the backlog was gone before the update");
    let before = status(&mut client)?.published;
    until_status(&mut client, "publishing to go on", |status| status.published > before + 1000)?;
    drop(done);
    let rounds = writer.join().map_err(|_| anyhow!("the writer panicked"))??;
    assert!(rounds > 10, "{rounds} rounds");
    until_drained(&mut client)?;
    backlog.assert_exactly_once(&mut client, broker)?;
    Ledger::open(&mut client, "upgrade.written")?.assert_exactly_once(&mut client, broker)
}

/// Makes the extension of this database claim another version.
fn forge_version(client: &mut Client, version: &str) -> Result<()> {
    client.execute("UPDATE pg_extension SET extversion = $1 WHERE extname = 'event_outbox'", &[&version])?;
    Ok(())
}

/// Restarts the relay.
fn terminate_relay_of(db: &mut TestDatabase) -> Result<()> {
    let pid = until_idle(&mut db.client)?;
    db.client.query_one("SELECT pg_terminate_backend($1)", &[&pid])?;
    until_another(&mut db.client, pid)?;
    Ok(())
}

#[test]
fn a_relay_that_cannot_work_with_the_version_says_so_and_waits_for_the_update() -> Result<()> {
    let first = &released::versions()?[0];
    let mut db = TestDatabase::of_version(first)?;
    let topic = db.topic("too_old");
    until_idle(&mut db.client)?;
    forge_version(&mut db.client, "0.0.7")?;
    terminate_relay_of(&mut db)?;
    let incompatible =
        until_status(&mut db.client, "the incompatible version", |status| status.state == "incompatible")?;
    assert!(incompatible.error().contains("version 0.0.7"), "{incompatible:?}");
    assert!(incompatible.error().contains("ALTER EXTENSION event_outbox UPDATE"), "{incompatible:?}");

    // Applications do not notice. The relay waits in one process, and logs it once.
    for number in 1..=20 {
        emit(&mut db.client, &topic, number)?;
    }
    let published = db.client.query_one("SELECT outbox.wait_published('2 s')", &[])?;
    assert!(!published.get::<_, bool>(0));
    let now = status(&mut db.client)?;
    assert_eq!((now.pid, now.state.as_str(), now.published), (incompatible.pid, "incompatible", 0));
    assert!(!now.is_connected(), "{now:?}");
    let said = "cannot work with extension event_outbox version 0.0.7";
    assert_eq!(db.server.log().matches(said).count(), 1);

    // An update that is rolled back changes nothing; a committed one gets the relay to work at once.
    forge_version(&mut db.client, first)?;
    db.client.batch_execute(&format!("BEGIN; {UPDATE}; ROLLBACK"))?;
    db.client.batch_execute(UPDATE)?;
    until_drained(&mut db.client)?;
    assert_eq!(db.drained(&topic)?.len(), 20);
    Ok(())
}

/// The package was replaced and the extension updated, but the server still runs the old library.
#[test]
fn a_relay_that_meets_a_newer_version_asks_for_a_restart() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("newer");
    until_idle(&mut db.client)?;
    forge_version(&mut db.client, "99.0.0")?;
    terminate_relay_of(&mut db)?;
    let waiting =
        until_status(&mut db.client, "the incompatible version", |status| status.state == "incompatible")?;
    assert!(waiting.error().contains("version 99.0.0"), "{waiting:?}");
    assert!(waiting.error().contains("Restart the server"), "{waiting:?}");
    let (verdict, hint) = check_relay(&mut db.client)?;
    assert_eq!(verdict, "error");
    assert!(hint.starts_with("Restart the server"), "{hint}");
    // Requests about Kafka fail at once.
    let error =
        db.client.query("SELECT outbox.create_topic('t', timeout => '1 hour')", &[]).expect_err("waits");
    assert_eq!(error.code().map(|code| code.code()), Some("55000"), "{error}");
    emit(&mut db.client, &topic, 1)?;
    // Meanwhile it makes way for commands that need the database to themselves, and ends with the extension.
    db.client.batch_execute("DROP EXTENSION event_outbox")?;
    until_processes(db.server, &db.database, 0)?;
    db.client.batch_execute("CREATE EXTENSION event_outbox")?;
    until_idle(&mut db.client)?;
    forge_version(&mut db.client, "99.0.0")?;
    terminate_relay_of(&mut db)?;
    until_status(&mut db.client, "the incompatible version", |status| status.state == "incompatible")?;
    db.client = db.server.connect("postgres")?;
    db.client.batch_execute(&format!("DROP DATABASE {}", db.database))?;
    assert!(processes(db.server, &db.database)?.is_empty());
    Ok(())
}
