//! `try_emit()`: messages that arrive repeatedly, from several sessions at once, and may be invalid.

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::thread;

use event_outbox_lab::Result;
use postgres::error::SqlState;
use postgres::{Client, GenericClient};
use uuid::Uuid;

use crate::support::database::TestDatabase;

const SESSIONS: usize = 6;
const MESSAGES: i32 = 150;

/// The result of `try_emit`.
#[derive(Debug, PartialEq)]
struct Answer {
    status: String,
    attempt: i32,
    event_id: Option<Uuid>,
    error: Option<String>,
}

fn try_emit(client: &mut impl GenericClient, source: &str, topic: &str, payload: &str) -> Result<Answer> {
    let row =
        client.query_one("SELECT * FROM outbox.try_emit($1, $2, $3::text)", &[&source, &topic, &payload])?;
    Ok(Answer {
        status: row.get("status"),
        attempt: row.get("attempt"),
        event_id: row.get("event_id"),
        error: row.get("error"),
    })
}

fn statuses(client: &mut Client) -> Result<Vec<(String, String)>> {
    let rows = client.query("SELECT source_id, status FROM outbox.intake ORDER BY source_id", &[])?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

#[test]
fn a_message_brought_by_many_sessions_is_stored_once() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("once");
    let begin = Barrier::new(SESSIONS);
    let clients: Vec<_> = (0..SESSIONS).map(|_| db.connect()).collect::<Result<_>>()?;
    let session = |at: usize, mut client: Client| -> Result<Vec<Answer>> {
        begin.wait();
        (0..MESSAGES)
            .map(|n| {
                // Every third transaction is rolled back, and its message is not stored.
                let mut transaction = client.transaction()?;
                let answer = try_emit(&mut transaction, &format!("m{n}"), &topic, &n.to_string())?;
                if at > 0 && (at + n as usize).is_multiple_of(3) {
                    transaction.rollback()?;
                    return Ok(Answer { status: "rolled back".into(), ..answer });
                }
                transaction.commit()?;
                Ok(answer)
            })
            .collect()
    };
    let answers: Vec<Vec<Answer>> = thread::scope(|scope| {
        let session = &session;
        let threads: Vec<_> =
            (0..).zip(clients).map(|(at, client)| scope.spawn(move || session(at, client))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a session panicked")).collect::<Result<_>>()
    })?;
    let mut stored = BTreeSet::new();
    for n in 0..MESSAGES as usize {
        let of_message = || answers.iter().map(|answers| &answers[n]);
        let ids: Vec<_> =
            of_message().filter(|answer| answer.status == "stored").map(|a| a.event_id).collect();
        assert_eq!(ids.len(), 1, "message {n}: {:?}", of_message().collect::<Vec<_>>());
        // All other calls return the same event.
        for answer in of_message().filter(|answer| answer.status == "duplicate") {
            assert_eq!((answer.event_id, answer.attempt), (ids[0], 1));
        }
        stored.extend(ids[0].map(|id| id.to_string()));
    }
    let records = db.drained(&topic)?;
    let arrived: BTreeSet<_> = records.iter().filter_map(|r| r.header("ce_id")).map(str::to_owned).collect();
    assert_eq!((records.len(), arrived), (MESSAGES as usize, stored));
    Ok(())
}

#[test]
fn the_transaction_goes_on_and_commits() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("goes.on");
    let mut transaction = db.client.transaction()?;
    transaction.batch_execute("CREATE TABLE work (n int); INSERT INTO work VALUES (1)")?;
    assert_eq!(try_emit(&mut transaction, "good", &topic, "1")?.status, "stored");
    for (source, topic, payload) in [
        ("no json", &*topic, "{"),
        ("no topic", "a b", "1"),
        ("nul", &*topic, r#""\u0000""#),
        ("deep", &*topic, &"[".repeat(100_000)),
    ] {
        let answer = try_emit(&mut transaction, source, topic, payload)?;
        assert_eq!((&*answer.status, answer.attempt, answer.event_id), ("invalid", 1, None), "{source}");
        assert!(answer.error.is_some_and(|error| !error.is_empty()), "{source}");
    }
    transaction.execute("INSERT INTO work VALUES (2)", &[])?;
    assert_eq!(try_emit(&mut transaction, "better", &topic, "2")?.status, "stored");
    assert_eq!(try_emit(&mut transaction, "good", &topic, "1")?.status, "duplicate");
    transaction.commit()?;
    assert_eq!(db.drained_values(&topic)?, ["1", "2"]);
    let work: i64 = db.client.query_one("SELECT count(*) FROM work", &[])?.get(0);
    assert_eq!(work, 2);
    let expected = ["better", "deep", "good", "no json", "no topic", "nul"];
    let found = statuses(&mut db.client)?;
    assert_eq!(found.iter().map(|(source, _)| &**source).collect::<Vec<_>>(), expected);
    assert_eq!(found.iter().filter(|(_, status)| status == "stored").count(), 2);
    Ok(())
}

#[test]
fn an_invalid_message_is_rejected_at_last_and_a_fixed_one_is_stored() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("patience");
    for attempt in 1..=2 {
        let answer = try_emit(&mut db.client, "bad", &topic, "{")?;
        assert_eq!((&*answer.status, answer.attempt), ("invalid", attempt));
    }
    let rejected = try_emit(&mut db.client, "bad", &topic, "{")?;
    assert_eq!((&*rejected.status, rejected.attempt, rejected.event_id), ("rejected", 3, None));
    // It is not examined again, whatever it contains now.
    assert_eq!(try_emit(&mut db.client, "bad", &topic, "1")?, rejected);

    try_emit(&mut db.client, "fixed", &topic, "{")?;
    let stored = try_emit(&mut db.client, "fixed", &topic, "2")?;
    assert_eq!((&*stored.status, stored.attempt, &stored.error), ("stored", 2, &None));
    let again = try_emit(&mut db.client, "fixed", &topic, "3")?;
    assert_eq!((&*again.status, again.event_id), ("duplicate", stored.event_id));
    assert_eq!(db.drained_values(&topic)?, ["2"]);
    Ok(())
}

