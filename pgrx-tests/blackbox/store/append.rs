//! Events are appended to a stream that is as expected, once.

use event_outbox_lab::Result;

use crate::support::database::TestDatabase;
use crate::support::streams::{append, refusal, types};

#[test]
fn expectations_hold_or_say_the_version() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let client = &mut db.client;
    for (expected, version) in [("stream_exists", "0"), ("1", "0")] {
        let sql = format!("SELECT event_store.append('a-1', '{expected}', '{{\"type\": \"x\"}}')");
        assert_eq!(refusal(client, &sql), ("OE001".into(), format!("The version is {version}.")));
    }
    assert_eq!(append(client, "a-1", "no_stream", "first")?, 1);
    assert_eq!(append(client, "a-1", "1", "second")?, 2);
    assert_eq!(append(client, "a-1", "stream_exists", "third")?, 3);
    assert_eq!(append(client, "a-1", "any", "fourth")?, 4);
    for expected in ["no_stream", "0", "3", "5"] {
        let sql = format!("SELECT event_store.append('a-1', '{expected}', '{{\"type\": \"x\"}}')");
        assert_eq!(refusal(client, &sql), ("OE001".into(), "The version is 4.".into()), "{expected}");
    }
    // A number is a version, too.
    let row = client.query_one(
        "SELECT event_store.append('a-1', 4, '[{\"type\": \"fifth\"}, {\"type\": \"sixth\", \"data\": null}]')",
        &[],
    )?;
    assert_eq!(row.get::<_, i64>(0), 6);
    assert_eq!(types(client, "a-1")?, ["first", "second", "third", "fourth", "fifth", "sixth"]);
    Ok(())
}

#[test]
fn events_are_stored_as_they_were_passed() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let row = db.client.query_one(
        "SELECT event_store.append('a-1', 'any', $$[
            {\"type\": \"é\", \"data\": {\"n\": 1.50, \"deep\": [1, {\"x\": null}]}, \"metadata\": {\"by\": \"me\"},
             \"id\": \"0190a1b2-0000-7000-8000-000000000001\"},
            {\"type\": \"text\", \"data\": \"only\\ttext\"}, {\"type\": \"number\", \"data\": 3}, {\"type\": \"none\", \"id\": null}]$$,
            causation_id => '00000000-0000-0000-0000-00000000000a', correlation_id => '00000000-0000-0000-0000-00000000000b')",
        &[],
    )?;
    assert_eq!(row.get::<_, i64>(0), 4);
    let row = db.client.query_one(
        "SELECT json_agg(json_build_array(stream, version, type, data, metadata, causation_id, correlation_id) ORDER BY version)::text,
                count(DISTINCT event_id) = 4 AND bool_and(recorded_at <= clock_timestamp()),
                min(event_id::text) FILTER (WHERE version = 1)
           FROM event_store.read_stream('a-1')",
        &[],
    )?;
    let ids = "\"00000000-0000-0000-0000-00000000000a\", \"00000000-0000-0000-0000-00000000000b\"";
    assert_eq!(
        row.get::<_, String>(0),
        format!(
            "[[\"a-1\", 1, \"é\", {{\"n\": 1.50, \"deep\": [1, {{\"x\": null}}]}}, {{\"by\": \"me\"}}, {ids}], \
             [\"a-1\", 2, \"text\", \"only\\ttext\", null, {ids}], [\"a-1\", 3, \"number\", 3, null, {ids}], \
             [\"a-1\", 4, \"none\", null, null, {ids}]]"
        )
    );
    assert!(row.get::<_, bool>(1));
    assert_eq!(row.get::<_, String>(2), "0190a1b2-0000-7000-8000-000000000001");
    Ok(())
}

