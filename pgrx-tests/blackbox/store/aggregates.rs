//! Reducers make states of streams, with snapshots or without.

use anyhow::Context;
use event_outbox_lab::Result;
use postgres::Client;
use serde_json::{Value, json};

use crate::support::database::TestDatabase;
use crate::support::streams::refusal;

const REDUCER: &str = "
    CREATE FUNCTION public.add_up(state jsonb, event event_store.recorded_event) RETURNS jsonb LANGUAGE plpgsql AS $$
    BEGIN
        RETURN jsonb_build_object('sum', (state ->> 'sum')::bigint + (event.data ->> 'n')::bigint,
                                  'calls', coalesce((state ->> 'calls')::bigint, 0) + 1,
                                  'last', event.stream || ':' || event.version);
    END $$;";

fn with_events(count: i32) -> Result<TestDatabase> {
    let mut db = TestDatabase::disabled()?;
    db.client.batch_execute(REDUCER)?;
    db.client.execute(
        "SELECT event_store.append('a-1', 'any', (SELECT jsonb_agg(jsonb_build_object('type', 'added', 'data', jsonb_build_object('n', n)))
                                                    FROM generate_series(1, $1::integer) AS n))",
        &[&count],
    )?;
    Ok(db)
}

fn aggregate(client: &mut Client, further: &str) -> Result<(i64, Value)> {
    let sql = format!(
        "SELECT version, state FROM event_store.aggregate(
             'a-1', 'public.add_up(jsonb, event_store.recorded_event)', '{{\"sum\": 0}}' {further})"
    );
    let row = client.query_one(&sql, &[])?;
    Ok((row.get(0), row.get(1)))
}

#[test]
fn a_reducer_sees_each_event_in_order() -> Result<()> {
    let mut db = with_events(1000)?;
    let all = json!({"sum": 500_500, "calls": 1000, "last": "a-1:1000"});
    assert_eq!(aggregate(&mut db.client, "")?, (1000, all));
    let row = db.client.query_one(
        "SELECT version, state FROM event_store.aggregate('a-9', 'public.add_up(jsonb, event_store.recorded_event)', '{\"new\": 1}')",
        &[],
    )?;
    assert_eq!((row.get::<_, i64>(0), row.get::<_, Value>(1)), (0, json!({"new": 1})));
    Ok(())
}

#[test]
fn a_snapshot_spares_the_events_before_it() -> Result<()> {
    let mut db = with_events(300)?;
    let client = &mut db.client;
    let saved = |client: &mut Client, version: i64, reducer: i32| -> Result<bool> {
        let sql = "SELECT event_store.save_snapshot('a-1', $1, '{\"sum\": 1000}', $2)";
        Ok(client.query_one(sql, &[&version, &reducer])?.get(0))
    };
    assert!(saved(client, 290, 2)?);
    let (version, state) = aggregate(client, ", 2")?;
    assert_eq!((version, &state["calls"], &state["sum"]), (300, &json!(10), &json!(1000 + 2955)));
    // Another version of the reducer, or none, does not use it.
    for further in [", 3", ""] {
        assert_eq!(aggregate(client, further)?.1["calls"], json!(300));
    }
    assert!(!saved(client, 280, 2)?, "an older one");
    assert!(!saved(client, 290, 2)?);
    assert!(saved(client, 300, 2)?);
    assert_eq!(aggregate(client, ", 2")?, (300, json!({"sum": 1000})));
    let row = client.query_one("SELECT version, state FROM event_store.load_snapshot('a-1', 2)", &[])?;
    assert_eq!((row.get::<_, i64>(0), row.get::<_, Value>(1)), (300, json!({"sum": 1000})));
    assert_eq!(client.query("SELECT FROM event_store.load_snapshot('a-1')", &[])?.len(), 0);
    for wrong in ["301, '{}'", "0, '{}'", "-1, '{}'"] {
        assert_eq!(refusal(client, &format!("SELECT event_store.save_snapshot('a-1', {wrong})")).0, "22023");
    }
    assert_eq!(refusal(client, "SELECT event_store.save_snapshot('a-9', 1, '{}')").0, "22023");
    assert_eq!(refusal(client, "SELECT event_store.save_snapshot('a-1', 1, NULL)").0, "22004");
    Ok(())
}

