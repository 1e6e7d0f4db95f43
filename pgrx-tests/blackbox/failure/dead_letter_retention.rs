//! What becomes of dead letters is logged, old ones can expire, and classes can have fewer attempts.

use event_outbox_lab::{Result, wait};
use postgres::Client;
use postgres::error::SqlState;

use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::dead_letters::deadly_database;
use crate::support::dump::dump_and_restore;
use crate::support::roles::{assert_denied, create_role};

/// Stores dead letters of this age, in days, without a relay.
fn bury(client: &mut Client, topic: &str, count: i32, days: i32) -> Result<()> {
    client.execute(
        "INSERT INTO outbox.dead_letters (id, event_id, emitted_at, topic, payload, attempts, error, error_class,
                                          first_refused_at, last_refused_at)
         SELECT n, outbox.uuid_v7(), now(), $1, '1', 3, 'no', 'too_large', now(), now() - $3 * interval '1 day'
           FROM generate_series(1, $2) AS n",
        &[&topic, &count, &f64::from(days)],
    )?;
    Ok(())
}

fn number(client: &mut Client, sql: &str) -> Result<i64> {
    Ok(client.query_one(sql, &[])?.get(0))
}

/// The entries of the log: action, whether the role is this one, and the number of entries.
fn log(client: &mut Client, role: &str) -> Result<Vec<(String, bool, i64)>> {
    let sql = "SELECT action, coalesce(role = $1::text::name, false), count(*) FROM outbox.dead_letter_log
                GROUP BY 1, 2 ORDER BY min(log_id)";
    Ok(client.query(sql, &[&role])?.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
}

#[test]
fn who_redrove_or_discarded_what_stays_readable() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    bury(&mut db.client, "a", 5, 1)?;
    let rights = "GRANT EXECUTE ON FUNCTION outbox.redrive(uuid, text, timestamptz, bigint),
                                            outbox.discard(uuid, text, timestamptz, bigint) TO ROLE";
    let operator = create_role(&mut db, "operator", rights)?;
    let auditor = create_role(&mut db, "auditor", "GRANT SELECT ON outbox.dead_letter_log TO ROLE")?;
    let mut session = db.connect_as(&operator)?;
    session.query_one("SELECT outbox.redrive(topic => 'a', max => 2)", &[])?;
    session.query_one("SELECT outbox.discard(topic => 'a', max => 1)", &[])?;
    session.batch_execute("BEGIN; SELECT outbox.discard(topic => 'a'); ROLLBACK")?;
    assert_eq!(number(&mut session, "SELECT outbox.discard(topic => 'none')")?, 0);
    let expected = [("redriven".to_owned(), true, 2), ("discarded".to_owned(), true, 1)];
    assert_eq!(log(&mut db.connect_as(&auditor)?, &operator)?, expected);
    let sql = "SELECT count(*) FROM outbox.dead_letter_log AS l JOIN outbox.events AS e USING (event_id)
                WHERE l.action = 'redriven' AND l.topic = 'a' AND l.error_class = 'too_large'
                  AND l.died_at < now() - interval '23 hours' AND l.logged_at > now() - interval '1 hour'";
    assert_eq!(number(&mut db.client, sql)?, 2);
    // Nobody else writes or reads it.
    for sql in [
        "SELECT outbox.log_dead_letters('{1}', 'discarded')",
        "SELECT * FROM outbox.dead_letter_log",
        "INSERT INTO outbox.dead_letter_log (action, event_id, topic, died_at) VALUES ('expired', gen_random_uuid(), 'a', now())",
        "DELETE FROM outbox.dead_letter_log",
    ] {
        assert_denied(&mut session, sql);
    }
    assert_denied(&mut db.connect_as(&auditor)?, "DELETE FROM outbox.dead_letter_log");
    // The tables may belong to another role, and the log to a third; triggers of each run as its owner.
    let owner = create_role(&mut db, "owner", "GRANT CREATE ON SCHEMA public TO ROLE")?;
    db.client.batch_execute(&format!(
        "ALTER TABLE outbox.events OWNER TO {owner}; ALTER TABLE outbox.dead_letters OWNER TO {owner};
         ALTER TABLE outbox.dead_letter_log OWNER TO {auditor};
         CREATE TABLE seen (who name); GRANT INSERT ON seen TO PUBLIC;
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN INSERT INTO public.seen VALUES (current_user); RETURN NEW; END';
         CREATE TRIGGER note BEFORE INSERT ON outbox.dead_letter_log FOR EACH ROW EXECUTE FUNCTION note()"
    ))?;
    assert_eq!(number(&mut session, "SELECT outbox.redrive(topic => 'a', max => 1)")?, 1);
    assert_eq!(number(&mut session, "SELECT outbox.discard(topic => 'a', max => 1)")?, 1);
    let who: Vec<String> =
        db.client.query("SELECT DISTINCT who::text FROM seen", &[])?.iter().map(|row| row.get(0)).collect();
    assert_eq!(who, [auditor.as_str()]);
    assert_eq!(log(&mut db.client, &operator)?.iter().map(|(_, _, count)| count).sum::<i64>(), 5);
    db.client.batch_execute(&format!(
        "REASSIGN OWNED BY {owner}, {auditor} TO CURRENT_USER; DROP OWNED BY {owner}, {auditor}, {operator};
         DROP ROLE {owner}, {auditor}, {operator}"
    ))?;
    Ok(())
}

