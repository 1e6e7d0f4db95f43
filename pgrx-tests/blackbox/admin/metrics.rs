//! The files for Prometheus and Grafana fit the extension: the queries run with the privileges that are documented, and
//! alerts, dashboard and documentation name metrics that exist.

use std::collections::BTreeSet;
use std::fs;

use event_outbox_lab::{Result, layout, wait};

use crate::support::database::{DEADLINE, TestDatabase};

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
    let queries = queries()?;
    assert!(queries.len() >= 4, "{}", queries.len());

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
    let refused = transaction.execute("SELECT payload FROM outbox.dead_letters", &[]);
    assert!(refused.is_err(), "it may see what is in events");
    drop(transaction);
    Ok(db.client.batch_execute("DROP OWNED BY metrics; DROP ROLE metrics")?)
}

#[test]
fn every_state_of_a_relay_is_measured() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let sql = "SELECT col_description('outbox.status'::regclass, attnum) FROM pg_attribute \
                WHERE attrelid = 'outbox.status'::regclass AND attname = 'state'";
    let comment: String = db.client.query_one(sql, &[])?.get(0);
    // The text in parentheses explains a state.
    let words = comment
        .split('(')
        .map(|part| part.split_once(')').map_or(part, |(_, rest)| rest))
        .collect::<String>();
    let states =
        words.split([',', '.', ' ']).filter(|word| !["", "or"].contains(word)).map(Into::into).collect();
    assert_eq!(list_in("event_outbox_relay")?, states);
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