#[test]
fn the_right_to_try_is_enough_and_gives_no_other() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("granted");
    let [taker, emitter] = ["taker", "emitter"].map(|role| format!("{role}_{}", db.database));
    for (role, function) in [
        (&taker, "try_emit(text, text, text, text, text, jsonb, uuid, int)"),
        (&emitter, "emit(text, jsonb, text, text, jsonb, uuid, int)"),
    ] {
        db.client.batch_execute(&format!(
            "CREATE ROLE {role} LOGIN;
             GRANT USAGE ON SCHEMA outbox TO {role};
             GRANT EXECUTE ON FUNCTION outbox.{function} TO {role}"
        ))?;
    }
    let mut client = db.connect_as(&taker)?;
    assert_eq!(try_emit(&mut client, "1", &topic, "1")?.status, "stored");
    assert_eq!(try_emit(&mut client, "1", &topic, "1")?.status, "duplicate");
    assert_eq!(try_emit(&mut client, "2", &topic, "{")?.status, "invalid");
    for sql in [
        "SELECT FROM outbox.intake",
        "DELETE FROM outbox.intake",
        "SELECT FROM outbox.events",
        "SELECT outbox.emit('t', '1')",
        "SELECT outbox.try_emit('3', 't', '1'::jsonb)",
    ] {
        let error = client.batch_execute(sql).expect_err(sql);
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{sql}: {error:?}");
    }
    let error = db.connect_as(&emitter)?.batch_execute("SELECT outbox.try_emit('3', 't', '1'::text)");
    let error = error.expect_err("emit gives try_emit");
    assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{error:?}");
    // The other form, for JSON, needs a privilege of its own.
    db.client.batch_execute(&format!(
        "REVOKE ALL ON FUNCTION outbox.try_emit(text, text, text, text, text, jsonb, uuid, int) FROM {taker};
         GRANT EXECUTE ON FUNCTION outbox.try_emit(text, text, jsonb, text, text, jsonb, uuid, int) TO {taker}"
    ))?;
    let row = client.query_one("SELECT status FROM outbox.try_emit('3', $1, '3'::jsonb)", &[&topic])?;
    assert_eq!(row.get::<_, &str>(0), "stored");
    assert_eq!(db.drained_values(&topic)?, ["1", "3"]);
    Ok(())
}

/// No name of a message can abort the transaction.
#[test]
fn a_source_id_of_any_length_is_answered() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("long");
    let sql = "SELECT string_agg(md5(n::text), '') FROM generate_series(1, 1000) AS n";
    let long: String = db.client.query_one(sql, &[])?.get(0);
    let mut transaction = db.client.transaction()?;
    try_emit(&mut transaction, &long, &topic, "1")?;
    assert_eq!(try_emit(&mut transaction, "short", &topic, "2")?.status, "stored");
    transaction.commit()?;
    Ok(())
}
