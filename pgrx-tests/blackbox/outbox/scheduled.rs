//! `deliver_at`: events for later are published at their time, can be cancelled until then, and are in nobody's way.

use std::time::Duration;

use event_outbox_lab::{Cluster, Consumer, Record, Result, StopMode, wait};
use postgres::Client;
use postgres::error::SqlState;

use crate::support::database::{DEADLINE, PROMPTLY, TestDatabase, values};
use crate::support::dead_letters::dead;
use crate::support::dump::{dump, restore, restore_in_parallel};
use crate::support::events::pending_count;
use crate::support::relay::{status, until_drained, until_idle};
use crate::support::roles::{create_emitter, create_role};
use crate::support::server::DedicatedServer;
use crate::support::topic_grants::{code_of, grant};

/// How late an event may be published. Promised are 100 ms; the machine of a test may be busy.
const LATE: f64 = 0.1;

fn scheduled(client: &mut Client) -> Result<i64> {
    Ok(client.query_one("SELECT scheduled FROM outbox.scheduled_events", &[])?.get(0))
}

fn until_moved(client: &mut Client) -> Result<()> {
    wait::until_ok("nothing to be scheduled any more", DEADLINE, || {
        Ok((scheduled(client)? == 0).then_some(()))
    })?;
    until_drained(client)
}

fn seconds(record: &Record) -> f64 {
    record.timestamp_ms.unwrap_or_default() as f64 / 1000.0
}

/// Emits a number that is due after so many seconds.
fn emit_later(client: &mut Client, topic: &str, number: i32, seconds: f64) -> Result<()> {
    let sql = "SELECT outbox.emit($1::text, to_jsonb($2::int), key => 'k',
                                  deliver_at => clock_timestamp() + make_interval(secs => $3))";
    client.execute(sql, &[&topic, &number, &seconds])?;
    Ok(())
}

#[test]
fn an_event_is_published_at_its_time_and_present_ones_before_it() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("later")?;
    until_idle(&mut db.client)?;
    emit_later(&mut db.client, &topic, 1, 3.0)?;
    emit_later(&mut db.client, &topic, 2, 1.5)?;
    db.client.execute("SELECT outbox.emit($1::text, '0', key => 'k')", &[&topic])?;
    assert_eq!(values(&db.promptly(&topic, 1)?), ["0"]);
    assert_eq!(scheduled(&mut db.client)?, 2);
    let records = db.promptly(&topic, 3)?;
    assert_eq!(values(&records), ["0", "2", "1"]);
    until_moved(&mut db.client)?;
    // The record's time is the event's: it is the date at which it was due.
    let row = db.client.query_one("SELECT extract(epoch FROM clock_timestamp())::float8", &[])?;
    let now: f64 = row.get(0);
    let times: Vec<f64> = records.iter().map(seconds).collect();
    assert!(times[1] - times[0] > 1.0 && times[2] - times[1] > 1.0 && times[2] <= now + 0.01, "{times:?}");
    Ok(())
}

/// When Kafka acknowledged, by the log's append time.
#[test]
fn it_is_late_by_no_more_than_a_tenth_of_a_second() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("punctual");
    db.broker.create_topic(&topic, 1, &[("message.timestamp.type", "LogAppendTime")])?;
    db.client.execute("SELECT outbox.emit($1::text, '0', key => 'k')", &[&topic])?;
    until_drained(&mut db.client)?;
    let sql = "SELECT outbox.emit($1::text, to_jsonb(extract(epoch FROM due)::float8), key => n::text, deliver_at => due)
                 FROM generate_series(1, 20) AS n,
                      LATERAL (SELECT clock_timestamp() + make_interval(secs => 0.5 + n * 0.11) AS due) AS at";
    db.client.execute(sql, &[&topic])?;
    let records = db.promptly(&topic, 21)?;
    let late = |record: &Record| -> Option<f64> {
        let due: f64 = record.value_text()?.parse().ok()?;
        Some(seconds(record) - due)
    };
    let mut lateness: Vec<f64> = records.iter().skip(1).filter_map(late).collect();
    lateness.sort_by(f64::total_cmp);
    assert_eq!(lateness.len(), 20);
    // Kafka's clock has milliseconds. None is early; a busy machine may make a few late.
    assert!(lateness[0] > -0.002 && lateness[15] < LATE, "{lateness:?}");
    Ok(())
}

