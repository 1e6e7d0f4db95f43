//! Compares the reference with the server: every setting with its default, every SQL object with its arguments.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use event_outbox_lab::{Result, layout, released};

use super::{document, documents};
use crate::support::database::TestDatabase;

/// The schemas, and the pages that have their objects.
const PAGES: [(&str, &str); 3] = [
    ("outbox", "docs/reference/sql.md"),
    ("inbox", "docs/reference/inbox.md"),
    ("event_store", "docs/reference/event-store.md"),
];

/// Functions that the reference leaves out, because only the extension's own objects call them.
const INTERNAL: [&str; 68] = [
    "capture_definition",
    "relay_status",
    "relay_delivery",
    "ask_kafka",
    "topics_in_use",
    "select_dead_letters",
    "log_dead_letters",
    "store_message",
    "act_as_owner",
    "is_topic_name",
    "is_topic_pattern",
    "log_missing_copy",
    "is_marked",
    "mark",
    "unmark",
    "require_role",
    "is_administrator",
    "may_change",
    "own_subscription",
    "may_consume",
    "may_receive",
    "lock_lanes",
    "last_position",
    "start_of",
    "list_offsets",
    "resolve",
    "check_subscription",
    "refuse_name",
    "consumer_status",
    "order_key",
    "check_schema",
    "check_schema_version",
    "check_schema_message",
    "check_references",
    "resolve_schema",
    "schema_fingerprint",
    "refuse_projection",
    "source_error",
    "column_sources",
    "require_projectable",
    "projection_key",
    "projection_columns",
    "topic_ends",
    "add_projection",
    "end_projection",
    "own_projection",
    "finish_rebuild",
    "lock_rebuild",
    "has_reached",
    "projection_to_wait_for",
    "ends_to_wait_for",
    "is_category_pattern",
    "category_of",
    "is_granted",
    "require_grant",
    "require_administrator",
    "check_grant",
    "require_read_committed",
    "lock_stream",
    "find_stable_position",
    "check_page",
    "require_category",
    "end_stream",
    "end_of",
    "add_subscription",
    "project_as",
    "has_applied_events",
    "check_progress_topic",
];

#[test]
fn the_settings_are_all_named_with_their_defaults() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let documents = documents()?;
    let rows = documents.iter().flat_map(|document| document.table_rows());
    let documented: Vec<_> = rows.filter(|(name, _)| name.starts_with("event_outbox.")).collect();
    let defaults: BTreeMap<_, _> = documented.iter().copied().collect();
    assert_eq!(documented.len(), defaults.len(), "a setting is documented twice");
    let hidden = "event_outbox.kafka_properties";
    assert_eq!(defaults.get(hidden), Some(&""));

    let mut settings = BTreeMap::new();
    for row in
        db.client.query("SELECT name, boot_val FROM pg_settings WHERE name LIKE 'event_outbox.%'", &[])?
    {
        settings.insert(row.get::<_, String>(0), row.get::<_, Option<String>>(1).unwrap_or_default());
    }
    let mut names: Vec<_> = defaults.keys().copied().filter(|name| *name != hidden).collect();
    names.sort_unstable();
    assert_eq!(names, settings.keys().map(String::as_str).collect::<Vec<_>>());

    for (name, boot_value) in &settings {
        let mut transaction = db.client.transaction()?;
        let context: String =
            transaction.query_one("SELECT context FROM pg_settings WHERE name = $1", &[name])?.get(0);
        if context == "postmaster" {
            // A session cannot set it, so the documented default must equal the built-in one literally.
            assert_eq!(defaults[name.as_str()], boot_value, "{name}");
            continue;
        }
        // PostgreSQL converts units: the documented default must mean the same as the built-in one.
        transaction.execute("SELECT set_config($1, $2, true)", &[name, &defaults[name.as_str()]])?;
        let meant: String =
            transaction.query_one("SELECT setting FROM pg_settings WHERE name = $1", &[name])?.get(0);
        assert_eq!(&meant, boot_value, "{name}");
    }
    Ok(())
}

/// The objects on a page of the reference: the first column of its tables, by the object's name. A row may have several.
fn documented(page: &str) -> Result<BTreeMap<String, String>> {
    let reference = document(page)?;
    let mut all = BTreeMap::new();
    for (what, _) in reference.table_rows() {
        for what in if what.contains('(') { vec![what] } else { what.split(", ").collect() } {
            let what = what.trim_matches('`');
            all.insert(what.split(['(', ' ']).next().unwrap_or(what).to_owned(), what.to_owned());
        }
    }
    Ok(all)
}

