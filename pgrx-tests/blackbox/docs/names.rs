//! Looks up the names in documents: SQL objects, settings, files of the repository, tests, phases.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use event_outbox_lab::{Result, layout};

use super::{Document, document, documents};
use crate::support::database::TestDatabase;

/// Endings of files whose names begin with `event_outbox.`, like settings.
const ENDINGS: [&str; 4] = ["control", "so", "yaml", "json"];

/// All documents but the changelog, which names things of the past.
fn present() -> Result<Vec<Document>> {
    Ok(documents()?.into_iter().filter(|document| document.path != "CHANGELOG.md").collect())
}

/// The words that follow `prefix` wherever it begins a word.
fn words_after(text: &str, prefix: &str) -> BTreeSet<String> {
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let mut words = BTreeSet::new();
    for (at, _) in text.match_indices(prefix) {
        let before = text[..at].chars().next_back().unwrap_or(' ');
        let word: String = text[at + prefix.len()..].chars().take_while(|letter| is_word(*letter)).collect();
        if !is_word(before) && before != '.' && !word.is_empty() {
            words.insert(word);
        }
    }
    words
}

#[test]
fn sql_objects_exist() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let mut faults = Vec::new();
    for schema in ["outbox", "inbox", "event_store"] {
        let sql = "SELECT proname::text FROM pg_proc WHERE pronamespace = $1::text::regnamespace
                   UNION SELECT relname::text FROM pg_class WHERE relnamespace = $1::text::regnamespace
                   UNION SELECT typname::text FROM pg_type WHERE typnamespace = $1::text::regnamespace";
        let there = db.client.query(sql, &[&schema])?;
        let there: BTreeSet<String> = there.iter().map(|row| row.get(0)).collect();
        for document in present()? {
            for name in words_after(&document.text, &format!("{schema}.")) {
                // Files can have such names, like outbox.rs. Debezium's topics begin with outbox.event.
                if !there.contains(&name) && !["rs", "sql", "md", "html", "event"].contains(&name.as_str()) {
                    faults.push(format!("{} names {schema}.{name}, which does not exist", document.path));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    Ok(())
}

#[test]
fn settings_exist() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let sql = "SELECT name FROM pg_settings WHERE name LIKE 'event\\_outbox.%'";
    let mut there: BTreeSet<String> = db.client.query(sql, &[])?.iter().map(|row| row.get(0)).collect();
    // The server shows this one to nobody.
    there.insert("event_outbox.kafka_properties".into());
    let mut faults = Vec::new();
    for document in present()? {
        for word in words_after(&document.text, "event_outbox.") {
            if !there.contains(&format!("event_outbox.{word}")) && !ENDINGS.contains(&word.as_str()) {
                faults.push(format!("{} names event_outbox.{word}, which is not a setting", document.path));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    Ok(())
}

/// Whether the path exists in the repository, from its root or from one of its source folders.
fn exists(path: &str) -> bool {
    let folders = ["", "src", "sql", "pgrx-tests", "scripts"];
    folders.iter().any(|folder| layout::repository().join(folder).join(path).exists())
}

/// The path of the repository that a span in backquotes names, if it names one.
fn path_in(span: &str) -> Option<&str> {
    let endings = [".rs", ".sql", ".md", ".toml", ".yaml", ".json", ".c", ".xml", ".svg"];
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-".contains(letter);
    let begins = [
        "src/",
        "sql/",
        "pgrx-tests/",
        "scripts/",
        "docs/",
        "docker/",
        "monitoring/",
        "packaging/",
        "bench/",
    ];
    let is_path =
        span.contains('/') && span.chars().all(is_plain) && !span.starts_with('/') && !span.contains("--");
    let is_ours =
        begins.iter().any(|begin| span.starts_with(begin)) || endings.iter().any(|end| span.ends_with(end));
    (is_path && is_ours && !span.starts_with("target/")).then_some(span)
}

#[test]
fn files_exist() -> Result<()> {
    let mut faults = Vec::new();
    let mut named = 0;
    for document in present()? {
        for span in document.spans() {
            if let Some(path) = path_in(&span) {
                named += 1;
                if !exists(path) {
                    faults.push(format!("{} names {path}, which does not exist", document.path));
                }
            }
        }
    }
    assert!(named >= 30, "only {named} paths were found");
    assert!(faults.is_empty(), "{faults:#?}");
    Ok(())
}

/// All functions below `directory`, with their file; a folder's `mod.rs` goes by the folder's name.
fn functions_below(directory: &Path, functions: &mut BTreeSet<(String, String)>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            functions_below(&path, functions)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let named = if path.ends_with("mod.rs") { path.parent() } else { Some(path.as_path()) };
            let file = named.and_then(Path::file_stem).unwrap_or_default().to_string_lossy().into_owned();
            for line in fs::read_to_string(&path)?.lines() {
                if let Some((_, rest)) = line.split_once("fn ")
                    && let Some((name, _)) = rest.split_once(['(', '<'])
                {
                    functions.insert((file.clone(), name.to_owned()));
                }
            }
        }
    }
    Ok(())
}

/// `file::function` or `file::*` in backquotes names a test or another function that exists.
#[test]
fn tests_and_functions_exist() -> Result<()> {
    let mut functions = BTreeSet::new();
    functions_below(&layout::repository().join("pgrx-tests"), &mut functions)?;
    functions_below(&layout::repository().join("src"), &mut functions)?;
    let mut faults = Vec::new();
    let mut named = 0;
    for document in present()? {
        for span in document.spans() {
            let is_plain = |letter: char| {
                letter.is_ascii_lowercase() || letter.is_ascii_digit() || "_:*".contains(letter)
            };
            let Some((path, name)) = span.rsplit_once("::").filter(|_| span.chars().all(is_plain)) else {
                continue;
            };
            let file = path.rsplit("::").next().unwrap_or(path);
            named += 1;
            if !functions.iter().any(|(of, function)| of == file && (name == "*" || function == name)) {
                faults.push(format!("{} names {span}, which does not exist", document.path));
            }
        }
    }
    assert!(named >= 20, "only {named} were found");
    assert!(faults.is_empty(), "{faults:#?}");
    Ok(())
}

/// The table of a worker's states in `docs/architecture.md` has the phases that the code has.
#[test]
fn phases_of_a_worker_are_those_of_the_code() -> Result<()> {
    let source = fs::read_to_string(layout::repository().join("src/worker/phase.rs"))?;
    let list = source.split_once("enum Phase {").and_then(|(_, rest)| rest.split_once("\n}"));
    let variants =
        list.into_iter().flat_map(|(list, _)| list.lines()).map(|line| line.trim().trim_end_matches(','));
    let phases: BTreeSet<&str> =
        variants.filter(|line| !line.is_empty() && line.chars().all(char::is_alphabetic)).collect();
    assert!(phases.len() > 5, "{phases:?}");

    let page = document("docs/architecture.md")?;
    let told: BTreeSet<&str> = page
        .table_rows()
        .into_iter()
        .flat_map(|(from, to)| from.split(", ").chain([to]))
        .map(|cell| cell.trim_matches('`'))
        .filter(|cell| cell.starts_with(char::is_uppercase) && cell.chars().all(char::is_alphabetic))
        .collect();
    assert_eq!(told, phases);
    Ok(())
}

/// The paths of the tree in `docs/architecture.md`: a name begins each line, and each level is two blanks deeper.
fn tree() -> Result<BTreeSet<String>> {
    let code = document("docs/architecture.md")?.code("text");
    let mut folders: Vec<&str> = Vec::new();
    let mut paths = BTreeSet::new();
    for line in code.first().map_or("", String::as_str).lines() {
        let name = line.split_whitespace().next().unwrap_or_default().trim_end_matches('/');
        let depth = (line.len() - line.trim_start().len()) / 2;
        folders.truncate(depth);
        folders.push(name);
        paths.insert(folders.join("/"));
    }
    Ok(paths)
}

/// The tree has every folder of the repository and of the rooms, every file of `src`, and nothing else.
#[test]
fn the_tree_is_complete() -> Result<()> {
    let tree = tree()?;
    let mut faults: Vec<String> = tree
        .iter()
        .filter(|path| !layout::repository().join(path).exists())
        .map(|path| format!("{path} does not exist"))
        .collect();
    for folder in ["", "src", "src/outbox", "src/inbox", "src/policy", "pgrx-tests"] {
        for entry in fs::read_dir(layout::repository().join(folder))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{folder}/{name}").trim_start_matches('/').to_owned();
            let counts = entry.file_type()?.is_dir() || folder == "src";
            if counts && !name.starts_with('.') && name != "target" && !tree.contains(&path) {
                faults.push(format!("{path} is missing"));
            }
        }
    }
    assert!(faults.is_empty(), "docs/architecture.md: {faults:#?}");
    Ok(())
}
