//! A dump contains the pending events.

use event_outbox_lab::{Broker, Cluster, Consumer, Result};
use postgres::Client;

use crate::support::database::TestDatabase;
use crate::support::dump::{dump, dump_and_restore, restore, restore_in_parallel};
use crate::support::relay::{until_drained, until_status};

/// The pending events with all their columns, in the order of publishing.
fn pending(client: &mut Client) -> Result<Vec<String>> {
    let rows = client.query("SELECT e::text FROM outbox.events AS e ORDER BY id", &[])?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// However the dump is restored, nothing is published there before a resume.
#[test]
fn a_dump_of_a_paused_outbox_is_paused_before_its_events_are_there() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("paused")?;
    db.client.query_one("SELECT outbox.pause('a move')", &[])?;
    db.client
        .execute("SELECT outbox.emit($1, to_jsonb(n)) FROM generate_series(1, 20000) AS n", &[&topic])?;
    let dumped = dump(&db, &[])?;
    for in_parallel in [false, true] {
        let mut restored = TestDatabase::of(db.server.create_database()?)?;
        if in_parallel {
            restore_in_parallel(&dumped, db.server, &restored.database)?;
        } else {
            restore(&dumped, db.server, &restored.database, &[])?;
        }
        restored.until_state("paused")?;
        assert_eq!(Consumer::read_all(&db.broker.bootstrap_servers(), &[&topic])?.len(), 0, "{in_parallel}");
        assert_eq!(pending(&mut restored.client)?.len(), 20_000);
    }
    Ok(())
}

/// Emits what a dump could spoil: bytes, nulls, tombstones, headers, and gaps in the sequence.
fn emit_some(db: &mut TestDatabase, topic: &str) -> Result<()> {
    db.client.execute(
        "SELECT outbox.emit($1, to_jsonb(n), key => 'k') FROM generate_series(1, 100) AS n",
        &[&topic],
    )?;
    db.client.execute("SELECT outbox.emit($1, NULL, key => 'k')", &[&topic])?;
    db.client.execute(
        r#"SELECT outbox.emit_bytes($1, '\x00ff0a09', key => 'k', headers => '{"h": ["\t\n\\", null]}',
                                    event_type => E'a\tb', content_type => 'x/y', partition => 0)"#,
        &[&topic],
    )?;
    let mut undone = db.client.transaction()?;
    undone.execute("SELECT outbox.emit($1, '0')", &[&topic])?;
    undone.rollback()?;
    db.client.execute("DELETE FROM outbox.events WHERE id BETWEEN 10 AND 19", &[])?;
    Ok(())
}

#[test]
fn a_restored_database_publishes_what_waited() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("dumped");
    db.configure("event_outbox.enabled", "off")?;
    emit_some(&mut db, &topic)?;
    let before = pending(&mut db.client)?;
    assert_eq!(before.len(), 92);

    let mut restored = TestDatabase::of(db.server.create_database()?)?;
    // Set before the restore, so that no relay publishes the events to compare.
    let off = format!("ALTER DATABASE {} SET event_outbox.enabled = off", restored.database);
    restored.client.batch_execute(&off)?;
    dump_and_restore(&db, &restored.database)?;

    assert_eq!(pending(&mut restored.client)?, before);
    restored.client.execute("SELECT outbox.emit($1, '\"last\"', key => 'k')", &[&topic])?;
    let highest = "SELECT id FROM outbox.events WHERE payload = '\"last\"' AND id = (SELECT max(id) FROM outbox.events)";
    assert!(restored.client.query_opt(highest, &[])?.is_some(), "the sequence fell back");

    restored.configure("event_outbox.enabled", "on")?;
    let records = restored.drained(&topic)?;
    assert_eq!(records.len(), 93);
    let numbers: Vec<i32> = records.iter().filter_map(|record| record.value_text()?.parse().ok()).collect();
    assert!(numbers.is_sorted() && numbers.len() == 90, "{numbers:?}");
    assert_eq!(records[90].value, None);
    assert_eq!(records[91].value.as_deref(), Some(&b"\x00\xff\n\t"[..]));
    assert_eq!(records[91].header("h"), Some("\t\n\\"));
    assert_eq!(records[92].value_text(), Some("\"last\""));
    // Restored events keep their ids, so that consumers can drop duplicates.
    assert_eq!(pending(&mut db.client)?, before);
    let first: String =
        db.client.query_one("SELECT event_id::text FROM outbox.events ORDER BY id LIMIT 1", &[])?.get(0);
    assert_eq!(records[0].header("ce_id"), Some(first.as_str()));
    Ok(())
}

