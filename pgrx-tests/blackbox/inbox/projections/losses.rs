//! What a projection says and does when Kafka has lost records, or its table is gone.

use event_outbox_lab::{Producer, Result};

use super::{Projected, refusal, rows};
use crate::support::dump::dump_and_restore;
use crate::support::inbox::while_disabled;

const STATE: &str = "CREATE TABLE state (id int PRIMARY KEY, v int)";

/// A projection of two partitions, which has 20 rows of each.
fn filled() -> Result<Projected> {
    let mut p = Projected::not_compacted(2)?;
    p.sql(STATE)?;
    send(&p, &p.producer, 0..40)?;
    p.project("state", "")?;
    p.settle()?;
    p.until("SELECT state, ready FROM inbox.projections", &["(following,t)"])?;
    Ok(p)
}

fn send(p: &Projected, producer: &Producer, numbers: std::ops::Range<i32>) -> Result<()> {
    for n in numbers {
        let (key, value) = (n.to_string(), format!("{{\"v\": {n}}}"));
        producer.send(&event_outbox_lab::NewRecord {
            topic: &p.topic,
            partition: n % 2,
            key: Some(key.as_bytes()),
            value: Some(value.as_bytes()),
            ..Default::default()
        })?;
    }
    producer.flush()
}

/// Does something while nothing is read.
fn unread(p: &mut Projected, work: impl FnOnce(&Projected) -> Result<()>) -> Result<()> {
    let database = p.db.database.clone();
    let mut client = p.db.connect()?;
    while_disabled(&mut client, &database, |_| work(p))
}

/// Runs what the view says, and waits until the projection is well.
fn do_what_it_says(p: &mut Projected) -> Result<()> {
    p.until("SELECT state, ready FROM inbox.projections", &["(stopped,f)"])?;
    let what: String = p.db.client.query_one("SELECT what_to_do FROM inbox.projections", &[])?.get(0);
    assert_eq!(what, "SELECT inbox.rebuild('p');");
    let hint = p.rows(
        "SELECT hint FROM inbox.check() WHERE subject IN ('partition', 'position') AND verdict = 'error'",
    )?;
    assert!(!hint.is_empty() && hint.iter().all(|hint| hint.contains("inbox.rebuild('p')")), "{hint:?}");
    let reason = p.rows("SELECT stop_reason FROM inbox.partition WHERE state = 'stopped'")?;
    assert!(!reason.is_empty() && reason.iter().all(|reason| !reason.contains("inbox.seek")), "{reason:?}");
    p.sql(&what)?;
    p.until("SELECT name, state, ready FROM inbox.projections", &["(p,following,t)"])
}

#[test]
fn expired_records_stop_a_projection_until_it_is_rebuilt() -> Result<()> {
    let mut p = filled()?;
    unread(&mut p, |p| {
        send(p, &p.producer, 40..60)?;
        p.db.broker.delete_records(&p.topic, 0, 25)
    })?;
    // The other partition goes on, and the table keeps what it has.
    p.until("SELECT count(*), max(id) FROM state", &["(50,59)"])?;
    do_what_it_says(&mut p)?;
    // The table has what Kafka has: of the first partition 5 records, of the second one all.
    assert_eq!(p.rows("SELECT count(*) FILTER (WHERE id % 2 = 0), count(*) FROM state")?, ["(5,35)"]);
    send(&p, &p.producer, 60..62)?;
    p.settle()?;
    assert_eq!(p.rows("SELECT max(id) FROM state")?, ["(61)"]);
    Ok(())
}

/// The new topic has fewer records than the old one had.
#[test]
fn a_topic_that_was_created_again_stops_a_projection_until_it_is_rebuilt() -> Result<()> {
    let mut p = filled()?;
    unread(&mut p, |p| {
        p.db.broker.delete_topic(&p.topic)?;
        p.db.broker.create_topic(&p.topic, 2, &[])?;
        // The producer knows the topic of before.
        send(p, &Producer::new(&p.db.broker.bootstrap_servers())?, 100..104)
    })?;
    do_what_it_says(&mut p)?;
    assert_eq!(p.rows("SELECT id FROM state ORDER BY id")?, ["(100)", "(101)", "(102)", "(103)"]);
    Ok(())
}

