//! The views `outbox.pending` and `outbox.status`, and the comments of all public objects.

use event_outbox_lab::Result;
use uuid::Uuid;

use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::events::emit;

#[test]
fn pending_shows_what_waits_readable() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("pending");
    db.configure("event_outbox.enabled", "off")?;
    let sql =
        "SELECT outbox.emit($1, '{\"a\": \"é\"}', key => 'k', event_type => 't', headers => '{\"h\": 1}',
                                  partition => 7)";
    let id: Uuid = db.client.query_one(sql, &[&topic])?.get(0);
    db.client.execute(
        r"SELECT outbox.emit_bytes($1, '\x00ff10', key => '\xfe', content_type => 'x/y')",
        &[&topic],
    )?;
    // A payload with the NUL that Postgres' text cannot hold; a tombstone; an empty payload.
    db.client.execute(r"SELECT outbox.emit_bytes($1, '\x610062')", &[&topic])?;
    db.client.execute("SELECT outbox.emit($1, NULL, key => 'gone')", &[&topic])?;
    db.client.execute("SELECT outbox.emit_bytes($1, '', key => '')", &[&topic])?;

    let rows = db.client.query("SELECT key, payload FROM outbox.pending ORDER BY id", &[])?;
    let shown: Vec<(Option<String>, Option<String>)> =
        rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let text = |text: &str| Some(text.to_string());
    assert_eq!(
        shown,
        [
            (text("k"), text("{\"a\":\"é\"}")),
            (text("\\xfe"), text("\\x00ff10")),
            (None, text("\\x610062")),
            (text("gone"), None),
            (text(""), text("")),
        ]
    );
    let first = db.client.query_one(
        "SELECT event_id, topic, partition, headers::text, event_type, content_type, attempts,
                next_attempt_at IS NULL AND last_error IS NULL, age >= '0' AND age < '1 min',
                age BETWEEN '0' AND clock_timestamp() - emitted_at
           FROM outbox.pending ORDER BY id LIMIT 1",
        &[],
    )?;
    assert_eq!((first.get::<_, Uuid>(0), first.get::<_, String>(1)), (id, topic));
    assert_eq!((first.get::<_, i32>(2), first.get::<_, String>(3)), (7, "{\"h\":1}".into()));
    assert_eq!(
        (first.get::<_, String>(4), first.get::<_, String>(5)),
        ("t".into(), "application/json".into())
    );
    assert_eq!((first.get::<_, i32>(6), first.get::<_, bool>(7)), (0, true));
    assert!(first.get::<_, bool>(8) && first.get::<_, bool>(9), "age");

    // The age grows between two looks, even within a transaction.
    let mut transaction = db.client.transaction()?;
    let mut age = || -> Result<f64> {
        let sql = "SELECT max(extract(epoch FROM age))::float8 FROM outbox.pending";
        Ok(transaction.query_one(sql, &[])?.get(0))
    };
    let (before, after) = (age()?, age()?);
    assert!(before < after, "{before} {after}");
    Ok(())
}

#[test]
fn status_counts_and_names_its_relay() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("status");
    let relay = db.relay()?;
    for number in 0..7 {
        emit(&mut db.client, &topic, number)?;
    }
    db.drained(&topic)?;
    let sql =
        "SELECT s.pid, a.backend_type, a.application_name, s.state, s.connection, s.last_error, s.published,
                      s.refused, s.in_flight, s.sweeps > 0, s.wakeups > 0,
                      s.state_since <= now() AND s.connection_since <= now() AND s.last_publish_at <= now()
                          AND s.connection_since > now() - interval '10 min'
                 FROM outbox.status AS s LEFT JOIN pg_stat_activity AS a USING (pid)";
    let row = event_outbox_lab::wait::until_ok("an idle relay", DEADLINE, || {
        let row = db.client.query_one(sql, &[])?;
        Ok((row.get::<_, &str>(3) == "idle" && row.get::<_, i64>(6) == 7).then_some(row))
    })?;
    assert_eq!(row.get::<_, i32>(0), relay);
    assert_eq!(row.get::<_, &str>(1), "event_outbox relay");
    assert_eq!((row.get::<_, &str>(4), row.get::<_, Option<&str>>(5)), ("connected", None));
    assert_eq!((row.get::<_, i64>(7), row.get::<_, i64>(8)), (0, 0));
    assert!((9..=11).all(|at| row.get::<_, bool>(at)), "{row:?}");
    Ok(())
}

#[test]
fn status_tells_when_the_relay_is_disabled() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("disabled");
    db.configure("event_outbox.enabled", "off")?;
    emit(&mut db.client, &topic, 1)?;
    let sql = "SELECT state, published, in_flight FROM outbox.status";
    let row = db.client.query_one(sql, &[])?;
    assert_eq!((row.get(0), row.get(1), row.get(2)), ("disabled".to_string(), 0_i64, 0_i64));
    Ok(())
}

/// A monitoring role needs no more than SELECT on the views, as with any other view.
#[test]
fn select_on_a_view_is_enough_to_read_it() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let role = format!("monitor_{}", db.database);
    db.client.batch_execute(&format!(
        "CREATE ROLE {role} LOGIN;
         GRANT USAGE ON SCHEMA outbox TO {role};
         GRANT SELECT ON outbox.status, outbox.pending TO {role}"
    ))?;
    db.configure("event_outbox.enabled", "off")?;
    let topic = db.topic("monitored");
    emit(&mut db.client, &topic, 1)?;
    let mut monitor = db.connect_as(&role)?;
    let state: String = monitor.query_one("SELECT state FROM outbox.status", &[])?.get(0);
    assert_eq!(state, "disabled");
    let payload: String = monitor.query_one("SELECT payload FROM outbox.pending", &[])?.get(0);
    assert_eq!(payload, "1");
    Ok(())
}

#[test]
fn every_object_has_a_comment() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let rows = db.client.query(
        "WITH objects (class, id, sub, what) AS (
             SELECT 'pg_namespace'::regclass, 'outbox'::regnamespace::oid, 0, 'schema outbox'
             UNION ALL
             SELECT 'pg_extension'::regclass, oid, 0, 'extension' FROM pg_extension WHERE extname = 'event_outbox'
             UNION ALL
             SELECT 'pg_class'::regclass, oid, 0, oid::regclass::text FROM pg_class
              WHERE relnamespace = 'outbox'::regnamespace AND relkind IN ('r', 'p', 'v', 'm')
             UNION ALL
             SELECT 'pg_class'::regclass, c.oid, attnum, c.oid::regclass || '.' || attname
               FROM pg_class AS c JOIN pg_attribute ON attrelid = c.oid
              WHERE relnamespace = 'outbox'::regnamespace AND relkind IN ('r', 'p', 'v', 'm')
                AND attnum > 0 AND NOT attisdropped
             UNION ALL
             SELECT 'pg_proc'::regclass, oid, 0, oid::regprocedure::text FROM pg_proc
              WHERE pronamespace = 'outbox'::regnamespace
             UNION ALL
             SELECT 'pg_type'::regclass, oid, 0, oid::regtype::text FROM pg_type
              WHERE typnamespace = 'outbox'::regnamespace AND typtype IN ('d', 'e')
         )
         SELECT what FROM objects LEFT JOIN pg_description AS d
             ON d.classoid = class AND d.objoid = id AND d.objsubid = sub
          WHERE coalesce(d.description, '') = '' ORDER BY what",
        &[],
    )?;
    let missing: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert!(missing.is_empty(), "no comment on {missing:?}");
    Ok(())
}
