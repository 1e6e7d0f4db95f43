//! `outbox.capture()`: the changes of a table become events.

use event_outbox_lab::Result;
use postgres::error::SqlState;

use crate::support::captures::{events_of, refusal, taken};
use crate::support::database::TestDatabase;

const TABLE: &str = "CREATE TABLE orders (id int PRIMARY KEY, total numeric(9,2), note text)";

fn with_table() -> Result<TestDatabase> {
    let mut db = TestDatabase::disabled()?;
    db.client.batch_execute(TABLE)?;
    Ok(db)
}

const CHANGES: &str = "INSERT INTO orders VALUES (7, 99.5, 'a \"b\"');
                       UPDATE orders SET total = 89.50 WHERE id = 7;
                       DELETE FROM orders WHERE id = 7";

#[test]
fn a_notification_carries_the_key() -> Result<()> {
    let mut db = with_table()?;
    db.client.batch_execute("SELECT outbox.capture('orders', 'notification')")?;
    let events = events_of(&mut db.client, CHANGES)?;
    assert_eq!(
        events,
        [
            r#"orders.created 7 {"key":{"id":7}}"#,
            r#"orders.patched 7 {"key":{"id":7}}"#,
            r#"orders.deleted 7 {"key":{"id":7}}"#
        ]
    );
    Ok(())
}

#[test]
fn a_delta_carries_what_changed() -> Result<()> {
    let mut db = with_table()?;
    db.client.batch_execute("SELECT outbox.capture('orders', 'delta')")?;
    let events = events_of(&mut db.client, CHANGES)?;
    assert_eq!(
        events,
        [
            r#"orders.created 7 {"key":{"id":7},"changed":{"id":7,"total":99.50,"note":"a \"b\""}}"#,
            r#"orders.patched 7 {"key":{"id":7},"changed":{"total":89.50}}"#,
            r#"orders.deleted 7 {"key":{"id":7}}"#
        ]
    );
    Ok(())
}

