//! A second `emit()` with the same idempotency key returns the id of the first event and stores nothing.

use std::thread::{self, JoinHandle};

use event_outbox_lab::{Result, wait};
use postgres::error::SqlState;
use postgres::{Client, GenericClient};
use uuid::Uuid;

use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::dump::dump_and_restore;
use crate::support::roles::{assert_denied, create_emitter, create_role};

type PgResult<T> = std::result::Result<T, postgres::Error>;

fn emit(client: &mut impl GenericClient, topic: &str, key: &str) -> PgResult<Uuid> {
    let sql = "SELECT outbox.emit($1, '1', idempotency_key => $2)";
    Ok(client.query_one(sql, &[&topic, &key])?.get(0))
}

fn stored(client: &mut Client) -> Result<Vec<Uuid>> {
    let rows = client.query("SELECT event_id FROM outbox.events ORDER BY id", &[])?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

fn keys(client: &mut Client) -> Result<i64> {
    Ok(client.query_one("SELECT count(*) FROM outbox.idempotency_keys", &[])?.get(0))
}

/// Emits in a session of its own, which is returned as soon as it waits for another transaction.
fn emit_waiting(db: &mut TestDatabase, topic: &str, key: &str) -> Result<JoinHandle<PgResult<Uuid>>> {
    let (mut session, topic, key) = (db.connect()?, topic.to_owned(), key.to_owned());
    let pid: i32 = session.query_one("SELECT pg_backend_pid()", &[])?.get(0);
    let waiting = thread::spawn(move || emit(&mut session, &topic, &key));
    wait::until_ok("the second emit to wait for the first", DEADLINE, || {
        let sql = "SELECT cardinality(pg_blocking_pids($1)) > 0";
        Ok(db.client.query_one(sql, &[&pid])?.get::<_, bool>(0).then_some(()))
    })?;
    Ok(waiting)
}

/// Has the keys be stored in the other table from now on, as the relay does when the first period is over.
fn begin_next_period(client: &mut Client) -> Result<()> {
    Ok(client.batch_execute(
        "INSERT INTO outbox.idempotency_period (number, began_at, former) VALUES (1, now(), 'open')
         ON CONFLICT (only_one) DO UPDATE SET number = idempotency_period.number + 1, former = 'open', closed_at = NULL",
    )?)
}

#[test]
fn the_second_emit_returns_the_first_event() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let (topic, other) = (db.own_topic("once")?, db.own_topic("other")?);
    let first = emit(&mut db.client, &topic, "a")?;
    assert_eq!(emit(&mut db.client, &topic, "a")?, first);
    assert_eq!(emit(&mut db.connect()?, &topic, "a")?, first);
    let sql = "SELECT outbox.emit_bytes($1, 'x', idempotency_key => 'a', event_id => gen_random_uuid())";
    assert_eq!(db.client.query_one(sql, &[&topic])?.get::<_, Uuid>(0), first);
    // In one statement, and in one transaction.
    let sql = "SELECT outbox.emit($1, '2', idempotency_key => 'b') FROM generate_series(1, 3)";
    let rows = db.client.query(sql, &[&topic])?;
    assert!(rows.len() == 3 && rows.iter().all(|row| row.get::<_, Uuid>(0) == rows[0].get::<_, Uuid>(0)));
    let mut transaction = db.client.transaction()?;
    let third = emit(&mut transaction, &topic, "c")?;
    assert_eq!(emit(&mut transaction, &topic, "c")?, third);
    transaction.commit()?;
    // Another key, another topic, and no key at all.
    assert_ne!(emit(&mut db.client, &topic, "d")?, first);
    assert_ne!(emit(&mut db.client, &other, "a")?, first);
    for _ in 0..2 {
        db.client.execute("SELECT outbox.emit($1, '1', idempotency_key => NULL)", &[&other])?;
    }
    assert_eq!(db.drained(&topic)?.len(), 4);
    assert_eq!(db.drained(&other)?.len(), 3);
    // The keys are known although the events have left the outbox.
    assert_eq!(emit(&mut db.client, &topic, "a")?, first);
    assert_eq!(keys(&mut db.client)?, 5);
    Ok(())
}

#[test]
fn what_was_rolled_back_is_no_first_event() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let mut undone = db.client.transaction()?;
    let never = emit(&mut undone, "t", "a")?;
    undone.rollback()?;
    let mut transaction = db.client.transaction()?;
    let mut savepoint = transaction.savepoint("part")?;
    assert_ne!(emit(&mut savepoint, "t", "a")?, never);
    savepoint.rollback()?;
    let kept = emit(&mut transaction, "t", "a")?;
    transaction.commit()?;
    assert_eq!(emit(&mut db.client, "t", "a")?, kept);
    assert_eq!(stored(&mut db.client)?, [kept]);
    Ok(())
}

