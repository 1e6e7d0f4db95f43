//! What a session receives of an event, and who may receive.

use event_outbox_lab::{Result, wait};

use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::inbox_log::{receive, store, subscription};
use crate::support::roles::assert_denied;
use crate::support::subscriptions::refusal;

/// Nothing that a producer writes makes the call fail.
#[test]
fn whatever_is_stored_is_received() -> Result<()> {
    let mut db = subscription("none")?;
    let values = [
        ("'{\"a\": 1}'", true),
        ("NULL", true),
        ("''", false),
        ("'no JSON'", false),
        ("'{\"a\": '", false),
        ("'\\xff'", false),
        ("'\\x2200'", false),
        ("'\"\\\\u0000\"'", false),
        ("'\"\\\\ud800\"'", false),
        ("'1e999999'", false),
        ("convert_to(repeat('[', 100000), 'UTF8')", false),
        ("convert_to(repeat(' ', 3000000) || '[1]', 'UTF8')", true),
    ];
    for (at, (value, _)) in values.iter().enumerate() {
        db.client.batch_execute(&format!(
            "INSERT INTO inbox.log_0 (source_id, lane, position, partition, \"offset\", key, value, headers)
             VALUES (1000, 3, {at} + 1, 0, {at}, '\\xff00', {value}, '\\x0261ff02320362ff')"
        ))?;
    }
    let sql = "SELECT data IS NULL, decode_error, headers IS NULL FROM inbox.receive('s') ORDER BY position";
    let rows = db.client.query(sql, &[])?;
    assert_eq!(rows.len(), values.len());
    for (row, (value, is_decoded)) in rows.iter().zip(values) {
        let error: Option<String> = row.get(1);
        assert_eq!(error.is_none(), is_decoded, "{value}: {error:?}");
        assert_eq!(row.get::<_, bool>(0), !is_decoded || value == "NULL", "{value}");
    }
    Ok(())
}

/// A call begins at the lane behind that of the last one. If that lane has moved on and is empty, it does not matter.
#[test]
fn an_old_snapshot_passes_an_empty_lane() -> Result<()> {
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let mut db = subscription("key")?;
        let mut other = db.connect()?;
        store(&mut db, &[(1, 7, "a")])?;
        assert_eq!(receive(&mut db.client, 1)?, [1]);
        store(&mut db, &[(2, 8, "b")])?;
        db.client.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}; SELECT 1"))?;
        assert_eq!(receive(&mut other, 1)?, [2]);
        other.batch_execute(
            "INSERT INTO inbox.log_0 (source_id, lane, position, partition, \"offset\") VALUES (1000, 20, 3, 0, 3)",
        )?;
        assert_eq!(receive(&mut db.client, 1)?, [3], "{level}");
        db.client.batch_execute("COMMIT")?;
    }
    Ok(())
}

#[test]
fn headers_tell_of_the_event() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("headers")?;
    db.client.execute(
        "SELECT outbox.emit($1, '{\"n\": 1}', 'k', 'Placed', '{\"h\": [\"1\", \"2\"]}',
                            '00000000-0000-7000-8000-000000000001')",
        &[&topic],
    )?;
    db.client.execute("SELECT inbox.subscribe('s', ARRAY[$1], 'earliest')", &[&topic])?;
    let sql = "SELECT topic, convert_from(key, 'UTF8'), data::text, event_id, event_type, headers ->> 'h',
                      event_source IS NOT NULL AND event_time > now() - interval '1 hour', content_type,
                      produced_at > now() - interval '1 hour', attempt, lease IS NULL
                 FROM inbox.receive('s')";
    let row = wait::until_ok("the event", DEADLINE, || Ok(db.client.query_opt(sql, &[])?))?;
    let text = |at: usize| row.get::<_, Option<String>>(at).unwrap_or_default();
    assert_eq!([text(0), text(1), text(2)], [topic, "k".into(), "{\"n\": 1}".into()]);
    assert_eq!([text(3), text(4)], ["00000000-0000-7000-8000-000000000001", "Placed"]);
    assert_eq!([text(5), text(7)], ["[\"1\", \"2\"]", "application/json"]);
    assert!(row.get::<_, bool>(6) && row.get::<_, bool>(8) && row.get::<_, bool>(10));
    assert_eq!(row.get::<_, i32>(9), 1);
    Ok(())
}

