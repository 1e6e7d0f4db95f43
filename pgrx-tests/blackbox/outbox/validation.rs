//! An event that Kafka could never accept is refused when it is stored, however it is stored.

use std::io::Write;

use event_outbox_lab::Result;
use postgres::Client;
use postgres::error::{DbError, SqlState};

use crate::support::database::TestDatabase;
use crate::support::events::pending_count;

/// An event and its fault.
struct Case {
    event: Event,
    code: SqlState,
    message: &'static str,
    detail: &'static str,
    hint: &'static str,
}

/// The parts of an event that can be invalid.
#[derive(Clone, Copy)]
struct Event {
    topic: Option<&'static str>,
    partition: Option<i32>,
    key: Option<&'static str>,
    payload: Option<&'static str>,
    headers: Option<&'static str>,
    event_type: Option<&'static str>,
}

const GOOD: Event = Event {
    topic: Some("orders"),
    partition: None,
    key: None,
    payload: Some("{}"),
    headers: None,
    event_type: None,
};

const TOPIC_HINT: &str =
    "Use 1 to 249 letters, digits, dots, underscores and hyphens, other than \".\" and \"..\".";
const OBJECT_HINT: &str = "Pass an object such as {\"trace\": \"7f\"}.";
const LONG: &str = match std::str::from_utf8(&[b'x'; 250]) {
    Ok(text) => text,
    Err(_) => "",
};

fn bad_topic(topic: &'static str, detail: &'static str) -> Case {
    Case {
        event: Event { topic: Some(topic), ..GOOD },
        code: SqlState::INVALID_NAME,
        message: "invalid event topic",
        detail,
        hint: TOPIC_HINT,
    }
}

fn bad_headers(headers: &'static str, message: &'static str, detail: &'static str) -> Case {
    Case {
        event: Event { headers: Some(headers), ..GOOD },
        code: SqlState::INVALID_PARAMETER_VALUE,
        message,
        detail,
        hint: OBJECT_HINT,
    }
}

fn reserved_header(headers: &'static str, message: &'static str) -> Case {
    Case {
        code: SqlState::RESERVED_NAME,
        hint: "Choose another name, or use the arguments event_id and event_type.",
        ..bad_headers(
            headers,
            message,
            "Names that begin with \"ce_\" are CloudEvents attributes, which the outbox writes itself.",
        )
    }
}

fn cases() -> Vec<Case> {
    const NOT_AN_OBJECT: (&str, &str) =
        ("event headers must be a JSON object", "Each member of the object becomes a record header.");
    vec![
        Case {
            event: Event { topic: None, ..GOOD },
            code: SqlState::NULL_VALUE_NOT_ALLOWED,
            message: "event topic must not be null",
            detail: "Every event goes to a Kafka topic.",
            hint: "Pass the name of the topic as the first argument.",
        },
        bad_topic("", "Kafka does not accept \"\" as a topic name."),
        bad_topic(".", "Kafka does not accept \".\" as a topic name."),
        bad_topic("..", "Kafka does not accept \"..\" as a topic name."),
        bad_topic("a b", "Kafka does not accept \"a b\" as a topic name."),
        bad_topic("a/b", "Kafka does not accept \"a/b\" as a topic name."),
        bad_topic("größe", "Kafka does not accept \"größe\" as a topic name."),
        bad_topic("漢字", "Kafka does not accept \"漢字\" as a topic name."),
        bad_topic(LONG, "The name has 250 bytes; Kafka allows 249."),
        Case {
            event: Event { partition: Some(-1), ..GOOD },
            code: SqlState::INVALID_PARAMETER_VALUE,
            message: "event partition must not be negative",
            detail: "The partition is -1.",
            hint: "Pass no partition to let the key choose one.",
        },
        Case {
            event: Event { payload: None, ..GOOD },
            code: SqlState::NULL_VALUE_NOT_ALLOWED,
            message: "event without a payload must have a key",
            detail: "A null payload is a tombstone: it tells Kafka to delete the records with the same key.",
            hint: "Pass a key, or a payload.",
        },
        Case {
            event: Event { event_type: Some(""), ..GOOD },
            code: SqlState::INVALID_PARAMETER_VALUE,
            message: "event type must not be empty",
            detail: "The CloudEvents attribute \"type\" must have at least one character.",
            hint: "Pass no event type to use the topic's name.",
        },
        bad_headers("[]", NOT_AN_OBJECT.0, NOT_AN_OBJECT.1),
        bad_headers("\"x\"", NOT_AN_OBJECT.0, NOT_AN_OBJECT.1),
        bad_headers("null", NOT_AN_OBJECT.0, NOT_AN_OBJECT.1),
        bad_headers(
            "{\"\": 1}",
            "event header names must not be empty",
            "A member of the headers object has an empty name.",
        ),
        reserved_header("{\"ce_id\": \"1\"}", "event header \"ce_id\" is reserved"),
        reserved_header("{\"CE_x\": \"1\"}", "event header \"CE_x\" is reserved"),
        Case {
            event: Event {
                payload: Some("\"123456789012345678901234567\""),
                headers: Some("{\"a\":1}"),
                ..GOOD
            },
            code: SqlState::PROGRAM_LIMIT_EXCEEDED,
            message: "event is too large",
            detail: "It has 36 bytes: payload 29, headers 7. event_outbox.max_event_bytes is 35.",
            hint: "Store the data elsewhere and emit a reference to it, or raise event_outbox.max_event_bytes \
                   together with the limits of the broker and topic.",
        },
    ]
}

