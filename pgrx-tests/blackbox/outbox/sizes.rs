//! All parts of an event count towards `event_outbox.max_event_bytes`, and an event too large for any request to Kafka
//! does not delay others.

use std::fs;

use event_outbox_lab::{Broker, Cluster, Result, wait};
use postgres::Client;
use postgres::error::SqlState;

use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::events::pending_count;
use crate::support::relay::{until_drained, until_idle, until_status};
use crate::support::server::DedicatedServer;

/// The default of `event_outbox.relay_memory`, over the idle size.
const RELAY_MEMORY: u64 = 64 << 20;

/// Far more than any broker accepts, but small when compressed.
const HUGE: &str = "convert_to(repeat('x', 190000000), 'UTF8')";

/// The peak private memory of a process, in bytes, without shared buffers.
fn own_peak(pid: i32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let figure = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    };
    Ok(figure("VmHWM:")?.saturating_sub(figure("RssShmem:")? + figure("RssFile:")?))
}

fn refusal(client: &mut Client, sql: &str) -> (SqlState, String, String) {
    let error = client.batch_execute(sql).expect_err(sql);
    let db_error = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error}"));
    (db_error.code().clone(), db_error.message().to_owned(), db_error.detail().unwrap_or_default().to_owned())
}

#[test]
fn every_part_counts_however_it_comes_in() -> Result<()> {
    let mut db = TestDatabase::new()?;
    db.configure("event_outbox.enabled", "off")?;
    let long = "repeat('x', 999999)";
    // A header with an array repeats its name for each element.
    let headers = "jsonb_build_object(repeat('n', 99999), array_fill(1, ARRAY[20]))";
    db.client.batch_execute(&format!("SELECT outbox.emit('t', '1', key => {long})"))?;
    let cases = [
        (format!("outbox.emit('t', '1', key => {long} || 'x')"), "1000001 bytes: payload 1, key 1000000"),
        (
            format!("outbox.emit('t', '1', event_type => {long} || 'x')"),
            "1000001 bytes: payload 1, type 1000000",
        ),
        (format!("outbox.emit('t', '1', headers => {headers})"), "2000081 bytes: payload 1, headers 2000080"),
        (
            format!("outbox.emit_bytes('t', '\\x00', key => {HUGE})"),
            "190000001 bytes: payload 1, key 190000000",
        ),
        (
            format!("outbox.emit_bytes('t', '\\x00', content_type => {long} || 'x')"),
            "1000001 bytes: payload 1, content type 1000000",
        ),
    ];
    for (call, found) in &cases {
        let (code, message, detail) = refusal(&mut db.client, &format!("SELECT {call}"));
        assert_eq!((code, &*message), (SqlState::PROGRAM_LIMIT_EXCEEDED, "event is too large"), "{call}");
        assert_eq!(detail, format!("It has {found}. event_outbox.max_event_bytes is 1000000."));
    }
    for (column, value) in
        [("key", format!("convert_to({long}, 'UTF8') || '\\x00'")), ("event_type", format!("{long} || 'x'"))]
    {
        let sql = format!("INSERT INTO outbox.events (topic, payload, {column}) VALUES ('t', '1', {value})");
        let (code, message, _) = refusal(&mut db.client, &sql);
        assert_eq!((code, &*message), (SqlState::PROGRAM_LIMIT_EXCEEDED, "event is too large"), "{column}");
    }
    let sql = format!("SELECT status, error FROM outbox.try_emit('m', 't', '1', key => {long} || 'x')");
    let row = db.client.query_one(&sql, &[])?;
    assert_eq!((row.get(0), row.get(1)), ("invalid", Some("event is too large")));
    let stored = pending_count(&mut db.client)?;
    assert_eq!(stored, 1);
    Ok(())
}

/// Rows that bypassed the checks: from a dump, or by replication.
#[test]
fn what_no_request_can_carry_dies_and_others_go_on() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let (bad, good) = (db.own_topic("bad")?, db.own_topic("good")?);
    db.configure("event_outbox.max_attempts", "2")?;
    db.configure("event_outbox.retry_backoff", "10ms")?;
    db.client.execute("SELECT outbox.emit($1, '1')", &[&good])?;
    db.promptly(&good, 1)?;
    let relay = db.relay()?;
    let before = own_peak(relay)?;
    let headers = "json_build_object(repeat('n', 10000), array_fill(1, ARRAY[20000]))";
    let mut transaction = db.client.transaction()?;
    transaction.batch_execute("SET LOCAL session_replication_role = replica")?;
    for (column, value) in [("key", HUGE), ("payload", HUGE), ("headers", headers)] {
        let sql = format!("INSERT INTO outbox.events (topic, {column}) VALUES ($1, {value})");
        transaction.execute(&sql, &[&bad])?;
    }
    // Longer than a notification can be.
    let sql = "INSERT INTO outbox.events (topic, payload) VALUES (repeat('x', 190000000), '1')";
    transaction.batch_execute(sql)?;
    // Behind a waiting event of the same key.
    for key in ["a", "b"] {
        let sql = format!(
            "INSERT INTO outbox.events (topic, key, payload) VALUES ($1, convert_to($2, 'UTF8'), {HUGE})"
        );
        transaction.execute(&sql, &[&good, &key])?;
        transaction.execute("SELECT outbox.emit($1, '2', key => $2)", &[&good, &key])?;
    }
    transaction.execute("SELECT outbox.emit($1, '3')", &[&good])?;
    transaction.commit()?;
    db.promptly(&good, 4)?;
    let dead = wait::until_ok("six dead letters", DEADLINE, || {
        let sql = "SELECT length(topic), error_class, attempts, error FROM outbox.dead_letters ORDER BY id";
        let rows = db.client.query(sql, &[])?;
        Ok((rows.len() == 6).then_some(rows))
    })?;
    for row in &dead {
        let (topic, class, attempts, error): (i32, String, i32, String) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        let (expected, text) =
            if topic > 249 { ("invalid_topic", "190000000") } else { ("too_large", "100000000") };
        assert_eq!((&*class, attempts), (expected, 2), "{error}");
        assert!(error.contains(text), "{error}");
    }
    let records = db.drained(&good)?;
    let last = records.iter().filter(|record| record.key.is_some()).count();
    assert_eq!((records.len(), last), (4, 2));
    assert_eq!(db.relay()?, relay, "the relay did not survive");
    let growth = own_peak(relay)?.saturating_sub(before);
    assert!(growth <= RELAY_MEMORY, "the relay took {} MiB", growth >> 20);
    Ok(())
}

