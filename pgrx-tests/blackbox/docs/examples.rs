//! Runs the examples of the documents: SQL, settings, Kafka properties. Looks up the names in shell examples.

use std::fs;
use std::path::Path;

use anyhow::ensure;
use event_outbox_lab::{Authority, Broker, Consumer, Record, Result, layout, run_as, wait};

use super::{Document, document, documents};
use crate::support::database::{DEADLINE, TestDatabase, shared_server};

/// Roles that examples create. They belong to the server, which other tests share.
const ROLES: [&str; 2] = ["shop", "billing"];

/// Runs the SQL of documents, one after the other, in a new database. The block that creates the extension goes first,
/// because documents begin with its use.
fn run(documents: &[&Document]) -> Result<TestDatabase> {
    let db = TestDatabase::of(shared_server()?.create_database()?)?;
    let blocks: Vec<String> = documents.iter().flat_map(|document| document.code("sql")).collect();
    let (first, then): (Vec<_>, Vec<_>) = blocks.iter().partition(|block| block.contains("CREATE EXTENSION"));
    let script = first.into_iter().chain(then).map(String::as_str).collect::<Vec<_>>().join("\n");
    let path = std::env::temp_dir().join(format!("{}.sql", db.database));
    fs::write(&path, script)?;
    let file = fs::File::open(&path)?;
    fs::remove_file(path)?;
    let output = db
        .server
        .client_program("psql", &db.database)
        .args(["--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--file=-"])
        .stdin(file)
        .output()?;
    let paths: Vec<_> = documents.iter().map(|document| &document.path).collect();
    ensure!(output.status.success(), "{paths:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(db)
}

fn drop_roles(db: &mut TestDatabase) -> Result<()> {
    for role in ROLES {
        let sql = "SELECT count(*) FROM pg_roles WHERE rolname = $1";
        if db.client.query_one(sql, &[&role])?.get::<_, i64>(0) > 0 {
            db.client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))?;
        }
    }
    Ok(())
}

/// The values of the records with this key, in their order.
fn values(records: &[Record], key: &str) -> Vec<String> {
    let of_key = records.iter().filter(|record| record.key_text() == Some(key));
    of_key.map(|record| record.value_text().unwrap_or("(none)").to_owned()).collect()
}

