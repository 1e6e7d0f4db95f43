//! Numbers of events: per topic and key, without gaps, in the order in which they are published.

use std::collections::BTreeMap;
use std::thread;

use event_outbox_lab::{Record, Result};
use postgres::error::SqlState;

use crate::support::database::TestDatabase;
use crate::support::roles::{assert_denied, create_emitter};

fn number(record: &Record) -> Option<i64> {
    record.header("outbox_seq")?.parse().ok()
}

/// The numbers of each key, as they arrived.
fn by_key(records: &[Record]) -> BTreeMap<Option<String>, Vec<Option<i64>>> {
    let mut numbers: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for record in records {
        numbers.entry(record.key_text().map(str::to_owned)).or_default().push(number(record));
    }
    numbers
}

#[test]
fn numbers_have_no_gaps_whatever_is_rolled_back() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let (topic, other) = (db.own_topic("numbered")?, db.own_topic("other")?);
    db.client.execute("SELECT outbox.emit($1, '0', 'a')", &[&topic])?;
    // A session that knows nothing of it yet.
    let mut session = db.connect()?;
    session.execute("SELECT outbox.emit($1, '0', 'a')", &[&topic])?;
    let begin = |db: &mut TestDatabase| -> Result<bool> {
        Ok(db.client.query_one("SELECT outbox.sequence_topic($1)", &[&topic])?.get(0))
    };
    assert!(begin(&mut db)? && !begin(&mut db)?);
    session.execute("SELECT outbox.emit($1, '1', 'a')", &[&topic])?;
    session.batch_execute(&format!(
        "BEGIN; SELECT outbox.emit('{topic}', '2', 'a'), outbox.emit('{topic}', '2', 'b'); ROLLBACK;
         BEGIN; SELECT outbox.emit('{topic}', '2', 'a');
         SAVEPOINT s; SELECT outbox.emit('{topic}', '3', 'a'); ROLLBACK TO s;
         SELECT outbox.emit('{topic}', '3', 'a'); COMMIT;
         INSERT INTO outbox.events (topic, key, payload) SELECT '{topic}', 'a', n::text::bytea FROM generate_series(4, 6) AS n;
         SELECT outbox.emit('{topic}', '1', 'b'), outbox.emit('{topic}', '1'), outbox.emit('{other}', '1', 'a')"
    ))?;
    let numbers = by_key(&db.drained(&topic)?);
    let none = vec![None, None];
    assert_eq!(numbers[&Some("a".into())], [none.clone(), (1..=6).map(Some).collect()].concat());
    assert_eq!(numbers[&Some("b".into())], [Some(1)]);
    assert_eq!(numbers[&None], [None]);
    assert_eq!(by_key(&db.drained(&other)?)[&Some("a".into())], [None]);
    // What is numbered anew begins anew.
    let sql =
        "SELECT outbox.unsequence_topic($1), outbox.unsequence_topic($1), outbox.unsequence_topic(NULL)";
    let row = db.client.query_one(sql, &[&topic])?;
    assert_eq!([0, 1, 2].map(|at| row.get::<_, bool>(at)), [true, false, false]);
    session.execute("SELECT outbox.emit($1, '7', 'a')", &[&topic])?;
    assert!(begin(&mut db)?);
    session.execute("SELECT outbox.emit($1, '8', 'a')", &[&topic])?;
    assert_eq!(by_key(&db.drained(&topic)?)[&Some("a".into())][8..], [None, Some(1)]);
    Ok(())
}

/// Concurrent transactions, half of them rolled back, by emit() and by INSERT.
#[test]
fn the_order_of_numbers_is_that_of_the_records() -> Result<()> {
    const WRITERS: usize = 4;
    const EACH: usize = 100;
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("concurrent")?;
    db.client.execute("SELECT outbox.sequence_topic($1)", &[&topic])?;
    thread::scope(|scope| -> Result<()> {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (mut session, topic) = (db.connect()?, topic.clone());
                Ok(scope.spawn(move || -> Result<()> {
                    for n in 0..EACH {
                        let mut transaction = session.transaction()?;
                        let key = (n % 3).to_string();
                        let sql = match writer % 2 {
                            0 => "SELECT outbox.emit($1, '1', $2)",
                            _ => "INSERT INTO outbox.events (topic, key, payload) VALUES ($1, convert_to($2, 'UTF8'), '1')",
                        };
                        transaction.execute(sql, &[&topic, &key])?;
                        if (n / 3) % 2 == 0 { transaction.commit()? } else { transaction.rollback()? }
                    }
                    Ok(())
                }))
            })
            .collect::<Result<_>>()?;
        writers.into_iter().try_for_each(|writer| writer.join().expect("a writer"))
    })?;
    for (key, numbers) in by_key(&db.drained(&topic)?) {
        let expected: Vec<_> = (1..=numbers.len() as i64).map(Some).collect();
        assert_eq!(numbers, expected, "{key:?}");
        assert!(numbers.len() > WRITERS * EACH / 8);
    }
    Ok(())
}

/// The relay moves it into the table, and changes nothing about it.
#[test]
fn an_event_for_later_has_the_number_of_its_emit() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("later")?;
    db.client.execute("SELECT outbox.sequence_topic($1)", &[&topic])?;
    db.client.execute(
        "SELECT outbox.emit($1, '1', 'a', deliver_at => clock_timestamp() + interval '5 s'), outbox.emit($1, '2', 'a')",
        &[&topic],
    )?;
    db.configure("event_outbox.transaction_headers", "on")?;
    db.configure("event_outbox.naming", "error")?;
    let records = db.promptly(&topic, 2)?;
    let found: Vec<_> = records.iter().map(|record| (record.value_text(), number(record))).collect();
    assert_eq!(found, [(Some("2"), Some(2)), (Some("1"), Some(1))]);
    assert_eq!(records[1].header("outbox_transaction_id"), None);
    Ok(())
}

#[test]
fn numbering_needs_a_right_and_emitting_does_not() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let topic = db.topic("rights");
    let user = create_emitter(&mut db, "numbering")?;
    db.client.execute("SELECT outbox.sequence_topic($1)", &[&topic])?;
    let mut session = db.connect_as(&user)?;
    for sql in [
        "SELECT outbox.sequence_topic('x')",
        "SELECT outbox.unsequence_topic('x')",
        "SELECT * FROM outbox.sequences",
        "SELECT * FROM outbox.sequenced_topics",
    ] {
        assert_denied(&mut session, sql);
    }
    session.execute("SELECT outbox.emit($1, '1', 'a')", &[&topic])?;
    // A key may be longer than an index takes.
    session.execute("SELECT outbox.emit($1, '1', repeat('k', 100000))", &[&topic])?;
    let headers: i64 = db
        .client
        .query_one("SELECT count(*) FROM outbox.events WHERE headers ->> 'outbox_seq' = '1'", &[])?
        .get(0);
    assert_eq!(headers, 2);
    let error = db.client.query("SELECT outbox.sequence_topic('a b')", &[]).unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::INVALID_NAME));
    Ok(())
}
