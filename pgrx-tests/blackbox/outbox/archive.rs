//! What was published to archived topics stays readable, and can be replayed.

use event_outbox_lab::{Result, wait};
use postgres::Client;
use postgres::error::SqlState;

use crate::support::database::{DEADLINE, TestDatabase, values};
use crate::support::dump::dump_and_restore;
use crate::support::roles::{assert_denied, create_role};

fn number(client: &mut Client, sql: &str) -> Result<i64> {
    Ok(client.query_one(sql, &[])?.get(0))
}

fn texts(client: &mut Client, sql: &str) -> Result<Vec<String>> {
    Ok(client.query(sql, &[])?.iter().map(|row| row.get(0)).collect())
}

fn archived(client: &mut Client) -> Result<i64> {
    number(client, "SELECT count(*) FROM outbox.archive")
}

/// All that an event has, for a comparison.
const WHOLE: &str =
    "(topic, event_id, emitted_at, id, key, payload, headers::text, event_type, content_type)::text";

#[test]
fn what_is_published_is_archived_whole_with_its_place() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let (kept, other) = (db.own_topic("kept")?, db.own_topic("other")?);
    db.client.execute("SELECT outbox.set_archive($1, '7 days')", &[&kept])?;
    db.client.execute("SELECT outbox.emit($1, '1', key => 'k')", &[&other])?;
    db.client.execute(
        "SELECT outbox.emit($1, to_jsonb(n), key => 'k', headers => '{\"a\": [1, null]}', event_type => 'e')
           FROM generate_series(1, 2500) AS n",
        &[&kept],
    )?;
    db.client.execute("SELECT outbox.emit($1, NULL, key => 'k', partition => 0)", &[&kept])?;
    // Large and incompressible, so that it is stored out of line.
    db.client.execute(
        "SELECT outbox.emit_bytes($1, (SELECT string_agg(sha256(n::text::bytea), '') FROM generate_series(1, 9000) AS n))",
        &[&kept],
    )?;
    let emitted = texts(
        &mut db.client,
        &format!("SELECT {WHOLE} FROM outbox.events WHERE topic LIKE '%kept' ORDER BY id"),
    )?;
    db.configure("event_outbox.enabled", "on")?;
    let records = db.drained(&kept)?;
    assert_eq!(texts(&mut db.client, &format!("SELECT {WHOLE} FROM outbox.archive ORDER BY id"))?, emitted);
    // The archive says where each record lies.
    let rows = db.client.query(
        "SELECT \"offset\", partition, outbox.readable(payload), chosen_partition FROM outbox.archive",
        &[],
    )?;
    assert_eq!(rows.len(), records.len());
    for row in rows {
        let (offset, partition): (i64, i32) = (row.get(0), row.get(1));
        let record = records.iter().find(|record| record.offset == offset && record.partition == partition);
        let record = record.expect("a record at this place");
        let payload: Option<String> = row.get(2);
        if payload.as_ref().is_none_or(|payload| payload.len() < 10) {
            assert_eq!(record.value_text().map(Into::into), payload, "{offset}");
        }
        assert_eq!(row.get::<_, Option<i32>>(3), payload.is_none().then_some(0));
    }
    // After the end nothing more is archived, and what is there leaves.
    db.client.execute("SELECT outbox.set_archive($1, NULL)", &[&kept])?;
    db.client.execute("SELECT outbox.emit($1, '0')", &[&kept])?;
    db.drained(&kept)?;
    assert_eq!(archived(&mut db.client)?, 2502);
    db.configure("event_outbox.sweep_interval", "1s")?;
    wait::until_ok("the archive to leave", DEADLINE, || Ok((archived(&mut db.client)? == 0).then_some(())))
}

#[test]
fn a_replay_emits_the_same_events_and_says_so() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("again")?;
    db.client.execute("SELECT outbox.set_archive($1, '1 hour')", &[&format!("{}.*", db.database)])?;
    for (payload, key) in [("1", "a"), ("2", "b"), ("3", "a")] {
        db.client.execute(
            "SELECT outbox.emit($1, $2::text::jsonb, key => $3, headers => '{\"h\": \"x\"}')",
            &[&topic, &payload, &key],
        )?;
        db.drained(&topic)?;
    }
    db.client.execute("SELECT outbox.emit($1, '4', key => 'a')", &[&topic])?;
    let before = db.drained(&topic)?;
    let replay = |db: &mut TestDatabase, arguments: &str| -> Result<Vec<String>> {
        let sql = format!("SELECT outbox.replay('{topic}'{arguments})");
        let count = number(&mut db.client, &sql)?;
        let records = db.drained(&topic)?;
        let new = &records[records.len() - usize::try_from(count)?..];
        for record in new {
            assert_eq!(record.header("__outbox.replayed"), Some("true"));
            let first =
                before.iter().find(|first| first.value_text() == record.value_text()).expect("the first");
            assert_eq!(record.header("ce_id"), first.header("ce_id"));
            assert_eq!(record.header("ce_time"), first.header("ce_time"));
            assert_eq!((record.header("h"), &record.key), (first.header("h"), &first.key));
            assert_eq!(first.header("__outbox.replayed"), None);
        }
        Ok(values(new))
    };
    assert_eq!(replay(&mut db, "")?, ["1", "2", "3", "4"]);
    // What was replayed is archived, and not replayed twice.
    assert_eq!(archived(&mut db.client)?, 8);
    assert_eq!(replay(&mut db, ", key => 'a'")?, ["1", "3", "4"]);
    let third = "(SELECT published_at FROM outbox.archive WHERE payload = '3' ORDER BY published_at LIMIT 1)";
    assert_eq!(replay(&mut db, &format!(", since => {third}"))?, ["3", "4"]);
    assert_eq!(replay(&mut db, &format!(", until => {third}"))?, ["1", "2"]);
    assert_eq!(replay(&mut db, ", key => 'none'")?, Vec::<String>::new());
    assert_eq!(number(&mut db.client, "SELECT outbox.replay('none')")?, 0);
    let error = db.client.execute("SELECT outbox.replay(NULL)", &[]).expect_err("no topic");
    assert_eq!(error.code(), Some(&SqlState::NULL_VALUE_NOT_ALLOWED));
    Ok(())
}