#[test]
fn the_second_waits_for_the_first_transaction() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    // The second case: keys are stored in the other table since the first transaction has stored its key.
    for changes in [false, true] {
        for commits in [true, false] {
            let key = format!("{changes} {commits}");
            let mut other = db.connect()?;
            let mut first = other.transaction()?;
            let event = emit(&mut first, "t", &key)?;
            if changes {
                begin_next_period(&mut db.client)?;
            }
            let waiting = emit_waiting(&mut db, "t", &key)?;
            // Others with other keys do not wait.
            emit(&mut db.client, "t", &format!("{key} of another"))?;
            if commits {
                first.commit()?
            } else {
                first.rollback()?
            }
            let second = waiting.join().expect("a panic")?;
            assert_eq!(second == event, commits, "{key}");
            assert_eq!(emit(&mut db.client, "t", &key)?, second, "{key}");
            let events = stored(&mut db.client)?;
            assert_eq!(events.iter().filter(|id| [event, second].contains(id)).count(), 1, "{key}");
        }
    }
    Ok(())
}

#[test]
fn a_prepared_transaction_is_waited_for() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let gid = format!("{}.once", db.database);
    db.client.batch_execute("BEGIN")?;
    let event = emit(&mut db.client, "t", "a")?;
    db.client.batch_execute(&format!("PREPARE TRANSACTION '{gid}'"))?;
    let waiting = emit_waiting(&mut db, "t", "a")?;
    db.client.batch_execute(&format!("COMMIT PREPARED '{gid}'"))?;
    assert_eq!(waiting.join().expect("a panic")?, event);
    Ok(())
}

/// A transaction that keeps to its snapshot would otherwise act on an event that it does not see.
#[test]
fn a_key_that_the_snapshot_does_not_show_is_a_serialization_failure() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let known = emit(&mut db.client, "t", "known")?;
    let mut session = db.connect()?;
    for changes in [false, true] {
        for level in ["REPEATABLE READ", "SERIALIZABLE"] {
            let (new, own) = (format!("{level} {changes}"), format!("own {level} {changes}"));
            session.batch_execute(&format!(
                "BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM outbox.events"
            ))?;
            let event = emit(&mut db.client, "t", &new)?;
            if changes {
                begin_next_period(&mut db.client)?;
                // The first event's key stays in the table that counts.
                db.client.batch_execute("UPDATE outbox.idempotency_period SET former = 'open'")?;
            }
            if !changes {
                assert_eq!(emit(&mut session, "t", "known")?, known, "{new}");
            }
            let mine = emit(&mut session, "t", &own)?;
            assert_eq!(emit(&mut session, "t", &own)?, mine, "{new}");
            let error = emit(&mut session, "t", &new).expect_err(&new);
            assert_eq!(error.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE), "{new}: {error:?}");
            session.batch_execute("ROLLBACK")?;
            session.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}"))?;
            assert_eq!(emit(&mut session, "t", &new)?, event, "{new}");
            session.batch_execute("COMMIT")?;
        }
    }
    Ok(())
}

#[test]
fn keys_leave_by_tables_when_their_retention_is_over() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("retention")?;
    db.configure("event_outbox.sweep_interval", "1s")?;
    db.configure("event_outbox.idempotency_retention", "1s")?;
    let first = emit(&mut db.client, &topic, "a")?;
    // An open transaction with another key holds nobody up, and keeps its own key known.
    let mut slow = db.connect()?;
    let mut open = slow.transaction()?;
    let kept = emit(&mut open, &topic, "slow")?;
    let number = "SELECT coalesce(max(number), 0) FROM outbox.idempotency_period";
    wait::until_ok("the next period", DEADLINE, || {
        Ok((db.client.query_one(number, &[])?.get::<_, i64>(0) == 1).then_some(()))
    })?;
    assert_eq!(emit(&mut db.client, &topic, "a")?, first, "the table was not closed yet");
    open.commit()?;
    assert_eq!(emit(&mut db.client, &topic, "slow")?, kept);
    wait::until_ok("the keys to leave", DEADLINE, || Ok((keys(&mut db.client)? == 0).then_some(())))?;
    assert_ne!(emit(&mut db.client, &topic, "a")?, first);
    // On and on.
    for _ in 0..2 {
        wait::until_ok("the keys to leave", DEADLINE, || Ok((keys(&mut db.client)? == 0).then_some(())))?;
        let again = emit(&mut db.client, &topic, "a")?;
        assert_eq!(emit(&mut db.client, &topic, "a")?, again);
    }
    assert_eq!(db.drained(&topic)?.len(), 5);
    // By a TRUNCATE: nothing is left for a vacuum.
    wait::until_ok("both tables to be empty", DEADLINE, || {
        let sql =
            "SELECT pg_relation_size('outbox.idempotency_a') + pg_relation_size('outbox.idempotency_b') = 0";
        Ok(db.client.query_one(sql, &[])?.get::<_, bool>(0).then_some(()))
    })?;
    Ok(())
}

