//! Streams are read as they are; whoever reads across streams misses nothing that commits late.

use event_outbox_lab::Result;
use postgres::{Client, GenericClient};

use crate::support::database::TestDatabase;
use crate::support::streams::{append, refusal};

/// The streams and versions that a call returns, in its order.
fn read(client: &mut impl GenericClient, call: &str) -> Result<Vec<String>> {
    let rows = client.query(&format!("SELECT stream || ':' || version FROM event_store.{call}"), &[])?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

fn fill(client: &mut Client) -> Result<()> {
    for (stream, count) in [("a-1", 3), ("b-1", 1), ("a-2", 1), ("a-1", 1)] {
        for _ in 0..count {
            append(client, stream, "any", "x")?;
        }
    }
    Ok(())
}

#[test]
fn events_are_read_forwards_and_backwards() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    fill(&mut db.client)?;
    for (call, expected) in [
        ("read_stream('a-1')", "a-1:1 a-1:2 a-1:3 a-1:4"),
        ("read_stream('a-1', 3)", "a-1:3 a-1:4"),
        ("read_stream('a-1', 2, 2)", "a-1:2 a-1:3"),
        ("read_stream('a-1', backwards => true)", "a-1:4 a-1:3 a-1:2 a-1:1"),
        ("read_stream('a-1', 2, backwards => true)", "a-1:2 a-1:1"),
        ("read_stream('a-1', \"limit\" => 1, backwards => true)", "a-1:4"),
        ("read_stream('a-9')", ""),
        ("read_category('a')", "a-1:1 a-1:2 a-1:3 a-2:1 a-1:4"),
        ("read_category('a', \"limit\" => 2)", "a-1:1 a-1:2"),
        ("read_category('a', backwards => true, \"limit\" => 2)", "a-1:4 a-2:1"),
        ("read_category('c')", ""),
        ("read_all()", "a-1:1 a-1:2 a-1:3 b-1:1 a-2:1 a-1:4"),
        ("read_all((SELECT position FROM event_store.read_stream('b-1')))", "a-2:1 a-1:4"),
        (
            "read_all((SELECT position FROM event_store.read_stream('b-1')), backwards => true)",
            "a-1:3 a-1:2 a-1:1",
        ),
        ("read_all(\"limit\" => 0)", ""),
    ] {
        assert_eq!(read(&mut db.client, call)?.join(" "), expected, "{call}");
    }
    for (call, state) in [
        ("read_stream('a')", "42602"),
        ("read_stream(NULL)", "22004"),
        ("read_stream('a-1', -1)", "22023"),
        ("read_stream('a-1', backwards => NULL)", "22023"),
        ("read_category('a*')", "42602"),
        ("read_category(NULL)", "42602"),
        ("read_all(\"limit\" => -1)", "22023"),
    ] {
        assert_eq!(refusal(&mut db.client, &format!("SELECT * FROM event_store.{call}")).0, state, "{call}");
    }
    Ok(())
}

/// A reader that goes on after its last position.
struct Reader {
    after: i64,
    seen: Vec<String>,
}

impl Reader {
    fn go_on(&mut self, client: &mut Client) -> Result<()> {
        let sql = "SELECT position, stream || ':' || version FROM event_store.read_all($1)";
        for row in client.query(sql, &[&self.after])? {
            self.after = row.get(0);
            self.seen.push(row.get(1));
        }
        Ok(())
    }
}

#[test]
fn a_reader_misses_nothing_that_commits_late() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let mut reader = Reader { after: 0, seen: Vec::new() };
    append(&mut db.client, "a-1", "any", "x")?;
    let (mut late, mut undone) = (db.connect()?, db.connect()?);
    late.batch_execute("BEGIN")?;
    append(&mut late, "a-late", "any", "x")?;
    undone.batch_execute("BEGIN")?;
    append(&mut undone, "a-undone", "any", "x")?;
    append(&mut db.client, "a-2", "any", "x")?;
    reader.go_on(&mut db.client)?;
    assert_eq!(reader.seen, ["a-1:1"]);
    // A savepoint that is rolled back does not end what the transaction has announced.
    late.batch_execute("SAVEPOINT s")?;
    append(&mut late, "a-late", "any", "x")?;
    late.batch_execute("ROLLBACK TO s")?;
    undone.batch_execute("ROLLBACK")?;
    reader.go_on(&mut db.client)?;
    assert_eq!(reader.seen, ["a-1:1"]);
    late.batch_execute("COMMIT")?;
    reader.go_on(&mut db.client)?;
    assert_eq!(reader.seen, ["a-1:1", "a-late:1", "a-2:1"]);
    Ok(())
}

#[test]
fn a_prepared_transaction_counts_as_running() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let mut reader = Reader { after: 0, seen: Vec::new() };
    let name = format!("store_{}", db.database);
    db.client.batch_execute("BEGIN")?;
    append(&mut db.client, "a-prepared", "any", "x")?;
    db.client.batch_execute(&format!("PREPARE TRANSACTION '{name}'"))?;
    append(&mut db.client, "a-1", "any", "x")?;
    reader.go_on(&mut db.client)?;
    assert_eq!(reader.seen, [""; 0]);
    db.client.batch_execute(&format!("COMMIT PREPARED '{name}'"))?;
    reader.go_on(&mut db.client)?;
    assert_eq!(reader.seen, ["a-prepared:1", "a-1:1"]);
    Ok(())
}

#[test]
fn rows_that_are_inserted_by_hand_are_announced() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    append(&mut db.client, "a-1", "any", "x")?;
    let mut copy = db.connect()?;
    copy.batch_execute(
        "BEGIN; SET LOCAL session_replication_role = replica;
         INSERT INTO event_store.event (stream_id, version, category, event_id, type)
         SELECT id, 2, 'a', gen_random_uuid(), 'by hand' FROM event_store.stream",
    )?;
    append(&mut db.client, "a-2", "any", "x")?;
    assert_eq!(read(&mut db.client, "read_all()")?, ["a-1:1"]);
    copy.batch_execute("COMMIT")?;
    assert_eq!(read(&mut db.client, "read_all()")?, ["a-1:1", "a-1:2", "a-2:1"]);
    Ok(())
}

#[test]
fn across_streams_only_what_is_committed_now_is_read() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    fill(&mut db.client)?;
    for call in ["read_all()", "read_category('a')", "stable_position()"] {
        let sql = format!("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM event_store.{call}");
        assert_eq!(refusal(&mut db.client, &sql).0, "25000", "{call}");
        db.client.batch_execute("ROLLBACK")?;
    }
    db.client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ")?;
    assert_eq!(read(&mut db.client, "read_stream('a-2')")?, ["a-2:1"]);
    db.client.batch_execute("ROLLBACK")?;
    Ok(())
}
