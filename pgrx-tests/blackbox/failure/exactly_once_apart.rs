//! Topics whose events are refused again and again, beside others.

use std::time::Duration;

use event_outbox_lab::{Consumer, Result, wait};

use crate::support::database::{TestDatabase, values};
use crate::support::events::emit;

/// Topics that refuse their events, and how many events each has, of which some are always due.
const REFUSING: usize = 4;
const REFUSED: i64 = 30;

/// Long enough for several rounds, of which each has a transaction that is taken back.
const PATIENCE: Duration = Duration::from_secs(60);

/// Quarantined topics share a transaction. If it were taken back each time, none of them would get anywhere.
#[test]
fn refused_events_do_not_starve_another_topic_that_was_refused() -> Result<()> {
    let mut db = TestDatabase::new()?;
    for (setting, value) in [
        ("retry_backoff", "100ms"),
        ("retry_backoff_max", "1s"),
        ("grace_period", "0"),
        ("auto_create_topics", "off"),
        ("max_attempts", "1000"),
    ] {
        db.configure(&format!("event_outbox.{setting}"), value)?;
    }
    db.configure("event_outbox.delivery", "exactly_once")?;
    for number in 0..REFUSING {
        let topic = db.topic(&format!("narrow{number}"));
        db.broker.create_topic(&topic, 1, &[("max.message.bytes", "2000")])?;
        let sql = "SELECT outbox.emit($1, to_jsonb(repeat('x', 5000)), key => n::text) FROM generate_series(1, $2::int8) AS n";
        db.client.execute(sql, &[&topic, &REFUSED])?;
    }
    let late = db.topic("late");
    emit(&mut db.client, &late, "late")?;
    let refused = "SELECT count(DISTINCT topic) FROM outbox.events WHERE attempts > 0";
    wait::until_ok("each topic to have a refusal", PATIENCE, || {
        let topics: i64 = db.client.query_one(refused, &[])?.get(0);
        Ok((topics == REFUSING as i64 + 1).then_some(()))
    })?;
    db.broker.create_topic(&late, 1, &[])?;
    wait::until_ok("the topic that exists now", PATIENCE, || {
        let sql = "SELECT NOT EXISTS (SELECT FROM outbox.events WHERE topic = $1)";
        Ok(db.client.query_one(sql, &[&late])?.get::<_, bool>(0).then_some(()))
    })?;
    let still: i64 = db.client.query_one("SELECT count(*) FROM outbox.events", &[])?.get(0);
    assert_eq!(still, REFUSING as i64 * REFUSED, "the others are refused all the time");
    assert_eq!(values(&Consumer::read_all(&db.broker.bootstrap_servers(), &[&late])?), ["\"late\""]);
    Ok(())
}