#[test]
fn the_right_to_the_first_form_is_needed_and_enough() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let emitter = create_emitter(&mut db, "emitter")?;
    let other = create_role(&mut db, "other", "GRANT INSERT ON outbox.events TO ROLE")?;
    let mut session = db.connect_as(&emitter)?;
    let first = emit(&mut session, "t", "a")?;
    assert_eq!(emit(&mut session, "t", "a")?, first);
    session.batch_execute("SELECT outbox.emit_bytes('t', 'x', idempotency_key => 'a')")?;
    for table in ["idempotency_a", "idempotency_b", "idempotency_period", "idempotency_keys"] {
        assert_denied(&mut session, &format!("SELECT * FROM outbox.{table}"));
    }
    assert_denied(&mut session, "DELETE FROM outbox.idempotency_a");
    let mut session = db.connect_as(&other)?;
    for call in [
        "emit('t', '1', idempotency_key => 'a')",
        "emit('t', '1'::json, idempotency_key => 'a')",
        "emit_bytes('t', '1', idempotency_key => 'a')",
        "emit_bytes('t', '1', key => 'k'::text, idempotency_key => 'a')",
    ] {
        let error = session.batch_execute(&format!("SELECT outbox.{call}")).expect_err(call);
        let error = error.as_db_error().expect(call);
        assert_eq!(error.code(), &SqlState::INSUFFICIENT_PRIVILEGE, "{call}");
        assert_eq!(
            error.message(),
            format!("permission denied for function {}", &call[..call.find('(').unwrap()])
        );
    }
    // Topic grants come first: nobody learns of the keys of others' topics.
    db.client.batch_execute(&format!("SELECT outbox.grant_topic('{emitter}', 'mine.*')"))?;
    let mut session = db.connect_as(&emitter)?;
    assert_denied(&mut session, "SELECT outbox.emit('t', '1', idempotency_key => 'a')");
    emit(&mut session, "mine.too", "a")?;
    assert_eq!(stored(&mut db.client)?.len(), 2);
    db.client.batch_execute(&format!(
        "SELECT outbox.revoke_topic('{emitter}'); DROP OWNED BY {emitter}, {other}; DROP ROLE {emitter}, {other}"
    ))?;
    Ok(())
}

#[test]
fn hostile_keys_and_tables() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    for key in [String::new(), "x".repeat(1025), "ä".repeat(513)] {
        let error = emit(&mut db.client, "t", &key).expect_err("a bad key");
        assert_eq!(error.code(), Some(&SqlState::INVALID_PARAMETER_VALUE), "{error:?}");
    }
    let long = "t".repeat(249);
    for key in
        ["x".repeat(1024), "'; DROP TABLE outbox.events; --".into(), "\u{1F600}\n\t\\".into(), " ".into()]
    {
        let first = emit(&mut db.client, &long, &key)?;
        assert_eq!(emit(&mut db.client, &long, &key)?, first);
    }
    // Incompressible, so that the index has to hold it whole.
    let sql = "SELECT string_agg(md5(n::text), '') FROM generate_series(1, 32) AS n";
    let random: String = db.client.query_one(sql, &[])?.get(0);
    emit(&mut db.client, &long, &random)?;
    // A read-only transaction, and objects of the same names on the search path.
    db.client.batch_execute("BEGIN READ ONLY")?;
    let error = emit(&mut db.client, "t", "a").expect_err("a read-only transaction");
    assert_eq!(error.code(), Some(&SqlState::READ_ONLY_SQL_TRANSACTION));
    db.client.batch_execute(
        "ROLLBACK; CREATE FUNCTION public.mine(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT 1 / 0 = 1';
         CREATE OPERATOR public.= (FUNCTION = public.mine, LEFTARG = text, RIGHTARG = text);
         SET search_path = public, pg_catalog",
    )?;
    emit(&mut db.client, "t", "a")?;
    emit(&mut db.client, "t", "a")?;
    // A table that swallows its rows.
    db.client.batch_execute(
        "CREATE FUNCTION public.swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER swallow BEFORE INSERT ON outbox.idempotency_a FOR EACH ROW EXECUTE FUNCTION public.swallow()",
    )?;
    let error = emit(&mut db.client, "t", "b").expect_err("a swallowed key");
    assert_eq!(error.code(), Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE), "{error:?}");
    assert_eq!(emit(&mut db.client, "t", "a")?, emit(&mut db.client, "t", "a")?);
    db.client.batch_execute("DROP TRIGGER swallow ON outbox.idempotency_a")?;
    // A table without its key.
    begin_next_period(&mut db.client)?;
    db.client.batch_execute("ALTER TABLE outbox.idempotency_a DROP CONSTRAINT idempotency_a_pkey")?;
    let error = emit(&mut db.client, "t", "c").expect_err("no primary key");
    assert_eq!(error.code(), Some(&SqlState::DATATYPE_MISMATCH), "{error:?}");
    Ok(())
}