/// Limits the memory of a server process to so much more than it has.
fn limit_memory(client: &mut Client, pid: i32, more: u64) -> Result<()> {
    let figure = fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages: u64 = figure.split(' ').next().unwrap_or_default().parse()?;
    let most = pages * 4096 + more;
    // As the server's user, who is allowed to.
    Ok(client.batch_execute(&format!(
        "COPY (SELECT) TO PROGRAM 'cat >/dev/null; prlimit --pid {pid} --as={most}:'"
    ))?)
}

/// A value for which no memory is left is an ERROR of its statement, and the server goes on.
#[test]
fn no_value_is_so_large_that_it_ends_the_server() -> Result<()> {
    const VALUES: &str = "CREATE TABLE v AS
        SELECT convert_to(repeat('x', 20000000), 'UTF8') || '\\x00' AS bytes,
               to_jsonb(repeat('x', 20000000)) AS text,
               jsonb_build_object('h', jsonb_build_object('o', repeat('x', 20000000))) AS headers,
               jsonb_build_object(repeat(chr(1), 4000000), 1) AS name;";
    let dedicated =
        DedicatedServer::with(Cluster::options("sizes").set("event_outbox.enabled", "off"), "127.0.0.1:1")?;
    let mut witness = dedicated.connect()?;
    witness.batch_execute(VALUES)?;
    let emit = |arguments: &str| {
        format!(
            "SET event_outbox.max_event_bytes = 100000000; SELECT outbox.emit_bytes('t', {arguments}) FROM v"
        )
    };
    let statements = [
        "SELECT length(outbox.readable(bytes)) FROM v".to_owned(),
        emit("bytes"),
        emit("'\\x00', key => bytes"),
        emit("'\\x00', headers => headers"),
        emit("'\\x00', headers => name"),
        "SET event_outbox.max_event_bytes = 100000000; SELECT outbox.emit('t', text) FROM v".into(),
        "SELECT outbox.emit('t', text) FROM v".into(),
        "SELECT outbox.try_emit('m', 't', text) FROM v".into(),
        "SET event_outbox.max_event_bytes = 100000000;
         INSERT INTO outbox.events (topic, payload, headers) SELECT 't', '1', headers::text::json FROM v"
            .into(),
        "INSERT INTO outbox.events (topic, payload) SELECT text::text, '1' FROM v".into(),
        "SELECT outbox.describe_topics(ARRAY[text::text]) FROM v".into(),
        "SELECT outbox.channel(text::text) FROM v".into(),
    ];
    let mut failed = 0;
    for sql in &statements {
        for tenths in [5, 15, 25, 40] {
            let mut client = dedicated.connect()?;
            client.batch_execute("SELECT outbox.emit('t', '1', headers => '{\"a\": 1}'), count(*) FROM v")?;
            let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[])?.get(0);
            limit_memory(&mut witness, pid, 20_000_000 * tenths / 10)?;
            if let Err(error) = client.batch_execute(sql) {
                let db_error = error.as_db_error();
                assert!(
                    db_error.is_some() && witness.batch_execute("SELECT").is_ok(),
                    "{sql}, {tenths}: {error}"
                );
                failed += 1;
            }
        }
    }
    assert!(failed > statements.len(), "only {failed} statements lacked memory");
    // The largest value is always too large.
    witness.batch_execute("UPDATE v SET bytes = convert_to(repeat('x', 600000000), 'UTF8') || '\\x00'")?;
    let (code, ..) = refusal(&mut witness, "SELECT length(outbox.readable(bytes)) FROM v");
    assert_eq!(code, SqlState::INTERNAL_ERROR, "invalid memory alloc request size");
    Ok(())
}

/// The relay waits with an event as long as there is no memory for it.
#[test]
fn an_event_waits_for_memory() -> Result<()> {
    let broker = Broker::shared()?;
    broker.create_topic("sizes.memory", 1, &[("max.message.bytes", "90000000")])?;
    let options = Cluster::options("sizes").set("event_outbox.max_event_bytes", 100_000_000);
    let dedicated = DedicatedServer::with(options, &broker.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    client.batch_execute("SELECT outbox.emit('sizes.memory', '1')")?;
    until_drained(&mut client)?;
    let relay = until_idle(&mut client)?;
    limit_memory(&mut client, relay, 100_000_000)?;
    client.batch_execute(
        "SELECT outbox.emit_bytes('sizes.memory', convert_to(repeat('x', 80000000), 'UTF8'))",
    )?;
    let status = until_status(&mut client, "the lack of memory", |status| status.state == "failing")?;
    assert!(status.error().contains("out of memory"), "{status:?}");
    client.batch_execute(&format!(
        "COPY (SELECT) TO PROGRAM 'cat >/dev/null; prlimit --pid {relay} --as=unlimited:'"
    ))?;
    until_drained(&mut client)?;
    assert_eq!(until_idle(&mut client)?, relay, "the relay did not survive");
    Ok(())
}