#[test]
fn old_dead_letters_expire_only_if_that_is_wanted() -> Result<()> {
    let mut db = TestDatabase::new()?;
    bury(&mut db.client, "old", 2_500, 10)?;
    bury(&mut db.client, "young", 7, 1)?;
    db.configure("event_outbox.sweep_interval", "1s")?;
    let sweeps = "SELECT sweeps FROM outbox.status";
    let before = number(&mut db.client, sweeps)?;
    wait::until_ok("sweeps", DEADLINE, || Ok((number(&mut db.client, sweeps)? >= before + 2).then_some(())))?;
    assert_eq!(number(&mut db.client, "SELECT count(*) FROM outbox.dead_letters")?, 2_507);
    // A session works on one of them.
    let mut operator = db.connect()?;
    operator
        .batch_execute("BEGIN; SELECT FROM outbox.dead_letters WHERE id = 5 AND topic = 'old' FOR UPDATE")?;
    db.configure("event_outbox.dead_letter_retention", "2d")?;
    let left = "SELECT count(*) FROM outbox.dead_letters WHERE topic = 'old'";
    wait::until_ok("the old ones to expire", DEADLINE, || {
        Ok((number(&mut db.client, left)? == 1).then_some(()))
    })?;
    operator.batch_execute("ROLLBACK")?;
    wait::until_ok("the last one to expire", DEADLINE, || {
        Ok((number(&mut db.client, left)? == 0).then_some(()))
    })?;
    assert_eq!(number(&mut db.client, "SELECT count(*) FROM outbox.dead_letters")?, 7);
    let sql = "SELECT count(DISTINCT event_id) FROM outbox.dead_letter_log
                WHERE action = 'expired' AND role IS NULL AND topic = 'old' AND error_class = 'too_large'";
    assert_eq!(number(&mut db.client, sql)?, 2_500);
    assert_eq!(number(&mut db.client, "SELECT count(*) FROM outbox.dead_letter_log")?, 2_500);
    // The log is part of a dump.
    let mut restored = TestDatabase::of(db.server.create_database()?)?;
    dump_and_restore(&db, &restored.database)?;
    assert_eq!(number(&mut restored.client, "SELECT count(*) FROM outbox.dead_letter_log")?, 2_500);
    Ok(())
}

