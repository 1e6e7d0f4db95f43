//! Appended events are published through the outbox, in the same transaction, once.

use event_outbox_lab::Result;

use crate::support::database::TestDatabase;
use crate::support::streams::append;

#[test]
fn what_is_appended_is_published_with_it() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let (asked, bound) = (db.own_topic("asked")?, db.own_topic("bound")?);
    db.client.batch_execute(&format!("SELECT event_store.bind_category('b', '{bound}')"))?;
    let event = "{\"type\": \"opened\", \"data\": {\"n\": 1}, \"metadata\": {\"by\": \"me\"}, \
                 \"id\": \"00000000-0000-0000-0000-000000000001\"}";
    let call = format!(
        "SELECT event_store.append('a-1', 'any', '{event}', emit => '{asked}',
                                   correlation_id => '00000000-0000-0000-0000-00000000000b')"
    );
    db.client.batch_execute(&call)?;
    // Stored before: not published again.
    db.client.batch_execute(&call)?;
    db.client.batch_execute("BEGIN")?;
    append(&mut db.client, "b-1", "any", "undone")?;
    db.client.batch_execute("ROLLBACK")?;
    append(&mut db.client, "b-1", "any", "done")?;
    db.client.batch_execute(&format!(
        "SELECT event_store.append('b-1', 1, '{{\"type\": \"both\"}}', emit => '{bound}')"
    ))?;
    let records = db.promptly(&asked, 1)?;
    let record = &records[0];
    assert_eq!((record.key_text(), record.value_text()), (Some("a-1"), Some("{\"n\":1}")));
    let position: i64 =
        db.client.query_one("SELECT position FROM event_store.read_stream('a-1')", &[])?.get(0);
    for (name, value) in [
        ("ce_id", "00000000-0000-0000-0000-000000000001"),
        ("ce_type", "opened"),
        ("stream", "a-1"),
        ("version", "1"),
        ("position", &position.to_string()),
        ("correlation_id", "00000000-0000-0000-0000-00000000000b"),
        ("metadata", "{\"by\":\"me\"}"),
    ] {
        assert_eq!(record.header(name), Some(value), "{name}");
    }
    assert_eq!(record.header("causation_id"), None);
    let records = db.promptly(&bound, 2)?;
    let types: Vec<_> = records.iter().map(|record| record.header("ce_type")).collect();
    assert_eq!(types, [Some("done"), Some("both")]);
    assert_eq!(records[0].value_text(), Some("null"), "an event without data is no tombstone");
    assert_eq!(db.drained(&asked)?.len(), 1);
    assert_eq!(db.drained(&bound)?.len(), 2);
    db.client.batch_execute("SELECT event_store.unbind_category('b')")?;
    append(&mut db.client, "b-1", "any", "unbound")?;
    assert_eq!(db.drained(&bound)?.len(), 2);
    Ok(())
}