#[test]
fn the_sql_reference_is_complete() -> Result<()> {
    let mut db = TestDatabase::new()?;
    for (schema, page) in PAGES {
        let documented = documented(page)?;
        let public = db.client.query(
            "SELECT proname::text FROM pg_proc WHERE pronamespace = $1::text::regnamespace
                AND prorettype <> 'trigger'::regtype AND proname <> ALL ($2)
                AND NOT starts_with(proname, 'as_text_') AND right(proname, 4) <> '_for'
             UNION SELECT relname::text FROM pg_class
                    WHERE relnamespace = $1::text::regnamespace AND relkind IN ('r', 'v') AND relname !~ '^(log|archive)_[0-7]$'",
            &[&schema, &INTERNAL.as_slice()],
        )?;
        for row in public {
            let name: String = row.get(0);
            assert!(documented.contains_key(&name), "{page} does not have {schema}.{name}");
        }
    }
    Ok(())
}

/// Arguments and results in the reference are those of one form of the function.
#[test]
fn the_sql_reference_has_the_right_arguments() -> Result<()> {
    let mut db = TestDatabase::new()?;
    for (schema, page) in PAGES {
        compare_arguments(&mut db, schema, page)?;
    }
    Ok(())
}

fn compare_arguments(db: &mut TestDatabase, schema: &str, page: &str) -> Result<()> {
    let forms = db.client.query(
        "SELECT p.proname::text,
                (SELECT coalesce(string_agg(quote_ident(a.name) || ' ' || CASE a.type WHEN 'timestamptz'::regtype THEN 'timestamptz'
                                                                         ELSE format_type(a.type, NULL) END, ', ' ORDER BY a.at), '')
                   FROM unnest(coalesce(p.proargnames, '{}'), coalesce(p.proallargtypes, p.proargtypes::oid[]),
                               coalesce(p.proargmodes, array_fill('i'::\"char\", ARRAY[p.pronargs])))
                        WITH ORDINALITY AS a(name, type, mode, at)
                  WHERE a.mode IN ('i', 'b')),
                coalesce((SELECT string_agg(a.name, ', ' ORDER BY a.at)
                            FROM unnest(p.proargnames, p.proargmodes) WITH ORDINALITY AS a(name, mode, at)
                           WHERE a.mode IN ('o', 'b', 't')),
                         format_type(p.prorettype, NULL))
           FROM pg_proc AS p WHERE p.pronamespace = $1::text::regnamespace",
        &[&schema],
    )?;
    let forms: BTreeSet<(String, String, String)> =
        forms.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let mut compared = 0;
    for (name, what) in documented(page)? {
        let Some((arguments, results)) = what
            .strip_prefix(&name)
            .and_then(|rest| rest.strip_prefix('('))
            .and_then(|rest| rest.split_once(')'))
        else {
            continue;
        };
        let results = results.trim_start_matches(" → ");
        compared += 1;
        let is_it = |(of, takes, gives): &(String, String, String)| {
            *of == name && takes == arguments && (results == "…" || gives == results)
        };
        let those: Vec<_> = forms.iter().filter(|(of, ..)| *of == name).collect();
        assert!(forms.iter().any(is_it), "{page} has {what}, the server {those:?}");
    }
    assert!(compared >= 15, "only {compared} functions were compared");
    Ok(())
}

/// The changelog has a section for each release, below that of the next one.
#[test]
fn the_changelog_has_every_release() -> Result<()> {
    let changelog = document("CHANGELOG.md")?;
    let titles: Vec<_> =
        changelog.prose().into_iter().filter_map(|(_, line)| line.strip_prefix("## ")).collect();
    for version in released::versions()? {
        let begin = format!("[{version}]");
        assert!(titles.iter().any(|title| title.starts_with(&begin)), "{begin} is not among {titles:?}");
    }
    assert_eq!(titles.first(), Some(&"[Unreleased]"));
    Ok(())
}

/// The words that the code shows: the right-hand sides of the matches in a source file.
fn words_of(path: &str) -> Result<BTreeSet<String>> {
    let source = fs::read_to_string(layout::repository().join(path))?;
    let arms = source.split("#[cfg(test)]").next().unwrap_or_default().split("=> \"").skip(1);
    Ok(arms.filter_map(|arm| arm.split('"').next()).map(Into::into).collect())
}

/// Every state of the relay and every class of errors is explained.
#[test]
fn states_and_error_classes_are_explained() -> Result<()> {
    let pages = [
        ("src/outbox/relay/state.rs", &["docs/operations/status.md"][..]),
        (
            "src/policy/delivery/error_class.rs",
            &["docs/operations/dead-letters.md", "docs/operations/monitoring.md"],
        ),
    ];
    for (source, pages) in pages {
        let words = words_of(source)?;
        assert!(words.len() > 5, "{source}: {words:?}");
        let mut explained = BTreeSet::new();
        for page in pages {
            explained.extend(document(page)?.spans());
        }
        let missing: Vec<_> = words.difference(&explained).collect();
        assert!(missing.is_empty(), "{pages:?} do not explain {missing:?}");
    }
    Ok(())
}