/// The contents and settings of the outbox in a database, for a comparison.
fn everything(client: &mut Client) -> Result<Vec<Vec<String>>> {
    let read = |sql: &str| -> Result<Vec<String>> {
        Ok(client.query(sql, &[])?.iter().map(|row| row.get(0)).collect())
    };
    [
        "SELECT e::text FROM outbox.events AS e ORDER BY id",
        "SELECT d::text FROM outbox.dead_letters AS d ORDER BY dead_letter_id",
        "SELECT i::text FROM outbox.intake AS i ORDER BY source_id",
        "SELECT (schemaname, sequencename, last_value)::text FROM pg_sequences ORDER BY 1",
        "SELECT unnest(setconfig) FROM pg_db_role_setting AS s JOIN pg_database AS d ON d.oid = s.setdatabase
          WHERE datname = current_database() ORDER BY 1",
        "SELECT p.oid::regprocedure || ': ' || acl::text FROM pg_proc AS p, unnest(proacl) AS acl
          WHERE pronamespace = 'outbox'::regnamespace ORDER BY 1",
    ]
    .into_iter()
    .map(read)
    .collect()
}

/// A move to another machine, with settings. Nothing is published there before it is enabled.
#[test]
fn a_database_restored_into_a_fresh_cluster_is_the_same() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("moved");
    let app = format!("{}_app", db.database);
    db.configure("event_outbox.enabled", "off")?;
    db.configure("event_outbox.source", "//shop/orders")?;
    emit_some(&mut db, &topic)?;
    let dead = db.topic("died");
    db.client.execute("SELECT outbox.emit($1, to_jsonb(n)) FROM generate_series(1, 4) AS n", &[&dead])?;
    for _ in 0..3 {
        db.client.execute("UPDATE outbox.events SET last_error = 'no' WHERE topic = $1", &[&dead])?;
    }
    db.client.query_one("SELECT outbox.discard(max => 1)", &[])?;
    db.client.execute("SELECT outbox.try_emit('m1', $1, '{\"n\": 1}', key => 'k')", &[&topic])?;
    db
        .client
        .batch_execute(&format!("CREATE ROLE {app}; GRANT EXECUTE ON FUNCTION outbox.emit(text, jsonb, text, text, jsonb, uuid, integer) TO {app}"))?;
    let before = everything(&mut db.client)?;
    assert_eq!(before.iter().map(Vec::len).collect::<Vec<_>>()[..5], [93, 3, 1, 8, 2]);

    let options = Cluster::options("fresh")
        .set("event_outbox.bootstrap_servers", Broker::shared()?.bootstrap_servers())
        .set("event_outbox.enabled", "off");
    let fresh = options.start()?;
    fresh.connect("postgres")?.batch_execute(&format!("CREATE ROLE {app}"))?;
    restore(&dump(&db, &["--create"])?, &fresh, "postgres", &["--create"])?;
    let mut client = fresh.connect(&db.database)?;
    assert_eq!(everything(&mut client)?, before);

    // Both the configuration and the setting of the database disable it.
    fresh.set("event_outbox.enabled", "on")?;
    fresh.reload()?;
    until_status(&mut client, "a relay", |status| status.state == "disabled")?;
    assert_eq!(Consumer::read_all(&db.broker.bootstrap_servers(), &[&topic, &dead])?.len(), 0);
    client.query_one("SELECT outbox.redrive(topic => $1)", &[&dead])?;
    client.batch_execute(&format!("ALTER DATABASE {} RESET event_outbox.enabled", db.database))?;
    until_drained(&mut client)?;
    let records = Consumer::read_all(&db.broker.bootstrap_servers(), &[&topic, &dead])?;
    assert_eq!(records.len(), 96);
    assert!(records.iter().all(|record| record.header("ce_source") == Some("//shop/orders")));
    Ok(db
        .client
        .batch_execute(&format!("REVOKE ALL ON FUNCTION outbox.emit(text, jsonb, text, text, jsonb, uuid, integer) FROM {app}; DROP ROLE {app}"))?)
}

/// Events that still wait exist already, and are not stored a second time.
#[test]
fn data_restored_over_itself_is_published_once() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("over_itself");
    db.configure("event_outbox.enabled", "off")?;
    emit_some(&mut db, &topic)?;
    let before = pending(&mut db.client)?;
    let dumped = dump(&db, &["--data-only"])?;
    let refused = restore(&dumped, db.server, &db.database, &["--data-only"]).expect_err("restored");
    assert!(refused.to_string().contains("events_pkey"), "{refused:#}");
    assert_eq!(pending(&mut db.client)?, before);
    db.configure("event_outbox.enabled", "on")?;
    assert_eq!(db.drained(&topic)?.len(), before.len());
    Ok(())
}

#[test]
fn a_copied_database_has_its_own_relay() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("copied");
    db.configure("event_outbox.enabled", "off")?;
    emit_some(&mut db, &topic)?;
    let before = pending(&mut db.client)?;
    let mut copy = db.copy()?;
    // The copy does not have the settings of the original: its relay is on.
    copy.client.execute("SELECT outbox.emit($1, '\"last\"', key => 'k')", &[&topic])?;
    assert_eq!(copy.drained(&topic)?.len(), 93);
    assert_eq!(pending(&mut db.client)?, before);
    Ok(())
}
