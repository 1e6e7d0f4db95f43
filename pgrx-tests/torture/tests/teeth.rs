//! Proves that the checker of the torture test finds a relay's mistakes.

use std::time::Duration;

use event_outbox_lab::Result;
use event_outbox_torture::{Fault, Mode, Options, Report, Violation};

/// Long enough for each mistake to happen dozens of times.
const DURATION: Duration = Duration::from_secs(6);

/// A short run, with or without a mistake.
fn run(sabotage: Option<&'static str>, faults: Vec<Fault>) -> Result<Report> {
    let options = Options { faults, sabotage, writers: 6, ..Options::new(Mode::Mock, DURATION, 20_260) };
    // A mistake may stop the relay for good.
    let recovery = if sabotage.is_some() { Duration::from_secs(15) } else { options.recovery };
    event_outbox_torture::run(&Options { recovery, patience: Duration::from_secs(5), ..options })
}

/// The relay deletes events before Kafka has them: a crash in an outage loses them.
#[test]
fn events_deleted_before_they_are_acknowledged() -> Result<()> {
    let faults = vec![Fault::CrashInOutage];
    let report = run(Some("delete_before_ack"), faults.clone())?;
    assert!(report.verdict.count(Violation::Lost) > 0, "{report}");
    let report = run(None, faults)?;
    assert!(report.is_clean(), "{report}");
    Ok(())
}

/// The relay overlooks transactions that take low ids and commit late.
#[test]
fn a_cursor_that_believes_in_the_order_of_ids() -> Result<()> {
    let report = run(Some("naive_cursor"), Vec::new())?;
    assert!(
        report.verdict.count(Violation::Lost) > 0 && report.verdict.count(Violation::Left) > 0,
        "{report}"
    );
    Ok(())
}

/// The events behind a refused one overtake it.
#[test]
fn a_refused_event_that_is_tried_again_behind_its_followers() -> Result<()> {
    let report = run(Some("retry_at_tail"), Vec::new())?;
    assert!(report.verdict.count(Violation::Disordered) > 0, "{report}");
    Ok(())
}

/// The relay publishes what is visible before it is on disk: a crash undoes commits whose events are in Kafka.
#[test]
fn events_published_before_they_are_on_disk() -> Result<()> {
    let faults = vec![Fault::PowerFailure];
    let report = run(Some("publish_unflushed"), faults.clone())?;
    assert!(report.verdict.count(Violation::Ghost) > 0, "{report}");
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
