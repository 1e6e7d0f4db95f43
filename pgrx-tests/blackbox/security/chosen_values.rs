//! Values that a role with privileges on `outbox.events` can choose: changes are checked as `emit()` checks, and no
//! id can be that of another event.

use event_outbox_lab::Result;

use crate::support::database::TestDatabase;

/// A changed header, topic or other part is checked as on insert.
#[test]
fn an_update_is_checked() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("changed");
    db.configure("event_outbox.enabled", "off")?;
    db.client.execute("SELECT outbox.emit($1, '1', key => 'k')", &[&topic])?;
    for (change, code) in [
        ("headers = '[]'", "22023"),
        ("headers = '{\"ce_id\": \"1\"}'", "42939"),
        ("topic = 'a topic'", "42602"),
        ("partition = -1", "22023"),
        ("event_type = ''", "22023"),
        ("payload = NULL, key = NULL", "22004"),
        ("payload = convert_to(repeat('x', 2000000), 'UTF8')", "54000"),
        ("emitted_at = '-infinity'", "22008"),
    ] {
        let sql = format!("UPDATE outbox.events SET {change}");
        let error = db.client.batch_execute(&sql).expect_err(change);
        assert_eq!(error.code().map(|code| code.code()), Some(code), "{change}: {error}");
    }
    db.client.batch_execute("UPDATE outbox.events SET headers = '{\"h\": 1}', event_type = 'e'")?;
    db.configure("event_outbox.enabled", "on")?;
    let records = db.drained(&topic)?;
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].header("h"), records[0].header("ce_type")), (Some("1"), Some("e")));
    Ok(())
}

/// An id that the sequence has not reached would make a later `emit()` of another role fail.
#[test]
fn coming_ids_cannot_be_taken() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("taken");
    let role = format!("{}_taker", db.database);
    db.configure("event_outbox.enabled", "off")?;
    db.client.batch_execute(&format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA outbox TO {role}; GRANT INSERT ON outbox.events TO {role}"
    ))?;
    db.client.execute("SELECT outbox.emit($1, '1') FROM generate_series(1, 5)", &[&topic])?;
    let mut taker = db.connect_as(&role)?;
    let insert =
        |id: &str| format!("INSERT INTO outbox.events (id, topic, payload) VALUES ({id}, '{topic}', '1')");
    for id in ["6", "1000", "9223372036854775807"] {
        let error = taker.batch_execute(&insert(id)).expect_err(id);
        assert_eq!(error.code().map(|code| code.code()), Some("42501"), "{id}: {error}");
    }
    // Ids that the sequence gives, in one row or many, and ids that it has given.
    taker.batch_execute(&insert("DEFAULT"))?;
    taker.batch_execute(&format!(
        "INSERT INTO outbox.events (topic, payload) SELECT '{topic}', '1' FROM generate_series(1, 100)"
    ))?;
    db.client.batch_execute("DELETE FROM outbox.events WHERE id = 3")?;
    taker.batch_execute(&insert("3"))?;
    db.client.execute("SELECT outbox.emit($1, '1') FROM generate_series(1, 5)", &[&topic])?;
    // The owner may: a dump is restored before the sequence is set.
    db.client.batch_execute(&insert("1000"))?;
    db.client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))?;
    Ok(())
}