/// What the outbox sends in any layout is received alike, as far as the layout tells.
#[test]
fn every_layout_is_read_back() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("layouts")?;
    db.client
        .execute("SELECT inbox.subscribe('s', ARRAY[$1], 'earliest', deduplicate => '1 hour')", &[&topic])?;
    db.alter_database("SET event_outbox.debezium_additional_fields = 'type:header:eventType'")?;
    for (n, layout) in ["cloudevents", "cloudevents_structured", "debezium"].iter().enumerate() {
        db.configure("event_outbox.envelope", layout)?;
        // Twice: the second one is a duplicate by its id.
        for _ in 0..2 {
            db.client.execute(
                "SELECT outbox.emit($1, jsonb_build_object('n', $2::int), 'k', 'Placed', '{\"h\": \"1\"}',
                                    ('00000000-0000-7000-8000-00000000000' || $2)::uuid),
                        outbox.emit_bytes($1, convert_to($2::text, 'UTF8'), 'k', 'Placed',
                                          event_id => ('00000000-0000-7000-8000-00000000001' || $2)::uuid,
                                          content_type => 'a/b'),
                        outbox.emit($1, NULL, 'k', 'Gone', event_id => ('00000000-0000-7000-8000-00000000002' || $2)::uuid)",
                &[&topic, &(n as i32)],
            )?;
        }
        db.drained(&topic)?;
    }
    let mut found: Vec<[String; 6]> = Vec::new();
    wait::until_ok("the events", DEADLINE, || {
        let sql = "SELECT event_id, event_type, encode(payload, 'escape'), content_type, event_source IS NOT NULL AND event_time IS NOT NULL,
                          headers ->> 'ce_id' = event_id, headers ->> 'h' FROM inbox.receive('s') ORDER BY position";
        for row in db.client.query(sql, &[])? {
            let text = |at: usize| row.get::<_, Option<String>>(at).unwrap_or_else(|| "-".into());
            let is_cloud_event = row.get::<_, bool>(4) && row.get::<_, Option<bool>>(5) == Some(true);
            found.push([text(0), text(1), text(2), text(3), is_cloud_event.to_string(), text(6)]);
        }
        Ok((found.len() >= 9).then_some(()))
    })?;
    let expected = |n: usize| {
        let (is_cloud_event, id) =
            (n < 2, |which: usize| format!("00000000-0000-7000-8000-0000000000{which}{n}"));
        let content_type = |name: &str| if is_cloud_event { name.to_string() } else { "-".into() };
        [
            [
                id(0),
                "Placed".into(),
                format!("{{\"n\":{n}}}"),
                content_type("application/json"),
                is_cloud_event.to_string(),
                "1".into(),
            ],
            [
                id(1),
                "Placed".into(),
                n.to_string(),
                content_type("a/b"),
                is_cloud_event.to_string(),
                "-".into(),
            ],
            [id(2), "Gone".into(), "-".into(), "-".into(), is_cloud_event.to_string(), "-".into()],
        ]
    };
    assert_eq!(found, (0..3).flat_map(expected).collect::<Vec<_>>());
    Ok(())
}

