//! The table has the latest value of each key.

use event_outbox_lab::{Result, postgres::StopMode};

use super::{Projected, rows, settle};

const ITEMS: &str = "CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL, price numeric(8,2), tags text[], extra jsonb,
                                         seen timestamptz, size int DEFAULT 7)";

#[test]
fn values_become_rows_and_tombstones_delete_them() -> Result<()> {
    let mut p = Projected::new(1)?;
    p.sql(ITEMS)?;
    p.send(&[
        ("1", Some(r#"{"id": 99, "name": "one", "price": 1.504, "tags": ["a", "b"], "extra": {"x": "1"}, "size": 3}"#)),
        ("2", Some(r#"{"name": "two", "seen": "2026-01-01T00:00:00Z", "unknown": true}"#)),
        ("3", Some(r#"{"name": "three"}"#)),
        ("2", Some(r#"{"name": "t\u0077o \"again\""}"#)),
        ("3", None),
        ("4", None),
    ])?;
    p.project("items", "")?;
    p.settle()?;
    // A member that is missing is null, whatever the default.
    p.until(
        "SELECT id, name, price, tags, extra, seen, size FROM items ORDER BY id",
        &[r#"(1,one,1.50,"{a,b}","{""x"": ""1""}",,3)"#, r#"(2,"two ""again""",,,,,)"#],
    )?;
    p.until("SELECT state, ready, dead_letters, lag FROM inbox.projections", &["(following,t,0,0)"])?;
    p.send(&[("1", None), ("5", Some(r#"{"name": "five"}"#))])?;
    p.settle()?;
    assert_eq!(p.rows("SELECT id FROM items ORDER BY id")?, ["(2)", "(5)"]);
    // The end: the table stays, and no process is left.
    p.sql("SELECT inbox.unproject('p')")?;
    assert_eq!(p.rows("SELECT count(*) FROM items")?, ["(2)"]);
    assert_eq!(p.rows("SELECT count(*) FROM inbox.subscription")?, ["(0)"]);
    p.until(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'event_outbox projection'",
        &["(0)"],
    )
}

/// An empty table is filled without a look at each row, as nobody's is expected in it.
#[test]
fn a_row_that_another_session_is_writing_is_replaced() -> Result<()> {
    let mut p = Projected::new(1)?;
    p.sql(ITEMS)?;
    p.send(&[("1", Some(r#"{"name": "one"}"#)), ("2", Some(r#"{"name": "two"}"#)), ("3", None)])?;
    let mut other = p.db.connect()?;
    let mut theirs = other.transaction()?;
    theirs.batch_execute("INSERT INTO items (id, name) VALUES (1, 'theirs'), (3, 'theirs')")?;
    p.project("items", "")?;
    p.until(
        "SELECT count(*) FROM pg_stat_activity
          WHERE datname = current_database() AND backend_type = 'event_outbox projection' AND wait_event_type = 'Lock'",
        &["(1)"],
    )?;
    theirs.commit()?;
    p.settle()?;
    assert_eq!(p.rows("SELECT id, name FROM items ORDER BY id")?, ["(1,one)", "(2,two)"]);
    assert_eq!(p.rows("SELECT last_error FROM inbox.dead_letters")?, Vec::<String>::new());
    Ok(())
}

#[test]
fn columns_come_from_where_the_mapping_says() -> Result<()> {
    let mut p = Projected::new(2)?;
    p.sql("CREATE TABLE mapped (a text, b int, total numeric, first text, whole jsonb, place bigint, part int, at timestamptz,
                                kind text, note text DEFAULT 'kept', PRIMARY KEY (a, b))")?;
    p.project(
        "mapped",
        r#", key => '{"a": "@key.a", "b": "@key.\"the b\""}',
             columns => '{"total": "$.sums.total", "first": "$.list[0].n", "whole": "$", "place": "@offset", "part": "@partition",
                          "at": "@timestamp", "kind": "@header.kind"}'"#,
    )?;
    p.producer.send(&event_outbox_lab::producer::NewRecord {
        topic: &p.topic,
        partition: 1,
        key: Some(br#"{"a": "x", "the b": 2}"#),
        value: Some(br#"{"sums": {"total": 12.5}, "list": [{"n": "f"}]}"#),
        headers: &[("kind", Some(b"new"))],
        timestamp_ms: Some(1_000),
    })?;
    p.producer.flush()?;
    p.settle()?;
    p.until(
        "SELECT a, b, total, first, whole->'sums', place, part, extract(epoch FROM at)::int, kind, note FROM mapped",
        &[r#"(x,2,12.5,f,"{""total"": 12.5}",0,1,1,new,kept)"#],
    )?;
    p.send_to(1, Some(r#"{"the b": 2, "a": "x"}"#), None)?;
    p.producer.flush()?;
    p.settle()?;
    assert_eq!(p.rows("SELECT count(*) FROM mapped")?, ["(0)"]);
    Ok(())
}

#[test]
fn keys_that_are_written_differently_are_one_row() -> Result<()> {
    let mut p = Projected::new(1)?;
    p.sql("CREATE TABLE same (id int PRIMARY KEY, v int)")?;
    p.send(&[
        ("1", Some(r#"{"v": 1}"#)),
        ("01", Some(r#"{"v": 2}"#)),
        ("+1", Some(r#"{"v": 3}"#)),
        ("2", Some("{}")),
        ("02", None),
    ])?;
    p.project("same", "")?;
    p.settle()?;
    assert_eq!(p.rows("SELECT id, v FROM same")?, ["(1,3)"]);
    assert_eq!(p.rows("SELECT count(*) FROM inbox.dead_letters")?, ["(0)"]);
    Ok(())
}

/// `ready` waits for the end of the topic as of the creation, and for nothing later.
#[test]
fn a_projection_is_ready_when_it_has_what_there_was() -> Result<()> {
    let mut p = Projected::new(3)?;
    p.sql("CREATE TABLE state (id text PRIMARY KEY, v int)")?;
    for n in 0..3000 {
        p.send_to(n % 3, Some(&format!("k{n}")), Some(r#"{"v": 1}"#))?;
    }
    p.producer.flush()?;
    // While the table is locked, nothing is applied, and nothing else waits for that.
    let mut other = p.db.connect()?;
    let mut lock = other.transaction()?;
    lock.batch_execute("LOCK TABLE state")?;
    p.project("state", "")?;
    p.until("SELECT count(*) FROM inbox.log", &["(3000)"])?;
    assert_eq!(p.rows("SELECT ready, lag FROM inbox.projections")?, ["(f,3000)"]);
    let waited: bool =
        p.db.client.query_one("SELECT inbox.wait_projected('p', 5, 1, timeout => '100 ms')", &[])?.get(0);
    assert!(!waited, "nothing can be applied");
    p.until("SELECT state, ready FROM inbox.projections", &["(failing,f)"])?;
    let error = p.rows("SELECT last_error FROM inbox.projections")?;
    assert!(error[0].contains("lock timeout"), "{error:?}");
    lock.rollback()?;
    let waited: bool = p.db.client.query_one("SELECT inbox.wait_projected('p', 999, 2)", &[])?.get(0);
    assert!(waited);
    p.until("SELECT state, ready FROM inbox.projections", &["(following,t)"])?;
    assert_eq!(p.rows("SELECT count(*) FROM state")?, ["(3000)"]);
    assert_eq!(
        p.rows("SELECT offsets FROM inbox.projections")?,
        [r#"("{""0"": 1000, ""1"": 1000, ""2"": 1000}")"#]
    );
    Ok(())
}

#[test]
fn the_table_survives_its_processes_and_the_server() -> Result<()> {
    use crate::support::server::DedicatedServer;
    let broker = event_outbox_lab::Broker::shared()?;
    let mut dedicated = DedicatedServer::start(&broker.bootstrap_servers())?;
    let topic = format!("{}.{}.crash", dedicated.database, dedicated.server.port());
    broker.create_topic(&topic, 2, &[])?;
    let producer = event_outbox_lab::Producer::new(&broker.bootstrap_servers())?;
    let send = |range: std::ops::Range<i64>| -> Result<()> {
        for n in range {
            let (key, value) = (format!("{}", n % 500), format!("{{\"v\": {n}}}"));
            producer.send(&event_outbox_lab::producer::NewRecord {
                topic: &topic,
                partition: i32::try_from(n % 2)?,
                key: Some(key.as_bytes()),
                value: (n % 7 != 0).then_some(value.as_bytes()),
                ..Default::default()
            })?;
        }
        producer.flush()
    };
    let mut client = dedicated.connect()?;
    client.batch_execute("CREATE TABLE state (id int PRIMARY KEY, v int)")?;
    send(0..5_000)?;
    client.execute("SELECT inbox.project('p', $1, 'state')", &[&topic])?;
    for (round, begin) in [5_000, 15_000, 25_000].into_iter().enumerate() {
        send(begin..begin + 10_000)?;
        if round < 2 {
            let _ = client.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'event_outbox projection'",
                &[],
            );
        } else {
            drop(client);
            dedicated.server.restart(StopMode::Immediate)?;
            client = dedicated.connect()?;
        }
    }
    settle(&mut client, "p")?;
    let expected: std::collections::BTreeMap<i64, i64> = (0..35_000_i64).map(|n| (n % 500, n)).collect();
    let expected: Vec<String> =
        expected.iter().filter(|(_, n)| *n % 7 != 0).map(|(key, n)| format!("({key},{n})")).collect();
    assert_eq!(rows(&mut client, "SELECT id, v FROM state ORDER BY id")?, expected);
    Ok(())
}

/// An idle process sleeps: it is woken by arrivals, and looks every ten seconds besides.
#[test]
fn an_idle_projection_sleeps() -> Result<()> {
    let mut p = Projected::new(1)?;
    p.sql("CREATE TABLE idle (id int PRIMARY KEY, v int)")?;
    p.project("idle", "")?;
    p.send(&[("1", Some(r#"{"v": 1}"#))])?;
    p.settle()?;
    p.until("SELECT ready FROM inbox.projections", &["(t)"])?;
    let sql = "SELECT pid FROM pg_stat_activity
                WHERE datname = current_database() AND backend_type = 'event_outbox projection'";
    let pid: i32 = p.db.client.query_one(sql, &[])?.get(0);
    // Ticks of 10 ms in user and kernel mode.
    let ticks = || -> Result<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
    };
    let (before, begin) = (ticks()?, std::time::Instant::now());
    p.sql("SELECT pg_sleep(4)")?;
    let (used, elapsed) = (ticks()? - before, begin.elapsed().as_millis() / 10);
    // What other databases store meanwhile wakes it, too.
    assert!(u128::from(used) < elapsed / 10, "{used} ticks of {elapsed}");
    Ok(())
}
