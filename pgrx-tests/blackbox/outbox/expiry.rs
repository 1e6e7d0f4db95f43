//! `expires_at`: an event that is not published in time is a dead letter.

use event_outbox_lab::{Consumer, Result, wait};
use postgres::Client;
use postgres::error::SqlState;
use postgres::fallible_iterator::FallibleIterator;

use crate::support::broker::FaultyBroker;
use crate::support::database::{DEADLINE, TestDatabase, values};
use crate::support::dead_letters::until_dead;
use crate::support::events::pending_count;
use crate::support::relay::{status, until_drained, until_idle, until_status};
use crate::support::server::DedicatedServer;
use crate::support::topic_grants::code_of;

/// The dead letters: payload, class, attempts, and whether the date is kept.
fn dead(client: &mut Client) -> Result<Vec<(String, String, i32, bool)>> {
    let sql = "SELECT outbox.readable(payload), error_class, attempts, expires_at <= last_refused_at
                 FROM outbox.dead_letters ORDER BY id";
    Ok(client.query(sql, &[])?.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect())
}

fn expired(payload: &str) -> (String, String, i32, bool) {
    (payload.into(), "expired".into(), 0, true)
}

#[test]
fn an_event_that_expired_is_kept_and_others_of_its_key_go_on() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("expired")?;
    db.configure("event_outbox.enabled", "off")?;
    let mut listener = db.connect()?;
    listener.batch_execute("LISTEN outbox_dead_letter")?;
    for (payload, date) in [
        (1, "NULL"),
        (2, "clock_timestamp() + interval '0.1 s'"),
        (3, "now() + interval '1 h'"),
        (4, "now() - interval '1 h'"),
        (5, "NULL"),
    ] {
        let sql =
            format!("SELECT outbox.emit($1::text, to_jsonb($2::int), key => 'k', expires_at => {date})");
        db.client.execute(&sql, &[&topic, &payload])?;
    }
    db.client.execute(
        "INSERT INTO outbox.events (topic, key, payload, expires_at) VALUES ($1, 'k', '6', now()), ($1, 'k', '7', NULL)",
        &[&topic],
    )?;
    db.client
        .execute("SELECT outbox.emit_bytes($1::text, '8', key => 'k', expires_at => now())", &[&topic])?;
    db.client.execute("SELECT pg_sleep(0.2)", &[])?;
    assert_eq!(pending_count(&mut db.client)?, 8);
    db.configure("event_outbox.enabled", "on")?;
    assert_eq!(db.drained_values(&topic)?, ["1", "3", "5", "7"]);
    assert_eq!(dead(&mut db.client)?, ["2", "4", "6", "8"].map(expired));
    let row = db
        .client
        .query_one("SELECT error_counts ->> 'expired', refused, last_error FROM outbox.status", &[])?;
    let seen: (Option<&str>, i64, Option<&str>) = (row.get(0), row.get(1), row.get(2));
    assert_eq!(seen, (Some("4"), 0, None));
    let mut notifications = listener.notifications();
    let heard = notifications.timeout_iter(DEADLINE).next()?;
    assert!(heard.is_some_and(|heard| heard.payload().contains("\"expired\"")));
    // Whoever redrives it wants it published.
    assert_eq!(db.client.query_one("SELECT outbox.redrive(topic => $1)", &[&topic])?.get::<_, i64>(0), 4);
    assert_eq!(db.drained_values(&topic)?, ["1", "3", "5", "7", "2", "4", "6", "8"]);
    Ok(())
}

#[test]
fn an_event_expires_while_kafka_is_away() -> Result<()> {
    let mut broker = FaultyBroker::take()?;
    broker.create_topic("expiry.outage", 1, &[])?;
    let dedicated = DedicatedServer::start(&broker.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    client.batch_execute(
        "SELECT outbox.emit('expiry.outage', '0', key => 'k', expires_at => now() + interval '1 h')",
    )?;
    until_drained(&mut client)?;
    until_idle(&mut client)?;
    broker.stop()?;
    until_status(&mut client, "the outage to be seen", |status| status.is_disconnected())?;
    for (payload, date) in [("1", "'2 s'"), ("2", "'1 h'"), ("4", "'3 s'")] {
        client.batch_execute(&format!(
            "SELECT outbox.emit('expiry.outage', '{payload}', key => '{payload}', expires_at => clock_timestamp() + interval {date})"
        ))?;
    }
    // Behind one that waits for Kafka.
    client.batch_execute("SELECT outbox.emit('expiry.outage', '3', key => '2')")?;
    // Before Kafka is back.
    assert_eq!(until_dead(&mut client, 2)?, ["1", "4"]);
    assert_eq!(dead(&mut client)?, ["1", "4"].map(expired));
    // The relay of a new process knows of no connection either.
    let (before, sql) = (status(&mut client)?.pid, "SELECT outbox.restart_relay()");
    client.query_one(sql, &[])?;
    until_status(&mut client, "another relay", |status| status.pid.is_some() && status.pid != before)?;
    client.batch_execute(
        "SELECT outbox.emit('expiry.outage', '5', key => 'k', expires_at => clock_timestamp() + interval '1 s')",
    )?;
    assert_eq!(until_dead(&mut client, 3)?, ["1", "4", "5"]);
    broker.start()?;
    wait::until_ok("the others to be published", DEADLINE * 2, || {
        Ok((pending_count(&mut client)? == 0).then_some(()))
    })?;
    let records = Consumer::read_all(&broker.bootstrap_servers(), &["expiry.outage"])?;
    assert_eq!(values(&records), ["0", "2", "3"]);
    Ok(())
}

#[test]
fn an_event_for_later_can_expire() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("both")?;
    for (payload, due, end) in [(1, "0.3 s", "1 h"), (2, "0.3 s", "0.300001 s")] {
        let sql = format!(
            "SELECT outbox.emit($1::text, to_jsonb($2::int), deliver_at => now() + interval '{due}', expires_at => now() + interval '{end}')"
        );
        db.client.execute(&sql, &[&topic, &payload])?;
    }
    assert_eq!(values(&db.promptly(&topic, 1)?), ["1"]);
    assert_eq!(until_dead(&mut db.client, 1)?, ["2"]);
    assert_eq!(dead(&mut db.client)?, [expired("2")]);
    for (dates, code) in [
        (
            "deliver_at => now() + interval '1 h', expires_at => now() + interval '1 h'",
            SqlState::INVALID_PARAMETER_VALUE,
        ),
        ("deliver_at => now() + interval '1 h', expires_at => now()", SqlState::INVALID_PARAMETER_VALUE),
        ("expires_at => 'infinity'", SqlState::DATETIME_FIELD_OVERFLOW),
        ("expires_at => '-infinity'", SqlState::DATETIME_FIELD_OVERFLOW),
    ] {
        assert_eq!(
            code_of(&mut db.client, &format!("SELECT outbox.emit('t', '1', {dates})")),
            code,
            "{dates}"
        );
    }
    Ok(())
}