#[test]
fn a_fat_event_carries_the_row_before_and_after() -> Result<()> {
    let mut db = with_table()?;
    db.client.batch_execute("SELECT outbox.capture('orders', 'fat')")?;
    let events = events_of(&mut db.client, CHANGES)?;
    let (first, second) =
        (r#"{"id":7,"total":99.50,"note":"a \"b\""}"#, r#"{"id":7,"total":89.50,"note":"a \"b\""}"#);
    assert_eq!(
        events,
        [
            format!(r#"orders.created 7 {{"key":{{"id":7}},"old":null,"new":{first}}}"#),
            format!(r#"orders.replaced 7 {{"key":{{"id":7}},"old":{first},"new":{second}}}"#),
            format!(r#"orders.deleted 7 {{"key":{{"id":7}},"old":{second},"new":null}}"#)
        ]
    );
    Ok(())
}

/// The record in Kafka, by the template of topics.
#[test]
fn changes_arrive_in_kafka() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = format!("io.{}.orders.resource", db.database);
    db.broker.create_topic(&topic, 1, &[])?;
    db.client.batch_execute(TABLE)?;
    let returned: String = db.client.query_one("SELECT outbox.capture('orders', 'delta')", &[])?.get(0);
    assert_eq!(returned, topic);
    db.client.batch_execute("INSERT INTO orders VALUES (7, 1)")?;
    let records = db.promptly(&topic, 1)?;
    assert_eq!(records[0].key_text(), Some("7"));
    assert_eq!(
        records[0].value_text(),
        Some(r#"{"key":{"id":7},"changed":{"id":7,"total":1.00,"note":null}}"#)
    );
    assert_eq!(records[0].header("ce_type"), Some("orders.created"));
    assert_eq!(records[0].header("content-type"), Some("application/json"));
    Ok(())
}

#[test]
fn topics_and_types_follow_templates() -> Result<()> {
    let mut db = with_table()?;
    db.client.batch_execute(
        "CREATE SCHEMA shop; ALTER TABLE orders SET SCHEMA shop;
         SET event_outbox.namespace = 'acme'; SET event_outbox.topic_template = '{namespace}.{schema}.{resource}'",
    )?;
    let mut topic = |arguments: &str| -> Result<String> {
        let sql = format!("SELECT outbox.capture('shop.orders', 'delta' {arguments})");
        Ok(db.client.query_one(&sql, &[])?.get(0))
    };
    assert_eq!(topic("")?, "acme.shop.orders");
    assert_eq!(topic(", topic => 'plain'")?, "plain");
    assert_eq!(topic(", topic => 'x.{resource}', event_type => 'order-{action}'")?, "x.orders");
    let events = events_of(&mut db.client, "INSERT INTO shop.orders VALUES (1)")?;
    assert!(events[0].starts_with("order-created 1 "), "{events:?}");
    let shown = db.client.query_one("SELECT \"table\"::text, topic, event_type FROM outbox.captures", &[])?;
    let shown: [String; 3] = [0, 1, 2].map(|at| shown.get(at));
    assert_eq!(shown, ["shop.orders", "x.orders", "order-{action}"]);
    for (arguments, code) in [
        (", topic => '{table}'", SqlState::INVALID_PARAMETER_VALUE),
        (", topic => 'a b'", SqlState::INVALID_NAME),
        (", event_type => '{verb}'", SqlState::INVALID_PARAMETER_VALUE),
        (", event_type => ''", SqlState::INVALID_PARAMETER_VALUE),
        (", event_type => '{action'", SqlState::INVALID_PARAMETER_VALUE),
    ] {
        let sql = format!("SELECT outbox.capture('shop.orders', 'delta' {arguments})");
        assert_eq!(refusal(&mut db.client, &sql).0, code, "{arguments}");
    }
    Ok(())
}

#[test]
fn what_is_asked_for_must_make_sense() -> Result<()> {
    let mut db = with_table()?;
    db.client.batch_execute(
        "CREATE TABLE keyless (a int); CREATE VIEW seen AS SELECT 1 AS a; SET event_outbox.namespace = 'n'",
    )?;
    for (sql, code) in [
        ("'orders', 'thin'", SqlState::INVALID_PARAMETER_VALUE),
        ("'orders', NULL", SqlState::INVALID_PARAMETER_VALUE),
        ("NULL, 'fat'", SqlState::NULL_VALUE_NOT_ALLOWED),
        ("'orders', 'fat', mode => 'batch'", SqlState::INVALID_PARAMETER_VALUE),
        ("'orders', 'fat', key => '{no}'", SqlState::UNDEFINED_COLUMN),
        ("'orders', 'fat', key => '{}'", SqlState::INVALID_PARAMETER_VALUE),
        ("'orders', 'fat', columns => '{total,no}'", SqlState::UNDEFINED_COLUMN),
        ("'orders', 'fat', \"except\" => '{ctid}'", SqlState::UNDEFINED_COLUMN),
        ("'orders', 'fat', \"except\" => '{id}'", SqlState::INVALID_PARAMETER_VALUE),
        ("'orders', 'fat', operations => '{merge}'", SqlState::INVALID_PARAMETER_VALUE),
        ("'orders', 'fat', operations => '{insert,NULL}'", SqlState::INVALID_PARAMETER_VALUE),
        ("'orders', 'fat', \"when\" => 'NEW.id > 1', mode => 'statement'", SqlState::INVALID_PARAMETER_VALUE),
        ("'orders', 'fat', \"when\" => repeat('x', 10000)", SqlState::PROGRAM_LIMIT_EXCEEDED),
        ("'keyless', 'fat'", SqlState::INVALID_PARAMETER_VALUE),
        ("'seen', 'fat', key => '{a}'", SqlState::WRONG_OBJECT_TYPE),
        ("'outbox.events', 'fat', topic => 't'", SqlState::WRONG_OBJECT_TYPE),
        ("'inbox.subscription', 'fat', topic => 't'", SqlState::WRONG_OBJECT_TYPE),
    ] {
        assert_eq!(refusal(&mut db.client, &format!("SELECT outbox.capture({sql})")).0, code, "{sql}");
    }
    let none: i64 = db.client.query_one("SELECT count(*) FROM outbox.captures", &[])?.get(0);
    assert_eq!(none, 0);
    Ok(())
}

#[test]
fn a_second_call_replaces_the_first_and_uncapture_ends_it() -> Result<()> {
    let mut db = with_table()?;
    db.client.batch_execute(
        "SELECT outbox.capture('orders', 'fat'); SELECT outbox.capture('orders', 'notification', operations => '{insert}')",
    )?;
    assert_eq!(events_of(&mut db.client, CHANGES)?, [r#"orders.created 7 {"key":{"id":7}}"#]);
    let mut uncapture =
        || -> Result<bool> { Ok(db.client.query_one("SELECT outbox.uncapture('orders')", &[])?.get(0)) };
    assert!(uncapture()?);
    assert!(!uncapture()?);
    let triggers = "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'orders'::regclass";
    assert_eq!(db.client.query_one(triggers, &[])?.get::<_, i64>(0), 0);
    assert_eq!(events_of(&mut db.client, CHANGES)?, [""; 0]);
    Ok(())
}

#[test]
fn an_update_that_changes_nothing_is_no_event() -> Result<()> {
    let mut db = with_table()?;
    for style in ["notification", "delta", "fat"] {
        db.client.batch_execute(&format!(
            "TRUNCATE orders; INSERT INTO orders VALUES (1, 2, NULL);
             SELECT outbox.capture('orders', '{style}', \"except\" => '{{note}}')"
        ))?;
        taken(&mut db.client)?;
        let events = events_of(
            &mut db.client,
            "UPDATE orders SET total = 2.00, id = 1; UPDATE orders SET note = 'secret'; UPDATE orders SET total = total",
        )?;
        assert_eq!(events, [""; 0], "{style}");
        assert_eq!(events_of(&mut db.client, "UPDATE orders SET total = NULL")?.len(), 1, "{style}");
    }
    Ok(())
}

#[test]
fn secrets_are_left_out_and_columns_chosen() -> Result<()> {
    let mut db = with_table()?;
    db.client.batch_execute("SELECT outbox.capture('orders', 'fat', \"except\" => '{note}')")?;
    let events = events_of(&mut db.client, CHANGES)?;
    assert!(events.len() == 3 && events.iter().all(|event| !event.contains("note")), "{events:?}");
    db.client.batch_execute("SELECT outbox.capture('orders', 'delta', columns => '{total}')")?;
    assert_eq!(
        events_of(&mut db.client, CHANGES)?[0],
        r#"orders.created 7 {"key":{"id":7},"changed":{"total":99.50}}"#
    );
    // What is added later is not among the chosen ones.
    let events = events_of(
        &mut db.client,
        "ALTER TABLE orders ADD more int; INSERT INTO orders VALUES (1, 2, '', 3)",
    )?;
    assert_eq!(events, [r#"orders.created 1 {"key":{"id":1},"changed":{"total":2.00}}"#]);
    Ok(())
}

#[test]
fn a_condition_chooses_rows() -> Result<()> {
    let mut db = with_table()?;
    db.client.batch_execute(
        "SELECT outbox.capture('orders', 'notification', operations => '{insert,update}', \"when\" => 'NEW.total > 100')",
    )?;
    let events = events_of(
        &mut db.client,
        "INSERT INTO orders VALUES (1, 100), (2, 101); UPDATE orders SET total = 200; DELETE FROM orders",
    )?;
    assert_eq!(
        events,
        [
            r#"orders.created 2 {"key":{"id":2}}"#,
            r#"orders.patched 1 {"key":{"id":1}}"#,
            r#"orders.patched 2 {"key":{"id":2}}"#
        ]
    );
    let shown: String = db.client.query_one("SELECT \"when\" FROM outbox.captures", &[])?.get(0);
    assert_eq!(shown, "(new.total > (100)::numeric)");
    // What no trigger can evaluate is PostgreSQL's error.
    let old = "SELECT outbox.capture('orders', 'notification', \"when\" => 'OLD.total > 1')";
    db.client.batch_execute(old).expect_err("an INSERT has no old row");
    for condition in
        ["true) EXECUTE FUNCTION outbox.capture_changes(); --", "true) EXECUTE FUNCTION f(); SELECT (1", "1"]
    {
        let sql = "SELECT outbox.capture('orders', 'fat', topic => 't', \"when\" => $1)";
        db.client.execute(sql, &[&condition]).expect_err(condition);
    }
    Ok(())
}

#[test]
fn keys_have_several_columns_or_others_than_the_primary_key() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    db.client.batch_execute(
        "CREATE TABLE lines (region text, id bigint, at timestamptz, PRIMARY KEY (region, id));
         SELECT outbox.capture('lines', 'notification')",
    )?;
    let key = r#"{"region":"e\"u","id":9223372036854775807}"#;
    assert_eq!(
        events_of(&mut db.client, "INSERT INTO lines VALUES ('e\"u', 9223372036854775807, now())")?,
        [format!(r#"lines.created {key} {{"key":{key}}}"#)]
    );
    // The text of a key does not depend on the session.
    db.client
        .batch_execute("TRUNCATE lines; SELECT outbox.capture('lines', 'notification', key => '{at}')")?;
    taken(&mut db.client)?;
    db.client.batch_execute("SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German'")?;
    assert_eq!(
        events_of(
            &mut db.client,
            "INSERT INTO lines VALUES ('a', 1, '2026-11-27 12:00+00'), ('a', 2, NULL)"
        )?,
        [
            r#"lines.created 2026-11-27 12:00:00+00 {"key":{"at":"2026-11-27T12:00:00+00:00"}}"#,
            r#"lines.created - {"key":{"at":null}}"#
        ]
    );
    let zone: String = db.client.query_one("SHOW TimeZone", &[])?.get(0);
    assert_eq!(zone, "Asia/Tokyo");
    Ok(())
}

#[test]
fn a_row_with_another_key_is_another_row() -> Result<()> {
    let mut db = with_table()?;
    for (style, deleted, created) in [
        ("notification", r#"{"key":{"id":1}}"#, r#"{"key":{"id":2}}"#),
        ("delta", r#"{"key":{"id":1}}"#, r#"{"key":{"id":2},"changed":{"id":2,"total":5.00}}"#),
        (
            "fat",
            r#"{"key":{"id":1},"old":{"id":1,"total":5.00},"new":null}"#,
            r#"{"key":{"id":2},"old":null,"new":{"id":2,"total":5.00}}"#,
        ),
    ] {
        db.client.batch_execute(&format!(
            "DELETE FROM orders; INSERT INTO orders VALUES (1, 5);
             SELECT outbox.capture('orders', '{style}', \"except\" => '{{note}}')"
        ))?;
        taken(&mut db.client)?;
        assert_eq!(
            events_of(&mut db.client, "UPDATE orders SET id = 2")?,
            [format!("orders.deleted 1 {deleted}"), format!("orders.created 2 {created}")]
        );
    }
    Ok(())
}

#[test]
fn a_truncation_is_one_event() -> Result<()> {
    let mut db = with_table()?;
    db.client.batch_execute(
        "INSERT INTO orders SELECT generate_series(1, 10); SELECT outbox.capture('orders', 'fat')",
    )?;
    assert_eq!(events_of(&mut db.client, "TRUNCATE orders")?, [r#"orders.truncated - {"key":null}"#]);
    db.client.batch_execute("SELECT outbox.capture('orders', 'fat', operations => '{insert}')")?;
    assert_eq!(events_of(&mut db.client, "TRUNCATE orders")?, [""; 0]);
    Ok(())
}

/// A value as `to_json` gives it, whatever the session has set.
#[test]
fn values_are_those_of_to_json() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    // A server that was built without libxml has the type, but no values of it.
    let has_xml = match db.client.batch_execute("SELECT '<a/>'::xml") {
        Ok(()) => true,
        Err(error) if error.code() == Some(&SqlState::FEATURE_NOT_SUPPORTED) => false,
        Err(error) => return Err(error.into()),
    };
    let sql = r#"CREATE TYPE mood AS ENUM ('sad', 'happy');
           CREATE TYPE pair AS (a int, b text);
           CREATE DOMAIN small AS int CHECK (VALUE < 10);
           CREATE TABLE kinds (
               id uuid PRIMARY KEY, b boolean, i2 smallint, i8 bigint, f4 real, f8 double precision, n numeric, t text,
               v varchar(9), c char(3), by bytea, d date, ts timestamp, tz timestamptz, iv interval, j json, jb jsonb,
               a int[], ta text[], m mood, p pair, s small, r int4range, o oid, x xml, ip inet, nm name);
           INSERT INTO kinds VALUES (
               '00000000-0000-7000-8000-000000000000', true, -1, 9223372036854775807, 0.1, 1e300, 12345678901234567890.10,
               E'q"\\ \t\n\u0001 ü 漢', 'v', 'c', '\x00ff', '2026-01-02', '2026-01-02 03:04:05.678', '2026-01-02 03:04:05+02',
               '1 day 02:03', '{"a" : [1, 2.0]}', '{"b": {"c": null}, "a": 1.10}', '{1,2,NULL}', '{a,"b c"}', 'happy',
               '(1,"x y")', 9, '[1,5)', 42, '<a>b</a>', '10.0.0.1/8', 'n');
           INSERT INTO kinds (id, f8, n, f4, ts, tz) VALUES (
               '00000000-0000-7000-8000-000000000001', 'NaN', 'Infinity', '-Infinity', 'infinity', '-infinity');
           SELECT outbox.capture('kinds', 'delta');
           SET TimeZone = 'UTC'"#;
    if has_xml {
        db.client.batch_execute(sql)?;
    } else {
        eprintln!("PostgreSQL was built without libxml: values of the type xml are left out");
        db.client.batch_execute(&sql.replace("'<a>b</a>'", "NULL"))?;
    }
    let expected = "SELECT row_to_json(k)::jsonb::text FROM kinds AS k ORDER BY id";
    let expected: Vec<String> = db.client.query(expected, &[])?.iter().map(|row| row.get(0)).collect();
    let fires = "CREATE TABLE copied AS TABLE kinds; DELETE FROM kinds; DELETE FROM outbox.events;
                 INSERT INTO kinds TABLE copied ORDER BY id; DROP TABLE copied";
    let changed =
        "SELECT (convert_from(payload, 'UTF8')::jsonb -> 'changed')::text FROM outbox.events ORDER BY id";
    for session in [
        "RESET ALL; SET TimeZone = 'UTC'",
        "SET TimeZone = 'America/New_York'; SET DateStyle = 'SQL, DMY'; SET IntervalStyle = 'sql_standard';
         SET bytea_output = 'escape'; SET extra_float_digits = -3",
    ] {
        db.client.batch_execute(session)?;
        db.client.batch_execute(fires)?;
        let found: Vec<String> = db.client.query(changed, &[])?.iter().map(|row| row.get(0)).collect();
        assert_eq!(found, expected, "{session}");
    }
    Ok(())
}