#[test]
fn the_same_ids_are_not_stored_twice() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let id = |n: u8| format!("00000000-0000-0000-0000-0000000000{n:02x}");
    let call = |expected: &str, ids: &[u8]| {
        let events: Vec<String> =
            ids.iter().map(|n| format!("{{\"type\": \"t{n}\", \"id\": \"{}\"}}", id(*n))).collect();
        format!("SELECT event_store.append('a-1', '{expected}', '[{}]')", events.join(", "))
    };
    let mut version = |sql: &str| -> Result<i64> { Ok(db.client.query_one(sql, &[])?.get(0)) };
    assert_eq!(version(&call("no_stream", &[1, 2]))?, 2);
    assert_eq!(version(&call("no_stream", &[1, 2]))?, 2);
    assert_eq!(version(&call("2", &[3]))?, 3);
    assert_eq!(version(&call("any", &[1, 2]))?, 2, "a retry after another append");
    assert_eq!(version(&call("2", &[3]))?, 3);
    assert_eq!(version(&call("any", &[2, 3]))?, 3);
    // Another stream may have the same ids.
    assert_eq!(version(&call("any", &[1]).replace("a-1", "a-2"))?, 1);
    for (expected, ids) in [("any", &[3, 4][..]), ("any", &[2, 1]), ("3", &[1]), ("no_stream", &[2])] {
        assert_eq!(refusal(&mut db.client, &call(expected, ids)).0, "OE003", "{expected} {ids:?}");
    }
    assert_eq!(refusal(&mut db.client, &call("any", &[9, 9])).0, "22023");
    assert_eq!(types(&mut db.client, "a-1")?, ["t1", "t2", "t3"]);
    Ok(())
}

#[test]
fn a_command_is_handled_once() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let call = |stream: &str, expected: &str, command: &str| {
        format!(
            "SELECT event_store.append('{stream}', '{expected}', '{{\"type\": \"x\"}}', command_id => '{command}')"
        )
    };
    let mut number = |sql: &str| -> Result<Option<i64>> { Ok(db.client.query_one(sql, &[])?.get(0)) };
    assert_eq!(number("SELECT event_store.command_version('a-1', 'c1')")?, None);
    assert_eq!(number(&call("a-1", "no_stream", "c1"))?, Some(1));
    assert_eq!(number(&call("a-1", "1", "c2"))?, Some(2));
    assert_eq!(number(&call("a-1", "no_stream", "c1"))?, Some(1), "whatever is expected now");
    assert_eq!(number(&call("b-1", "no_stream", "c1"))?, Some(1), "another stream");
    assert_eq!(number("SELECT event_store.command_version('a-1', 'c2')")?, Some(2));
    assert_eq!(number("SELECT count(*) FROM event_store.event")?, Some(3));
    assert_eq!(number("SELECT event_store.forget_commands('1 hour')")?, Some(0));
    assert_eq!(number("SELECT event_store.forget_commands('0')")?, Some(3));
    assert_eq!(number(&call("a-1", "any", "c1"))?, Some(3), "a forgotten command is new");
    for wrong in ["''", "repeat('x', 256)"] {
        let sql =
            format!("SELECT event_store.append('a-1', 'any', '{{\"type\": \"x\"}}', command_id => {wrong})");
        assert_eq!(refusal(&mut db.client, &sql).0, "22023");
    }
    Ok(())
}

