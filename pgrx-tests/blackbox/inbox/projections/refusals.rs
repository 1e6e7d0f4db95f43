//! What a table refuses is set aside alone, and what cannot be a projection says why.

use event_outbox_lab::Result;

use super::{Projected, refusal};

#[test]
fn records_that_the_table_refuses_are_dead_letters_alone() -> Result<()> {
    let mut p = Projected::not_compacted(1)?;
    p.sql("CREATE TABLE strict (id int PRIMARY KEY, v int CHECK (v < 1000000), name varchar(5))")?;
    let good: Vec<String> = (0..3000).map(|n| n.to_string()).collect();
    for key in &good {
        p.send_to(0, Some(key), Some(r#"{"v": 1, "name": "ok"}"#))?;
    }
    let bad: [(Option<&str>, Option<&str>, &str); 8] = [
        (Some("1"), Some("no json"), "the value: it is not a JSON object"),
        (Some("2"), Some("[1]"), "the value: it is not a JSON object"),
        (None, Some("{}"), "the record has no key, so it is about no row"),
        (Some("three"), Some("{}"), "invalid input syntax for type integer: \"three\""),
        (Some("4"), Some(r#"{"v": "x"}"#), "invalid input syntax for type integer: \"x\""),
        (Some("5"), Some(r#"{"v": 1000001}"#), "violates check constraint"),
        (Some("6"), Some(r#"{"name": "too long"}"#), "value too long for type character varying(5)"),
        (Some("7"), Some(r#"{"name": "\u0000"}"#), "\\u0000"),
    ];
    for (key, value, _) in bad {
        p.send_to(0, key, value)?;
    }
    for key in &good[1500..] {
        p.send_to(0, Some(key), Some(r#"{"v": 2, "name": "later"}"#))?;
    }
    p.producer.flush()?;
    p.project("strict", "")?;
    p.settle()?;
    assert_eq!(p.rows("SELECT v, count(*) FROM strict GROUP BY v ORDER BY v")?, ["(1,1500)", "(2,1500)"]);
    let found = p.rows(
        "SELECT convert_from(key, 'UTF8') AS key, last_error FROM inbox.dead_letters ORDER BY position",
    )?;
    assert_eq!(found.len(), bad.len(), "{found:?}");
    for ((_, _, error), found) in bad.iter().zip(&found) {
        assert!(
            found.replace("\"\"", "\"").replace("\\\\", "\\").contains(error),
            "{found} instead of {error}"
        );
    }
    // A later good value of the key heals, and what is dead can be discarded but not applied again.
    p.send(&[("4", Some(r#"{"v": 44}"#))])?;
    p.settle()?;
    assert_eq!(p.rows("SELECT v FROM strict WHERE id = 4")?, ["(44)"]);
    let (message, hint) = refusal(&mut p.db.client, "SELECT inbox.redrive('p', max => 1)");
    assert_eq!(message, "\"p\" is a projection");
    assert!(hint.contains("inbox.rebuild('p')"), "{hint}");
    assert_eq!(p.rows("SELECT inbox.discard('p', since => '-infinity')")?, ["(8)"]);
    Ok(())
}

/// A poison value does not hide the good one before it.
#[test]
fn a_record_that_says_nothing_counts_as_if_it_were_not_there() -> Result<()> {
    let mut p = Projected::new(1)?;
    p.sql("CREATE TABLE strict (id int PRIMARY KEY, v int)")?;
    p.send(&[
        ("1", Some(r#"{"v": 1}"#)),
        ("1", Some("garbage")),
        ("2", Some(r#"{"v": 1}"#)),
        ("2", Some(r#"{"v": "x"}"#)),
    ])?;
    p.project("strict", "")?;
    p.settle()?;
    assert_eq!(p.rows("SELECT id, v FROM strict ORDER BY id")?, ["(1,1)", "(2,1)"]);
    assert_eq!(p.rows("SELECT count(*) FROM inbox.dead_letters")?, ["(2)"]);
    Ok(())
}

#[test]
fn what_cannot_be_projected_says_why() -> Result<()> {
    let mut p = Projected::new(1)?;
    p.sql(
        "CREATE TABLE good (id int PRIMARY KEY, v int, g int GENERATED ALWAYS AS (1) STORED);
         CREATE TABLE no_key (id int); CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY);
         CREATE VIEW seen AS SELECT * FROM good; CREATE TABLE forced (id int PRIMARY KEY);
         ALTER TABLE forced FORCE ROW LEVEL SECURITY",
    )?;
    let topic = p.topic.clone();
    let project = |rest: &str| format!("SELECT inbox.project('p', '{topic}', {rest})");
    for (rest, message) in [
        ("'no_key'", "table public.no_key has no primary key"),
        ("'no_key', key => '[\"id\"]'", "table public.no_key has no unique index on its key"),
        ("'unlogged'", "public.unlogged cannot be the table of a projection"),
        ("'seen'", "public.seen cannot be the table of a projection"),
        ("'forced'", "public.forced cannot be the table of a projection"),
        ("'inbox.subscription'", "inbox.subscription cannot be the table of a projection"),
        ("NULL", "the table does not exist"),
        ("'good', columns => '[\"nope\"]'", "invalid columns of table public.good"),
        ("'good', columns => '[\"g\"]'", "invalid columns of table public.good"),
        ("'good', columns => '{\"v\": \"a.b\"}'", "invalid columns"),
        ("'good', columns => '3'", "invalid columns"),
        ("'good', key => '{\"id\": \"@nope\"}'", "invalid key"),
        ("'good', format => 'avro'", "invalid format"),
    ] {
        assert_eq!(refusal(&mut p.db.client, &project(rest)).0, message, "{rest}");
    }
    p.project("good", "")?;
    let again = format!("SELECT inbox.project('q', '{topic}', 'good')");
    assert_eq!(refusal(&mut p.db.client, &again).0, "table public.good has a projection already");
    for call in [
        "inbox.receive('p')",
        "inbox.seek('p', 'earliest')",
        "inbox.replay('p', '-infinity')",
        "inbox.unsubscribe('p')",
        "inbox.handle('p', NULL)",
    ] {
        let sql = format!("SELECT {call}");
        assert_eq!(refusal(&mut p.db.client, &sql).0, "\"p\" is a projection", "{call}");
    }
    p.sql(&format!("SELECT inbox.subscribe('s', ARRAY['{topic}'], 'earliest')"))?;
    assert_eq!(refusal(&mut p.db.client, "SELECT inbox.unproject('s')").0, "\"s\" is not a projection");
    assert_eq!(
        refusal(&mut p.db.client, "SELECT inbox.wait_projected('s')").0,
        "projection \"s\" does not exist"
    );
    assert_eq!(
        refusal(&mut p.db.client, "SELECT inbox.wait_projected('p', 5, 7)").0,
        "projection \"p\" has no such offset"
    );
    Ok(())
}

/// What concerns the table, and no record, keeps everything waiting, says so, and is over when its cause is.
#[test]
fn a_changed_table_is_followed_or_told() -> Result<()> {
    let mut p = Projected::new(1)?;
    p.sql("CREATE TABLE changing (id int PRIMARY KEY, v int)")?;
    p.send(&[("1", Some(r#"{"v": 1, "w": "x"}"#))])?;
    p.project("changing", "")?;
    p.settle()?;
    // A new column is filled from then on, a dropped one is forgotten, another type is converted to.
    p.sql("ALTER TABLE changing ADD COLUMN w text, ALTER COLUMN v TYPE bigint")?;
    p.send(&[("2", Some(r#"{"v": 3000000000, "w": "y"}"#))])?;
    p.settle()?;
    assert_eq!(p.rows("SELECT id, v, w FROM changing ORDER BY id")?, ["(1,1,)", "(2,3000000000,y)"]);
    p.sql("ALTER TABLE changing DROP COLUMN v")?;
    p.send(&[("3", Some(r#"{"v": 3, "w": "z"}"#))])?;
    p.settle()?;
    // Without its key it waits; a restore is in this state while it copies rows.
    p.sql("ALTER TABLE changing DROP CONSTRAINT changing_pkey")?;
    p.send(&[("4", Some(r#"{"w": "4"}"#))])?;
    p.until("SELECT state FROM inbox.projections", &["(failing)"])?;
    let error = p.rows("SELECT last_error FROM inbox.projections")?;
    assert!(error[0].contains("no unique index"), "{error:?}");
    p.sql("ALTER TABLE changing ADD PRIMARY KEY (id); ALTER TABLE changing RENAME TO changed")?;
    p.settle()?;
    p.until("SELECT state, \"table\", failing_since FROM inbox.projections", &["(following,changed,)"])?;
    assert_eq!(p.rows("SELECT id, w FROM changed ORDER BY id")?, ["(1,)", "(2,y)", "(3,z)", "(4,4)"]);
    p.sql("DROP TABLE changed")?;
    p.until("SELECT state, running FROM inbox.projections", &["(dropped,f)"])?;
    let what = p.rows("SELECT what_to_do FROM inbox.projections")?;
    assert!(what[0].contains("inbox.unproject"), "{what:?}");
    p.sql("SELECT inbox.unproject('p')")
}
