//! Functions that background workers call with the events of a subscription.

use std::time::Duration;

use event_outbox_lab::{Result, wait};
use postgres::Client;

use crate::support::database::TestDatabase;
use crate::support::inbox::until_consumer;
use crate::support::subscriptions::subscribe;

const HANDLED: Duration = Duration::from_secs(30);

fn number(client: &mut Client, sql: &str) -> Result<i64> {
    Ok(client.query_one(sql, &[])?.get(0))
}

/// The message and the hint with which the server refuses the statement.
fn refusal(client: &mut Client, sql: &str) -> Result<(String, String)> {
    let error = client.batch_execute(sql).expect_err(sql);
    let error = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error}"));
    Ok((error.message().to_owned(), error.hint().unwrap_or_default().to_owned()))
}

fn until(client: &mut Client, sql: &str, expected: i64) -> Result<()> {
    wait::until_ok(&format!("{sql} to be {expected}"), HANDLED, || {
        Ok((number(client, sql)? == expected).then_some(()))
    })
}

/// A subscription to a topic of its own, and a table for what a handler does.
fn subscribed(name: &str) -> Result<(TestDatabase, String)> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic(name)?;
    subscribe(&mut db.client, "s", &[&topic], "earliest")?;
    db.client.batch_execute(
        "CREATE TABLE handled (id bigint GENERATED ALWAYS AS IDENTITY, key text, data jsonb, attempt int, role text)",
    )?;
    Ok((db, topic))
}

const ONE: &str = "CREATE FUNCTION handle(e inbox.event) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        IF e.data = '\"poison\"' THEN RAISE 'this one is poison'; END IF;
        INSERT INTO public.handled (key, data, attempt, role)
        VALUES (convert_from(e.key, 'UTF8'), e.data, e.attempt, current_user);
    END $$";

#[test]
fn each_event_is_handled_once_and_in_order() -> Result<()> {
    let (mut db, topic) = subscribed("handled")?;
    db.client.batch_execute(ONE)?;
    db.client.execute("SELECT inbox.handle('s', 'handle(inbox.event)', workers => 3, batch => 50)", &[])?;
    let emit =
        "SELECT outbox.emit($1, to_jsonb(n), key => (n % 17)::text) FROM generate_series(1, 2000) AS n";
    db.client.execute(emit, &[&topic])?;
    until(&mut db.client, "SELECT count(*) FROM handled", 2000)?;
    let late = "SELECT count(*) FROM (SELECT data::int < lag(data::int) OVER (PARTITION BY key ORDER BY id) AS is_late
                                        FROM handled) AS h WHERE is_late";
    assert_eq!(number(&mut db.client, late)?, 0);
    assert_eq!(number(&mut db.client, "SELECT count(DISTINCT data) FROM handled")?, 2000);
    assert_eq!(number(&mut db.client, "SELECT running FROM inbox.handlers")?, 3);
    // The processes end after their batch, and nothing is handled any more.
    assert!(db.client.query_one("SELECT inbox.unhandle('s')", &[])?.get::<_, bool>(0));
    let processes = "SELECT count(*) FROM pg_stat_activity
                      WHERE datname = current_database() AND backend_type = 'event_outbox handler'";
    until(&mut db.client, processes, 0)?;
    Ok(())
}