/// The keys and values that the examples of a document add to the topic `orders`, beyond those of the README.
fn brought(path: &str) -> &'static [(&'static str, &'static [&'static str])] {
    match path {
        "docs/guides/emitting.md" => &[(
            "7",
            &[
                r#"{"id":7,"state":"paid"}"#,
                r#"{"id":7,"total":79.50}"#,
                "(none)",
                "\n\u{1}7",
                r#"{"id": 7}"#,
                r#"{"id":7}"#,
                r#"{"id":7,"total":80}"#,
                r#"{"id":7,"state":"sent"}"#,
                r#"{"id":7,"state":"packed"}"#,
            ],
        )],
        "docs/guides/untrusted-messages.md" => &[("8", &[r#"{"id":8}"#])],
        _ => &[],
    }
}

/// Runs the examples of the README; then those of each other document, which come after the README's.
#[test]
fn sql_runs_and_arrives() -> Result<()> {
    let readme = document("README.md")?;
    assert!(readme.code("sql").len() >= 5, "the README has examples");
    let bootstrap = Broker::shared()?.bootstrap_servers();
    if !Broker::shared()?.has_topic("orders")? {
        Broker::shared()?.create_topic("orders", 1, &[])?;
    }
    for document in documents()?.iter().filter(|document| !document.code("sql").is_empty()) {
        let seen = Consumer::read_all(&bootstrap, &["orders"])?.len();
        let is_readme = document.path == readme.path;
        let mut db = if is_readme { run(&[&readme])? } else { run(&[&readme, document])? };
        drop_roles(&mut db)?;
        wait::until_ok("the examples' events to be published", DEADLINE, || {
            let left: i64 = db.client.query_one("SELECT count(*) FROM outbox.events", &[])?.get(0);
            Ok((left == 0).then_some(()))
        })?;

        // Different keys have no order among them.
        let records = Consumer::read_all(&bootstrap, &["orders"])?.split_off(seen);
        let mut expected = vec![r#"{"id":7,"total":99.50}"#, r#"{"id":7,"total":89.50}"#];
        let mut count = expected.len();
        for (key, more) in brought(&document.path) {
            count += more.len();
            if *key == "7" {
                expected.extend(*more);
            } else {
                assert_eq!(values(&records, key), *more, "{}", document.path);
            }
        }
        assert_eq!(values(&records, "7"), expected, "{}", document.path);
        assert_eq!(records.len(), count, "{}", document.path);
        if is_readme {
            is_as_shown(&readme, &records[0])?;
        }
    }
    Ok(())
}

/// Compares the record that the README shows with the one that arrived, apart from values that are new each time.
fn is_as_shown(readme: &Document, record: &Record) -> Result<()> {
    let shown = readme.code("record").join("\n");
    let field = |name: &str| {
        let line = shown.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim().to_owned()
    };
    assert_eq!(field("topic"), record.topic);
    assert_eq!(Some(field("key").as_str()), record.key_text());
    assert_eq!(Some(field("value").as_str()), record.value_text());
    let (_, headers) = shown.split_once("headers").unwrap_or_default();
    let headers: Vec<(&str, &str)> =
        headers.lines().filter_map(|line| line.trim().split_once(": ")).collect();
    let names: Vec<&str> = record.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(headers.iter().map(|(name, _)| *name).collect::<Vec<_>>(), names);
    for (name, value) in headers {
        let arrived = record.header(name).unwrap_or_default();
        match name {
            "ce_id" => assert_eq!(arrived.parse::<uuid::Uuid>()?.get_version_num(), 7),
            "ce_time" => assert_eq!(value.len(), "2026-11-26T09:30:00.123456Z".len()),
            "ce_source" => {
                assert!(arrived.starts_with("postgresql://") && value.starts_with("postgresql://"))
            }
            _ => assert_eq!(arrived, value, "{name}"),
        }
    }
    Ok(())
}

/// Examples of `postgresql.conf` have settings that exist, with values that the server accepts.
#[test]
fn settings_are_taken() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let mut taken = 0;
    for document in documents()? {
        for line in document.code("conf").iter().flat_map(|code| code.lines()) {
            let Some((name, value)) = line.split_once(" = ") else { continue };
            let value = value.split(" #").next().unwrap_or(value).trim().trim_matches('\'');
            let path = &document.path;
            let mut transaction = db.client.transaction()?;
            // The server shows this one to nobody.
            if name != "event_outbox.kafka_properties" {
                let sql = "SELECT count(*) FROM pg_settings WHERE name = $1";
                assert_eq!(transaction.query_one(sql, &[&name])?.get::<_, i64>(0), 1, "{path}: {line}");
            }
            if name.starts_with("event_outbox.") {
                let set = transaction.query_one("SELECT set_config($1, $2, true)", &[&name, &value]);
                assert!(set.is_ok(), "{path}: {line}: {set:?}");
            }
            taken += 1;
        }
    }
    assert!(taken >= 5, "only {taken} settings were found");
    Ok(())
}

/// A producer accepts each example of a properties file, with certificates of the lab in place of those named. The tests
/// of `security` hold that such a producer logs in.
#[test]
fn properties_make_a_producer() -> Result<()> {
    let authority = Authority::new("documents")?;
    let own = authority.issue("shop.example")?;
    let mut made = 0;
    for document in documents()? {
        for code in document.code("properties") {
            let mut db = TestDatabase::new()?;
            let properties: String =
                code.lines().map(|line| with_a_file_of_ours(line, &authority, &own)).collect();
            let file = db.server.data_dir().join(format!("{}.properties", db.database));
            fs::write(&file, properties)?;
            run_as::give_to_server(&file)?;
            db.configure("event_outbox.kafka_properties_file", &file.display().to_string())?;
            let topic = db.topic("documents");
            db.client.query_one("SELECT outbox.emit($1, '{}'::jsonb)", &[&topic])?;
            // The broker does not speak TLS. If the properties made no producer, the relay would be misconfigured.
            let error = db.until_state("waiting")?;
            assert!(!error.contains("property"), "{}: {error}", document.path);
            fs::remove_file(file)?;
            made += 1;
        }
    }
    assert!(made >= 3, "only {made} examples were found");
    Ok(())
}

fn with_a_file_of_ours(line: &str, authority: &Authority, own: &Path) -> String {
    let (name, value) = line.split_once('=').unwrap_or((line, ""));
    let value = match name {
        "ssl.ca.location" => authority.certificate().display().to_string(),
        "ssl.certificate.location" | "ssl.key.location" => own.display().to_string(),
        _ => value.to_owned(),
    };
    format!("{name}={value}\n")
}

#[test]
fn json_is_json() -> Result<()> {
    for document in documents()? {
        for code in document.code("json") {
            let parsed = serde_json::from_str::<serde_json::Value>(&code);
            assert!(parsed.is_ok(), "{}: {parsed:?}: {code}", document.path);
        }
    }
    Ok(())
}

/// The names that `cargo test -p` and `--test` accept.
fn cargo_names(directory: &Path, names: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            cargo_names(&path, names)?;
            if directory.ends_with("tests") {
                names.push(name);
            }
        } else if name == "Cargo.toml" {
            let text = fs::read_to_string(&path)?;
            let named = text.lines().filter_map(|line| line.strip_prefix("name = \""));
            names.extend(named.map(|name| name.trim_end_matches('"').to_owned()));
        } else if directory.ends_with("tests") {
            names.push(name.trim_end_matches(".rs").to_owned());
        }
    }
    Ok(())
}

/// Shell examples name targets of `make`, packages and tests of `cargo`, and files that exist.
#[test]
fn shell_examples_name_what_is_there() -> Result<()> {
    let makefile = fs::read_to_string(layout::repository().join("Makefile"))?;
    let mut names = Vec::new();
    cargo_names(&layout::repository(), &mut names)?;
    let begins = ["docker/", "monitoring/", "scripts/", "pgrx-tests/", "packaging/", "src/", "bench/"];
    let mut faults = Vec::new();
    let mut looked_up = 0;
    for document in documents()? {
        for line in document.code("sh").iter().flat_map(|code| code.lines()) {
            let code = line.split(" #").next().unwrap_or(line);
            let words: Vec<&str> = code.split_whitespace().filter(|word| !word.contains('=')).collect();
            let is_install = words.contains(&"install") && words.first() == Some(&"apt");
            for (at, word) in words.iter().enumerate() {
                let before = at.checked_sub(1).map_or("", |at| words[at]);
                let exists = if before == "make" && !is_install {
                    makefile.lines().any(|rule| rule.starts_with(&format!("{word}:")))
                } else if words.contains(&"cargo") && ["-p", "--test"].contains(&before) {
                    names.iter().any(|name| name == word)
                } else if begins.iter().any(|begin| word.starts_with(begin)) {
                    layout::repository().join(word).exists()
                } else {
                    continue;
                };
                looked_up += 1;
                if !exists {
                    faults.push(format!("{}: {line}: {word} does not exist", document.path));
                }
            }
        }
    }
    assert!(looked_up >= 10, "only {looked_up} names were found");
    assert!(faults.is_empty(), "{faults:#?}");
    Ok(())
}
