//! Calls of `outbox.emit()` and its siblings resolve with the types that callers have and drivers send.

use event_outbox_lab::Result;
use postgres::Client;
use postgres::types::Type;

use crate::support::database::TestDatabase;

/// Key, payload, headers and partition of the last event.
type Seen = (Option<String>, Option<String>, Option<String>, Option<i32>);

fn last(client: &mut Client) -> Result<Seen> {
    let sql = "SELECT outbox.readable(key), outbox.readable(payload), headers::jsonb::text, partition
                 FROM outbox.events ORDER BY id DESC LIMIT 1";
    let row = client.query_one(sql, &[])?;
    Ok((row.get(0), row.get(1), row.get(2), row.get(3)))
}

const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

#[test]
fn emit_takes_what_sql_has() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let keys = [
        ("'7'", "7"),
        ("'7'::text", "7"),
        ("'7'::varchar", "7"),
        ("'7'::varchar(9)", "7"),
        ("'7'::char(9)", "7"),
        ("'7'::name", "7"),
        ("7", "7"),
        ("7::smallint", "7"),
        ("7::bigint", "7"),
        ("7.5", "7.5"),
        ("'01890a5d-ac96-774b-bcce-b302099a8057'::uuid", ID),
    ];
    let payloads = [
        r#"'{"a": 1}'"#,
        r#"'{"a": 1}'::text"#,
        r#"'{"a": 1}'::varchar"#,
        r#"'{"a": 1}'::json"#,
        r#"'{"a": 1}'::jsonb"#,
        "row_to_json(t)",
        "to_jsonb(t)",
        "json_build_object('a', a)",
    ];
    let topics = ["'t'", "'t'::text", "'t'::varchar", "'t'::char(3)", "'t'::name"];
    for (payload, topic) in payloads.iter().flat_map(|payload| topics.map(|topic| (payload, topic))) {
        for (key, stored) in keys {
            let sql =
                format!("SELECT outbox.emit({topic}, {payload}, key => {key}) FROM (SELECT 1 AS a) AS t");
            db.client.batch_execute(&sql).map_err(|error| anyhow::anyhow!("{sql}: {error}"))?;
            let seen = last(&mut db.client)?;
            assert_eq!(seen, (Some(stored.into()), Some(r#"{"a":1}"#.into()), None, None), "{sql}");
        }
        let sql = format!("SELECT outbox.emit({topic}, {payload}) FROM (SELECT 1 AS a) AS t");
        db.client.batch_execute(&sql).map_err(|error| anyhow::anyhow!("{sql}: {error}"))?;
        assert_eq!(last(&mut db.client)?, (None, Some(r#"{"a":1}"#.into()), None, None), "{sql}");
    }
    Ok(())
}

#[test]
fn the_other_arguments_are_as_free_and_null_stays_null() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let headers = ["'{\"h\": 1}'", "'{\"h\": 1}'::text", "'{\"h\": 1}'::json", "'{\"h\": 1}'::jsonb", "NULL"];
    let ids =
        [format!("'{ID}'"), format!("'{ID}'::text"), format!("'{ID}'::varchar"), format!("'{ID}'::uuid")];
    let partitions = ["3", "3::bigint", "3::smallint", "'3'"];
    let bodies = [
        ("emit", "'{\"a\": 1}'", "7", Some("{\"a\":1}")),
        ("emit", "'{\"a\": 1}'", "'7'", Some("{\"a\":1}")),
        ("emit", "row_to_json(t)", "'7'::varchar", Some("{\"a\":1}")),
        ("emit", "to_jsonb(t)", "7", Some("{\"a\":1}")),
        ("emit", "NULL", "7", None),
        ("emit", "NULL", "'7'", None),
        ("emit", "NULL::json", "'7'", None),
        ("emit_bytes", "'x'", "'7'", Some("x")),
        ("emit_bytes", "'x'::bytea", "'7'::bytea", Some("x")),
        ("emit_bytes", "NULL", "'7'", None),
    ];
    for (function, payload, key, stored) in bodies {
        for (header, id, partition) in headers.iter().flat_map(|header| {
            ids.iter().flat_map(move |id| partitions.map(move |partition| (header, id, partition)))
        }) {
            let sql = format!(
                "SELECT outbox.{function}('t', {payload}, key => {key}, event_type => 'e', headers => {header},
                                          event_id => {id}, partition => {partition})::text FROM (SELECT 1 AS a) AS t"
            );
            let row = db.client.query_one(&sql, &[]).map_err(|error| anyhow::anyhow!("{sql}: {error}"))?;
            assert_eq!(row.get::<_, &str>(0), ID);
            let headers = (*header != "NULL").then(|| "{\"h\": 1}".into());
            let seen = last(&mut db.client)?;
            assert_eq!(seen, (Some("7".into()), stored.map(Into::into), headers, Some(3)), "{sql}");
        }
    }
    // Each argument alone.
    for argument in
        ["event_id => NULL", "partition => NULL", "headers => NULL", "key => NULL", "event_type => NULL"]
    {
        for call in ["emit('t', '1'", "emit_bytes('t', '1'", "emit('t', '1'::json", "emit('t', '1'::jsonb"] {
            let sql = format!("SELECT outbox.{call}, {argument})");
            db.client.batch_execute(&sql).map_err(|error| anyhow::anyhow!("{sql}: {error}"))?;
            assert_eq!(last(&mut db.client)?, (None, Some("1".into()), None, None), "{sql}");
        }
    }
    // Keys of other types than bytes.
    for key in ["7", "'7'::text", "'7'::varchar", "7::bigint"] {
        db.client.batch_execute(&format!("SELECT outbox.emit_bytes('t', 'x'::bytea, key => {key})"))?;
        assert_eq!(last(&mut db.client)?, (Some("7".into()), Some("x".into()), None, None), "{key}");
    }
    Ok(())
}

#[test]
fn dates_go_with_all_types_of_the_others() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let calls = [
        "emit('t', '1'",
        "emit('t'::text, '1'::jsonb, key => 'k'",
        "emit('t'::varchar, '1'::varchar, key => 'k'::varchar",
        "emit('t', to_json(1), key => 7::bigint",
        "emit('t', to_jsonb(1), key => 7",
        "emit('t', '1', event_id => outbox.uuid_v7()::text, partition => 0::bigint",
        "emit_bytes('t', 'x'",
        "emit_bytes('t', 'x'::bytea, key => 7::bigint",
        "emit_bytes('t', 'x'::bytea, key => 'k'::text",
        "emit_bytes('t', 'x'::bytea, key => 'k'::bytea, headers => '{}'::text",
    ];
    let dates = ["'2999-01-01'", "now() + interval '1 day'", "'2999-01-01'::timestamptz", "current_date + 2"];
    let mut number = 0;
    for (call, date) in calls.iter().flat_map(|call| dates.map(|date| (call, date))) {
        for arguments in [
            format!("deliver_at => {date}"),
            format!("deliver_at => {date}, expires_at => '3000-01-01'"),
            format!(
                "deliver_at => {date}, expires_at => '3000-01-01'::timestamptz, idempotency_key => '{number}'"
            ),
        ] {
            number += 1;
            let sql = format!("SELECT outbox.{call}, {arguments})");
            db.client.batch_execute(&sql).map_err(|error| anyhow::anyhow!("{sql}: {error}"))?;
        }
        let sql = format!("SELECT outbox.{call}, expires_at => {date}, deliver_at => NULL)");
        db.client.batch_execute(&sql).map_err(|error| anyhow::anyhow!("{sql}: {error}"))?;
    }
    let sql = "SELECT (SELECT count(*) FROM outbox.scheduled), (SELECT count(*) FROM outbox.events)";
    let row = db.client.query_one(sql, &[])?;
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (number, number / 3));
    Ok(())
}

/// With an argument of the further forms, all types are as free as without.
#[test]
fn further_arguments_take_what_sql_has() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let topics = ["'t'", "'t'::text", "'t'::varchar"];
    let calls = [
        ("emit", "'{\"a\": 1}'", "'7'"),
        ("emit", "'{\"a\": 1}'::varchar", "'7'::varchar"),
        ("emit", "row_to_json(t)", "7::bigint"),
        ("emit", "to_jsonb(t)", "'7'::text"),
        ("emit", "to_jsonb(t)", "7"),
        ("emit", "NULL", "'7'"),
        ("emit_bytes", "'x'", "'7'"),
        ("emit_bytes", "'x'::bytea", "'7'::bytea"),
        ("emit_bytes", "'x'::bytea", "'7'::text"),
        ("emit_bytes", "'x'::bytea", "7::bigint"),
    ];
    let others = [
        "",
        ", headers => '{}'",
        ", headers => '{}'::jsonb",
        ", event_id => gen_random_uuid()",
        ", partition => 0",
        ", event_type => 'e'",
    ];
    let mut number = 0;
    for (topic, (function, payload, key)) in topics.iter().flat_map(|topic| calls.map(|call| (topic, call))) {
        for (other, of_type) in
            others.iter().flat_map(|other| ["", "::text", "::varchar"].map(|of_type| (other, of_type)))
        {
            number += 1;
            let sql = format!(
                "SELECT outbox.{function}({topic}, {payload}, key => {key}{other}, idempotency_key => '{number}'{of_type})
                   FROM (SELECT 1 AS a) AS t"
            );
            db.client.batch_execute(&sql).map_err(|error| anyhow::anyhow!("{sql}: {error}"))?;
            assert_eq!(last(&mut db.client)?.0.as_deref(), Some("7"), "{sql}");
            let sql = "SELECT key FROM outbox.idempotency_keys WHERE event_id = (SELECT event_id FROM outbox.events ORDER BY id DESC LIMIT 1)";
            assert_eq!(db.client.query_one(sql, &[])?.get::<_, String>(0), number.to_string());
        }
    }
    // Without a key, with a key that is a number or a UUID, and by position.
    for call in [
        "emit('t', '1', idempotency_key => 'a')",
        "emit('t', '1'::json, idempotency_key => 'b')",
        "emit('t', '1', idempotency_key => -5)",
        "emit('t', '1'::jsonb, idempotency_key => gen_random_uuid())",
        "emit('t'::name, '1', idempotency_key => 'n')",
        "emit_bytes('t', '1', idempotency_key => 'c')",
        "emit_bytes('t', '1', idempotency_key => -6)",
        "emit_bytes('t', '1', 'k', idempotency_key => gen_random_uuid())",
        "emit('t', '1', 'k', 'e', '{}', gen_random_uuid(), 0, NULL, NULL, 'd')",
        "emit_bytes('t', '1', 'k', 'e', '{}', gen_random_uuid(), 0, 'a/b', NULL, NULL, 'e')",
    ] {
        db.client
            .batch_execute(&format!("SELECT outbox.{call}"))
            .map_err(|error| anyhow::anyhow!("{call}: {error}"))?;
    }
    assert_eq!(
        db.client.query_one("SELECT count(*) FROM outbox.idempotency_keys", &[])?.get::<_, i64>(0),
        number + 10
    );
    Ok(())
}