#[test]
fn a_poison_event_dies_and_blocks_its_own_key_alone() -> Result<()> {
    let (mut db, topic) = subscribed("poison")?;
    db.configure("event_outbox.retry_backoff", "50ms")?;
    db.client.batch_execute(ONE)?;
    db.client.execute("SELECT inbox.handle('s', 'handle(inbox.event)')", &[])?;
    let emit =
        "SELECT outbox.emit($1, CASE n WHEN 5 THEN '\"poison\"' ELSE to_jsonb(n) END, key => (n % 3)::text)
                  FROM generate_series(1, 30) AS n";
    db.client.execute(emit, &[&topic])?;
    until(&mut db.client, "SELECT count(*) FROM handled", 29)?;
    let row = db
        .client
        .query_one("SELECT attempts, last_error, convert_from(key, 'UTF8') FROM inbox.dead_letters", &[])?;
    assert_eq!(
        (row.get::<_, i32>(0), row.get::<_, &str>(1), row.get::<_, &str>(2)),
        (3, "this one is poison", "2")
    );
    assert_eq!(number(&mut db.client, "SELECT count(*) FROM inbox.retry")?, 0);
    let late = "SELECT count(*) FROM (SELECT data::int < lag(data::int) OVER (PARTITION BY key ORDER BY id) AS is_late
                                        FROM handled) AS h WHERE is_late";
    assert_eq!(number(&mut db.client, late)?, 0);
    Ok(())
}

/// Nor is each failed attempt a line of the log, though others succeed between two of them.
#[test]
fn a_flood_of_failures_is_a_few_lines() -> Result<()> {
    const POISON: i64 = 60;
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("flooded")?;
    db.configure("event_outbox.retry_backoff", "50ms")?;
    // The log is that of all tests.
    subscribe(&mut db.client, "flooded", &[&topic], "earliest")?;
    db.client.batch_execute(
        "CREATE TABLE handled (data jsonb);
         CREATE FUNCTION handle(e inbox.event) RETURNS void LANGUAGE plpgsql AS $$
             BEGIN
                 IF e.data::int % 2 = 0 THEN RAISE 'cannot handle event %', e.position; END IF;
                 INSERT INTO public.handled VALUES (e.data);
             END $$;
         SELECT inbox.handle('flooded', 'handle(inbox.event)', batch => 5)",
    )?;
    let emit = "SELECT outbox.emit($1, to_jsonb(n), key => n::text) FROM generate_series(1, $2::bigint) AS n";
    db.client.execute(emit, &[&topic, &(2 * POISON)])?;
    until(&mut db.client, "SELECT count(*) FROM inbox.dead_letters", POISON)?;
    until(&mut db.client, "SELECT count(*) FROM handled", POISON)?;
    let is_of_it = |line: &&str| line.contains("the handler of subscription \"flooded\" failed");
    // The first is logged at once, the count of the others ten seconds later.
    wait::until("the count", HANDLED, || {
        let log = db.server.log();
        log.lines().filter(is_of_it).any(|line| line.contains("more time(s) (SQLSTATE P0001)")).then_some(())
    })?;
    let log = db.server.log();
    let lines: Vec<&str> = log.lines().filter(is_of_it).collect();
    assert!((2..6).contains(&lines.len()), "{lines:?}");
    assert!(lines[0].contains("cannot handle event"), "{lines:?}");
    Ok(())
}

#[test]
fn a_handler_of_batches_gets_arrays() -> Result<()> {
    let (mut db, topic) = subscribed("batches")?;
    db.client.batch_execute(
        "CREATE FUNCTION handle(e inbox.event[]) RETURNS void LANGUAGE sql AS $$
             INSERT INTO public.handled (data, attempt) SELECT u.data, cardinality(e) FROM unnest(e) AS u $$",
    )?;
    db.client.execute("SELECT outbox.emit($1, to_jsonb(n)) FROM generate_series(1, 500) AS n", &[&topic])?;
    until(&mut db.client, "SELECT count(*) FROM inbox.log", 500)?;
    db.client.execute("SELECT inbox.handle('s', 'handle(inbox.event[])', batch => 10)", &[])?;
    until(&mut db.client, "SELECT count(*) FROM handled", 500)?;
    assert!(number(&mut db.client, "SELECT max(attempt)::bigint FROM handled")? <= 10);
    Ok(())
}

