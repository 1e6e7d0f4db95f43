//! An append reaches the tables without the executor while they are as the extension has made them: that makes no difference but
//! speed, and what somebody adds to the tables is heeded.

use std::thread;

use event_outbox_lab::Result;
use postgres::Client;

use crate::support::database::TestDatabase;
use crate::support::streams::{append, refusal, types};

/// Appends in a transaction of its own. Returns whether the events were reached without the executor, which takes a reader's
/// lock, too, to look for the last version.
fn is_direct(session: &mut Client) -> Result<bool> {
    session.batch_execute("BEGIN")?;
    append(session, "a-1", "stream_exists", "x")?;
    let sql = "SELECT NOT EXISTS (SELECT FROM pg_locks AS l WHERE l.pid = pg_backend_pid() AND l.mode = 'AccessShareLock'
                                     AND l.relation = 'event_store.event'::regclass)";
    let is_direct = session.query_one(sql, &[])?.get(0);
    session.batch_execute("COMMIT")?;
    Ok(is_direct)
}

fn number(client: &mut Client, sql: &str) -> Result<i64> {
    Ok(client.query_one(sql, &[])?.get(0))
}

/// What can be added to the events and taken away again, and a query that gives 1 if it was heeded.
const CHANGES: [(&str, &str, &str); 8] = [
    (
        "CREATE TRIGGER fire AFTER INSERT ON event_store.event FOR EACH ROW EXECUTE FUNCTION fire()",
        "DROP TRIGGER fire ON event_store.event",
        "WITH d AS (DELETE FROM fired RETURNING 1) SELECT count(*) FROM d",
    ),
    (
        "CREATE RULE fire AS ON INSERT TO event_store.event DO ALSO INSERT INTO fired VALUES (new.version)",
        "DROP RULE fire ON event_store.event",
        "SELECT least(count(*), 1) FROM fired",
    ),
    (
        "CREATE INDEX more ON event_store.event (type)",
        "DROP INDEX event_store.more",
        "SELECT count(DISTINCT type) FROM event_store.event WHERE type = 'x'",
    ),
    (
        "ALTER TABLE event_store.event ADD CONSTRAINT more CHECK (version > 0)",
        "ALTER TABLE event_store.event DROP CONSTRAINT more",
        "SELECT 1::bigint",
    ),
    (
        "ALTER TABLE event_store.event ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE event_store.event DISABLE ROW LEVEL SECURITY",
        "SELECT 1::bigint",
    ),
    (
        "ALTER TABLE event_store.event DISABLE TRIGGER before_insert",
        "ALTER TABLE event_store.event ENABLE ALWAYS TRIGGER before_insert",
        "SELECT 1::bigint",
    ),
    (
        "DROP INDEX event_store.event_by_category",
        "CREATE INDEX event_by_category ON event_store.event (category, position)",
        "SELECT 1::bigint",
    ),
    (
        "DROP INDEX event_store.event_by_given_id;
         CREATE UNIQUE INDEX event_by_given_id ON event_store.event (stream_id, event_id) WHERE NOT is_id_given",
        "DROP INDEX event_store.event_by_given_id;
         CREATE UNIQUE INDEX event_by_given_id ON event_store.event (stream_id, event_id) WHERE is_id_given",
        "SELECT 1::bigint",
    ),
];