fn by_emit(client: &mut Client, event: &Event) -> Result<(), postgres::Error> {
    let sql = "SELECT outbox.emit($1, $2::text::jsonb, $3, $4, $5::text::jsonb, NULL, $6)";
    client.execute(
        sql,
        &[&event.topic, &event.payload, &event.key, &event.event_type, &event.headers, &event.partition],
    )?;
    Ok(())
}

fn by_emit_bytes(client: &mut Client, event: &Event) -> Result<(), postgres::Error> {
    let sql = "SELECT outbox.emit_bytes($1, $2, $3, $4, $5::text::jsonb, NULL, $6)";
    let (payload, key) = (event.payload.map(str::as_bytes), event.key.map(str::as_bytes));
    client
        .execute(sql, &[&event.topic, &payload, &key, &event.event_type, &event.headers, &event.partition])?;
    Ok(())
}

fn by_insert(client: &mut Client, event: &Event) -> Result<(), postgres::Error> {
    let sql = "INSERT INTO outbox.events (topic, payload, key, event_type, headers, partition)
               VALUES ($1, $2, $3, $4, $5::text::json, $6)";
    let (payload, key) = (event.payload.map(str::as_bytes), event.key.map(str::as_bytes));
    client
        .execute(sql, &[&event.topic, &payload, &key, &event.event_type, &event.headers, &event.partition])?;
    Ok(())
}

fn by_copy(client: &mut Client, event: &Event) -> Result<(), postgres::Error> {
    let sql = "COPY outbox.events (topic, payload, key, event_type, headers, partition) FROM STDIN";
    let partition = event.partition.map(|partition| partition.to_string());
    let fields =
        [event.topic, event.payload, event.key, event.event_type, event.headers, partition.as_deref()];
    let mut copy = client.copy_in(sql)?;
    // A failed write means that the server has refused already; `finish` reports why.
    let _ = writeln!(copy, "{}", fields.map(|field| field.unwrap_or("\\N")).join("\t"));
    copy.finish()?;
    Ok(())
}

