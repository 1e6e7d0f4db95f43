//! Proves that the checker of the torture test finds a relay's mistakes.

use std::time::Duration;

use event_outbox_lab::Result;
use event_outbox_torture::faults::Trouble;
use event_outbox_torture::{Fault, Mode, Options, Report, Violation};

/// Long enough for each mistake to happen dozens of times.
const DURATION: Duration = Duration::from_secs(6);
/// The same for mistakes of the inbox.
const RECEIVED: Duration = Duration::from_secs(12);

/// The same for mistakes of delivery exactly once.
const EXACTLY: Duration = Duration::from_secs(12);

/// A short run, with or without a mistake.
fn run(sabotage: Option<&'static str>, faults: Vec<Fault>) -> Result<Report> {
    let options = Options { faults, sabotage, writers: 6, ..Options::new(Mode::Mock, DURATION, 20_260) };
    // A mistake may stop the relay for good.
    let recovery = if sabotage.is_some() { Duration::from_secs(15) } else { options.recovery };
    event_outbox_torture::run(&Options { recovery, patience: Duration::from_secs(5), ..options })
}

/// The same with receivers, which need a real broker.
fn run_receivers(sabotage: Option<&'static str>, faults: Vec<Fault>) -> Result<Report> {
    let options = Options { faults, sabotage, writers: 6, ..Options::new(Mode::Kafka, RECEIVED, 20_261) };
    // A mistake may keep events from being received for good.
    let recovery = if sabotage.is_some() { Duration::from_secs(15) } else { options.recovery };
    let patience = if sabotage.is_some() { Duration::from_secs(8) } else { options.patience };
    event_outbox_torture::run(&Options { recovery, patience, ..options })
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

/// The inbox stores offsets before the events: what fails in between is never read again.
#[test]
fn offsets_stored_before_the_events() -> Result<()> {
    let faults = vec![Fault::InboxAt("in_store", "error"), Fault::InboxAt("in_store", "terminate")];
    let report = run_receivers(Some("offsets_first"), faults)?;
    assert!(report.verdict.count(Violation::Unhandled) > 0, "{report}");
    Ok(())
}

/// Two sessions receive from the same lane at the same time.
#[test]
fn lanes_without_a_lock() -> Result<()> {
    let report = run_receivers(Some("unlocked_lanes"), Vec::new())?;
    assert!(report.verdict.count(Violation::HandledTwice) > 0, "{report}");
    Ok(())
}

/// What was received and rolled back does not come again.
#[test]
fn failures_that_are_acknowledged() -> Result<()> {
    let report = run_receivers(Some("failures_acknowledged"), Vec::new())?;
    assert!(report.verdict.count(Violation::Unhandled) > 0, "{report}");
    assert!(report.verdict.count(Violation::Unburied) > 0, "{report}");
    Ok(())
}

/// Later events of a key do not wait for one that has failed.
#[test]
fn an_event_that_waits_and_is_overtaken() -> Result<()> {
    let faults = vec![Fault::Inbox(Trouble::HandlerFails)];
    let report = run_receivers(Some("retries_overtaken"), faults)?;
    assert!(report.verdict.count(Violation::HandledDisordered) > 0, "{report}");
    Ok(())
}

/// Without a mistake, these faults lose and double nothing.
#[test]
fn no_mistake_of_the_inbox() -> Result<()> {
    let report = run_receivers(
        None,
        vec![
            Fault::InboxAt("in_store", "error"),
            Fault::InboxAt("in_store", "terminate"),
            Fault::Inbox(Trouble::HandlerFails),
        ],
    )?;
    assert!(report.is_clean(), "{report}");
    Ok(())
}

/// The same with delivery exactly once.
fn run_exactly(sabotage: Option<&'static str>, faults: Vec<Fault>) -> Result<Report> {
    let options = Options::exactly_once(EXACTLY, 20_262);
    event_outbox_torture::run(&Options { mode: Mode::Kafka, faults, sabotage, receivers: 0, ..options })
}

/// A relay that delivers exactly once does not read what was published before it.
#[test]
fn a_relay_that_skips_the_markers() -> Result<()> {
    let faults = vec![Fault::At("after_commit", "kill")];
    let report = run_exactly(Some("skip_markers"), faults.clone())?;
    assert!(report.verdict.count(Violation::UnexplainedDuplicate) > 0, "{report}");
    let report = run_exactly(None, faults)?;
    assert!(report.is_clean(), "{report}");
    Ok(())
}

/// It takes a commit without an answer for none, and goes on with its producer.
#[test]
fn a_producer_that_is_used_after_an_unknown_outcome() -> Result<()> {
    let faults = vec![Fault::LoseCommit];
    let report = run_exactly(Some("reuse_producer"), faults.clone())?;
    assert!(report.verdict.count(Violation::UnexplainedDuplicate) > 0, "{report}");
    let report = run_exactly(None, faults)?;
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
