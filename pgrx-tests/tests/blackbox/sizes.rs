//! Everything of an event that travels counts towards `event_outbox.max_event_bytes`, and what no request to Kafka can
//! carry keeps nobody else waiting.

use std::fs;

use event_outbox_tests::{Result, wait};
use postgres::Client;
use postgres::error::SqlState;

use crate::stage::{DEADLINE, Stage};

/// What a relay may use beyond what it uses when idle, by default.
const RELAY_MEMORY: u64 = 64 << 20;

/// Far more than any broker takes, and small as it is stored.
const HUGE: &str = "convert_to(repeat('x', 190000000), 'UTF8')";

/// The most memory of its own that a process ever had, in bytes: shared buffers do not count.
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
    let told = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error}"));
    (told.code().clone(), told.message().to_owned(), told.detail().unwrap_or_default().to_owned())
}

#[test]
fn every_part_counts_however_it_comes_in() -> Result<()> {
    let mut stage = Stage::new()?;
    stage.configure("event_outbox.enabled", "off")?;
    let long = "repeat('x', 999999)";
    // An array repeats its header's name for each element.
    let headers = "jsonb_build_object(repeat('n', 99999), array_fill(1, ARRAY[20]))";
    stage.client.batch_execute(&format!("SELECT outbox.emit('t', '1', key => {long})"))?;
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
        let (code, message, detail) = refusal(&mut stage.client, &format!("SELECT {call}"));
        assert_eq!((code, &*message), (SqlState::PROGRAM_LIMIT_EXCEEDED, "event is too large"), "{call}");
        assert_eq!(detail, format!("It has {found}. event_outbox.max_event_bytes is 1000000."));
    }
    for (column, value) in
        [("key", format!("convert_to({long}, 'UTF8') || '\\x00'")), ("event_type", format!("{long} || 'x'"))]
    {
        let sql = format!("INSERT INTO outbox.events (topic, payload, {column}) VALUES ('t', '1', {value})");
        let (code, message, _) = refusal(&mut stage.client, &sql);
        assert_eq!((code, &*message), (SqlState::PROGRAM_LIMIT_EXCEEDED, "event is too large"), "{column}");
    }
    let sql = format!("SELECT status, error FROM outbox.try_emit('m', 't', '1', key => {long} || 'x')");
    let row = stage.client.query_one(&sql, &[])?;
    assert_eq!((row.get(0), row.get(1)), ("invalid", Some("event is too large")));
    let stored: i64 = stage.client.query_one("SELECT count(*) FROM outbox.events", &[])?.get(0);
    assert_eq!(stored, 1);
    Ok(())
}

/// Rows that came in past the checks: by a restored dump, or as a replica.
#[test]
fn what_no_request_can_carry_dies_and_others_go_on() -> Result<()> {
    let mut stage = Stage::new()?;
    let (bad, good) = (stage.own_topic("bad")?, stage.own_topic("good")?);
    stage.configure("event_outbox.max_attempts", "2")?;
    stage.configure("event_outbox.retry_backoff", "10ms")?;
    stage.client.execute("SELECT outbox.emit($1, '1')", &[&good])?;
    stage.promptly(&good, 1)?;
    let relay = stage.relay()?;
    let before = own_peak(relay)?;
    let headers = "json_build_object(repeat('n', 10000), array_fill(1, ARRAY[20000]))";
    let mut transaction = stage.client.transaction()?;
    transaction.batch_execute("SET LOCAL session_replication_role = replica")?;
    for (column, value) in [("key", HUGE), ("payload", HUGE), ("headers", headers)] {
        let sql = format!("INSERT INTO outbox.events (topic, {column}) VALUES ($1, {value})");
        transaction.execute(&sql, &[&bad])?;
    }
    // Longer than what a notification can tell of.
    let sql = "INSERT INTO outbox.events (topic, payload) VALUES (repeat('x', 190000000), '1')";
    transaction.batch_execute(sql)?;
    // Behind one that waits, in its own key.
    for key in ["a", "b"] {
        let sql = format!(
            "INSERT INTO outbox.events (topic, key, payload) VALUES ($1, convert_to($2, 'UTF8'), {HUGE})"
        );
        transaction.execute(&sql, &[&good, &key])?;
        transaction.execute("SELECT outbox.emit($1, '2', key => $2)", &[&good, &key])?;
    }
    transaction.execute("SELECT outbox.emit($1, '3')", &[&good])?;
    transaction.commit()?;
    stage.promptly(&good, 4)?;
    let dead = wait::until_ok("six dead letters", DEADLINE, || {
        let sql = "SELECT length(topic), error_class, attempts, error FROM outbox.dead_letters ORDER BY id";
        let rows = stage.client.query(sql, &[])?;
        Ok((rows.len() == 6).then_some(rows))
    })?;
    for row in &dead {
        let (topic, class, attempts, error): (i32, String, i32, String) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        let (expected, told) =
            if topic > 249 { ("invalid_topic", "190000000") } else { ("too_large", "100000000") };
        assert_eq!((&*class, attempts), (expected, 2), "{error}");
        assert!(error.contains(told), "{error}");
    }
    let records = stage.drained(&good)?;
    let last = records.iter().filter(|record| record.key.is_some()).count();
    assert_eq!((records.len(), last), (4, 2));
    assert_eq!(stage.relay()?, relay, "the relay did not survive");
    let growth = own_peak(relay)?.saturating_sub(before);
    assert!(growth <= RELAY_MEMORY, "the relay took {} MiB", growth >> 20);
    Ok(())
}
