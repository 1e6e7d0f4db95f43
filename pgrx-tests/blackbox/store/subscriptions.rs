//! Categories are sources of the inbox: what is appended is received once, in the order of the commits, without Kafka.

use std::thread;

use event_outbox_lab::{Broker, Cluster, Result, StopMode, wait};
use postgres::Client;

use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::inbox::{receive, until_received};
use crate::support::roles::{assert_denied, create_role};
use crate::support::schemas::bind_orders;
use crate::support::server::DedicatedServer;
use crate::support::streams::{append, refusal};

fn subscribe(client: &mut Client, categories: &str, start: &str) -> Result<()> {
    let sql = format!("SELECT event_store.subscribe('s', '{categories}', '{start}')");
    Ok(client.batch_execute(&sql)?)
}

/// Receives this many events; returns their streams and versions, in the order of arrival.
fn received(client: &mut Client, count: usize) -> Result<Vec<String>> {
    let events = until_received(client, "s", count)?;
    let name = |value: Option<&serde_json::Value>| {
        value.and_then(|value| value.as_str()).unwrap_or("(none)").to_owned()
    };
    let all = events.iter().map(|event| {
        let headers = event.headers.as_ref();
        format!(
            "{}:{}",
            name(headers.and_then(|h| h.get("stream"))),
            name(headers.and_then(|h| h.get("version")))
        )
    });
    Ok(all.collect())
}

#[test]
fn events_are_received_without_kafka() -> Result<()> {
    let nowhere = DedicatedServer::start("127.0.0.1:1")?;
    let mut client = nowhere.connect()?;
    append(&mut client, "a-1", "any", "before")?;
    append(&mut client, "c-1", "any", "of another category")?;
    subscribe(&mut client, "{b,a}", "earliest")?;
    client.batch_execute(
        "SELECT event_store.append('b-1', 'any', '{\"type\": \"é\", \"data\": {\"n\": 1}, \"metadata\": {\"by\": \"me\"},
             \"id\": \"00000000-0000-0000-0000-000000000001\"}', causation_id => '00000000-0000-0000-0000-00000000000a')",
    )?;
    let mut events = Vec::new();
    wait::until_ok("two events", DEADLINE, || {
        let sql = "SELECT topic, convert_from(key, 'UTF8'), event_type, event_id, data::text, headers->>'version', headers->>'metadata',
                          headers->>'causation_id', \"offset\" = (headers->>'position')::bigint, content_type,
                          event_time = (SELECT s.recorded_at FROM event_store.read_stream(convert_from(key, 'UTF8')) AS s)
                     FROM inbox.receive('s') ORDER BY position";
        for row in client.query(sql, &[])? {
            let text = |at| row.get::<_, Option<String>>(at).unwrap_or_default();
            events.push(format!(
                "{} {} {} {} {} {} {} {} {}",
                text(0),
                text(1),
                text(2),
                text(4),
                text(5),
                text(6),
                text(7),
                row.get::<_, bool>(8),
                text(9)
            ));
            assert_eq!(row.get::<_, Option<bool>>(10), Some(true), "when it was recorded");
            assert_eq!(text(2) == "é", text(3) == "00000000-0000-0000-0000-000000000001");
        }
        Ok((events.len() >= 2).then_some(()))
    })?;
    assert_eq!(
        events,
        [
            "a a-1 before null 1   true application/json",
            "b b-1 é {\"n\": 1} 1 {\"by\": \"me\"} 00000000-0000-0000-0000-00000000000a true application/json"
        ]
    );
    let row = client.query_one(
        "SELECT string_agg(concat_ws(' ', topic, to_store, to_receive), ',' ORDER BY topic) FROM inbox.lag",
        &[],
    )?;
    assert_eq!(row.get::<_, String>(0), "a 0 0,b 0 0");
    let brokers = client.query_one("SELECT finding FROM inbox.check() WHERE subject = 'brokers'", &[])?;
    assert_eq!(brokers.get::<_, String>(0), "No subscription reads Kafka.");
    Ok(())
}

#[test]
fn a_topic_of_the_same_name_may_have_a_schema() -> Result<()> {
    let mut db = TestDatabase::new()?;
    bind_orders(&mut db, "a", "avro", "plain")?;
    subscribe(&mut db.client, "{a}", "earliest")?;
    db.client.batch_execute(
        "SELECT event_store.append('a-1', 'any', '{\"type\": \"x\", \"data\": {\"anything\": true}}')",
    )?;
    let sql = "SELECT data::text, decode_error FROM inbox.receive('s')";
    let row = wait::until_ok("the event", DEADLINE, || Ok(db.client.query_opt(sql, &[])?))?;
    assert_eq!(row.get::<_, Option<&str>>(1), None);
    assert_eq!(row.get::<_, &str>(0), "{\"anything\": true}");
    Ok(())
}