#[test]
fn segments_leave_when_their_retention_is_over() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("segments")?;
    db.client.execute("SELECT outbox.set_archive('*', '1 hour')", &[])?;
    db.configure("event_outbox.sweep_interval", "1s")?;
    for round in 1..=10 {
        db.client.execute("SELECT outbox.emit($1, '1')", &[&topic])?;
        db.drained(&topic)?;
        // Time passes.
        db.client.batch_execute(
            "UPDATE outbox.archive_segment SET opened_at = opened_at - interval '20 minutes'",
        )?;
        let newest = "SELECT max(first_position) FROM outbox.archive_segment";
        wait::until_ok("the next segment", DEADLINE, || {
            Ok((number(&mut db.client, newest)? == round + 1).then_some(()))
        })?;
    }
    // A segment leaves an hour after the next one has begun: three rounds later.
    wait::until_ok("the oldest to leave", DEADLINE, || Ok((archived(&mut db.client)? <= 4).then_some(())))?;
    assert!(archived(&mut db.client)? >= 3);
    // Who reads the archive is not disturbed, and holds up nothing but the emptying.
    let mut reader = db.connect()?;
    reader.batch_execute("BEGIN; SELECT count(*) FROM outbox.archive")?;
    db.client
        .batch_execute("UPDATE outbox.archive_segment SET opened_at = opened_at - interval '9 hours'")?;
    db.client.execute("SELECT outbox.emit($1, '1')", &[&topic])?;
    db.drained(&topic)?;
    assert!(archived(&mut reader)? >= 3);
    reader.batch_execute("COMMIT")?;
    wait::until_ok("the old ones to leave", DEADLINE, || Ok((archived(&mut db.client)? <= 1).then_some(())))
}

#[test]
fn the_archive_is_for_those_who_may() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let nobody = create_role(&mut db, "nobody", "")?;
    let rights = "GRANT SELECT ON outbox.archive TO ROLE;
                  GRANT EXECUTE ON FUNCTION outbox.replay(text, timestamptz, timestamptz, text), outbox.set_archive(text, interval) TO ROLE";
    let operator = create_role(&mut db, "operator", rights)?;
    let mut session = db.connect_as(&nobody)?;
    for sql in [
        "SELECT * FROM outbox.archive",
        "SELECT * FROM outbox.archive_0",
        "SELECT * FROM outbox.archived_topics",
        "SELECT outbox.replay('t')",
        "SELECT outbox.set_archive('*', '1 day')",
        "INSERT INTO outbox.archived_topics VALUES ('t', '1 day')",
    ] {
        assert_denied(&mut session, sql);
    }
    let mut session = db.connect_as(&operator)?;
    session.batch_execute(
        "SELECT outbox.set_archive('t', '1 day'); SELECT outbox.replay('t'); SELECT * FROM outbox.archive",
    )?;
    for (call, code) in [
        ("set_archive('a b', '1 day')", SqlState::INVALID_NAME),
        ("set_archive(NULL, '1 day')", SqlState::INVALID_NAME),
        ("set_archive('t', '-1 day')", SqlState::INVALID_PARAMETER_VALUE),
        ("set_archive('t', '0')", SqlState::INVALID_PARAMETER_VALUE),
    ] {
        let error = session.batch_execute(&format!("SELECT outbox.{call}")).expect_err(call);
        assert_eq!(error.code(), Some(&code), "{call}: {error:?}");
    }
    db.client
        .batch_execute(&format!("DROP OWNED BY {nobody}, {operator}; DROP ROLE {nobody}, {operator}"))?;
    Ok(())
}

/// The owner's additions to a segment hold: it is then filled in SQL, as the owner.
#[test]
fn additions_to_a_segment_hold() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("added")?;
    db.client.batch_execute(
        "CREATE TABLE seen (topic text);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN INSERT INTO public.seen VALUES (NEW.topic); RETURN NEW; END';
         CREATE TRIGGER note BEFORE INSERT ON outbox.archive_0 FOR EACH ROW EXECUTE FUNCTION note();
         SELECT outbox.set_archive('*', '1 day')",
    )?;
    db.client.execute("SELECT outbox.emit($1, '1') FROM generate_series(1, 3)", &[&topic])?;
    db.drained(&topic)?;
    assert_eq!(archived(&mut db.client)?, 3);
    assert_eq!(number(&mut db.client, "SELECT count(*) FROM seen")?, 3);
    // Part of a dump.
    let mut restored = TestDatabase::of(db.server.create_database()?)?;
    db.client.batch_execute("DROP TRIGGER note ON outbox.archive_0")?;
    dump_and_restore(&db, &restored.database)?;
    assert_eq!(archived(&mut restored.client)?, 3);
    assert_eq!(number(&mut restored.client, &format!("SELECT outbox.replay('{topic}')"))?, 3);
    Ok(())
}
