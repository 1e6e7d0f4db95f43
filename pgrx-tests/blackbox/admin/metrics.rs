//! The files for Prometheus and Grafana fit the extension: the queries run with the privileges that are documented, and
//! alerts, dashboard and documentation name metrics that exist.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use event_outbox_lab::{Result, layout, wait};
use postgres::Client;

use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::inbox::{receive, until_stored};
use crate::support::roles::assert_denied;
use crate::support::subscriptions::{filled_topic, subscribe};

/// An entry of `postgres_exporter.yaml`: a query, and its columns with the usage of each.
struct Query {
    name: String,
    sql: String,
    columns: Vec<(String, String)>,
}

fn monitoring(file: &str) -> Result<String> {
    Ok(fs::read_to_string(layout::repository().join("monitoring").join(file))?)
}

/// Parses the little YAML that the file uses.
fn queries() -> Result<Vec<Query>> {
    let mut queries: Vec<Query> = Vec::new();
    for line in monitoring("postgres_exporter.yaml")?.lines() {
        let text = line.trim();
        match line.len() - line.trim_start().len() {
            0 if text.ends_with(':') => queries.push(Query {
                name: text.trim_end_matches(':').into(),
                sql: String::new(),
                columns: Vec::new(),
            }),
            4 if text.starts_with("- ") => {
                let column = text.trim_start_matches("- ").trim_end_matches(':');
                last(&mut queries).columns.push((column.into(), String::new()));
            }
            8 if text.starts_with("usage: ") => {
                if let Some((_, usage)) = last(&mut queries).columns.last_mut() {
                    *usage = text.trim_start_matches("usage: ").into();
                }
            }
            indent if indent >= 4 && !text.starts_with("description: ") => {
                last(&mut queries).sql += line;
                last(&mut queries).sql += "\n";
            }
            _ => {}
        }
    }
    Ok(queries)
}

fn last(queries: &mut [Query]) -> &mut Query {
    queries.last_mut().expect("an entry before what is in it")
}

fn metrics() -> Result<BTreeSet<String>> {
    let of = |query: &Query| -> Vec<String> {
        let values = query.columns.iter().filter(|(_, usage)| usage != "LABEL");
        values.map(|(column, _)| format!("{}_{column}", query.name)).collect()
    };
    Ok(queries()?.iter().flat_map(of).collect())
}

/// The words that must be metrics.
fn named_in(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.' || c == '-'))
        .filter(|word| word.starts_with("event_outbox_") && !word.contains('.'))
        .map(Into::into)
        .collect()
}

/// Creates a projection of the topic.
fn project(client: &mut Client, topic: &str) -> Result<()> {
    client.batch_execute("CREATE TABLE projected (id text PRIMARY KEY, v jsonb)")?;
    client.execute("SELECT inbox.project('projected', $1, 'projected')", &[&topic])?;
    Ok(())
}

#[test]
fn the_exporters_user_can_run_its_queries() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("metrics")?;
    db.client.batch_execute(&monitoring("grants.sql")?)?;
    db.configure("event_outbox.max_attempts", "1")?;
    // A refused event makes an error and a dead letter.
    db.client.execute("SELECT outbox.emit($1, '1', partition => 999)", &[&topic])?;
    wait::until_ok("the event to die", DEADLINE, || {
        let dead: i64 = db.client.query_one("SELECT dead_letters FROM outbox.backlog", &[])?.get(0);
        Ok((dead == 1).then_some(()))
    })?;
    subscribe(&mut db.client, "s", &[&topic], "earliest")?;
    project(&mut db.client, &topic)?;
    let queries = queries()?;
    assert!(queries.len() >= 8, "{}", queries.len());

    let mut transaction = db.client.transaction()?;
    transaction.batch_execute("SET LOCAL ROLE metrics")?;
    for query in &queries {
        let statement = transaction.prepare(&query.sql)?;
        let columns: Vec<_> = statement.columns().iter().map(postgres::Column::name).collect();
        let documented: Vec<_> = query.columns.iter().map(|(column, _)| column.as_str()).collect();
        assert_eq!(columns, documented, "{}", query.name);
        for ((column, usage), is) in query.columns.iter().zip(statement.columns()) {
            let is_number = ["int4", "int8", "numeric", "float8"].contains(&is.type_().name());
            assert_eq!(is_number, usage != "LABEL", "{column} of {} is {}", query.name, is.type_());
        }
        assert!(!transaction.query(&statement, &[])?.is_empty(), "{} has no rows", query.name);
    }
    drop(transaction);
    for hidden in [
        "payload FROM outbox.dead_letters",
        "value FROM inbox.dead_letters",
        "key FROM inbox.retry",
        "* FROM inbox.log",
    ] {
        assert_denied(&mut db.client, &format!("SET ROLE metrics; SELECT {hidden}"));
        db.client.batch_execute("RESET ROLE")?;
    }
    Ok(db.client.batch_execute("DROP OWNED BY metrics; DROP ROLE metrics")?)
}

