//! An event is published if and only if its transaction commits, whatever kind of transaction it is.

use event_outbox_lab::Result;
use postgres::IsolationLevel;
use postgres::error::SqlState;

use crate::support::database::{TestDatabase, values};
use crate::support::events::emit;

#[test]
fn a_rollback_leaves_no_trace() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("rollback");
    let mut transaction = db.client.transaction()?;
    emit(&mut transaction, &topic, 1)?;
    transaction.rollback()?;
    // An error aborts a transaction, too.
    let mut transaction = db.client.transaction()?;
    emit(&mut transaction, &topic, 2)?;
    assert!(transaction.batch_execute("SELECT 1/0").is_err());
    transaction.commit()?;
    emit(&mut db.client, &topic, 3)?;
    assert_eq!(db.drained_values(&topic)?, ["3"]);
    Ok(())
}

#[test]
fn rollback_to_savepoint_takes_back_only_what_came_after_it() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("savepoint");
    let mut transaction = db.client.transaction()?;
    emit(&mut transaction, &topic, 1)?;
    let mut savepoint = transaction.savepoint("first")?;
    emit(&mut savepoint, &topic, 2)?;
    let mut nested = savepoint.savepoint("nested")?;
    emit(&mut nested, &topic, 3)?;
    nested.commit()?;
    savepoint.rollback()?;
    emit(&mut transaction, &topic, 4)?;
    let mut savepoint = transaction.savepoint("second")?;
    emit(&mut savepoint, &topic, 5)?;
    savepoint.commit()?;
    transaction.commit()?;
    assert_eq!(db.drained_values(&topic)?, ["1", "4", "5"]);
    Ok(())
}

/// The transaction had no id yet when a subtransaction emitted its first event.
#[test]
fn an_event_of_a_savepoint_alone_is_published() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("savepoint_only");
    let mut transaction = db.client.transaction()?;
    let mut savepoint = transaction.savepoint("first")?;
    emit(&mut savepoint, &topic, 1)?;
    savepoint.commit()?;
    transaction.commit()?;
    assert_eq!(values(&db.promptly(&topic, 1)?), ["1"]);
    Ok(())
}

#[test]
fn a_prepared_transaction_is_published_when_another_connection_commits_it() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("prepared");
    let name = db.database.clone();
    for (number, gid) in [(1, "commit"), (2, "rollback")] {
        db.client.batch_execute("BEGIN")?;
        emit(&mut db.client, &topic, number)?;
        db.client.batch_execute(&format!("PREPARE TRANSACTION '{name}.{gid}'"))?;
    }
    // The relay passes the prepared events, whose ids are lower.
    emit(&mut db.client, &topic, 3)?;
    assert_eq!(values(&db.promptly(&topic, 1)?), ["3"]);

    let mut other = db.connect()?;
    other.batch_execute(&format!("ROLLBACK PREPARED '{name}.rollback'"))?;
    other.batch_execute(&format!("COMMIT PREPARED '{name}.commit'"))?;
    assert_eq!(values(&db.promptly(&topic, 2)?), ["3", "1"]);
    emit(&mut db.client, &topic, 4)?;
    assert_eq!(db.drained_values(&topic)?, ["3", "1", "4"]);
    Ok(())
}

#[test]
fn a_query_emits_its_rows_in_their_order() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("set");
    let sql = "SELECT outbox.emit($1, to_jsonb(n), key => 'k') FROM generate_series(1, 1000) AS n";
    assert_eq!(db.client.query(sql, &[&topic])?.len(), 1000);
    let expected: Vec<_> = (1..=1000).map(|n| n.to_string()).collect();
    assert_eq!(db.drained_values(&topic)?, expected);
    Ok(())
}

#[test]
fn a_row_trigger_emits() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("trigger");
    db.client.batch_execute(&format!(
        "CREATE TABLE orders (id int PRIMARY KEY, state text);
         CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             PERFORM outbox.emit('{topic}', to_jsonb(coalesce(NEW, OLD)), key => (coalesce(NEW, OLD)).id::text,
                                 event_type => lower(TG_OP));
             RETURN NULL;
         END $$;
         CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON orders FOR EACH ROW EXECUTE FUNCTION tell();
         INSERT INTO orders VALUES (1, 'new'), (2, 'new');
         UPDATE orders SET state = 'paid' WHERE id = 2;
         DELETE FROM orders WHERE id = 1;"
    ))?;
    let records = db.drained(&topic)?;
    let changes = |key: &str| -> Vec<_> {
        let of_key = records.iter().filter(|record| record.key_text() == Some(key));
        of_key.map(|record| (record.header("ce_type"), record.value_text())).collect()
    };
    let new = |id: i32| format!(r#"{{"id":{id},"state":"new"}}"#);
    assert_eq!(changes("1"), [(Some("insert"), Some(&*new(1))), (Some("delete"), Some(&*new(1)))]);
    let paid = r#"{"id":2,"state":"paid"}"#;
    assert_eq!(changes("2"), [(Some("insert"), Some(&*new(2))), (Some("update"), Some(paid))]);
    assert_eq!(records.len(), 4);
    Ok(())
}