#[test]
fn what_commits_late_holds_nothing_back_and_is_not_missed() -> Result<()> {
    let mut db = TestDatabase::new()?;
    subscribe(&mut db.client, "{a}", "earliest")?;
    let name = format!("late_{}", db.database);
    let mut late = db.connect()?;
    late.batch_execute("BEGIN")?;
    append(&mut late, "a-late", "any", "x")?;
    db.client.batch_execute("BEGIN")?;
    append(&mut db.client, "a-prepared", "any", "x")?;
    append(&mut db.client, "b-prepared", "any", "x")?;
    db.client.batch_execute(&format!("PREPARE TRANSACTION '{name}'"))?;
    for at in 1..=3 {
        append(&mut db.client, "a-1", "any", "x")?;
        append(&mut db.client, &format!("b-{at}"), "any", "x")?;
    }
    assert_eq!(received(&mut db.client, 3)?, ["a-1:1", "a-1:2", "a-1:3"]);
    late.batch_execute("COMMIT")?;
    assert_eq!(received(&mut db.client, 1)?, ["a-late:1"]);
    append(&mut db.client, "a-1", "any", "x")?;
    assert_eq!(received(&mut db.client, 1)?, ["a-1:4"]);
    let undecided: i64 = db
        .client
        .query_one(
            "SELECT cardinality(undecided)::bigint FROM inbox.progress ORDER BY batch DESC LIMIT 1",
            &[],
        )?
        .get(0);
    assert!(undecided > 0, "the prepared transaction is not decided");
    db.client.batch_execute(&format!("COMMIT PREPARED '{name}'"))?;
    assert_eq!(received(&mut db.client, 1)?, ["a-prepared:1"]);
    assert_eq!(receive(&mut db.client, "s", 100)?, []);
    Ok(())
}

#[test]
fn a_crash_loses_nothing_and_repeats_nothing() -> Result<()> {
    let mut own = DedicatedServer::with(
        Cluster::options("store").set("max_prepared_transactions", 10),
        &Broker::shared()?.bootstrap_servers(),
    )?;
    let mut client = own.connect()?;
    subscribe(&mut client, "{a}", "earliest")?;
    client.batch_execute("BEGIN")?;
    append(&mut client, "a-prepared", "any", "x")?;
    client.batch_execute("PREPARE TRANSACTION 'late'")?;
    for _ in 0..20 {
        append(&mut client, "a-1", "any", "x")?;
    }
    let before = received(&mut client, 20)?;
    append(&mut client, "a-2", "any", "x")?;
    own.server.restart(StopMode::Immediate)?;
    let mut client = own.connect()?;
    append(&mut client, "a-3", "any", "x")?;
    let after = received(&mut client, 2)?;
    client.batch_execute("COMMIT PREPARED 'late'")?;
    assert_eq!(received(&mut client, 1)?, ["a-prepared:1"]);
    assert_eq!(receive(&mut client, "s", 100)?, []);
    assert_eq!(before.len(), 20);
    assert_eq!(after, ["a-2:1", "a-3:1"]);
    Ok(())
}

#[test]
fn everything_that_many_append_is_received_once() -> Result<()> {
    const WRITERS: usize = 16;
    const EVENTS: usize = 40;
    let mut db = TestDatabase::new()?;
    subscribe(&mut db.client, "{a}", "earliest")?;
    let clients: Vec<Client> = (0..WRITERS).map(|_| db.connect()).collect::<Result<_>>()?;
    let kept = thread::scope(|scope| -> Result<usize> {
        let write = |writer: usize, mut client: Client| -> Result<usize> {
            let mut kept = 0;
            for at in 0..EVENTS {
                client.batch_execute("BEGIN")?;
                append(&mut client, &format!("a-{writer}"), "any", "x")?;
                append(&mut client, &format!("b-{writer}"), "any", "x")?;
                let is_kept = !(writer + at).is_multiple_of(5);
                client.batch_execute(if is_kept { "COMMIT" } else { "ROLLBACK" })?;
                kept += usize::from(is_kept);
            }
            Ok(kept)
        };
        let sessions: Vec<_> = clients
            .into_iter()
            .enumerate()
            .map(|(writer, client)| scope.spawn(move || write(writer, client)))
            .collect();
        let mut kept = 0;
        for session in sessions {
            kept += session.join().expect("a writer")?;
        }
        Ok(kept)
    })?;
    let all = received(&mut db.client, kept)?;
    assert_eq!(receive(&mut db.client, "s", 100)?, []);
    // Each stream arrives in its order, without gaps.
    for writer in 0..WRITERS {
        let prefix = format!("a-{writer}:");
        let versions: Vec<usize> =
            all.iter().filter_map(|event| event.strip_prefix(&prefix)?.parse().ok()).collect();
        assert_eq!(versions, (1..=versions.len()).collect::<Vec<_>>(), "{prefix}");
    }
    Ok(())
}