#[test]
fn what_is_added_to_the_events_is_heeded() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let mut session = db.connect()?;
    append(&mut session, "a-1", "any", "x")?;
    db.client.batch_execute(
        "CREATE TABLE fired (version bigint);
         CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.fired VALUES (new.version); RETURN new; END $$;
         SET enable_seqscan = off",
    )?;
    assert!(is_direct(&mut session)?, "as it was made");
    for (change, undo, heeded) in CHANGES {
        db.client.batch_execute(change)?;
        assert!(!is_direct(&mut session)?, "{change}");
        assert_eq!(number(&mut db.client, heeded)?, 1, "{change}");
        db.client.batch_execute(undo)?;
        assert!(is_direct(&mut session)?, "{undo}");
    }
    // What is committed while a transaction is in progress counts, and what is rolled back does not.
    session.batch_execute("BEGIN")?;
    append(&mut session, "a-2", "any", "x")?;
    session
        .batch_execute("SAVEPOINT s; CREATE RULE fire AS ON INSERT TO event_store.event DO ALSO NOTHING")?;
    append(&mut session, "a-2", "1", "x")?;
    session.batch_execute("ROLLBACK TO s; COMMIT")?;
    assert!(is_direct(&mut session)?);
    // A column that was dropped stays behind.
    db.client.batch_execute("ALTER TABLE event_store.event ADD COLUMN more text DEFAULT 'm'")?;
    assert!(!is_direct(&mut session)?);
    let last = "SELECT count(*) FROM event_store.event WHERE more = 'm' AND version = (SELECT max(version) FROM event_store.event)";
    assert_eq!(number(&mut db.client, last)?, 1);
    db.client.batch_execute("ALTER TABLE event_store.event DROP COLUMN more")?;
    assert!(!is_direct(&mut session)?);
    let dense = "SELECT (max(version) = count(*))::int::bigint FROM event_store.event AS e
                   JOIN event_store.stream AS s ON s.id = e.stream_id WHERE s.name = 'a-1'";
    assert_eq!(number(&mut db.client, dense)?, 1);
    Ok(())
}

#[test]
fn what_is_added_to_streams_and_commands_is_heeded() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let mut session = db.connect()?;
    let mut command = |id: &str| -> Result<i64> {
        let sql =
            format!("SELECT event_store.append('a-1', 'any', '{{\"type\": \"x\"}}', command_id => '{id}')");
        number(&mut session, &sql)
    };
    assert_eq!((command("c1")?, command("c2")?, command("c1")?), (1, 2, 1));
    db.client.batch_execute(
        "CREATE TABLE fired (command_id text);
         CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.fired VALUES (new.command_id); RETURN new; END $$;
         CREATE TRIGGER fire BEFORE INSERT ON event_store.command FOR EACH ROW EXECUTE FUNCTION fire()",
    )?;
    assert_eq!((command("c3")?, command("c3")?, command("c2")?), (3, 3, 2));
    assert_eq!(number(&mut db.client, "SELECT count(*) FROM fired")?, 1);
    db.client.batch_execute(
        "DROP TRIGGER fire ON event_store.command; CREATE INDEX more ON event_store.command (version)",
    )?;
    assert_eq!((command("c4")?, command("c4")?), (4, 4));
    db.client
        .batch_execute("DROP INDEX event_store.more; ALTER TABLE event_store.stream ADD COLUMN more text")?;
    assert_eq!((command("c5")?, command("c5")?), (5, 5));
    // The rows of a table that inherits are streams, too.
    db.client.batch_execute(
        "CREATE TABLE more () INHERITS (event_store.stream);
         INSERT INTO more (id, name, category, tombstoned_at) VALUES (1000, 'b-1', 'b', now())",
    )?;
    let sql = "SELECT event_store.append('b-1', 'any', '{\"type\": \"x\"}')";
    assert_eq!(refusal(&mut db.client, sql).0, "OE002");
    Ok(())
}