/// The processes are connected as the owner of the function, who needs the right to receive.
#[test]
fn a_handler_runs_as_the_owner_of_its_function() -> Result<()> {
    let (mut db, topic) = subscribed("owned")?;
    let role = format!("{}_handler", db.database);
    db.client.batch_execute(&format!(
        "{ONE}; CREATE ROLE {role}; ALTER FUNCTION handle OWNER TO {role}; GRANT INSERT ON handled TO {role}"
    ))?;
    let handle = "SELECT inbox.handle('s', 'handle(inbox.event)')";
    assert_eq!(refusal(&mut db.client, handle)?.0, format!("role \"{role}\" cannot log in"));
    db.client.batch_execute(&format!("ALTER ROLE {role} LOGIN"))?;
    let (message, hint) = refusal(&mut db.client, handle)?;
    assert_eq!(message, format!("role \"{role}\" may not receive from subscription \"s\""));
    db.client.batch_execute(&hint)?;
    db.client.execute(handle, &[])?;
    db.client.execute("SELECT outbox.emit($1, '1', key => 'k')", &[&topic])?;
    until(&mut db.client, "SELECT count(*) FROM handled", 1)?;
    let handled_by: String = db.client.query_one("SELECT role FROM handled", &[])?.get(0);
    assert_eq!(handled_by, role);
    db.client.batch_execute(&format!(
        "SELECT inbox.unhandle('s'); SELECT inbox.revoke_subscription('{role}', 's');
         DROP FUNCTION handle; DROP OWNED BY {role}; DROP ROLE {role}"
    ))?;
    Ok(())
}

#[test]
fn what_cannot_be_a_handler_says_why() -> Result<()> {
    let (mut db, _) = subscribed("refused")?;
    db.client.batch_execute(
        "CREATE FUNCTION wrong(e text) RETURNS void LANGUAGE sql AS ''; CREATE FUNCTION wrong(e inbox.event) RETURNS SETOF int LANGUAGE sql AS 'SELECT 1'",
    )?;
    for (call, message) in [
        ("inbox.handle('s', 'wrong(text)')", "public.wrong(text) cannot be a handler"),
        ("inbox.handle('s', 'wrong(inbox.event)')", "public.wrong(inbox.event) cannot be a handler"),
        ("inbox.handle('s', NULL)", "the handler does not exist"),
        ("inbox.handle('none', 'wrong(text)')", "subscription \"none\" does not exist"),
        ("inbox.handle('s', 'wrong(text)', workers => 0)", "workers must be 1 to 64, and batch 1 to 10000"),
    ] {
        assert_eq!(refusal(&mut db.client, &format!("SELECT {call}"))?.0, message, "{call}");
    }
    Ok(())
}

/// Offsets are copied with the events, so each of the two handles what the template has not handled, unless it is told not to.
#[test]
fn a_copy_from_a_template_handles_nothing_while_it_is_disabled() -> Result<()> {
    let (mut db, topic) = subscribed("template")?;
    db.client.batch_execute(ONE)?;
    db.client.execute("SELECT inbox.handle('s', 'handle(inbox.event)')", &[])?;
    let emit = "SELECT outbox.emit($1, to_jsonb(n), key => n::text) FROM generate_series(1, $2::int) AS n";
    db.client.execute(emit, &[&topic, &100])?;
    until(&mut db.client, "SELECT count(*) FROM handled", 100)?;
    let mut copy = db.copy()?;
    copy.client.batch_execute(&format!("ALTER DATABASE {} SET event_outbox.enabled = off", copy.database))?;
    // Its worker starts with the first session that receives.
    copy.client.batch_execute("SELECT count(*) FROM inbox.receive('s')")?;
    until_consumer(&mut copy.client, "disabled")?;
    db.client.execute(emit, &[&topic, &50])?;
    until(&mut db.client, "SELECT count(*) FROM handled", 150)?;
    assert_eq!(number(&mut copy.client, "SELECT count(*) FROM handled")?, 100);
    copy.client.batch_execute(&format!("ALTER DATABASE {} SET event_outbox.enabled = on", copy.database))?;
    until(&mut copy.client, "SELECT count(*) FROM handled", 150)?;
    assert_eq!(number(&mut copy.client, "SELECT count(DISTINCT (key, id > 100)) FROM handled")?, 150);
    Ok(())
}