#[test]
fn try_emit_takes_what_sql_has() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let payloads = ["'1'", "'1'::text", "'1'::varchar", "'1'::json", "'1'::jsonb", "to_json(1)"];
    let keys = ["'7'", "'7'::varchar", "7", "7::bigint"];
    let mut number = 0;
    for (payload, key) in payloads.iter().flat_map(|payload| keys.map(|key| (payload, key))) {
        for (source, more) in
            [("", ""), ("::varchar", ""), ("", ", partition => 3::bigint"), ("", ", partition => 3")]
        {
            number += 1;
            let sql = format!(
                "SELECT status, event_id::text FROM
                 outbox.try_emit('{number}'{source}, 't', {payload}, key => {key}, event_id => '{ID}'::text{more})"
            );
            let row = db.client.query_one(&sql, &[]).map_err(|error| anyhow::anyhow!("{sql}: {error}"))?;
            assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("stored", ID), "{sql}");
            let partition = (!more.is_empty()).then_some(3);
            let seen = last(&mut db.client)?;
            assert_eq!(seen, (Some("7".into()), Some("1".into()), None, partition), "{sql}");
        }
    }
    Ok(())
}

/// Some drivers (asyncpg, pgx, tokio-postgres, postgres.js) ask the server for the types of parameters.
#[test]
fn parameters_without_a_type_get_the_one_that_drivers_know() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let all =
        "outbox.emit($1, $2, key => $3, event_type => $4, headers => $5, event_id => $6, partition => $7)";
    let types = [Type::TEXT, Type::JSONB, Type::TEXT, Type::TEXT, Type::JSONB, Type::UUID, Type::INT4];
    for (call, types) in [
        (all, &types[..]),
        ("outbox.emit($1, $2, $3, $4, $5, $6, $7)", &types[..]),
        ("outbox.emit($1, $2)", &types[..2]),
        (
            "outbox.emit($1, $2, key => $3, deliver_at => $4)",
            &[Type::VARCHAR, Type::JSONB, Type::TEXT, Type::TIMESTAMPTZ][..],
        ),
        ("outbox.emit($1, $2, $3)", &types[..3]),
        ("outbox.emit($1, $2, key => $3)", &types[..3]),
        ("outbox.emit_bytes($1, $2, key => $3)", &[Type::TEXT, Type::BYTEA, Type::BYTEA][..]),
        ("outbox.try_emit($1, $2, $3, key => $4)", &[Type::TEXT, Type::TEXT, Type::TEXT, Type::TEXT][..]),
    ] {
        let statement = db.client.prepare(&format!("SELECT {call}"))?;
        assert_eq!(statement.params(), types, "{call}");
    }
    Ok(())
}