#[test]
fn a_date_that_has_passed_is_now_and_an_infinite_one_is_refused() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    for date in ["now() - interval '1 year'", "NULL", "now()"] {
        db.client.batch_execute(&format!("SELECT outbox.emit('t', '1', deliver_at => {date})"))?;
        db.client.batch_execute(&format!("SELECT outbox.emit_bytes('t', 'x', deliver_at => {date})"))?;
    }
    assert_eq!((pending_count(&mut db.client)?, scheduled(&mut db.client)?), (6, 0));
    for date in ["'infinity'", "'-infinity'", "'10000-01-01'", "'1969-12-31'"] {
        for call in ["emit('t', '1'", "emit_bytes('t', 'x'"] {
            let code = code_of(&mut db.client, &format!("SELECT outbox.{call}, deliver_at => {date})"));
            assert_eq!(code, SqlState::DATETIME_FIELD_OVERFLOW, "{call} {date}");
        }
    }
    // What is wrong with an event is told at once, not when it is due.
    for (call, code) in [
        ("emit('or ders', '1'", SqlState::INVALID_NAME),
        ("emit('t', NULL", SqlState::NULL_VALUE_NOT_ALLOWED),
        ("emit('t', '1', headers => '[]'", SqlState::INVALID_PARAMETER_VALUE),
        ("emit('t', '1', partition => -1", SqlState::INVALID_PARAMETER_VALUE),
        ("emit_bytes('t', repeat('x', 1000001)::bytea", SqlState::PROGRAM_LIMIT_EXCEEDED),
    ] {
        let sql = format!("SELECT outbox.{call}, deliver_at => '9999-12-31')");
        assert_eq!(code_of(&mut db.client, &sql), code, "{sql}");
    }
    assert_eq!(scheduled(&mut db.client)?, 0);
    Ok(())
}

#[test]
fn all_of_the_event_arrives() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("whole")?;
    let soon = "deliver_at => clock_timestamp() + interval '0.3 s'";
    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    let returned: String = db
        .client
        .query_one(
            &format!(
                r#"SELECT outbox.emit($1::text, '{{"a": 1}}', key => 7::bigint, event_type => 'e', headers => '{{"h": [1, null]}}',
                                      event_id => '{id}', partition => 0, {soon})::text"#
            ),
            &[&topic],
        )?
        .get(0);
    assert_eq!(returned, id);
    db.client.execute(
        &format!(
            r"SELECT outbox.emit_bytes($1::text, '\x00ff', key => '\x01', content_type => 'x/y', {soon})"
        ),
        &[&topic],
    )?;
    let records = db.promptly(&topic, 2)?;
    let [first, second] = &records[..] else { panic!("{records:?}") };
    assert_eq!((first.value_text(), first.key.as_deref()), (Some("{\"a\":1}"), Some(&b"7"[..])));
    let headers = ["ce_id", "ce_type", "content-type", "h"].map(|name| first.header(name));
    assert_eq!(headers[..3], [Some(id), Some("e"), Some("application/json")]);
    assert_eq!(
        (second.value.as_deref(), second.key.as_deref()),
        (Some(&b"\x00\xff"[..]), Some(&b"\x01"[..]))
    );
    assert_eq!(second.header("content-type"), Some("x/y"));
    Ok(())
}

