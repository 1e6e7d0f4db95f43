//! A row that cannot be settled is set aside, as a locked row is: the others go on.

use event_outbox_lab::{Consumer, Result, wait};

use crate::support::database::{DEADLINE, PROMPTLY, TestDatabase, values};
use crate::support::events::{emit, pending_count, until_payloads_left};
use crate::support::relay::{until_drained, until_status};

/// Blocks the settlement of the second of ten events by `obstacle`, and unblocks it by `remedy`.
fn with_a_faulty_row(name: &str, obstacle: &str, remedy: &str) -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic(name)?;
    db.configure("event_outbox.enabled", "off")?;
    db.client.batch_execute("SELECT outbox.set_archive('*', '1 day')")?;
    for number in 1..=10 {
        emit(&mut db.client, &topic, number)?;
    }
    db.client.batch_execute(obstacle)?;
    db.configure("event_outbox.enabled", "on")?;
    until_payloads_left(&mut db.client, &["2"], PROMPTLY)?;
    // Later events are not delayed either.
    for number in 11..=15 {
        emit(&mut db.client, &topic, number)?;
        until_payloads_left(&mut db.client, &["2"], PROMPTLY)?;
    }
    let id: i64 = db.client.query_one("SELECT id FROM outbox.events", &[])?.get(0);
    let shown = until_status(&mut db.client, "the row to be shown", |status| {
        status.error().contains(&format!("event {id} ")) && status.state == "publishing"
    })?;
    assert_eq!(shown.in_flight, 1);
    let sql = "SELECT verdict, finding, hint FROM outbox.check() WHERE subject = 'settlement'";
    let row = db.client.query_one(sql, &[])?;
    assert_eq!(row.get::<_, String>(0), "error");
    assert!(row.get::<_, String>(1).contains(&format!("event {id} ")), "{row:?}");
    // The archive has what has left the outbox, once.
    let archived = "SELECT count(*), count(DISTINCT event_id) FROM outbox.archive WHERE payload <> '2'";
    let row = db.client.query_one(archived, &[])?;
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (14, 14));
    assert!(db.client.query("SELECT FROM outbox.archive WHERE payload = '2'", &[])?.is_empty());
    db.client.batch_execute(remedy)?;
    let published = db.drained_values(&topic)?;
    assert_eq!(published, (1..=15).map(|number| number.to_string()).collect::<Vec<_>>());
    assert_eq!(db.client.query("SELECT FROM outbox.archive WHERE payload = '2'", &[])?.len(), 1);
    Ok(())
}

#[test]
fn a_row_that_a_foreign_key_refers_to() -> Result<()> {
    with_a_faulty_row(
        "referred",
        "CREATE TABLE public.refers (event bigint REFERENCES outbox.events);
         INSERT INTO public.refers SELECT id FROM outbox.pending WHERE payload = '2'",
        "DELETE FROM public.refers",
    )
}

#[test]
fn a_row_whose_reference_is_deferred() -> Result<()> {
    with_a_faulty_row(
        "deferred",
        "CREATE TABLE public.refers (event bigint REFERENCES outbox.events DEFERRABLE INITIALLY DEFERRED);
         INSERT INTO public.refers SELECT id FROM outbox.pending WHERE payload = '2'",
        "DELETE FROM public.refers",
    )
}

#[test]
fn a_row_for_which_a_trigger_raises() -> Result<()> {
    with_a_faulty_row(
        "raising",
        "CREATE FUNCTION public.raise() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN IF OLD.payload = '2' THEN RAISE 'not this one'; END IF; RETURN OLD; END$$;
         CREATE TRIGGER keep BEFORE DELETE ON outbox.events FOR EACH ROW EXECUTE FUNCTION public.raise()",
        "DROP TRIGGER keep ON outbox.events",
    )
}

/// A trigger that silently keeps the row: it would be published again and again.
#[test]
fn a_row_that_a_trigger_keeps() -> Result<()> {
    with_a_faulty_row(
        "kept",
        "CREATE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN RETURN CASE WHEN OLD.payload <> '2' THEN OLD END; END$$;
         CREATE TRIGGER keep BEFORE DELETE ON outbox.events FOR EACH ROW EXECUTE FUNCTION public.keep()",
        "DROP TRIGGER keep ON outbox.events",
    )
}

#[test]
fn a_row_that_a_rule_keeps() -> Result<()> {
    with_a_faulty_row(
        "ruled",
        "CREATE RULE keep AS ON DELETE TO outbox.events WHERE OLD.payload = '2' DO INSTEAD NOTHING",
        "DROP RULE keep ON outbox.events",
    )
}

/// Recording a refusal can fail, too: then only the events of its key wait.
#[test]
fn a_refusal_that_cannot_be_noted() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("unnoted")?;
    db.configure("event_outbox.max_attempts", "1")?;
    db.client.batch_execute("ALTER TABLE outbox.dead_letters ADD CHECK (payload <> '0')")?;
    db.configure("event_outbox.enabled", "off")?;
    let bad = "SELECT outbox.emit($1, to_jsonb($2::int), partition => 9)";
    db.client.execute(bad, &[&topic, &0])?;
    db.client.execute(bad, &[&topic, &1])?;
    for number in 2..=10 {
        emit(&mut db.client, &topic, number)?;
    }
    db.configure("event_outbox.enabled", "on")?;
    until_payloads_left(&mut db.client, &["0"], PROMPTLY)?;
    emit(&mut db.client, &topic, 11)?;
    until_payloads_left(&mut db.client, &["0"], PROMPTLY)?;
    let sql = "SELECT conname FROM pg_constraint WHERE conrelid = 'outbox.dead_letters'::regclass AND contype = 'c'";
    let name: String = db.client.query_one(sql, &[])?.get(0);
    db.client.batch_execute(&format!("ALTER TABLE outbox.dead_letters DROP CONSTRAINT {name}"))?;
    until_drained(&mut db.client)?;
    let dead: i64 = db.client.query_one("SELECT count(*) FROM outbox.dead_letters", &[])?.get(0);
    assert_eq!(dead, 2);
    let read = Consumer::read_all(&db.broker.bootstrap_servers(), &[&topic])?;
    assert_eq!(values(&read), (2..=11).map(|number| number.to_string()).collect::<Vec<_>>());
    Ok(())
}

/// A thousand rows among thousands of others.
#[test]
fn many_rows_that_cannot_be_deleted() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("many")?;
    db.configure("event_outbox.enabled", "off")?;
    let sql = "SELECT outbox.emit($1, to_jsonb(n), key => 'k') FROM generate_series(1, 4000) AS n";
    db.client.execute(sql, &[&topic])?;
    db.client.batch_execute(
        "CREATE TABLE public.refers (event bigint REFERENCES outbox.events);
         CREATE INDEX ON public.refers (event);
         INSERT INTO public.refers SELECT id FROM outbox.events WHERE id % 4 = 0",
    )?;
    db.configure("event_outbox.enabled", "on")?;
    wait::until_ok("the others to be settled", DEADLINE, || {
        let left = pending_count(&mut db.client)?;
        Ok((left == 1000).then_some(()))
    })?;
    emit(&mut db.client, &topic, 4001)?;
    wait::until_ok("what comes later to be settled", PROMPTLY, || {
        let left = pending_count(&mut db.client)?;
        Ok((left == 1000).then_some(()))
    })?;
    db.client.batch_execute("DELETE FROM public.refers")?;
    let expected: Vec<_> = (1..=4001).map(|number| number.to_string()).collect();
    assert_eq!(db.drained_values(&topic)?, expected);
    Ok(())
}
