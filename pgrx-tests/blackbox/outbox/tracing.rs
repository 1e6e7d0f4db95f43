//! What a session adds to the headers of its events: its trace, and its transaction.

use event_outbox_lab::{Record, Result, wait};
use postgres::error::SqlState;

use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::roles::create_emitter;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const OTHER: &str = "00-11111111111111111111111111111111-2222222222222222-00";

fn trace(record: &Record) -> [Option<&str>; 2] {
    ["traceparent", "tracestate"].map(|name| record.header(name))
}

/// Each way of storing an event.
fn emit_in_each_way(db: &mut TestDatabase, topic: &str) -> Result<()> {
    db.client.batch_execute(&format!(
        "SELECT outbox.emit('{topic}', '1', 'k');
         SELECT outbox.emit_bytes('{topic}', '2', 'k', headers => '{{\"a\": \"1\"}}');
         SELECT outbox.try_emit('s', '{topic}', '3', 'k');
         INSERT INTO outbox.events (topic, key, payload, headers) VALUES ('{topic}', 'k', '4', ' {{ }} ')"
    ))?;
    Ok(())
}

#[test]
fn a_transactions_trace_is_that_of_its_events() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("trace")?;
    db.client.batch_execute(&format!(
        "BEGIN; SET LOCAL event_outbox.traceparent = '{PARENT}'; SET LOCAL event_outbox.tracestate = 'a=\"x\\y\",b=2'"
    ))?;
    emit_in_each_way(&mut db, &topic)?;
    db.client.batch_execute("COMMIT")?;
    emit_in_each_way(&mut db, &topic)?;
    let records = db.drained(&topic)?;
    let with: Vec<_> = records.iter().map(trace).collect();
    // try_emit() stores a message once.
    assert_eq!(with[..4], [[Some(PARENT), Some("a=\"x\\y\",b=2")]; 4]);
    assert_eq!(with[4..], [[None, None]; 3]);
    assert_eq!(records[1].header("a"), Some("1"));
    // A receiver goes on with the trace.
    db.client.execute("SELECT inbox.subscribe('s', ARRAY[$1], 'earliest')", &[&topic])?;
    let received: String = wait::until_ok("the events", DEADLINE, || {
        let sql = "SELECT headers ->> 'traceparent' FROM inbox.receive('s') ORDER BY position LIMIT 1";
        Ok(db.client.query_opt(sql, &[])?.map(|row| row.get(0)))
    })?;
    assert_eq!(received, PARENT);
    Ok(())
}

#[test]
fn a_trace_can_be_passed_with_an_event() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("passed")?;
    db.client.batch_execute(&format!(
        "SET event_outbox.traceparent = '{PARENT}'; SET event_outbox.tracestate = 'a=1'"
    ))?;
    for (payload, call) in [
        ("1", format!("emit('{topic}', '1', traceparent => '{OTHER}', tracestate => 'b=2')")),
        ("2", format!("emit('{topic}', '2'::json, 7, traceparent => '{OTHER}'::varchar)")),
        (
            "3",
            format!(
                "emit_bytes('{topic}', '3', 'k'::text, traceparent => '{OTHER}'::text, tracestate => '')"
            ),
        ),
        ("4", format!("emit_bytes('{topic}', '4', traceparent => NULL)")),
        (
            "5",
            format!(
                "emit('{topic}', '5', headers => '{{\"traceparent\": \"x\"}}', traceparent => '{OTHER}')"
            ),
        ),
        // A state without a parent is not another trace's.
        ("6", format!("emit('{topic}', '6', tracestate => 'b=2')")),
    ] {
        db.client
            .batch_execute(&format!("SELECT outbox.{call}"))
            .map_err(|error| anyhow::anyhow!("{payload}: {error}"))?;
    }
    let records = db.drained(&topic)?;
    let found: Vec<_> = records.iter().map(trace).collect();
    let session = [Some(PARENT), Some("a=1")];
    assert_eq!(
        found,
        [
            [Some(OTHER), Some("b=2")],
            [Some(OTHER), None],
            [Some(OTHER), None],
            session,
            [Some("x"), None],
            session
        ]
    );
    for wrong in ["traceparent => 'x'", "traceparent => ''", "tracestate => 'a'"] {
        let error =
            db.client.batch_execute(&format!("SELECT outbox.emit('{topic}', '1', {wrong})")).unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::INVALID_PARAMETER_VALUE), "{wrong}");
    }
    Ok(())
}

#[test]
fn a_captured_change_is_a_part_of_its_transactions_trace() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("captured")?;
    db.client.batch_execute(&format!(
        "CREATE TABLE things (id int PRIMARY KEY); SELECT outbox.capture('things', 'notification', topic => '{topic}');
         SELECT outbox.sequence_topic('{topic}'); SET event_outbox.transaction_headers = on;
         BEGIN; SET LOCAL event_outbox.traceparent = '{PARENT}'; INSERT INTO things VALUES (1), (2); DELETE FROM things; COMMIT"
    ))?;
    let records = db.drained(&topic)?;
    assert_eq!(records.len(), 4);
    for (place, record) in records.iter().enumerate() {
        assert_eq!(trace(record), [Some(PARENT), None]);
        assert_eq!(record.header("outbox_transaction_order"), Some(&*(place + 1).to_string()));
        assert_eq!(record.header("outbox_seq"), Some(if place < 2 { "1" } else { "2" }));
    }
    Ok(())
}