/// The value of a metric in the row with these labels; `None` is NaN for Prometheus.
fn measured(client: &mut Client, metric: &str, labels: &str) -> Result<Option<f64>> {
    let queries = queries()?;
    let of =
        |query: &&Query| query.columns.iter().any(|(column, _)| metric == format!("{}_{column}", query.name));
    let query = queries.iter().find(of).expect("a metric");
    let column = &metric[query.name.len() + 1..];
    let sql = format!("SELECT {column}::float8 FROM ({}) AS q WHERE {labels}", query.sql);
    Ok(client.query_one(&sql, &[])?.get(0))
}

#[test]
fn what_happens_in_the_inbox_is_measured() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = filled_topic(&mut db, "t", &[3, 4])?;
    let shown = |client: &mut Client, metric: &str| {
        let labels = if metric.contains("subscription_") { "subscription = 's'" } else { "true" };
        let value = measured(client, &format!("event_outbox_{metric}"), labels)?;
        value.ok_or_else(|| anyhow!("{metric} is NULL"))
    };
    for (metric, expected) in
        [("inbox_worker_up", 0.0), ("inbox_subscriptions", 0.0), ("inbox_log_overdue_seconds", 0.0)]
    {
        assert_eq!(shown(&mut db.client, metric)?, expected, "{metric}");
    }
    db.client.execute(
        "SELECT inbox.subscribe('s', ARRAY[$1], 'earliest', ordering => 'none', max_attempts => 1)",
        &[&topic],
    )?;
    until_stored(&mut db.client, 7)?;
    // One dies, one waits for a retry, five were not received.
    db.client.batch_execute("BEGIN")?;
    db.client
        .batch_execute("SELECT inbox.nack('s', position, 'no') FROM inbox.receive('s', max_events => 1)")?;
    db.client.batch_execute("COMMIT; UPDATE inbox.subscription SET max_attempts = 3; BEGIN")?;
    db.client.batch_execute(
        "SELECT inbox.nack('s', position, 'no', '1 hour') FROM inbox.receive('s', max_events => 1)",
    )?;
    db.client.batch_execute(
        "COMMIT; UPDATE inbox.partition SET state = 'stopped', stop_reason = 'x', lost_from = 0, lost_to = 1, stopped_at = now()
                  WHERE partition = 1",
    )?;
    for (metric, expected) in [
        ("inbox_worker_up", 1.0),
        ("inbox_connected", 1.0),
        ("inbox_subscriptions", 1.0),
        ("inbox_stored_total", 7.0),
        ("inbox_log_overdue_seconds", 0.0),
        ("subscription_to_receive_events", 5.0),
        ("subscription_dead_letters", 1.0),
        ("subscription_waiting_retries", 1.0),
        ("subscription_stopped_partitions", 1.0),
        ("subscription_paused", 0.0),
        ("subscription_topic_to_store_events", 0.0),
    ] {
        assert_eq!(shown(&mut db.client, metric)?, expected, "{metric}");
    }
    assert!(shown(&mut db.client, "subscription_lag_seconds")? > 0.0);
    assert!(shown(&mut db.client, "inbox_log_bytes")? > 0.0);

    // The partition that is stopped falls behind; the other events are received.
    db.client.execute("SELECT outbox.emit($1, '1', partition => 1)", &[&topic])?;
    assert!(db.client.query_one("SELECT outbox.wait_published('30 s')", &[])?.get::<_, bool>(0));
    assert_eq!(shown(&mut db.client, "subscription_topic_to_store_events")?, 1.0);
    assert_eq!(receive(&mut db.client, "s", 100)?.len(), 5);
    db.client.batch_execute("SELECT inbox.pause('s')")?;
    for (metric, expected) in [
        ("subscription_to_receive_events", 0.0),
        ("subscription_lag_seconds", 0.0),
        ("subscription_paused", 1.0),
    ] {
        assert_eq!(shown(&mut db.client, metric)?, expected, "{metric}");
    }
    // Events that could have left two hours ago: the retention is a day.
    db.client.batch_execute(
        "INSERT INTO inbox.segment SELECT (number + 1) % 8, first_position + 100, now() - interval '26 hours' FROM inbox.segment",
    )?;
    let overdue = shown(&mut db.client, "inbox_log_overdue_seconds")?;
    assert!((7200.0..7300.0).contains(&overdue), "{overdue}");
    Ok(())
}