#[test]
fn it_is_a_part_of_its_transaction() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("transaction")?;
    until_idle(&mut db.client)?;
    let mut undone = db.client.transaction()?;
    undone.execute("SELECT outbox.emit($1::text, '1', deliver_at => now() + interval '0.1 s')", &[&topic])?;
    undone.rollback()?;
    // Due before its transaction commits, while the relay already sleeps until a later date.
    emit_later(&mut db.client, &topic, 9, 4.0)?;
    let mut slow = db.connect()?;
    let mut transaction = slow.transaction()?;
    transaction
        .execute("SELECT outbox.emit($1::text, '2', deliver_at => now() + interval '0.1 s')", &[&topic])?;
    transaction.execute("SELECT pg_sleep(1)", &[])?;
    transaction.commit()?;
    assert_eq!(values(&db.promptly(&topic, 2)?), ["2", "9"]);
    Ok(())
}

/// No callback of the session that prepared it runs at COMMIT PREPARED.
#[test]
fn a_prepared_transaction_counts_from_its_commit() -> Result<()> {
    let dedicated = DedicatedServer::with(
        Cluster::options("schedule").set("max_prepared_transactions", 2),
        &event_outbox_lab::Broker::shared()?.bootstrap_servers(),
    )?;
    let mut client = dedicated.connect()?;
    event_outbox_lab::Broker::shared()?.create_topic("schedule.prepared", 1, &[])?;
    until_idle(&mut client)?;
    client.batch_execute(
        "BEGIN; SELECT outbox.emit('schedule.prepared', '1', deliver_at => now() + interval '0.5 s');
         PREPARE TRANSACTION 'later'",
    )?;
    client.batch_execute("COMMIT PREPARED 'later'")?;
    let mut consumer =
        Consumer::new(&event_outbox_lab::Broker::shared()?.bootstrap_servers(), &["schedule.prepared"])?;
    assert_eq!(values(consumer.read_until(1, PROMPTLY)?), ["1"]);
    until_moved(&mut client)
}

#[test]
fn an_event_can_be_cancelled_until_it_is_on_its_way() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("cancelled")?;
    let emit = "SELECT outbox.emit($1::text, '1', deliver_at => clock_timestamp() + make_interval(secs => $2))::text";
    let cancel = |client: &mut Client, id: &str| -> Result<bool> {
        Ok(client.query_one("SELECT outbox.cancel($1::text::uuid)", &[&id])?.get(0))
    };
    let id: String = db.client.query_one(emit, &[&topic, &3600.0])?.get(0);
    assert!(cancel(&mut db.client, &id)?);
    assert!(!cancel(&mut db.client, &id)?, "cancelled twice");
    // A cancellation that is rolled back leaves the event as it was, also if it was due meanwhile.
    let id: String = db.client.query_one(emit, &[&topic, &0.5])?.get(0);
    let mut other = db.connect()?;
    let mut undone = other.transaction()?;
    assert!(undone.query_one("SELECT outbox.cancel($1::text::uuid)", &[&id])?.get::<_, bool>(0));
    db.client.execute("SELECT pg_sleep(1)", &[])?;
    // Others that are due are not held up.
    emit_later(&mut db.client, &topic, 5, 0.1)?;
    assert_eq!(values(&db.promptly(&topic, 1)?), ["5"]);
    undone.rollback()?;
    assert_eq!(values(&db.promptly(&topic, 2)?), ["5", "1"]);
    until_moved(&mut db.client)?;
    assert!(!cancel(&mut db.client, &id)?, "it was published");
    Ok(())
}

