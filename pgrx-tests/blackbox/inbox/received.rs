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