type Way = (&'static str, fn(&mut Client, &Event) -> Result<(), postgres::Error>);
const WAYS: [Way; 4] =
    [("emit", by_emit), ("emit_bytes", by_emit_bytes), ("INSERT", by_insert), ("COPY", by_copy)];

#[test]
fn each_fault_is_refused_with_code_detail_and_hint() -> Result<()> {
    let mut db = TestDatabase::new()?;
    db.client.batch_execute("SET event_outbox.max_event_bytes = 35")?;
    for case in cases() {
        for (way, put) in WAYS {
            let what = format!("{way}: {}", case.detail);
            let error = put(&mut db.client, &case.event).expect_err(&what);
            let db_error: &DbError = error.as_db_error().unwrap_or_else(|| panic!("{what}: {error}"));
            assert_eq!(db_error.code(), &case.code, "{what}");
            assert_eq!(
                (db_error.message(), db_error.detail(), db_error.hint()),
                (case.message, Some(case.detail), Some(case.hint)),
                "{what}"
            );
        }
    }
    let stored: i64 = db.client.query_one("SELECT last_value FROM outbox.events_id_seq", &[])?.get(0);
    // INSERT and COPY draw an id before the row is refused; emit() does not.
    assert!(stored <= 2 * cases().len() as i64, "{stored}");
    let published: i64 = db.client.query_one("SELECT published FROM outbox.status", &[])?.get(0);
    let pending = pending_count(&mut db.client)?;
    assert_eq!((published, pending), (0, 0));
    Ok(())
}

/// The same ways accept the nearest valid event: the checks refuse no more than they should.
#[test]
fn what_is_just_right_is_accepted() -> Result<()> {
    const LONGEST: &str = LONG.split_at(249).0;
    let mut db = TestDatabase::new()?;
    db.configure("event_outbox.enabled", "off")?;
    db.client.batch_execute("SET event_outbox.max_event_bytes = 35")?;
    let good = [
        GOOD,
        Event { topic: Some(LONGEST), ..GOOD },
        Event { topic: Some("..."), ..GOOD },
        Event { partition: Some(0), ..GOOD },
        Event { payload: None, key: Some(""), ..GOOD },
        Event { event_type: Some(" "), ..GOOD },
        Event { headers: Some("{}"), ..GOOD },
        Event { headers: Some("{\"ce\": 1}"), ..GOOD },
        Event { payload: Some("\"12345678901234567890123456\""), headers: Some("{\"a\":1}"), ..GOOD },
    ];
    for event in &good {
        for (_, put) in WAYS {
            put(&mut db.client, event)?;
        }
    }
    let stored: i64 = db.client.query_one("SELECT count(*) FROM outbox.pending", &[])?.get(0);
    assert_eq!(stored, (good.len() * WAYS.len()) as i64);
    Ok(())
}

/// The relay reads the table from the first id of the sequence.
#[test]
fn an_id_that_the_sequence_never_gives_is_refused() -> Result<()> {
    let mut db = TestDatabase::new()?;
    for id in [0, -7] {
        let sql = format!("INSERT INTO outbox.events (id, topic, payload) VALUES ({id}, 'orders', '1')");
        let error = db.client.batch_execute(&sql).expect_err(&sql);
        assert_eq!(error.code(), Some(&SqlState::CHECK_VIOLATION));
    }
    Ok(())
}

#[test]
fn a_time_that_no_record_can_have_is_refused() -> Result<()> {
    let mut db = TestDatabase::new()?;
    for time in ["infinity", "-infinity", "1969-12-31 23:59:59Z", "10000-01-01 00:00:00Z", "0044-03-15 BC"] {
        let sql = format!(
            "INSERT INTO outbox.events (topic, payload, emitted_at) VALUES ('orders', '1', '{time}')"
        );
        let error = db.client.batch_execute(&sql).expect_err(&sql);
        let db_error = error.as_db_error().unwrap_or_else(|| panic!("{time}: {error}"));
        assert_eq!(db_error.code(), &SqlState::DATETIME_FIELD_OVERFLOW, "{time}");
        assert_eq!(db_error.message(), "event time is out of range", "{time}");
        assert_eq!(db_error.hint(), Some("Omit emitted_at to have it set to the present time."), "{time}");
    }
    Ok(())
}

/// A json column accepts strings that no header can contain.
#[test]
fn headers_that_cannot_be_sent_are_refused() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("unsendable");
    for headers in ["{\"a\\u0000b\": 1}", "{\"a\": \"\\ud800\"}", "{\"\\ud800\": 1}"] {
        let event = Event { headers: Some(headers), ..GOOD };
        for (way, put) in [("INSERT", by_insert as fn(&mut Client, &Event) -> _), ("COPY", by_copy_escaped)] {
            let error = put(&mut db.client, &event).expect_err(&format!("{way}: {headers}"));
            let db_error = error.as_db_error().unwrap_or_else(|| panic!("{way}: {headers}: {error}"));
            assert_eq!(db_error.code(), &SqlState::INVALID_PARAMETER_VALUE, "{way}: {headers}");
        }
    }
    // The relay has survived it.
    db.client.execute("SELECT outbox.emit($1, '1')", &[&topic])?;
    assert_eq!(db.drained_values(&topic)?, ["1"]);
    Ok(())
}

/// COPY's text format needs backslashes escaped.
fn by_copy_escaped(client: &mut Client, event: &Event) -> Result<(), postgres::Error> {
    let mut copy = client.copy_in("COPY outbox.events (topic, payload, headers) FROM STDIN")?;
    let headers = event.headers.unwrap_or_default().replace('\\', "\\\\");
    let _ = writeln!(copy, "orders\t1\t{headers}");
    copy.finish()?;
    Ok(())
}
