//! Settings and objects that a database already has do not change what is published.

use event_outbox_lab::{Broker, Result, StopMode, process};

use crate::support::database::{PROMPTLY, TestDatabase};
use crate::support::events::emit;
use crate::support::relay::{status, until_idle};
use crate::support::server::DedicatedServer;

/// Settings that would make a session of the relay fail, hang, or format values differently.
const HOSTILE: [&str; 18] = [
    "default_transaction_read_only = on",
    "default_transaction_isolation = serializable",
    "default_transaction_deferrable = on",
    "statement_timeout = '1ms'",
    "lock_timeout = '1ms'",
    "idle_in_transaction_session_timeout = '1ms'",
    "session_replication_role = replica",
    "search_path = ''",
    "bytea_output = escape",
    "standard_conforming_strings = off",
    "datestyle = 'SQL, DMY'",
    "timezone = 'Asia/Kolkata'",
    "enable_indexscan = off",
    "enable_tidscan = off",
    "default_tablespace = 'pg_default'",
    "row_security = off",
    "synchronous_commit = on",
    "client_encoding = 'LATIN1'",
];

#[test]
fn settings_of_the_database_do_not_reach_the_relay() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("settings");
    // This session began before the settings, so they do not apply to it.
    for setting in HOSTILE {
        let sql = format!("ALTER DATABASE {} SET {setting}", db.database);
        db.client.batch_execute(&sql)?;
    }
    db.alter_database("SET default_statistics_target = 1")?;
    let sql =
        "SELECT outbox.emit($1, to_jsonb('é '::text || n), key => 'ключ') FROM generate_series(1, 300) AS n";
    db.client.execute(sql, &[&topic])?;
    let records = db.promptly(&topic, 300)?;
    for (record, number) in records.iter().zip(1..) {
        assert_eq!(record.value_text(), Some(format!("\"é {number}\"").as_str()));
        assert_eq!(record.key_text(), Some("ключ"));
        assert!(record.header("ce_time").is_some_and(|time| time.ends_with('Z')));
    }
    // The events are settled, too, and the refusal is counted by its trigger.
    let sql = "SELECT outbox.emit($1, '0', partition => 99)";
    db.client.execute(sql, &[&topic])?;
    event_outbox_lab::wait::until_ok("the refusal alone to be left", PROMPTLY, || {
        let sql = "SELECT FROM outbox.events HAVING count(*) = 1 AND min(attempts) > 0";
        Ok(db.client.query_opt(sql, &[])?)
    })?;
    Ok(())
}

/// The same settings, of the server or of the role that the relay uses.
#[test]
fn settings_of_the_server_and_of_the_role_do_not_reach_the_relay() -> Result<()> {
    const SERVER: [(&str, &str); 6] = [
        ("default_transaction_read_only", "on"),
        ("default_transaction_isolation", "serializable"),
        ("default_transaction_deferrable", "on"),
        ("idle_in_transaction_session_timeout", "1ms"),
        ("search_path", "nowhere"),
        ("row_security", "off"),
    ];
    let mut dedicated = DedicatedServer::start(&Broker::shared()?.bootstrap_servers())?;
    dedicated.connect()?.batch_execute("CREATE ROLE tester SUPERUSER LOGIN")?;
    let mut client = dedicated.server.connect_as(&dedicated.database, "tester")?;
    for setting in HOSTILE {
        client.batch_execute(&format!("ALTER ROLE postgres SET {setting}"))?;
    }
    // From version 17.
    let sql = "SELECT FROM pg_settings WHERE name = 'transaction_timeout'";
    if client.query_opt(sql, &[])?.is_some() {
        client.batch_execute("ALTER ROLE postgres SET transaction_timeout = '1ms'")?;
    }
    drop(client);
    dedicated.server.stop(StopMode::Fast)?;
    for (name, value) in SERVER {
        dedicated.server.set(name, value)?;
    }
    dedicated.server.start()?;
    let mut client = dedicated.server.connect_as(&dedicated.database, "tester")?;
    client
        .batch_execute("SET default_transaction_read_only = off; SET default_transaction_deferrable = off")?;
    let pid = until_idle(&mut client)?;
    for sql in [
        "SELECT outbox.emit('surroundings.server', to_jsonb(n)) FROM generate_series(1, 300) AS n",
        "SELECT outbox.emit('surroundings.server', '0', partition => 99)",
    ] {
        client.execute(sql, &[])?;
    }
    event_outbox_lab::wait::until_ok("the refusal alone to be left", PROMPTLY, || {
        let sql = "SELECT FROM outbox.events HAVING count(*) = 1 AND min(attempts) > 0";
        Ok(client.query_opt(sql, &[])?)
    })?;
    assert_eq!(status(&mut client)?.pid, Some(pid));
    let log = dedicated.server.log();
    assert!(!log.contains("relay transaction failed"), "it complained");
    assert!(!log.contains("the relay cannot work"), "it complained");
    Ok(())
}

