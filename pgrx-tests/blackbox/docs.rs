//! What the README says is true: its SQL runs as it stands there, and its tables name every setting and
//! object with their real defaults.

use std::collections::BTreeMap;

use event_outbox_lab::{Consumer, Record, Result, layout, wait};

use crate::support::database::{DEADLINE, TestDatabase};

fn readme() -> Result<String> {
    Ok(std::fs::read_to_string(layout::repository().join("README.md"))?)
}

/// The fenced blocks of a language, in their order.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<Vec<&str>> = None;
    for line in text.lines() {
        match &mut open {
            Some(block) if line == "```" => {
                blocks.push(block.join("\n"));
                open = None;
            }
            Some(block) => block.push(line),
            None if line == format!("```{language}") => open = Some(Vec::new()),
            None => {}
        }
    }
    blocks
}

/// The first column of a table's rows, with the second.
fn table_rows(text: &str) -> Vec<(&str, &str)> {
    text.lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
            Some((cells.next()?.trim_matches('`'), cells.next()?.trim_matches('`')))
        })
        .collect()
}

#[test]
fn the_examples_run_in_their_order() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let seen = Consumer::read_all(&db.broker.bootstrap_servers(), &["orders"])?.len();
    let examples = blocks(&readme()?, "sql");
    assert!(examples.len() >= 5, "the README has examples");
    // The role is the server's, which other tests share.
    let script = format!("BEGIN; DROP ROLE IF EXISTS shop; COMMIT;\n{}", examples.join("\n"));
    let output = db
        .server
        .client_program("psql", &db.database)
        .args(["--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--command", "SELECT 1"])
        .arg("--file=-")
        .stdin({
            let path = std::env::temp_dir().join(format!("{}.sql", db.database));
            std::fs::write(&path, script)?;
            let file = std::fs::File::open(&path)?;
            std::fs::remove_file(path)?;
            file
        })
        .output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    db.client.batch_execute("DROP OWNED BY shop; DROP ROLE shop")?;

    wait::until_ok("the examples' events to be published", DEADLINE, || {
        let left: i64 = db.client.query_one("SELECT count(*) FROM outbox.events", &[])?.get(0);
        Ok((left == 0).then_some(()))
    })?;
    let records = Consumer::read_all(&db.broker.bootstrap_servers(), &["orders"])?;
    // Among different keys there is no order.
    let (eights, sevens): (Vec<_>, Vec<_>) =
        records[seen..].iter().partition(|record| record.key_text() == Some("8"));
    let values = |records: Vec<&Record>| -> Vec<String> {
        records.iter().map(|record| record.value_text().unwrap_or("(none)").to_owned()).collect()
    };
    assert_eq!(values(eights), [r#"{"id":8}"#]);
    assert_eq!(
        values(sevens),
        [
            r#"{"id":7,"total":99.50}"#,
            r#"{"id":7,"state":"paid"}"#,
            r#"{"id":7,"total":89.50}"#,
            "(none)",
            "\n\u{1}7",
            r#"{"id": 7}"#,
        ]
    );
    Ok(())
}

#[test]
fn the_settings_are_all_named_with_their_defaults() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let text = readme()?;
    let told: BTreeMap<_, _> =
        table_rows(&text).into_iter().filter(|(name, _)| name.starts_with("event_outbox.")).collect();
    let hidden = "event_outbox.kafka_properties";
    assert_eq!(told.get(hidden), Some(&""));

    let mut settings = BTreeMap::new();
    for row in
        db.client.query("SELECT name, boot_val FROM pg_settings WHERE name LIKE 'event_outbox.%'", &[])?
    {
        settings.insert(row.get::<_, String>(0), row.get::<_, Option<String>>(1).unwrap_or_default());
    }
    let mut told_names: Vec<_> = told.keys().copied().filter(|name| *name != hidden).collect();
    told_names.sort_unstable();
    assert_eq!(told_names, settings.keys().map(String::as_str).collect::<Vec<_>>());

    for (name, boot_value) in &settings {
        let mut transaction = db.client.transaction()?;
        // Units are Postgres' business: the told default must mean what the built-in one does.
        transaction.execute("SELECT set_config($1, $2, true)", &[name, &told[name.as_str()]])?;
        let meant: String =
            transaction.query_one("SELECT setting FROM pg_settings WHERE name = $1", &[name])?.get(0);
        assert_eq!(&meant, boot_value, "{name}");
    }
    Ok(())
}

#[test]
fn the_sql_api_is_told_whole() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let text = readme()?;
    let told: Vec<&str> =
        table_rows(&text).iter().map(|(name, _)| name.split(['(', ' ']).next().unwrap_or(name)).collect();
    let public = db.client.query(
        "SELECT proname::text FROM pg_proc WHERE pronamespace = 'outbox'::regnamespace \
            AND prorettype <> 'trigger'::regtype \
            AND proname NOT IN ('relay_status', 'ask_kafka', 'topics_in_use', 'select_dead_letters', 'store_message', 'act_as_owner') \
            AND NOT starts_with(proname, 'as_text_') \
         UNION SELECT relname::text FROM pg_class WHERE relnamespace = 'outbox'::regnamespace AND relkind IN ('r', 'v')",
        &[],
    )?;
    for row in public {
        let name: String = row.get(0);
        assert!(told.contains(&name.as_str()), "the README does not tell of outbox.{name}");
    }
    Ok(())
}
