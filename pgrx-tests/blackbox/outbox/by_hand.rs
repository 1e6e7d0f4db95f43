//! Changes of the table by hand while events are in flight.

use event_outbox_lab::{Consumer, Result};

use crate::support::database::{PROMPTLY, TestDatabase, values};
use crate::support::events::emit;
use crate::support::relay::until_status;

/// Publishes the one event of the topic while another session has its row locked by `sql`.
fn while_published(name: &str, sql: &str, more: &str) -> Result<Vec<String>> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic(name)?;
    db.configure("event_outbox.enabled", "off")?;
    db.client.batch_execute(more)?;
    emit(&mut db.client, &topic, 1)?;
    let mut other = db.connect()?;
    let mut changing = other.transaction()?;
    changing.batch_execute(sql)?;
    db.configure("event_outbox.enabled", "on")?;
    let mut consumer = Consumer::new(&db.broker.bootstrap_servers(), &[&topic])?;
    consumer.read_until(1, PROMPTLY)?;
    until_status(&mut db.client, "the locked row to be met", |status| status.error().contains("locked"))?;
    changing.commit()?;
    let records = db.drained(&topic)?;
    let ids: Vec<_> = records.iter().map(|record| record.header("ce_id")).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "another event: {ids:?}");
    Ok(values(&records))
}

#[test]
fn what_is_changed_while_it_is_published_is_published_again() -> Result<()> {
    let sql = "UPDATE outbox.events SET payload = '\"changed\"'";
    assert_eq!(while_published("changed", sql, "")?, ["1", "\"changed\""]);
    Ok(())
}

/// The same with a trigger on deletions, for which the relay deletes in SQL.
#[test]
fn what_is_changed_is_published_again_where_a_trigger_sees_deletions() -> Result<()> {
    let sql = "UPDATE outbox.events SET payload = '\"changed\"'";
    let trigger = "CREATE FUNCTION public.look() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END';
                   CREATE TRIGGER look BEFORE DELETE ON outbox.events FOR EACH ROW EXECUTE FUNCTION public.look()";
    assert_eq!(while_published("triggered", sql, trigger)?, ["1", "\"changed\""]);
    Ok(())
}

/// The record would be the same: nothing is sent again.
#[test]
fn a_change_of_the_books_alone_publishes_nothing() -> Result<()> {
    let sql = "UPDATE outbox.events SET next_attempt_at = NULL, attempts = 0";
    assert_eq!(while_published("books", sql, "")?, ["1"]);
    Ok(())
}

/// After TRUNCATE with RESTART IDENTITY the ids begin at 1 again, below those that the relay has read.
#[test]
fn events_behind_a_truncation_come_in_their_order() -> Result<()> {
    for reset in
        ["TRUNCATE outbox.events RESTART IDENTITY", "ALTER TABLE outbox.events ALTER id RESTART WITH 1"]
    {
        let mut db = TestDatabase::new()?;
        let topic = db.own_topic("truncated")?;
        for number in 1..=10 {
            emit(&mut db.client, &topic, number)?;
        }
        db.drained(&topic)?;
        // More events than before arrive before the relay reads.
        let mut emitting = db.client.transaction()?;
        emitting.batch_execute(reset)?;
        let sql = "SELECT outbox.emit($1, to_jsonb(n), key => 'k') FROM generate_series(11, 40) AS n";
        emitting.execute(sql, &[&topic])?;
        emitting.commit()?;
        let expected: Vec<_> = (1..=40).map(|number| number.to_string()).collect();
        assert_eq!(values(&db.promptly(&topic, 40)?), expected, "{reset}");
    }
    Ok(())
}