#[test]
fn plpgsql_undoes_the_events_of_a_block_that_failed() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("plpgsql");
    db.client.batch_execute(&format!(
        "DO $$
         BEGIN
             PERFORM outbox.emit('{topic}', '1');
             BEGIN
                 PERFORM outbox.emit('{topic}', '2');
                 RAISE EXCEPTION 'undo';
             EXCEPTION WHEN raise_exception THEN
                 PERFORM outbox.emit('{topic}', '3');
             END;
             BEGIN
                 -- An event that is refused fails like any other statement.
                 PERFORM outbox.emit('not a topic', '4');
             EXCEPTION WHEN invalid_name THEN
                 PERFORM outbox.emit('{topic}', '5');
             END;
         END $$"
    ))?;
    assert_eq!(db.drained_values(&topic)?, ["1", "3", "5"]);
    Ok(())
}

#[test]
fn a_procedure_that_commits_on_its_way_wakes_the_relay_each_time() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("procedure");
    db.client.batch_execute(&format!(
        "CREATE PROCEDURE work() LANGUAGE plpgsql AS $$
         BEGIN
             FOR n IN 1..6 LOOP
                 PERFORM outbox.emit('{topic}', to_jsonb(n));
                 IF n % 3 = 0 THEN ROLLBACK; ELSE COMMIT; END IF;
             END LOOP;
         END $$"
    ))?;
    db.client.batch_execute("CALL work()")?;
    assert_eq!(values(&db.promptly(&topic, 4)?), ["1", "2", "4", "5"]);
    assert_eq!(db.drained_values(&topic)?.len(), 4);
    Ok(())
}

#[test]
fn prepared_statements_emit() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("statement");
    let statement = db.client.prepare("SELECT outbox.emit($1, to_jsonb($2::int))")?;
    // Beyond the fifth execution Postgres may use a generic plan.
    for number in 1..=8 {
        db.client.query_one(&statement, &[&topic, &number])?;
    }
    db.client.batch_execute(&format!(
        "PREPARE emit (int) AS SELECT outbox.emit('{topic}', to_jsonb($1)); EXECUTE emit(9)"
    ))?;
    // The plan of emit's INSERT, too, is rebuilt when the table changes.
    db.client.batch_execute("VACUUM FULL outbox.events")?;
    db.client.batch_execute("EXECUTE emit(10)")?;
    let expected: Vec<_> = (1..=10).map(|n| n.to_string()).collect();
    assert_eq!(db.drained_values(&topic)?, expected);
    Ok(())
}

#[test]
fn every_isolation_level_emits() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("isolation");
    let levels =
        [IsolationLevel::ReadCommitted, IsolationLevel::RepeatableRead, IsolationLevel::Serializable];
    for (level, number) in levels.into_iter().zip(1..) {
        let mut transaction = db.client.build_transaction().isolation_level(level).start()?;
        emit(&mut transaction, &topic, number)?;
        transaction.commit()?;
    }
    assert_eq!(db.drained_values(&topic)?, ["1", "2", "3"]);
    Ok(())
}

#[test]
fn the_events_of_a_serialization_failure_are_not_published() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("serialization");
    db.client.batch_execute(
        "CREATE TABLE doctors (id int, on_call bool);
                                INSERT INTO doctors VALUES (1, true), (2, true)",
    )?;
    let mut other = db.connect()?;
    let serializable = IsolationLevel::Serializable;
    let mut first = db.client.build_transaction().isolation_level(serializable).start()?;
    let mut second = other.build_transaction().isolation_level(serializable).start()?;
    for (transaction, doctor) in [(&mut first, 1), (&mut second, 2)] {
        transaction.query_one("SELECT count(*) FROM doctors WHERE on_call", &[])?;
        transaction.execute("UPDATE doctors SET on_call = false WHERE id = $1", &[&doctor])?;
        emit(transaction, &topic, doctor)?;
    }
    first.commit()?;
    let error = second.commit().expect_err("a write skew was committed");
    assert_eq!(error.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE));
    emit(&mut db.client, &topic, 3)?;
    assert_eq!(db.drained_values(&topic)?, ["1", "3"]);
    Ok(())
}

#[test]
fn a_read_only_transaction_cannot_emit() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("read_only");
    let mut transaction = db.client.build_transaction().read_only(true).start()?;
    let error = emit(&mut transaction, &topic, 1).expect_err("it emitted");
    assert_eq!(error.code(), Some(&SqlState::READ_ONLY_SQL_TRANSACTION));
    Ok(())
}