#[test]
fn an_authors_trace_is_kept_whole() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("own_trace")?;
    db.client.batch_execute(&format!(
        "SET event_outbox.traceparent = '{PARENT}'; SET event_outbox.tracestate = 'a=1';
         SELECT outbox.emit('{topic}', '1', headers => '{{\"TraceParent\": \"{OTHER}\"}}');
         SELECT outbox.emit('{topic}', '2', headers => '{{\"tracestate\": \"b=2\"}}');
         RESET event_outbox.traceparent;
         SELECT outbox.emit('{topic}', '3')"
    ))?;
    let records = db.drained(&topic)?;
    assert_eq!(records[0].header("TraceParent"), Some(OTHER));
    assert_eq!(trace(&records[0]), [None, None]);
    assert_eq!(trace(&records[1]), [None, Some("b=2")]);
    // A state without a parent says nothing.
    assert_eq!(trace(&records[2]), [None, None]);
    Ok(())
}

#[test]
fn what_is_no_trace_is_refused_and_anybody_may_set_one() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let user = create_emitter(&mut db, "tracer")?;
    let mut session = db.connect_as(&user)?;
    session.batch_execute(&format!(
        "SET event_outbox.traceparent = '{PARENT}'; SET event_outbox.tracestate = ''"
    ))?;
    for (setting, wrong) in [
        ("traceparent", "x"),
        ("traceparent", "00-00000000000000000000000000000000-00f067aa0ba902b7-01"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\", \"x\": \"y"),
        ("tracestate", "a"),
        ("tracestate", "a=1,a=2"),
    ] {
        let error = session.batch_execute(&format!("SET event_outbox.{setting} = '{wrong}'")).unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::INVALID_PARAMETER_VALUE), "{wrong}");
        assert!(error.as_db_error().is_some_and(|error| error.detail().is_some()), "{wrong}");
    }
    let error = session.batch_execute("SET event_outbox.transaction_headers = on").unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
    Ok(())
}

#[test]
fn events_say_which_transaction_they_are_a_part_of() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("transaction")?;
    db.client.batch_execute("SET event_outbox.transaction_headers = on; BEGIN")?;
    let id: String = db.client.query_one("SELECT pg_current_xact_id()::text", &[])?.get(0);
    emit_in_each_way(&mut db, &topic)?;
    db.client.batch_execute("SAVEPOINT s")?;
    db.client.execute("SELECT outbox.emit($1, '5', 'k')", &[&topic])?;
    db.client.batch_execute("ROLLBACK TO s")?;
    db.client.execute(
        "SELECT outbox.emit($1, '6', 'k', headers => '{\"outbox_transaction_id\": \"1\"}')",
        &[&topic],
    )?;
    db.client.execute("SELECT outbox.emit($1, '7', 'k')", &[&topic])?;
    db.client.batch_execute("COMMIT")?;
    db.client.execute("SELECT outbox.emit($1, '8', 'k')", &[&topic])?;
    let records = db.drained(&topic)?;
    let found: Vec<_> = records
        .iter()
        .map(|record| {
            ["outbox_transaction_id", "outbox_transaction_order"]
                .map(|name| record.header(name).map(str::to_owned))
        })
        .collect();
    // What was rolled back leaves a gap in the order.
    for (place, order) in [(0, "1"), (1, "2"), (2, "3"), (3, "4"), (5, "6")] {
        assert_eq!(found[place], [Some(id.clone()), Some(order.into())]);
    }
    assert_eq!(found[4], [Some("1".into()), None]);
    assert!(found[6][0] > Some(id) && found[6][1].as_deref() == Some("1"));
    Ok(())
}

/// The table is not as the extension created it, so events are inserted in SQL, where the trigger sees them again.
#[test]
fn nothing_is_added_twice() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("once")?;
    db.client.batch_execute(&format!(
        "ALTER TABLE outbox.events ADD COLUMN mine int;
         SELECT outbox.sequence_topic('{topic}');
         SET event_outbox.transaction_headers = on; SET event_outbox.traceparent = '{PARENT}'"
    ))?;
    for _ in 0..2 {
        db.client.execute("SELECT outbox.emit($1, '1', 'k')", &[&topic])?;
    }
    for (place, record) in db.drained(&topic)?.iter().enumerate() {
        let own: Vec<_> = record
            .headers
            .iter()
            .map(|(name, _)| name.as_str())
            .filter(|name| !name.starts_with("ce_"))
            .collect();
        assert_eq!(
            own,
            [
                "content-type",
                "traceparent",
                "outbox_transaction_id",
                "outbox_transaction_order",
                "outbox_seq"
            ]
        );
        assert_eq!(record.header("outbox_transaction_order"), Some("1"));
        assert_eq!(record.header("outbox_seq"), Some(&*(place + 1).to_string()));
    }
    Ok(())
}
