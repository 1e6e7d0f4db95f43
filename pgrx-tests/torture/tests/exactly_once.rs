//! Delivery exactly once: the relay is killed after each of its steps, and a reader of committed records sees each event once.

use event_outbox_lab::Result;
use event_outbox_torture::Delivery;
use event_outbox_torture::steps::Run;

/// The steps, in their order.
const STEPS: [&str; 9] = [
    "after_fence",
    "after_own_claim",
    "after_read",
    "after_produce",
    "before_commit",
    "after_commit",
    "after_ack",
    "in_settle",
    "after_settle",
];

#[test]
fn a_kill_at_each_step_repeats_and_loses_nothing() -> Result<()> {
    for step in STEPS {
        let outcome = Run::start(Delivery::ExactlyOnce, step, None)?.kill_at(step)?;
        assert_eq!(outcome.duplicates(), 0, "{step}");
        outcome.assert_ordered(step);
        assert_eq!(outcome.lost(), (0, 0), "{step}");
    }
    Ok(())
}

/// A relay that does not read what was published before it is found out by the same test.
#[test]
fn a_relay_that_skips_the_markers() -> Result<()> {
    let run = Run::start(Delivery::ExactlyOnce, "mistake", Some("skip_markers"))?;
    let outcome = run.kill_at("after_commit")?;
    assert!(outcome.duplicates() > 0, "{} records", outcome.numbers().len());
    Ok(())
}
