//! Delivery at most once: the relay is killed after each of its steps, and nothing is ever published twice.

use event_outbox_lab::Result;
use event_outbox_torture::Delivery;
use event_outbox_torture::steps::Run;

/// The steps, in their order, and whether the events that are on their way then can be lost.
const STEPS: [(&str, bool); 7] = [
    ("after_read", false),
    ("in_claim", false),
    ("after_claim", true),
    ("after_produce", true),
    ("after_ack", true),
    ("in_settle", true),
    ("after_settle", true),
];

#[test]
fn a_kill_at_each_step_publishes_nothing_twice() -> Result<()> {
    for (step, may_lose) in STEPS {
        let outcome = Run::start(Delivery::AtMostOnce, step, None)?.kill_at(step)?;
        assert_eq!(outcome.duplicates(), 0, "{step}");
        outcome.assert_ordered(step);
        let (lost, later) = outcome.lost();
        assert_eq!(later, 0, "{step}: lost later events");
        assert!(may_lose || lost == 0, "{step}: {lost} lost");
        assert!(lost as i64 <= outcome.given_up, "{step}: {lost} lost, {} counted", outcome.given_up);
        // Before Kafka has anything, all of a batch is lost.
        assert!(step != "after_claim" || lost > 0, "{step}: nothing was lost");
        eprintln!("{step}: {lost} lost, up to {} counted", outcome.given_up);
    }
    Ok(())
}

/// A relay that publishes before it deletes is found out by the same test.
#[test]
fn events_published_before_they_are_deleted() -> Result<()> {
    let run = Run::start(Delivery::AtMostOnce, "mistake", Some("publish_before_delete"))?;
    let outcome = run.kill_at("after_ack")?;
    assert!(outcome.duplicates() > 0, "{} records", outcome.numbers().len());
    Ok(())
}
