//! The smallest test of the main job.

use event_outbox_lab::Result;
use uuid::Uuid;

use crate::support::database::TestDatabase;

#[test]
fn what_commits_is_published_and_what_rolls_back_is_not() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("orders");
    let emit = "SELECT outbox.emit($1, jsonb_build_object('id', $2::int), key => $2::int::text)";

    let mut transaction = db.client.transaction()?;
    transaction.query_one(emit, &[&topic, &1])?;
    transaction.rollback()?;
    let mut transaction = db.client.transaction()?;
    let id: Uuid = transaction.query_one(emit, &[&topic, &2])?.get(0);
    transaction.commit()?;

    let records = db.drained(&topic)?;
    let [record] = &records[..] else { panic!("not one record: {records:?}") };
    assert_eq!(record.header("ce_id"), Some(id.to_string().as_str()));
    assert_eq!(record.key_text(), Some("2"));
    let value: serde_json::Value = serde_json::from_slice(record.value.as_deref().unwrap_or_default())?;
    assert_eq!(value, serde_json::json!({"id": 2}));
    Ok(())
}