#[test]
fn it_takes_the_rights_that_emit_takes() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let nobody = create_role(&mut db, "nobody", "")?;
    let shop = create_emitter(&mut db, "shop")?;
    let other = create_emitter(&mut db, "other")?;
    let later = "deliver_at => now() + interval '1 h'";
    let mut client = db.connect_as(&nobody)?;
    for call in [
        format!("emit('t', '1', {later})"),
        format!("emit('t', '1'::jsonb, key => 7, {later})"),
        format!("emit_bytes('t', 'x', {later})"),
        "emit('t'::outbox.topic_name, '1'::jsonb)".into(),
        "cancel(outbox.uuid_v7())".into(),
    ] {
        assert_eq!(
            code_of(&mut client, &format!("SELECT outbox.{call}")),
            SqlState::INSUFFICIENT_PRIVILEGE,
            "{call}"
        );
    }
    for sql in ["TABLE outbox.scheduled", "TABLE outbox.scheduled_events"] {
        assert_eq!(code_of(&mut client, sql), SqlState::INSUFFICIENT_PRIVILEGE, "{sql}");
    }
    grant(&mut db, &shop, "orders")?;
    grant(&mut db, &other, "users")?;
    let mut client = db.connect_as(&shop)?;
    let sql = format!("SELECT outbox.emit('orders', '1', {later})::text");
    let id: String = client.query_one(&sql, &[])?.get(0);
    client.batch_execute(&format!("SELECT outbox.emit_bytes('orders', 'x', {later})"))?;
    let refused = format!("SELECT outbox.emit('users', '1', {later})");
    assert_eq!(code_of(&mut client, &refused), SqlState::INSUFFICIENT_PRIVILEGE);
    assert_eq!(code_of(&mut client, "TABLE outbox.scheduled"), SqlState::INSUFFICIENT_PRIVILEGE);
    let cancel = format!("SELECT outbox.cancel('{id}')");
    assert_eq!(code_of(&mut db.connect_as(&other)?, &cancel), SqlState::INSUFFICIENT_PRIVILEGE);
    assert!(client.query_one(&cancel, &[])?.get::<_, bool>(0));
    assert_eq!(scheduled(&mut db.client)?, 1);
    // A hostile search path changes nothing.
    client.batch_execute(
        "CREATE TEMP TABLE scheduled (event_id uuid); SET search_path = pg_temp, outbox, pg_catalog",
    )?;
    client.batch_execute(&format!("SELECT emit('orders', '1', {later}); SELECT cancel(uuid_v7())"))?;
    assert_eq!(scheduled(&mut db.client)?, 2);
    Ok(())
}

/// A row that someone has put past the checks, or that a trigger on the events refuses.
#[test]
fn a_row_that_cannot_be_moved_is_a_dead_letter_and_holds_up_no_other() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("faulty")?;
    db.client.batch_execute(&format!(
        "BEGIN; SET LOCAL session_replication_role = replica;
         INSERT INTO outbox.scheduled (deliver_at, topic, payload) VALUES (now(), 'or ders', '1'), ('-infinity', '{topic}', '2');
         COMMIT;
         SELECT outbox.emit('{topic}', to_jsonb(n), deliver_at => clock_timestamp() + interval '0.2 s')
           FROM generate_series(1, 50) AS n"
    ))?;
    db.promptly(&topic, 50)?;
    until_moved(&mut db.client)?;
    let sql =
        "SELECT topic || ' ' || error_class || ' ' || attempts FROM outbox.dead_letters ORDER BY topic DESC";
    let rows = db.client.query(sql, &[])?;
    let kept: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(kept, ["or ders other 0".to_owned(), format!("{topic} other 0")]);
    assert_eq!(dead(&mut db.client)?.len(), 2);
    Ok(())
}