/// JDBC sends strings and longs with types of its own.
#[test]
fn parameters_of_the_types_that_jdbc_sends() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let types = [
        Type::VARCHAR,
        Type::VARCHAR,
        Type::VARCHAR,
        Type::VARCHAR,
        Type::VARCHAR,
        Type::VARCHAR,
        Type::INT8,
    ];
    let sql = "SELECT outbox.emit($1, $2, key => $3, event_type => $4, headers => $5, event_id => $6, partition => $7)::text";
    let statement = db.client.prepare_typed(sql, &types)?;
    let row =
        db.client.query_one(&statement, &[&"t", &"{\"a\":1}", &"7", &"e", &"{\"h\":1}", &ID, &3_i64])?;
    assert_eq!(row.get::<_, &str>(0), ID);
    let seen = (Some("7".into()), Some("{\"a\":1}".into()), Some("{\"h\": 1}".into()), Some(3));
    assert_eq!(last(&mut db.client)?, seen);
    // For values that are not strings the driver sends their own type.
    for key in [Type::INT4, Type::INT8] {
        let statement = db.client.prepare_typed(
            "SELECT outbox.emit($1, $2, key => $3)",
            &[Type::VARCHAR, Type::VARCHAR, key.clone()],
        )?;
        match key {
            Type::INT4 => db.client.query_one(&statement, &[&"t", &"1", &8_i32])?,
            _ => db.client.query_one(&statement, &[&"t", &"1", &8_i64])?,
        };
        assert_eq!(last(&mut db.client)?, (Some("8".into()), Some("1".into()), None, None));
    }
    Ok(())
}