/// What the owner of the tables has added runs with the owner's rights, not with those of whoever emits.
#[test]
fn triggers_on_the_keys_run_as_the_owner() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let owner = create_role(&mut db, "owner", "")?;
    db.client.batch_execute(&format!(
        "CREATE TABLE seen (who name); GRANT ALL ON seen TO {owner}; GRANT CREATE ON SCHEMA public TO {owner};
         ALTER TABLE outbox.idempotency_a OWNER TO {owner};
         SET ROLE {owner};
         CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN INSERT INTO public.seen VALUES (current_user); RETURN NEW; END';
         CREATE TRIGGER note BEFORE INSERT ON outbox.idempotency_a FOR EACH ROW EXECUTE FUNCTION public.note();
         RESET ROLE"
    ))?;
    emit(&mut db.client, "t", "a")?;
    let seen: String = db.client.query_one("SELECT who::text FROM seen", &[])?.get(0);
    assert_eq!(seen, owner);
    db.client.batch_execute(&format!(
        "DROP TRIGGER note ON outbox.idempotency_a; ALTER TABLE outbox.idempotency_a OWNER TO CURRENT_USER;
         DROP OWNED BY {owner}; DROP ROLE {owner}"
    ))?;
    Ok(())
}

#[test]
fn a_restored_database_knows_the_keys() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let old = emit(&mut db.client, "t", "old")?;
    begin_next_period(&mut db.client)?;
    let new = emit(&mut db.client, "t", "new")?;
    let mut restored = TestDatabase::of(db.server.create_database()?)?;
    restored
        .client
        .batch_execute(&format!("ALTER DATABASE {} SET event_outbox.enabled = off", restored.database))?;
    dump_and_restore(&db, &restored.database)?;
    assert_eq!(emit(&mut restored.client, "t", "old")?, old);
    assert_eq!(emit(&mut restored.client, "t", "new")?, new);
    Ok(())
}

/// Many sessions with few keys, and another table in the midst: each key has one event.
#[test]
fn under_load_each_key_has_one_event() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("load")?;
    let sessions: Vec<_> = (0..6)
        .map(|seed| {
            let (mut session, topic) = (db.connect()?, topic.clone());
            Ok(thread::spawn(move || -> Result<Vec<(String, Uuid)>> {
                let mut seen = Vec::new();
                for number in 0..300 {
                    let key = format!("{}", (number * 7 + seed) % 100);
                    let mut transaction = session.transaction()?;
                    let event = emit(&mut transaction, &topic, &key)?;
                    if (number + seed) % 5 == 0 {
                        transaction.rollback()?;
                    } else {
                        transaction.commit()?;
                        seen.push((key, event));
                    }
                }
                Ok(seen)
            }))
        })
        .collect::<Result<_>>()?;
    begin_next_period(&mut db.client)?;
    let mut first = std::collections::BTreeMap::new();
    for session in sessions {
        for (key, event) in session.join().expect("a panic")? {
            assert_eq!(*first.entry(key.clone()).or_insert(event), event, "{key}");
        }
    }
    let ids: Vec<String> =
        db.drained(&topic)?.iter().filter_map(|record| record.header("ce_id").map(Into::into)).collect();
    let mut unique = ids.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!((ids.len(), unique.len()), (first.len(), first.len()));
    Ok(())
}