#[test]
fn a_subscription_begins_where_it_was_told_and_moves() -> Result<()> {
    let mut db = TestDatabase::new()?;
    append(&mut db.client, "a-1", "any", "x")?;
    append(&mut db.client, "a-1", "any", "x")?;
    let second: i64 =
        db.client.query_one("SELECT max(position) FROM event_store.read_stream('a-1')", &[])?.get(0);
    subscribe(&mut db.client, "{a}", "latest")?;
    append(&mut db.client, "a-1", "any", "x")?;
    assert_eq!(received(&mut db.client, 1)?, ["a-1:3"]);
    db.client.batch_execute("SELECT inbox.seek('s', 'earliest')")?;
    assert_eq!(received(&mut db.client, 3)?, ["a-1:1", "a-1:2", "a-1:3"]);
    db.client.batch_execute("SELECT inbox.seek('s', '2000-01-01')")?;
    assert_eq!(received(&mut db.client, 3)?.len(), 3);
    db.client.batch_execute("SELECT inbox.seek('s', 'latest')")?;
    append(&mut db.client, "a-1", "any", "x")?;
    assert_eq!(received(&mut db.client, 1)?, ["a-1:4"]);
    let replay: String = db.client.query_one("SELECT inbox.replay('s', '2000-01-01')", &[])?.get(0);
    assert_eq!(until_received(&mut db.client, &replay, 8)?.len(), 8);
    db.client
        .batch_execute(&format!("SELECT inbox.unsubscribe('{replay}'); SELECT inbox.unsubscribe('s')"))?;
    subscribe(&mut db.client, "{a}", &second.to_string())?;
    assert_eq!(received(&mut db.client, 2)?, ["a-1:3", "a-1:4"]);
    for (call, state) in [
        ("event_store.subscribe('s', '{a}', 'earliest')", "42710"),
        ("event_store.subscribe('t', '{}', 'earliest')", "42602"),
        ("event_store.subscribe('t', '{a*}', 'earliest')", "42602"),
        ("event_store.subscribe('t', NULL, 'earliest')", "42602"),
        ("event_store.subscribe('t', '{a}', 'soon')", "22023"),
        ("event_store.subscribe('t', '{a}', NULL)", "22023"),
        ("event_store.subscribe('t t', '{a}', 'earliest')", "42602"),
        ("inbox.seek('s', 'earliest', 'a')", "0A000"),
    ] {
        assert_eq!(refusal(&mut db.client, &format!("SELECT {call}")).0, state, "{call}");
    }
    Ok(())
}

#[test]
fn a_handler_keeps_a_read_model() -> Result<()> {
    let mut db = TestDatabase::new()?;
    db.client.batch_execute(
        "CREATE TABLE public.counted (stream text PRIMARY KEY, events bigint NOT NULL);
         CREATE FUNCTION public.count_it(event inbox.event) RETURNS void LANGUAGE sql AS $$
             INSERT INTO public.counted VALUES (convert_from($1.key, 'UTF8'), 1)
                 ON CONFLICT (stream) DO UPDATE SET events = counted.events + 1 $$",
    )?;
    subscribe(&mut db.client, "{a}", "earliest")?;
    db.client.batch_execute("SELECT inbox.handle('s', 'public.count_it(inbox.event)')")?;
    for at in 0..50 {
        append(&mut db.client, &format!("a-{}", at % 5), "any", "x")?;
    }
    wait::until_ok("a read model", DEADLINE, || {
        let sql = "SELECT count(*) = 5 AND bool_and(events = 10) FROM public.counted";
        Ok(db.client.query_one(sql, &[])?.get::<_, Option<bool>>(0).filter(|done| *done).map(|_| ()))
    })
}

#[test]
fn categories_must_be_granted_to_be_subscribed_to() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let role = create_role(
        &mut db,
        "follower",
        "GRANT USAGE ON SCHEMA event_store, inbox TO ROLE; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA event_store TO ROLE;
         GRANT EXECUTE ON FUNCTION inbox.receive, inbox.unsubscribe TO ROLE",
    )?;
    let mut follower = db.connect_as(&role)?;
    assert_denied(&mut follower, "SELECT event_store.subscribe('s', '{a}', 'earliest')");
    db.client.batch_execute(&format!("SELECT event_store.grant_category('{role}', 'a', 'append')"))?;
    assert_denied(&mut follower, "SELECT event_store.subscribe('s', '{a}', 'earliest')");
    db.client.batch_execute(&format!("SELECT event_store.grant_category('{role}', 'a', 'read')"))?;
    assert_denied(&mut follower, "SELECT event_store.subscribe('s', '{a,b}', 'earliest')");
    follower.batch_execute("SELECT event_store.subscribe('s', '{a}', 'earliest')")?;
    append(&mut db.client, "a-1", "any", "x")?;
    assert_eq!(received(&mut follower, 1)?, ["a-1:1"]);
    follower.batch_execute("SELECT inbox.unsubscribe('s')")?;
    drop(follower);
    db.client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))?;
    Ok(())
}