#[test]
fn a_trigger_passes_its_row_and_the_key_as_they_are() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    for (id, value, stored) in [("bigint", "7", "7"), ("int", "7", "7"), ("uuid", ID, ID)] {
        for json in ["row_to_json(NEW)", "to_jsonb(NEW)", "to_json(NEW)"] {
            db.client.batch_execute(&format!(
                "DROP TABLE IF EXISTS orders;
                 CREATE TABLE orders (id {id} PRIMARY KEY);
                 CREATE OR REPLACE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                     PERFORM outbox.emit('t', {json}, key => NEW.id);
                     RETURN NULL;
                 END $$;
                 CREATE TRIGGER tell AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION tell();
                 INSERT INTO orders VALUES ('{value}')"
            ))?;
            assert_eq!(last(&mut db.client)?.0.as_deref(), Some(stored), "{id}, {json}");
        }
    }
    Ok(())
}

/// The privilege for one form covers the others, and no other privilege does.
#[test]
fn the_right_to_emit_is_one() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let role = format!("{}_app", db.database);
    db.client.batch_execute(&format!("CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA outbox TO {role}"))?;
    let mut app = db.connect_as(&role)?;
    let calls = [
        "emit('t', '{}')",
        "emit('t', to_jsonb(1), key => 7)",
        "emit('t', to_json(1), key => 7)",
        "emit('t', '1', partition => 1::bigint)",
    ];
    for call in calls {
        let error = app.batch_execute(&format!("SELECT outbox.{call}")).expect_err(call);
        assert_eq!(error.code().map(|code| code.code()), Some("42501"), "{call}: {error}");
    }
    db.client.batch_execute(&format!(
        "GRANT EXECUTE ON FUNCTION outbox.emit(text, jsonb, text, text, jsonb, uuid, integer) TO {role}"
    ))?;
    for call in calls {
        app.batch_execute(&format!("SELECT outbox.{call}"))?;
    }
    for call in ["emit_bytes('t', 'x'::bytea, key => 7)", "try_emit('1', 't', to_json(1), key => 7)"] {
        let error = app.batch_execute(&format!("SELECT outbox.{call}")).expect_err(call);
        assert_eq!(error.code().map(|code| code.code()), Some("42501"), "{call}: {error}");
    }
    db.client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))?;
    Ok(())
}

/// Errors in a value are reported as for the type that it stands for.
#[test]
fn what_cannot_be_read_is_refused() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    for (call, code) in [
        ("emit('t', 'no json'::text)", "22P02"),
        ("emit('t', '1'::json, event_id => 'no id'::text)", "22P02"),
        ("emit('t', '1'::json, headers => 'no json'::text)", "22P02"),
        ("emit('t', '1'::json, headers => '[]'::json)", "22023"),
        ("emit('t', '1'::json, partition => 3000000000)", "22003"),
        ("emit('t', '1'::json, partition => -1)", "22023"),
        ("emit('t', NULL::json)", "22004"),
        ("emit(NULL, '1'::json)", "22004"),
        ("emit('t', now())", "42883"),
        ("emit('t', '1'::jsonb, key => now())", "42883"),
    ] {
        let error = db.client.batch_execute(&format!("SELECT outbox.{call}")).expect_err(call);
        assert_eq!(error.code().map(|code| code.code()), Some(code), "{call}: {error}");
    }
    Ok(())
}