/// Prometheus gives up a scrape after ten seconds by default.
#[test]
fn without_kafka_the_other_metrics_are_there_in_time() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("t")?;
    subscribe(&mut db.client, "s", &[&topic], "earliest")?;
    project(&mut db.client, &topic)?;
    db.configure("event_outbox.bootstrap_servers", "127.0.0.1:1")?;
    let begin = Instant::now();
    for query in queries()?.iter().filter(|query| query.sql.contains("inbox.")) {
        let rows = db.client.query(&query.sql, &[])?;
        assert!(!rows.is_empty(), "{} has no rows", query.name);
    }
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert_eq!(
        measured(&mut db.client, "event_outbox_subscription_topic_to_store_events", "subscription = 's'")?,
        None
    );
    let lag: (Option<i64>, Option<i64>) = {
        let row = db
            .client
            .query_one("SELECT end_offset, to_store FROM inbox.lag WHERE subscription = 's'", &[])?;
        (row.get(0), row.get(1))
    };
    assert_eq!(lag, (None, None));
    Ok(())
}

#[test]
fn every_state_of_a_worker_is_measured() -> Result<()> {
    let mut db = TestDatabase::new()?;
    for (view, query) in
        [("outbox.status", "event_outbox_relay"), ("inbox.consumers", "event_outbox_inbox_worker")]
    {
        let sql = "SELECT col_description(attrelid, attnum) FROM pg_attribute \
                    WHERE attrelid = $1::text::regclass AND attname = 'state'";
        let comment: String = db.client.query_one(sql, &[&view])?.get(0);
        // The text in parentheses explains a state.
        let words = comment
            .split('(')
            .map(|part| part.split_once(')').map_or(part, |(_, rest)| rest))
            .collect::<String>();
        let states =
            words.split([',', '.', ' ']).filter(|word| !["", "or"].contains(word)).map(Into::into).collect();
        assert_eq!(list_in(query)?, states, "{view}");
    }
    Ok(())
}

#[test]
fn every_kind_of_error_is_measured() -> Result<()> {
    let source = fs::read_to_string(layout::repository().join("src/policy/delivery/error_class.rs"))?;
    let arms = source.split("#[cfg(test)]").next().unwrap_or_default().split("=> \"").skip(1);
    let kinds: BTreeSet<_> = arms.filter_map(|arm| arm.split('"').next()).map(Into::into).collect();
    assert!(kinds.len() > 5, "{kinds:?}");
    assert_eq!(list_in("event_outbox_errors")?, kinds);
    Ok(())
}

/// The elements of the array in a query.
fn list_in(name: &str) -> Result<BTreeSet<String>> {
    let queries = queries()?;
    let sql = queries.iter().find(|query| query.name == name).map_or("", |query| &query.sql);
    let list = sql.split("'{").nth(1).and_then(|rest| rest.split('}').next()).unwrap_or_default();
    Ok(list.split(',').map(Into::into).collect())
}

#[test]
fn alerts_and_dashboard_name_metrics_that_there_are() -> Result<()> {
    let metrics = metrics()?;
    for file in ["alerts.yaml", "alerts_test.yaml", "grafana/dashboard.json"] {
        let named = named_in(&monitoring(file)?);
        assert!(named.len() >= 5, "{file} names {named:?}");
        let unknown: Vec<_> = named.difference(&metrics).collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
    }
    Ok(())
}

#[test]
fn the_metrics_are_all_documented() -> Result<()> {
    let page = fs::read_to_string(layout::repository().join("docs/operations/monitoring.md"))?;
    assert_eq!(named_in(&page), metrics()?);
    for alert in monitoring("alerts.yaml")?.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(page.contains(&format!("`{alert}`")), "{alert} is not in docs/operations/monitoring.md");
    }
    Ok(())
}