#[test]
fn old_entries_of_the_log_expire_only_if_that_is_wanted() -> Result<()> {
    let mut db = TestDatabase::new()?;
    bury(&mut db.client, "a", 3_000, 1)?;
    db.client.query_one("SELECT outbox.discard(topic => 'a')", &[])?;
    let entries = "SELECT count(*) FROM outbox.dead_letter_log";
    db.client.batch_execute(
        "UPDATE outbox.dead_letter_log SET logged_at = now() - interval '3 days' WHERE log_id <= 2500",
    )?;
    db.configure("event_outbox.sweep_interval", "1s")?;
    let sweeps = "SELECT sweeps FROM outbox.status";
    let before = number(&mut db.client, sweeps)?;
    wait::until_ok("sweeps", DEADLINE, || Ok((number(&mut db.client, sweeps)? >= before + 2).then_some(())))?;
    assert_eq!(number(&mut db.client, entries)?, 3_000);
    // Who reads or changes an entry holds up nobody.
    let mut reader = db.connect()?;
    reader.batch_execute("BEGIN; SELECT FROM outbox.dead_letter_log WHERE log_id = 7 FOR UPDATE")?;
    db.configure("event_outbox.dead_letter_log_retention", "2d")?;
    wait::until_ok("the old ones to expire", DEADLINE, || {
        Ok((number(&mut db.client, entries)? == 501).then_some(()))
    })?;
    reader.batch_execute("ROLLBACK")?;
    wait::until_ok("the last one to expire", DEADLINE, || {
        Ok((number(&mut db.client, entries)? == 500).then_some(()))
    })?;
    Ok(())
}

#[test]
fn a_class_can_have_attempts_of_its_own() -> Result<()> {
    let (mut db, topic) = deadly_database()?;
    let small = db.topic("small");
    db.broker.create_topic(&small, 1, &[("max.message.bytes", "2000")])?;
    db.configure("event_outbox.max_attempts_by_class", "too_large=1, unknown_partition = 2")?;
    db.client.execute("SELECT outbox.emit($1, to_jsonb(repeat('x', 10000)))", &[&small])?;
    db.client.execute("SELECT outbox.emit($1, '1', partition => 7)", &[&topic])?;
    let sql = "SELECT attempts, error_class FROM outbox.dead_letters ORDER BY error_class";
    let dead = wait::until_ok("both to die", DEADLINE, || {
        let rows = db.client.query(sql, &[])?;
        let dead: Vec<(i32, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        Ok((dead.len() == 2).then_some(dead))
    })?;
    assert_eq!(dead, [(1, "too_large".to_owned()), (2, "unknown_partition".to_owned())]);
    // Refusals reported by hand, of other classes and of none.
    db.configure("event_outbox.enabled", "off")?;
    db.client.execute("SELECT outbox.emit($1, '1')", &[&topic])?;
    for class in ["NULL", "'of_a_later_release'", "'other'"] {
        db.client
            .batch_execute(&format!("UPDATE outbox.events SET last_error = 'no', error_class = {class}"))?;
    }
    let sql = "SELECT count(*) FROM outbox.dead_letters WHERE attempts = 3 AND error_class = 'other'";
    assert_eq!(number(&mut db.client, sql)?, 1);
    Ok(())
}

#[test]
fn attempts_by_class_are_validated() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    for (value, said) in [
        ("too_big=1", "there is no class \"too_big\""),
        ("too_large", "\"too_large\" has no form class=attempts"),
        ("too_large=0", "the attempts of too_large are not from 1 to 1000000"),
        ("too_large=1, too_large=2", "class too_large is given twice"),
        ("ä=1", "there is no class \"ä\""),
    ] {
        let sql = format!("SET event_outbox.max_attempts_by_class = '{value}'");
        let error = db.client.batch_execute(&sql).expect_err(value);
        let error = error.as_db_error().expect(value);
        assert_eq!(error.code(), &SqlState::INVALID_PARAMETER_VALUE, "{value}");
        assert!(error.detail().unwrap_or_default().contains(said), "{value}: {error:?}");
    }
    db.client.batch_execute(
        "SET event_outbox.max_attempts_by_class = ' other = 5 '; RESET event_outbox.max_attempts_by_class",
    )?;
    let role = create_role(&mut db, "nobody", "")?;
    assert_denied(&mut db.connect_as(&role)?, "SET event_outbox.max_attempts_by_class = 'other=1'");
    db.client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))?;
    Ok(())
}
