//! The torture test's judge has teeth: a relay that makes a mistake does not get away with it.

use std::time::Duration;

use event_outbox_lab::Result;
use event_outbox_torture::{Crime, Fault, Mode, Options, Report};

/// Enough for each mistake to show, dozens of times.
const DURATION: Duration = Duration::from_secs(6);

/// A short run, with the mistake or without.
fn run(sabotage: Option<&'static str>, faults: Vec<Fault>) -> Result<Report> {
    let options = Options { faults, sabotage, writers: 6, ..Options::new(Mode::Mock, DURATION, 20_260) };
    // A mistake may well keep the relay from its work for ever.
    let recovery = if sabotage.is_some() { Duration::from_secs(15) } else { options.recovery };
    event_outbox_torture::run(&Options { recovery, patience: Duration::from_secs(5), ..options })
}

/// The outbox empties itself before Kafka has what it held: a crash in an outage loses it.
#[test]
fn events_deleted_before_they_are_acknowledged() -> Result<()> {
    let faults = vec![Fault::CrashInOutage];
    let report = run(Some("delete_before_ack"), faults.clone())?;
    assert!(report.verdict.count(Crime::Lost) > 0, "{report}");
    let report = run(None, faults)?;
    assert!(report.is_clean(), "{report}");
    Ok(())
}

/// Transactions that take low ids and commit late are overlooked.
#[test]
fn a_cursor_that_believes_in_the_order_of_ids() -> Result<()> {
    let report = run(Some("naive_cursor"), Vec::new())?;
    assert!(report.verdict.count(Crime::Lost) > 0 && report.verdict.count(Crime::Left) > 0, "{report}");
    Ok(())
}

/// What follows a refused event overtakes it.
#[test]
fn a_refused_event_that_is_tried_again_behind_its_followers() -> Result<()> {
    let report = run(Some("retry_at_tail"), Vec::new())?;
    assert!(report.verdict.count(Crime::Disordered) > 0, "{report}");
    Ok(())
}

/// What is visible is published at once: a crash takes commits back whose events are in Kafka.
#[test]
fn events_published_before_they_are_on_disk() -> Result<()> {
    let faults = vec![Fault::PowerFailure];
    let report = run(Some("publish_unflushed"), faults.clone())?;
    assert!(report.verdict.count(Crime::Ghost) > 0, "{report}");
    let report = run(None, faults)?;
    assert!(report.is_clean(), "{report}");
    Ok(())
}

/// Without a mistake, the same run finds nothing.
#[test]
fn no_mistake() -> Result<()> {
    let report = run(None, Vec::new())?;
    assert!(report.is_clean(), "{report}");
    Ok(())
}