#[test]
fn only_a_reducer_can_reduce() -> Result<()> {
    let mut db = with_events(2)?;
    db.client.batch_execute(
        "CREATE FUNCTION public.wrong(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT 1::text::jsonb';
         CREATE FUNCTION public.fails(state jsonb, event event_store.recorded_event) RETURNS jsonb LANGUAGE sql AS 'SELECT (1/0)::text::jsonb';
         CREATE FUNCTION public.forgets(state jsonb, event event_store.recorded_event) RETURNS jsonb LANGUAGE sql AS 'SELECT NULL::jsonb'",
    )?;
    let call = |reducer: &str| format!("SELECT event_store.aggregate('a-1', {reducer})");
    assert_eq!(refusal(&mut db.client, &call("'public.wrong(jsonb, jsonb)'")).0, "42P13");
    assert_eq!(refusal(&mut db.client, &call("0::regprocedure")).0, "42P13");
    assert_eq!(refusal(&mut db.client, &call("NULL")).0, "22004");
    assert_eq!(
        refusal(&mut db.client, &call("'public.fails(jsonb, event_store.recorded_event)'")).0,
        "22012"
    );
    let row = db.client.query_one(
        "SELECT version, state FROM event_store.aggregate('a-1', 'public.forgets(jsonb, event_store.recorded_event)')",
        &[],
    )?;
    assert_eq!((row.get::<_, i64>(0), row.get::<_, Option<Value>>(1)), (2, None));
    Ok(())
}

#[test]
fn an_error_of_a_reducer_is_passed_on_as_it_is() -> Result<()> {
    let mut db = with_events(2)?;
    db.client.batch_execute(
        "CREATE FUNCTION public.refuses(state jsonb, event event_store.recorded_event) RETURNS jsonb LANGUAGE plpgsql AS $$
         BEGIN
             IF event.version = 2 THEN
                 RAISE EXCEPTION USING ERRCODE = 'BK007', MESSAGE = 'no', DETAIL = 'because', HINT = 'do not', COLUMN = 'c', TABLE = 't';
             END IF;
             RETURN '{}';
         END $$;
         CREATE FUNCTION public.asks() RETURNS text LANGUAGE plpgsql AS $$
         BEGIN
             PERFORM event_store.aggregate('a-1', 'public.refuses(jsonb, event_store.recorded_event)');
             RETURN 'nothing';
         EXCEPTION WHEN SQLSTATE 'BK007' THEN
             RETURN sqlerrm;
         END $$",
    )?;
    let call = "SELECT event_store.aggregate('a-1', 'public.refuses(jsonb, event_store.recorded_event)')";
    for _ in 0..3 {
        let error = db.client.batch_execute(call).expect_err("the reducer refuses");
        let error = error.as_db_error().context("an error of the server")?;
        assert_eq!(error.code().code(), "BK007");
        assert_eq!((error.message(), error.detail(), error.hint()), ("no", Some("because"), Some("do not")));
        assert_eq!((error.table(), error.column()), (Some("t"), Some("c")));
        let context = error.where_().context("a context")?;
        assert!(
            context.contains("PL/pgSQL function refuses(jsonb,event_store.recorded_event) line 4"),
            "{context}"
        );
    }
    // The subtransaction is cleaned up, each time, and the session goes on.
    for _ in 0..3 {
        assert_eq!(db.client.query_one("SELECT public.asks()", &[])?.get::<_, String>(0), "no");
    }
    assert_eq!(aggregate(&mut db.client, "")?.0, 2);
    Ok(())
}