#[test]
fn invalid_arguments_are_refused() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    for (stream, expected, events, state) in [
        ("'a'", "'any'", "'{\"type\": \"x\"}'", "42602"),
        ("'a b-1'", "'any'", "'{\"type\": \"x\"}'", "42602"),
        ("E'a-1\\n'", "'any'", "'{\"type\": \"x\"}'", "42602"),
        ("'a-' || repeat('x', 511)", "'any'", "'{\"type\": \"x\"}'", "42602"),
        ("NULL", "'any'", "'{\"type\": \"x\"}'", "22004"),
        ("'a-1'", "NULL::text", "'{\"type\": \"x\"}'", "22004"),
        ("'a-1'", "'any'", "NULL", "22004"),
        ("'a-1'", "'some'", "'{\"type\": \"x\"}'", "22023"),
        ("'a-1'", "'-1'", "'{\"type\": \"x\"}'", "22023"),
        ("'a-1'", "-1", "'{\"type\": \"x\"}'", "22023"),
        ("'a-1'", "'any'", "'[]'", "22023"),
        ("'a-1'", "'any'", "'1'", "22023"),
        ("'a-1'", "'any'", "'null'", "22023"),
        ("'a-1'", "'any'", "'[[{\"type\": \"x\"}]]'", "22023"),
        ("'a-1'", "'any'", "'[{\"type\": \"x\"}, 1]'", "22023"),
        ("'a-1'", "'any'", "'{}'", "22023"),
        ("'a-1'", "'any'", "'{\"type\": \"\"}'", "22023"),
        ("'a-1'", "'any'", "'{\"type\": 1}'", "22023"),
        ("'a-1'", "'any'", "'{\"type\": {}}'", "22023"),
        ("'a-1'", "'any'", "jsonb_build_object('type', repeat('x', 256))", "22023"),
        ("'a-1'", "'any'", "'{\"type\": \"x\", \"metadata\": []}'", "22023"),
        ("'a-1'", "'any'", "'{\"type\": \"x\", \"id\": 1}'", "22023"),
        ("'a-1'", "'any'", "'{\"type\": \"x\", \"id\": \"1\"}'", "22023"),
        ("'a-1'", "'any'", "'{\"type\": \"x\", \"payload\": 1}'", "22023"),
        ("'a-1'", "'any'", "jsonb_build_object('type', 'x', 'data', repeat('x', 1000001))", "54000"),
        (
            "'a-1'",
            "'any'",
            "(SELECT jsonb_agg('{\"type\": \"x\"}'::jsonb) FROM generate_series(1, 10001))",
            "54000",
        ),
    ] {
        let sql = format!("SELECT event_store.append({stream}, {expected}, {events})");
        assert_eq!(refusal(&mut db.client, &sql).0, state, "{sql}");
    }
    assert_eq!(
        refusal(
            &mut db.client,
            "BEGIN READ ONLY; SELECT event_store.append('a-1', 'any', '{\"type\": \"x\"}')"
        )
        .0,
        "25006"
    );
    db.client.batch_execute("ROLLBACK")?;
    let stored: i64 = db.client.query_one("SELECT count(*) FROM event_store.event", &[])?.get(0);
    assert_eq!(stored, 0);
    let many = "SELECT event_store.append('a-1', 'any', (SELECT jsonb_agg('{\"type\": \"x\"}'::jsonb) FROM generate_series(1, 10000)))";
    assert_eq!(db.client.query_one(many, &[])?.get::<_, i64>(0), 10_000);
    Ok(())
}

#[test]
fn a_rollback_leaves_nothing() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let client = &mut db.client;
    client.batch_execute("BEGIN")?;
    append(client, "a-1", "no_stream", "one")?;
    client.batch_execute("SAVEPOINT s")?;
    append(client, "a-1", "1", "two")?;
    client.batch_execute("ROLLBACK TO s")?;
    assert_eq!(append(client, "a-1", "1", "three")?, 2);
    client.batch_execute("COMMIT; BEGIN")?;
    append(client, "a-2", "no_stream", "one")?;
    client.batch_execute("ROLLBACK")?;
    assert_eq!(types(client, "a-1")?, ["one", "three"]);
    assert_eq!(types(client, "a-2")?, [""; 0]);
    assert_eq!(append(client, "a-2", "no_stream", "one")?, 1);
    Ok(())
}

#[test]
fn streams_end() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let client = &mut db.client;
    for stream in ["a-1", "a-2"] {
        append(client, stream, "any", "one")?;
        append(client, stream, "any", "two")?;
    }
    client.batch_execute("SELECT event_store.save_snapshot('a-2', 2, '{}')")?;
    assert_eq!(refusal(client, "SELECT event_store.tombstone('a-3')").0, "42704");
    let last: i64 = client.query_one("SELECT event_store.tombstone('a-1')", &[])?.get(0);
    assert_eq!(last, 2);
    assert_eq!(types(client, "a-1")?, ["one", "two"]);
    let erased: i64 = client.query_one("SELECT event_store.erase('a-2')", &[])?.get(0);
    assert_eq!(erased, 2);
    for stream in ["a-1", "a-2"] {
        let sql = format!("SELECT event_store.append('{stream}', 'any', '{{\"type\": \"x\"}}')");
        assert_eq!(refusal(client, &sql).0, "OE002");
    }
    let left: String = client
        .query_one(
            "SELECT concat((SELECT count(*) FROM event_store.event), ' ', (SELECT count(*) FROM event_store.snapshot), ' ',
                           (SELECT string_agg(stream || version, ',' ORDER BY stream) FROM event_store.streams WHERE tombstoned_at IS NOT NULL))",
            &[],
        )?
        .get(0);
    assert_eq!(left, "2 0 a-12,a-20");
    Ok(())
}
