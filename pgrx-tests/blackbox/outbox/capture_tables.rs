//! Captured tables of all kinds, changed in all ways, and altered.

use event_outbox_lab::Result;
use postgres::Client;
use postgres::error::SqlState;

use crate::support::captures::{events_of, refusal, taken};
use crate::support::database::TestDatabase;

fn with(sql: &str) -> Result<TestDatabase> {
    let mut db = TestDatabase::disabled()?;
    db.client.batch_execute("SET event_outbox.namespace = 'n'")?;
    db.client.batch_execute(sql)?;
    Ok(db)
}

#[test]
fn partitions_are_captured_with_their_table() -> Result<()> {
    let mut db = with(
        "CREATE TABLE orders (id int, region text, total int, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
         CREATE TABLE eu PARTITION OF orders FOR VALUES IN ('eu');
         SELECT outbox.capture('orders', 'delta', key => '{id}');
         -- Attached later; with other positions of the columns.
         CREATE TABLE us (gone int, total int, region text NOT NULL, id int NOT NULL); ALTER TABLE us DROP gone;
         ALTER TABLE us ADD PRIMARY KEY (id, region);
         ALTER TABLE orders ATTACH PARTITION us FOR VALUES IN ('us')",
    )?;
    assert_eq!(
        events_of(
            &mut db.client,
            "INSERT INTO orders VALUES (1, 'eu', 5), (2, 'us', 6); INSERT INTO us (id, region, total) VALUES (3, 'us', 7);
             UPDATE orders SET total = 8 WHERE id = 2"
        )?,
        [
            r#"orders.created 1 {"key":{"id":1},"changed":{"id":1,"region":"eu","total":5}}"#,
            r#"orders.created 2 {"key":{"id":2},"changed":{"total":6,"region":"us","id":2}}"#,
            r#"orders.created 3 {"key":{"id":3},"changed":{"total":7,"region":"us","id":3}}"#,
            r#"orders.patched 2 {"key":{"id":2},"changed":{"total":8}}"#
        ]
    );
    // A row that moves to another partition is deleted from one and created in the other.
    let moved = events_of(&mut db.client, "UPDATE orders SET region = 'us' WHERE id = 1")?;
    assert_eq!(
        moved,
        [
            r#"orders.deleted 1 {"key":{"id":1}}"#,
            r#"orders.created 1 {"key":{"id":1},"changed":{"total":5,"region":"us","id":1}}"#
        ]
    );
    // Detached, a table is captured no more.
    let detached = "ALTER TABLE orders DETACH PARTITION us; INSERT INTO us (id, region) VALUES (9, 'us')";
    assert_eq!(events_of(&mut db.client, detached)?, [""; 0]);
    let twice = refusal(&mut db.client, "SELECT outbox.capture('eu', 'fat')");
    assert_eq!(twice.0, SqlState::WRONG_OBJECT_TYPE);
    let refused = refusal(&mut db.client, "SELECT outbox.capture('orders', 'fat', mode => 'statement')");
    assert_eq!(refused.0, SqlState::WRONG_OBJECT_TYPE);
    assert_eq!(events_of(&mut db.client, "TRUNCATE orders")?, [r#"orders.truncated - {"key":null}"#]);
    assert!(db.client.query_one("SELECT outbox.uncapture('orders')", &[])?.get::<_, bool>(0));
    assert_eq!(events_of(&mut db.client, "INSERT INTO orders VALUES (1, 'eu', 5)")?, [""; 0]);
    Ok(())
}

#[test]
fn children_are_captured_by_themselves() -> Result<()> {
    let mut db = with(
        "CREATE TABLE base (id int PRIMARY KEY); CREATE TABLE child (extra int) INHERITS (base);
         SELECT outbox.capture('base', 'notification')",
    )?;
    let changes = "INSERT INTO base VALUES (1); INSERT INTO child VALUES (2)";
    assert_eq!(events_of(&mut db.client, changes)?, [r#"base.created 1 {"key":{"id":1}}"#]);
    db.client.batch_execute("SELECT outbox.capture('child', 'notification', key => '{id}')")?;
    assert_eq!(
        events_of(&mut db.client, "UPDATE base SET id = id + 10")?,
        [
            r#"base.deleted 1 {"key":{"id":1}}"#,
            r#"base.created 11 {"key":{"id":11}}"#,
            r#"child.deleted 2 {"key":{"id":2}}"#,
            r#"child.created 12 {"key":{"id":12}}"#
        ]
    );
    Ok(())
}

/// A change of the table counts from the next row on, also in sessions that have emitted before, and within a transaction.
#[test]
fn an_altered_table_is_seen_at_once() -> Result<()> {
    let mut db =
        with("CREATE TABLE t (id int PRIMARY KEY, a int, b text); SELECT outbox.capture('t', 'delta')")?;
    let mut other = db.connect()?;
    let insert = |id: i32| format!("INSERT INTO t (id) VALUES ({id})");
    let row = |id: i32, rest: &str| {
        [format!(r#"t.created {id} {{"key":{{"id":{id}}},"changed":{{"id":{id}{rest}}}}}"#)]
    };
    assert_eq!(events_of(&mut other, &insert(1))?, row(1, r#","a":null,"b":null"#));
    db.client.batch_execute("ALTER TABLE t DROP a, ADD c int DEFAULT 4")?;
    assert_eq!(events_of(&mut other, &insert(2))?, row(2, r#","b":null,"c":4"#));
    // A row from before the column has its default.
    assert_eq!(
        events_of(&mut other, "UPDATE t SET c = 5 WHERE id = 1")?,
        [r#"t.patched 1 {"key":{"id":1},"changed":{"c":5}}"#]
    );
    let mut transaction = other.transaction()?;
    transaction.batch_execute(&format!("{}; ALTER TABLE t ALTER c TYPE text", insert(3)))?;
    transaction.batch_execute(&insert(4))?;
    transaction.commit()?;
    assert_eq!(taken(&mut other)?, [row(3, r#","b":null,"c":4"#), row(4, r#","b":null,"c":"4""#)].concat());
    // The topic and the type stay when the table gets another name.
    db.client.batch_execute("ALTER TABLE t RENAME TO t2")?;
    assert_eq!(events_of(&mut other, "DELETE FROM t2 WHERE id = 1")?, [r#"t.deleted 1 {"key":{"id":1}}"#]);
    db.client.batch_execute("ALTER TABLE t2 DROP id")?;
    let lost = other.batch_execute("INSERT INTO t2 (b) VALUES ('x')").expect_err("the key is gone");
    let lost = lost.as_db_error().expect("an error of the server");
    assert!(*lost.code() == SqlState::UNDEFINED_COLUMN && lost.hint().is_some(), "{lost:?}");
    Ok(())
}

/// A renamed column stays what it was: a secret, a part of the key, or chosen.
#[test]
fn a_renamed_column_is_followed() -> Result<()> {
    let mut db = with(
        "CREATE TABLE people (id int PRIMARY KEY, name text, ssn text);
         SELECT outbox.capture('people', 'fat', key => '{id}', \"except\" => '{ssn}')",
    )?;
    let mut other = db.connect()?;
    assert_eq!(events_of(&mut other, "INSERT INTO people VALUES (1, 'a', 'secret')")?.len(), 1);
    db.client.batch_execute(
        "ALTER TABLE people RENAME ssn TO social; ALTER TABLE people RENAME COLUMN id TO number",
    )?;
    assert_eq!(
        events_of(&mut other, "INSERT INTO people VALUES (2, 'b', 'secret')")?,
        [r#"people.created 2 {"key":{"number":2},"old":null,"new":{"number":2,"name":"b"}}"#]
    );
    let shown = "SELECT (key, \"except\")::text FROM outbox.captures";
    assert_eq!(db.client.query_one(shown, &[])?.get::<_, String>(0), "({number},{social})");
    // A rename that fails or is rolled back changes nothing.
    db.client.batch_execute("ALTER TABLE people RENAME social TO name").expect_err("the name is taken");
    db.client.batch_execute("BEGIN; ALTER TABLE people RENAME social TO x; ROLLBACK")?;
    assert_eq!(db.client.query_one(shown, &[])?.get::<_, String>(0), "({number},{social})");
    // Partitions follow their table.
    db.client.batch_execute(
        "CREATE TABLE parts (id int PRIMARY KEY, pin text) PARTITION BY RANGE (id);
         CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (10);
         SELECT outbox.capture('parts', 'fat', \"except\" => '{pin}');
         ALTER TABLE parts RENAME pin TO code",
    )?;
    assert_eq!(
        events_of(&mut other, "INSERT INTO parts VALUES (1, 'secret')")?,
        [r#"parts.created 1 {"key":{"id":1},"old":null,"new":{"id":1}}"#]
    );
    Ok(())
}

#[test]
fn generated_columns_are_there() -> Result<()> {
    let mut db = with(
        "CREATE TABLE g (id int PRIMARY KEY, net int, gross int GENERATED ALWAYS AS (net * 2) STORED);
         SELECT outbox.capture('g', 'delta')",
    )?;
    assert_eq!(
        events_of(&mut db.client, "INSERT INTO g VALUES (1, 5); UPDATE g SET net = 6")?,
        [
            r#"g.created 1 {"key":{"id":1},"changed":{"id":1,"net":5,"gross":10}}"#,
            r#"g.patched 1 {"key":{"id":1},"changed":{"net":6,"gross":12}}"#
        ]
    );
    Ok(())
}

/// How often an UPDATE of another column looks for a value out of line.
fn fetched_by_update(client: &mut Client) -> Result<i64> {
    let mut transaction = client.transaction()?;
    transaction.batch_execute("UPDATE docs SET n = n + 1")?;
    let sql = "SELECT pg_stat_get_xact_numscans(i.indexrelid) FROM pg_class AS c JOIN pg_index AS i ON i.indrelid = c.reltoastrelid
                WHERE c.oid = 'docs'::regclass";
    let fetched = transaction.query_one(sql, &[])?.get(0);
    transaction.commit()?;
    Ok(fetched)
}

#[test]
fn an_unchanged_value_out_of_line_is_not_fetched() -> Result<()> {
    let mut db = with(
        "CREATE TABLE docs (id int PRIMARY KEY, n int, body text); ALTER TABLE docs ALTER body SET STORAGE EXTERNAL;
         INSERT INTO docs SELECT 1, -1, string_agg(md5(i::text), '') FROM generate_series(1, 1000) AS i",
    )?;
    let by_itself = fetched_by_update(&mut db.client)?;
    db.client.batch_execute("SELECT outbox.capture('docs', 'delta')")?;
    assert_eq!(fetched_by_update(&mut db.client)?, by_itself);
    assert_eq!(taken(&mut db.client)?, [r#"docs.patched 1 {"key":{"id":1},"changed":{"n":1}}"#]);
    // The premise: an event that has the value fetches it.
    db.client.batch_execute("SELECT outbox.capture('docs', 'fat')")?;
    assert!(fetched_by_update(&mut db.client)? > by_itself);
    Ok(())
}

#[test]
fn every_way_of_changing_rows_is_captured() -> Result<()> {
    let mut db = with(
        "CREATE TABLE t (id int PRIMARY KEY, n int); CREATE TABLE child (id int REFERENCES t ON DELETE CASCADE, PRIMARY KEY (id));
         SELECT outbox.capture('t', 'delta'); SELECT outbox.capture('child', 'notification')",
    )?;
    let conflict = "INSERT INTO t VALUES (1, 1); INSERT INTO t VALUES (1, 2) ON CONFLICT (id) DO UPDATE SET n = excluded.n;
                    INSERT INTO t VALUES (1, 3) ON CONFLICT DO NOTHING";
    assert_eq!(
        events_of(&mut db.client, conflict)?,
        [
            r#"t.created 1 {"key":{"id":1},"changed":{"id":1,"n":1}}"#,
            r#"t.patched 1 {"key":{"id":1},"changed":{"n":2}}"#
        ]
    );
    let merge = "MERGE INTO t USING (VALUES (1, 9), (2, 9)) AS s (id, n) ON t.id = s.id
                 WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.n)";
    assert_eq!(
        events_of(&mut db.client, merge)?,
        [r#"t.deleted 1 {"key":{"id":1}}"#, r#"t.created 2 {"key":{"id":2},"changed":{"id":2,"n":9}}"#]
    );
    let mut copy = db.client.copy_in("COPY t FROM STDIN")?;
    std::io::Write::write_all(&mut copy, b"3\t3\n4\t4\n")?;
    copy.finish()?;
    assert_eq!(taken(&mut db.client)?.len(), 2);
    assert_eq!(
        events_of(&mut db.client, "INSERT INTO child VALUES (3); DELETE FROM t WHERE id = 3")?,
        [
            r#"child.created 3 {"key":{"id":3}}"#,
            r#"t.deleted 3 {"key":{"id":3}}"#,
            r#"child.deleted 3 {"key":{"id":3}}"#
        ]
    );
    // What is rolled back was never emitted.
    db.client.batch_execute(
        "BEGIN; INSERT INTO t VALUES (8, 8); SAVEPOINT s; DELETE FROM t; ROLLBACK TO s; COMMIT",
    )?;
    assert_eq!(taken(&mut db.client)?, [r#"t.created 8 {"key":{"id":8},"changed":{"id":8,"n":8}}"#]);
    Ok(())
}

/// An application's write never fails because its row is large.
#[test]
fn a_row_that_is_too_large_becomes_a_notification() -> Result<()> {
    let mut db = with(
        "CREATE TABLE docs (id int PRIMARY KEY, body text, data jsonb); SELECT outbox.capture('docs', 'fat')",
    )?;
    let omitted = |action: &str, id: i32| {
        format!(r#"docs.{action} {id} {{"key":{{"id":{id}}},"omitted":"too_large"}}"#)
    };
    // By what is stored, by the text that it becomes, and by both rows together.
    assert_eq!(
        events_of(
            &mut db.client,
            r"INSERT INTO docs VALUES (1, repeat('x', 1000000), NULL);
              INSERT INTO docs VALUES (2, repeat(E'\x01', 300000), NULL);
              INSERT INTO docs VALUES (3, repeat('x', 600000), NULL); DELETE FROM outbox.events WHERE key = '3';
              UPDATE docs SET body = body || 'x' WHERE id = 3"
        )?,
        [omitted("created", 1), omitted("created", 2), omitted("replaced", 3)]
    );
    // Far more than a text can hold.
    let large = "SET LOCAL work_mem = '1GB';
                 INSERT INTO docs VALUES (4, repeat('x', 250000000), to_jsonb(array_fill(repeat(E'\\x01', 1000000), ARRAY[200])))";
    assert_eq!(events_of(&mut db.client, &format!("BEGIN; {large}; COMMIT"))?, [omitted("created", 4)]);
    // The least that is left: what has happened to some row.
    db.client.batch_execute(
        "CREATE TABLE names (name text, n int); SELECT outbox.capture('names', 'fat', key => '{name}')",
    )?;
    assert_eq!(
        events_of(&mut db.client, "INSERT INTO names VALUES (repeat('x', 2000000), 1)")?,
        [r#"names.created - {"key":null,"omitted":"too_large"}"#]
    );
    Ok(())
}

/// As an event whose size is the limit, and one byte more.
#[test]
fn the_limit_is_that_of_emit() -> Result<()> {
    let mut db = with("CREATE TABLE d (id int PRIMARY KEY, b text); SELECT outbox.capture('d', 'delta')")?;
    db.client.batch_execute("INSERT INTO d VALUES (1, ''); SET event_outbox.max_event_bytes = 2000")?;
    let size =
        "SELECT length(payload) + length(key) + length(event_type) + length(content_type) FROM outbox.events";
    let rest: i32 = db.client.query_one(size, &[])?.get(0);
    for (more, is_whole) in [(0, true), (1, false)] {
        let sql = format!(
            "UPDATE d SET b = ''; DELETE FROM outbox.events; DELETE FROM d; DELETE FROM outbox.events;
                           INSERT INTO d VALUES (1, repeat('x', {}))",
            2000 - rest + more
        );
        let events = events_of(&mut db.client, &sql)?;
        assert_eq!(!events[0].contains("omitted"), is_whole, "{more}");
    }
    Ok(())
}