#[test]
fn values_do_not_depend_on_the_settings_of_the_emitting_session() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("session");
    db.client.batch_execute(
        "SET bytea_output = escape; SET standard_conforming_strings = off; SET datestyle = 'SQL, DMY';
         SET timezone = 'Asia/Kolkata'; SET extra_float_digits = -15; SET intervalstyle = sql_standard",
    )?;
    let sql =
        r#"SELECT outbox.emit($1, '{"n": 0.1234567890123456789, "t": "\\u00e9"}', headers => '{"h": 1.5}')"#;
    db.client.execute(sql, &[&topic])?;
    let records = db.drained(&topic)?;
    assert_eq!(records[0].value_text(), Some(r#"{"n":0.1234567890123456789,"t":"é"}"#));
    assert_eq!(records[0].header("h"), Some("1.5"));
    assert!(records[0].header("ce_time").is_some_and(|time| time.ends_with('Z')));
    Ok(())
}

#[test]
fn a_foreign_schema_outbox_is_not_taken_over() -> Result<()> {
    let mut db = TestDatabase::new()?;
    db.client.batch_execute("DROP EXTENSION event_outbox CASCADE")?;
    db.client.batch_execute("CREATE SCHEMA outbox; CREATE TABLE outbox.events (mine int)")?;
    let error = db.client.batch_execute("CREATE EXTENSION event_outbox").expect_err("it was created");
    assert_eq!(error.code(), Some(&postgres::error::SqlState::DUPLICATE_SCHEMA));
    db.client.batch_execute("SELECT mine FROM outbox.events; DROP SCHEMA outbox CASCADE")?;
    Ok(())
}

#[test]
fn the_extension_can_be_dropped_and_created_again_at_once() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("again");
    for number in 1..=3 {
        emit(&mut db.client, &topic, number)?;
        db.promptly(&topic, number as usize)?;
        // The plans of this session refer to the old table.
        db.client.batch_execute("DROP EXTENSION event_outbox")?;
        db.client.batch_execute("CREATE EXTENSION event_outbox")?;
    }
    let mut transaction = db.client.transaction()?;
    transaction.batch_execute("DROP EXTENSION event_outbox; CREATE EXTENSION event_outbox")?;
    emit(&mut transaction, &topic, 4)?;
    transaction.commit()?;
    db.promptly(&topic, 4)?;
    // After a rollback nothing has happened.
    let mut transaction = db.client.transaction()?;
    transaction.batch_execute("DROP EXTENSION event_outbox")?;
    transaction.rollback()?;
    emit(&mut db.client, &topic, 5)?;
    db.promptly(&topic, 5)?;
    assert_eq!(db.drained_values(&topic)?, ["1", "2", "3", "4", "5"]);
    Ok(())
}

/// A relay that missed the drop does not mistake the new outbox, whose ids begin at 1 again, for the old one.
#[test]
fn a_relay_that_slept_while_the_extension_was_created_anew_misses_nothing() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("anew");
    emit(&mut db.client, &topic, 1)?;
    assert_eq!(db.drained_values(&topic)?, ["1"]);
    db.until_state("idle")?;
    let relay = db.relay()?.unsigned_abs();
    process::send(relay, libc::SIGSTOP)?;
    let replaced = db.client.batch_execute("DROP EXTENSION event_outbox; CREATE EXTENSION event_outbox");
    let emitted = emit(&mut db.client, &topic, 2);
    process::send(relay, libc::SIGCONT)?;
    replaced?;
    emitted?;
    assert_eq!(db.promptly(&topic, 2)?.len(), 2);
    Ok(())
}

#[test]
fn a_locked_table_delays_the_relay_and_no_more() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("locked");
    db.relay()?;
    let mut other = db.connect()?;
    let mut locking = other.transaction()?;
    locking.batch_execute("LOCK TABLE outbox.events")?;
    emit(&mut locking, &topic, 1)?;
    db.client.batch_execute("NOTIFY outbox")?;
    let error = db.until_state("failing")?;
    assert!(error.contains("lock timeout"), "{error}");
    locking.commit()?;
    assert_eq!(db.promptly(&topic, 1)?.len(), 1);
    db.until_state("idle")?;
    Ok(())
}