/// What only claims to be a CloudEvent is received as it is.
#[test]
fn a_false_document_is_received_as_it_is() -> Result<()> {
    let mut db = subscription("none")?;
    // The header content-type with application/cloudevents+json, packed.
    let header = "'\\x0c636f6e74656e742d747970651d6170706c69636174696f6e2f636c6f75646576656e74732b6a736f6e'";
    let values = ["no JSON", "{}", "[1]", "{\"id\":\"1\",\"data_base64\":\"?\"}", "\\xff"];
    for (at, value) in values.iter().enumerate() {
        db.client.batch_execute(&format!(
            "INSERT INTO inbox.log_0 (source_id, lane, position, partition, \"offset\", key, value, headers)
             VALUES (1000, 3, {at} + 1, 0, {at}, NULL, '{value}', {header})"
        ))?;
    }
    // Deep, but an event.
    db.client.batch_execute(&format!(
        "INSERT INTO inbox.log_0 (source_id, lane, position, partition, \"offset\", key, value, headers)
         VALUES (1000, 3, 100, 0, 100, NULL, convert_to('{{\"id\":\"x\",\"data\":' || repeat('[', 100000) || repeat(']', 100000) || '}}', 'UTF8'), {header})"
    ))?;
    let sql =
        "SELECT encode(payload, 'escape'), content_type, event_id FROM inbox.receive('s') ORDER BY position";
    let rows = db.client.query(sql, &[])?;
    assert_eq!(rows.len(), values.len() + 1);
    for (row, value) in rows.iter().zip(values) {
        assert_eq!(row.get::<_, String>(0), value.replace("\\xff", "\\377"));
        assert_eq!(row.get::<_, &str>(1), "application/cloudevents+json");
    }
    assert_eq!(rows[values.len()].get::<_, &str>(2), "x");
    Ok(())
}

#[test]
fn receiving_needs_a_right() -> Result<()> {
    let mut db = subscription("key")?;
    store(&mut db, &[(1, 3, "a"), (2, 3, "a"), (3, 3, "a"), (4, 3, "a")])?;
    let [reader, member] = ["reader", "member"].map(|name| format!("{name}_{}", db.database));
    db.client.batch_execute(&format!(
        "CREATE ROLE {reader}; CREATE ROLE {member} LOGIN IN ROLE {reader};
         GRANT USAGE ON SCHEMA inbox TO {member}"
    ))?;
    let mut session = db.connect_as(&member)?;
    assert_denied(&mut session, "SELECT inbox.receive('s', 1)");
    db.client.batch_execute(&format!(
        "GRANT EXECUTE ON FUNCTION inbox.receive, inbox.nack, inbox.ack, inbox.extend TO {member};
         GRANT EXECUTE ON PROCEDURE inbox.await TO {member}"
    ))?;
    for sql in
        ["SELECT inbox.receive('s', 1)", "SELECT inbox.nack('s', 1, 'x')", "CALL inbox.await('s', '0')"]
    {
        assert_eq!(refusal(&mut session, sql), "42501", "{sql}");
    }
    db.client.batch_execute(&format!("SELECT inbox.grant_subscription('{reader}', 's')"))?;
    assert_eq!(receive(&mut session, 1)?, [1]);
    assert_denied(&mut session, "SELECT * FROM inbox.log_0");
    db.client.batch_execute(&format!("SELECT inbox.revoke_subscription('{reader}', 's')"))?;
    assert_eq!(refusal(&mut session, "SELECT inbox.receive('s', 1)"), "42501");
    // The owner of the subscription may, too, as long as DROP OWNED has not taken its rights.
    db.client.batch_execute(&format!(
        "SELECT inbox.mark('{reader}', 'inbox.subscription_grants'); UPDATE inbox.subscription SET owner = '{reader}'"
    ))?;
    assert_eq!(receive(&mut session, 1)?, [2]);
    db.client.batch_execute(&format!("DROP OWNED BY {reader}"))?;
    assert_eq!(refusal(&mut session, "SELECT inbox.receive('s', 1)"), "42501");
    assert_eq!(receive(&mut db.client, 1)?, [3]);
    db.client.batch_execute(&format!(
        "UPDATE inbox.subscription SET owner = current_user::regrole; DROP OWNED BY {member}; DROP ROLE {member}, {reader}"
    ))?;
    Ok(())
}