#[test]
fn a_restart_forgets_nothing() -> Result<()> {
    let broker = event_outbox_lab::Broker::shared()?;
    broker.create_topic("schedule.restart", 1, &[])?;
    let mut dedicated = DedicatedServer::start(&broker.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    until_idle(&mut client)?;
    emit_later(&mut client, "schedule.restart", 1, 2.0)?;
    emit_later(&mut client, "schedule.restart", 2, 3600.0)?;
    drop(client);
    dedicated.server.restart(StopMode::Immediate)?;
    let mut client = dedicated.connect()?;
    let mut consumer = Consumer::new(&broker.bootstrap_servers(), &["schedule.restart"])?;
    assert_eq!(values(consumer.read_until(1, DEADLINE)?), ["1"]);
    wait::until_ok("only the later one to be left", DEADLINE, || {
        Ok((scheduled(&mut client)? == 1).then_some(()))
    })
}

/// The relay of the restored database must not give out ids that events of the dump have.
#[test]
fn a_dump_contains_them_and_they_are_published_after_the_restore() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("dumped")?;
    db.configure("event_outbox.enabled", "off")?;
    db.client.query_one("SELECT outbox.pause()", &[])?;
    db.client
        .execute("SELECT outbox.emit($1::text, to_jsonb(n)) FROM generate_series(1, 5000) AS n", &[&topic])?;
    // Due when it is restored.
    db.client.execute(
        "SELECT outbox.emit($1::text, '0', deliver_at => clock_timestamp() + interval '4 s') FROM generate_series(1, 100)",
        &[&topic],
    )?;
    let dumped = dump(&db, &[])?;
    wait::until_ok("them to be due", DEADLINE, || Ok((scheduled(&mut db.client)? == 0).then_some(())))?;
    for in_parallel in [false, true] {
        let mut restored = TestDatabase::of(db.server.create_database()?)?;
        if in_parallel {
            restore_in_parallel(&dumped, db.server, &restored.database)?;
        } else {
            restore(&dumped, db.server, &restored.database, &[])?;
        }
        restored.until_state("paused")?;
        wait::until_ok("the due events to be moved", DEADLINE, || {
            let all = pending_count(&mut restored.client)?;
            Ok((all == 5100 && scheduled(&mut restored.client)? == 0).then_some(()))
        })?;
        assert_eq!(Consumer::read_all(&db.broker.bootstrap_servers(), &[&topic])?.len(), 0, "{in_parallel}");
    }
    Ok(())
}

#[test]
fn a_restarted_sequence_holds_nothing_up() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("restarted")?;
    db.client.execute("SELECT outbox.emit($1::text, '1')", &[&topic])?;
    until_drained(&mut db.client)?;
    emit_later(&mut db.client, &topic, 2, 1.5)?;
    db.client.batch_execute("TRUNCATE outbox.events RESTART IDENTITY")?;
    assert_eq!(values(&db.promptly(&topic, 2)?), ["1", "2"]);
    // Nor does it for a relay that has not seen it before, as long as nobody emits.
    emit_later(&mut db.client, &topic, 3, 1.5)?;
    db.client.batch_execute("TRUNCATE outbox.events RESTART IDENTITY")?;
    db.client.query_one("SELECT outbox.restart_relay()", &[])?;
    assert_eq!(values(&db.promptly(&topic, 3)?), ["1", "2", "3"]);
    Ok(())
}

/// The relay wakes for the next one only.
#[test]
fn those_that_wait_cost_the_relay_nothing() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("many")?;
    emit_later(&mut db.client, &topic, 1, 3600.0)?;
    until_idle(&mut db.client)?;
    wait::until_ok("the relay to fall asleep", DEADLINE, || {
        let before = status(&mut db.client)?.wakeups;
        db.client.execute("SELECT pg_sleep(0.3)", &[])?;
        Ok((status(&mut db.client)?.wakeups == before).then_some(()))
    })?;
    let before = status(&mut db.client)?.wakeups;
    // Later than the one that the relay knows: no commit wakes it.
    for _ in 0..20 {
        db.client.execute(
            "SELECT outbox.emit($1::text, to_jsonb(n), deliver_at => now() + interval '1 day') FROM generate_series(1, 1000) AS n",
            &[&topic],
        )?;
    }
    let woken = status(&mut db.client)?.wakeups - before;
    assert!(woken <= 2, "{woken} wake-ups");
    // Those that become due at once are moved in parts, and present events go between them.
    db.client.batch_execute("UPDATE outbox.scheduled SET deliver_at = clock_timestamp()")?;
    wait::until_ok("all to be published", Duration::from_secs(60), || {
        Ok((scheduled(&mut db.client)? == 0 && pending_count(&mut db.client)? == 0).then_some(()))
    })?;
    assert_eq!(db.drained(&topic)?.len(), 20_001);
    Ok(())
}
