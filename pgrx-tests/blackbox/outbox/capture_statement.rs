//! Captures by statement: the rows of a statement become events at its end, the same ones as by row.

use event_outbox_lab::Result;
use postgres::error::SqlState;

use crate::support::captures::{events_of, refusal, taken};
use crate::support::database::TestDatabase;

/// Statements that change rows in all ways.
const CHANGES: [&str; 12] = [
    "INSERT INTO t SELECT n, n % 3, repeat('x', 3000) FROM generate_series(1, 5) AS n",
    "INSERT INTO t VALUES (1, 7, 'y'), (6, 6, 'z') ON CONFLICT (id) DO UPDATE SET n = excluded.n",
    "INSERT INTO t VALUES (1, 8, 'y') ON CONFLICT DO NOTHING",
    "UPDATE t SET n = n",
    "UPDATE t SET n = n + 1 WHERE id < 3",
    "UPDATE t SET n = 0",
    "UPDATE t SET id = id + 10 WHERE id IN (2, 4)",
    "UPDATE t SET note = 'short', n = 9 WHERE id > 5",
    "UPDATE t SET n = 1 WHERE false",
    "DELETE FROM t WHERE id = 1",
    "WITH gone AS (DELETE FROM t WHERE id = 3 RETURNING *) INSERT INTO t SELECT id + 100, n, note FROM gone",
    "TRUNCATE t",
];

#[test]
fn the_events_are_those_of_rows() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    db.client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, n int, note text)")?;
    for style in ["notification", "delta", "fat"] {
        let mut by_mode = ["row", "statement"].map(|_| Vec::new());
        for (mode, events) in ["row", "statement"].into_iter().zip(&mut by_mode) {
            let sql = format!("SELECT outbox.capture('t', '{style}', topic => 't', mode => '{mode}')");
            db.client.batch_execute(&sql)?;
            for change in CHANGES {
                let mut of_change = events_of(&mut db.client, change)?;
                // Triggers for statements fire by their kind, where a statement has several.
                of_change.sort();
                events.push(of_change);
            }
        }
        let [by_row, by_statement] = by_mode;
        assert!(by_row.iter().map(Vec::len).sum::<usize>() > 20, "{by_row:?}");
        assert_eq!(by_row, by_statement, "{style}");
    }
    Ok(())
}

/// More rows than are written at once, in their order; values of megabytes; a table that requires INSERTs in SQL.
#[test]
fn large_statements() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    db.client.batch_execute(
        "CREATE TABLE t (id int PRIMARY KEY, n int);
         SELECT outbox.capture('t', 'delta', topic => 't', mode => 'statement')",
    )?;
    for _ in 0..2 {
        db.client.batch_execute(
            "INSERT INTO t SELECT n, 0 FROM generate_series(1, 2500) AS n; UPDATE t SET n = id",
        )?;
        let keys = "SELECT array_agg(convert_from(key, 'UTF8')::int ORDER BY id) FROM outbox.events WHERE event_type = $1";
        for event_type in ["t.created", "t.patched"] {
            let keys: Vec<i32> = db.client.query_one(keys, &[&event_type])?.get(0);
            assert_eq!(keys, (1..=2500).collect::<Vec<_>>(), "{event_type}");
        }
        let by_index = "SET enable_seqscan = off; SELECT 1 FROM outbox.events WHERE id = (SELECT max(id) FROM outbox.events)";
        db.client.batch_execute(by_index)?;
        db.client.batch_execute("DELETE FROM t; DELETE FROM outbox.events; ALTER TABLE outbox.events ADD IF NOT EXISTS more int DEFAULT 1")?;
    }
    db.client.batch_execute("ALTER TABLE outbox.events DROP more; ALTER TABLE t ADD body text")?;
    db.client
        .batch_execute("INSERT INTO t SELECT n, 0, repeat('x', 900000) FROM generate_series(1, 20) AS n")?;
    let sizes = "SELECT count(*) FROM outbox.events WHERE length(payload) > 900000 AND payload::text NOT LIKE '%omitted%'";
    assert_eq!(db.client.query_one(sizes, &[])?.get::<_, i64>(0), 20);
    Ok(())
}

/// The records in Kafka: the relay finds what was written at once.
#[test]
fn they_arrive_in_kafka() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("statement")?;
    db.client.batch_execute(&format!(
        "CREATE TABLE t (id int PRIMARY KEY); SELECT outbox.capture('t', 'notification', topic => '{topic}', mode => 'statement');
         INSERT INTO t SELECT generate_series(1, 3000)"
    ))?;
    let records = db.promptly(&topic, 3000)?;
    let keys: Vec<_> = records.iter().filter_map(|record| record.key_text()).collect();
    assert_eq!(keys, (1..=3000).map(|number| number.to_string()).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn tables_with_children_are_refused() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    db.client
        .batch_execute("CREATE TABLE base (id int PRIMARY KEY); CREATE TABLE child () INHERITS (base)")?;
    let capture = "SELECT outbox.capture('base', 'fat', topic => 't', mode => 'statement')";
    assert_eq!(refusal(&mut db.client, capture).0, SqlState::WRONG_OBJECT_TYPE);
    // By hand, without the rows of the statement.
    db.client.batch_execute(
        "CREATE TABLE t (id int PRIMARY KEY); SELECT outbox.capture('t', 'fat', topic => 't')",
    )?;
    let by_hand = "DO $$ BEGIN EXECUTE replace(pg_get_triggerdef((SELECT oid FROM pg_trigger WHERE tgname = 'outbox_capture')),
        'AFTER INSERT OR DELETE OR UPDATE ON public.t FOR EACH ROW', 'AFTER INSERT ON public.child FOR EACH STATEMENT'); END $$";
    db.client.batch_execute(by_hand)?;
    db.client.batch_execute("INSERT INTO child VALUES (1)").expect_err("no rows of the statement");
    assert_eq!(taken(&mut db.client)?, [""; 0]);
    Ok(())
}