/// The same calls give the same results by both ways: a transaction that keeps to its snapshot uses SQL.
#[test]
fn both_ways_agree() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let mut other = db.connect()?;
    let mut state = 20_261_128_u64;
    let mut pick = move |count: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % count
    };
    let mut last = 0_i64;
    for call in 0..600 {
        let expected = match pick(6) {
            0 => "no_stream".into(),
            1 => "stream_exists".into(),
            2 | 3 => last.to_string(),
            4 => pick(20).to_string(),
            _ => "any".into(),
        };
        let events: Vec<String> = (0..=pick(3))
            .map(|_| match pick(3) {
                0 => format!(
                    "{{\"type\": \"t\", \"id\": \"00000000-0000-0000-0000-0000000000{:02}\"}}",
                    pick(40)
                ),
                _ => format!("{{\"type\": \"t\", \"data\": {{\"n\": {call}}}, \"metadata\": {{}}}}"),
            })
            .collect();
        let command = if pick(3) == 0 { format!("'c{}'", pick(40)) } else { "NULL".into() };
        let stream = pick(3);
        let mut run = |client: &mut Client, category: &str, isolation: &str| -> Result<String> {
            client.batch_execute(&format!("BEGIN ISOLATION LEVEL {isolation}; SAVEPOINT s"))?;
            let sql = format!(
                "SELECT event_store.append('{category}-{stream}', '{expected}', '[{}]', {command})",
                events.join(",")
            );
            let result = match client.query_one(&sql, &[]) {
                Ok(row) => {
                    last = row.get(0);
                    last.to_string()
                }
                Err(error) => {
                    let error = error.as_db_error().expect("an error of the database");
                    client.batch_execute("ROLLBACK TO s")?;
                    format!("{} {}", error.code().code(), error.detail().unwrap_or_default())
                }
            };
            client.batch_execute(if call % 7 == 6 { "ROLLBACK" } else { "COMMIT" })?;
            Ok(result)
        };
        let direct = run(&mut db.client, "a", "READ COMMITTED")?;
        let in_sql = run(&mut other, "b", "REPEATABLE READ")?;
        assert_eq!(direct, in_sql, "call {call}: {expected} {events:?} {command}");
    }
    let stored = |category: &str| {
        format!(
            "SELECT string_agg(concat_ws(' ', right(s.name, 1), e.version, CASE WHEN e.is_id_given THEN e.event_id END, e.type, e.data,
                                         e.metadata), E'\\n' ORDER BY s.name, e.version) || count(c)
               FROM event_store.event AS e JOIN event_store.stream AS s ON s.id = e.stream_id
               LEFT JOIN event_store.command AS c ON c.stream_id = e.stream_id AND c.version = e.version
              WHERE e.category = '{category}'"
        )
    };
    let direct: String = db.client.query_one(&stored("a"), &[])?.get(0);
    let in_sql: String = db.client.query_one(&stored("b"), &[])?.get(0);
    assert_eq!(direct, in_sql);
    assert!(direct.lines().count() > 200, "{direct}");
    // The indexes have what the tables have.
    db.client.batch_execute(
        "CREATE EXTENSION IF NOT EXISTS amcheck;
         SELECT bt_index_check(i.indexrelid, true) FROM pg_index AS i WHERE i.indrelid::regclass::text LIKE 'event_store.%'",
    )?;
    Ok(())
}

#[test]
fn one_statement_and_large_events() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let client = &mut db.client;
    append(client, "a-1", "any", "x")?;
    let sql = "SELECT string_agg(event_store.append('a-1', 'any', jsonb_build_object('type', 'y', 'data', n))::text, ',')
                 FROM generate_series(1, 5) AS n";
    assert_eq!(client.query_one(sql, &[])?.get::<_, String>(0), "2,3,4,5,6");
    let sql = "WITH w AS MATERIALIZED (SELECT event_store.append('a-2', 'any', '{\"type\": \"x\"}') AS v),
                    x AS MATERIALIZED (SELECT event_store.append('a-2', w.v, '{\"type\": \"x\"}') AS v FROM w)
               SELECT v FROM x";
    assert_eq!(number(client, sql)?, 2);
    client.batch_execute(
        "SELECT event_store.append('a-1', 6, jsonb_build_object('type', 'large', 'data',
             (SELECT jsonb_agg(md5(n::text)) FROM generate_series(1, 20000) AS n)))",
    )?;
    let sql = "SELECT count(*) FROM event_store.read_stream('a-1', 7),
                                    jsonb_array_elements_text(data) WITH ORDINALITY AS e (text, n) WHERE text = md5(n::text)";
    assert_eq!(number(client, sql)?, 20_000);
    Ok(())
}