#[test]
fn a_dropped_table_is_called_by_its_name() -> Result<()> {
    let mut p = filled()?;
    p.sql("ALTER TABLE state RENAME TO \"the State\"")?;
    send(&p, &p.producer, 40..41)?;
    p.settle()?;
    p.sql("SELECT inbox.rebuild('p'); DROP TABLE \"the State\"")?;
    p.until(
        "SELECT name LIKE 'p.rebuild%' AS is_rebuild, state, running FROM inbox.projections ORDER BY 1",
        &["(f,dropped,f)", "(t,dropped,f)"],
    )?;
    assert_eq!(
        p.rows("SELECT \"table\" FROM inbox.projections WHERE name = 'p'")?,
        ["(\"public.\"\"the State\"\"\")"]
    );
    let checked =
        p.rows("SELECT finding, hint FROM inbox.check() WHERE subject = 'projection' ORDER BY 1")?;
    assert!(checked[0].contains("the State") && checked[0].contains("inbox.unproject"), "{checked:?}");
    // The rebuild ends with its projection, and a table of the same name can be projected into again.
    p.sql("SELECT inbox.unproject('p')")?;
    p.sql(STATE)?;
    p.project("state", "")?;
    p.settle()?;
    assert_eq!(p.rows("SELECT count(*) FROM state")?, ["(41)"]);
    p.sql("DROP TABLE state")?;
    p.until("SELECT state, \"table\" FROM inbox.projections", &["(dropped,public.state)"])?;
    let (message, hint) = refusal(&mut p.db.client, "SELECT inbox.rebuild('p')");
    assert_eq!(message, "table public.state of projection \"p\" was dropped");
    assert!(hint.contains("inbox.unproject('p')"), "{hint}");
    p.sql("SELECT inbox.unproject('p')")
}

/// The number of a table that is gone may be another table's where a dump is restored.
#[test]
fn a_dump_does_not_give_a_projection_another_table() -> Result<()> {
    let mut p = filled()?;
    // Nobody notices: its process does not run.
    p.sql("SELECT inbox.pause('p')")?;
    p.until("SELECT running FROM inbox.projections", &["(f)"])?;
    p.sql("DROP TABLE state")?;
    p.until("SELECT \"table\" FROM inbox.projections", &["(public.state)"])?;
    let copy = p.db.server.create_database()?;
    dump_and_restore(&p.db, &copy)?;
    let mut restored = p.db.server.connect(&copy)?;
    let sql = "SELECT subscription_id FROM inbox.projection WHERE \"table\" IS NOT NULL";
    assert_eq!(rows(&mut restored, sql)?, Vec::<String>::new());
    restored.batch_execute("SELECT inbox.unsubscribe(name) FROM inbox.subscription")?;
    p.sql("SELECT inbox.unproject('p')")
}

#[test]
fn a_truncated_table_says_so_until_it_is_rebuilt() -> Result<()> {
    let mut p = filled()?;
    // Another file with the same rows is no loss.
    p.sql("VACUUM FULL state")?;
    send(&p, &p.producer, 40..42)?;
    p.settle()?;
    assert_eq!(p.rows("SELECT state, ready FROM inbox.projections")?, ["(following,t)"]);
    p.sql("TRUNCATE state")?;
    send(&p, &p.producer, 42..44)?;
    p.until(
        "SELECT state, ready, what_to_do = 'SELECT inbox.rebuild(''p'');' FROM inbox.projections",
        &["(truncated,f,t)"],
    )?;
    // What comes is applied.
    p.settle()?;
    assert_eq!(p.rows("SELECT id FROM state ORDER BY id")?, ["(42)", "(43)"]);
    let checked = p.rows("SELECT verdict, finding FROM inbox.check() WHERE subject = 'projection'")?;
    assert!(checked[0].contains("error") && checked[0].contains("rows that"), "{checked:?}");
    p.sql("SELECT inbox.rebuild('p')")?;
    p.until("SELECT name, state, ready FROM inbox.projections", &["(p,following,t)"])?;
    assert_eq!(p.rows("SELECT count(*) FROM state")?, ["(44)"]);
    // Also while its process does not run.
    p.sql("SELECT inbox.pause('p')")?;
    p.until("SELECT running FROM inbox.projections", &["(f)"])?;
    p.sql("TRUNCATE state; SELECT inbox.resume('p')")?;
    p.until("SELECT state, ready FROM inbox.projections", &["(truncated,f)"])?;
    Ok(())
}

/// A table that was always empty has lost nothing.
#[test]
fn a_truncate_of_nothing_is_no_loss() -> Result<()> {
    let mut p = Projected::new(1)?;
    p.sql(STATE)?;
    p.project("state", "")?;
    p.until("SELECT state, ready FROM inbox.projections", &["(following,t)"])?;
    p.sql("TRUNCATE state")?;
    p.send(&[("1", Some(r#"{"v": 1}"#))])?;
    p.settle()?;
    assert_eq!(p.rows("SELECT state, ready FROM inbox.projections")?, ["(following,t)"]);
    Ok(())
}

/// What Kafka deletes after it was applied is no loss.
#[test]
fn records_that_were_applied_may_go() -> Result<()> {
    let mut p = filled()?;
    unread(&mut p, |p| {
        p.db.broker.delete_records(&p.topic, 0, 20)?;
        send(p, &p.producer, 40..42)
    })?;
    p.settle()?;
    assert_eq!(p.rows("SELECT state, ready FROM inbox.projections")?, ["(following,t)"]);
    assert_eq!(p.rows("SELECT count(*) FROM state")?, ["(42)"]);
    Ok(())
}