/// Waits until a session waits for another one.
fn until_blocked(client: &mut Client, session: i32) -> Result<()> {
    Ok(client.batch_execute(&format!(
        "DO $$ DECLARE until timestamptz := clock_timestamp() + '20 s'; BEGIN
             WHILE cardinality(pg_blocking_pids({session})) = 0 LOOP
                 IF clock_timestamp() > until THEN RAISE EXCEPTION 'nobody waits'; END IF;
                 PERFORM pg_sleep(0.01);
             END LOOP;
         END $$"
    ))?)
}

/// Who waits for a stream finds it as it has become.
#[test]
fn who_waits_sees_what_has_become_of_the_stream() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    for (number, (change, outcome)) in [
        ("SELECT event_store.tombstone(STREAM)", Err("OE002")),
        ("SELECT event_store.erase(STREAM)", Err("OE002")),
        ("SELECT event_store.append(STREAM, 'any', '{\"type\": \"x\"}')", Ok(3)),
        ("DELETE FROM event_store.stream WHERE name = STREAM", Ok(1)),
    ]
    .into_iter()
    .enumerate()
    {
        let stream = format!("a-{number}");
        append(&mut db.client, &stream, "any", "x")?;
        let mut waiting = db.connect()?;
        append(&mut waiting, "b-1", "any", "x")?;
        let waiter: i32 = waiting.query_one("SELECT pg_backend_pid()", &[])?.get(0);
        db.client.batch_execute(&format!("BEGIN; {}", change.replace("STREAM", &format!("'{stream}'"))))?;
        let result = thread::scope(|scope| -> Result<_> {
            let append = scope.spawn(|| append(&mut waiting, &stream, "any", "late"));
            until_blocked(&mut db.client, waiter)?;
            db.client.batch_execute("COMMIT")?;
            Ok(append.join().expect("a writer"))
        })?;
        match outcome {
            Ok(version) => assert_eq!(result?, version, "{change}"),
            Err(code) => {
                let error = result.expect_err(change);
                assert_eq!(error.code().map(|code| code.code()), Some(code), "{change}");
            }
        }
    }
    Ok(())
}

/// A prepared transaction keeps the lock, and an event that was inserted by hand, without it, is not overwritten.
#[test]
fn others_hold_what_they_have_taken() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let mut other = db.connect()?;
    other.batch_execute("SET lock_timeout = '200 ms'")?;
    append(&mut db.client, "a-1", "any", "one")?;
    let name = format!(
        "append-{}",
        number(&mut db.client, "SELECT oid::bigint FROM pg_database WHERE datname = current_database()")?
    );
    db.client.batch_execute("BEGIN")?;
    append(&mut db.client, "a-1", "1", "two")?;
    db.client.batch_execute(&format!("PREPARE TRANSACTION '{name}'"))?;
    let late = "SELECT event_store.append('a-1', 'any', '{\"type\": \"late\"}')";
    assert_eq!(refusal(&mut other, late).0, "55P03");
    db.client.batch_execute(&format!("COMMIT PREPARED '{name}'"))?;
    assert_eq!(append(&mut other, "a-1", "2", "three")?, 3);
    db.client.batch_execute(
        "BEGIN; INSERT INTO event_store.event (stream_id, version, category, event_id, type)
                SELECT s.id, 4, s.category, gen_random_uuid(), 'by hand' FROM event_store.stream AS s WHERE s.name = 'a-1'",
    )?;
    let session: i32 = other.query_one("SELECT pg_backend_pid()", &[])?.get(0);
    let error = thread::scope(|scope| -> Result<_> {
        let waiting = scope.spawn(|| {
            other.batch_execute("SET lock_timeout = '20 s'").expect("a setting");
            append(&mut other, "a-1", "any", "late").expect_err("the version is taken")
        });
        until_blocked(&mut db.client, session)?;
        db.client.batch_execute("COMMIT")?;
        Ok(waiting.join().expect("a writer"))
    })?;
    assert!(matches!(error.code().map(|code| code.code()), Some("23505")), "{error:?}");
    assert_eq!(types(&mut db.client, "a-1")?, ["one", "two", "three", "by hand"]);
    Ok(())
}
