//! What a transaction holds back that is open in Kafka.

use event_outbox_lab::{Producer, Result, wait};
use postgres::Client;

use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::inbox::{until_no_lag, until_numbers};
use crate::support::subscriptions::subscribe;

/// The end of the only partition, how far it is away, and what lies behind it.
fn lag(client: &mut Client) -> Result<(i64, i64, i64)> {
    let row = client.query_one("SELECT end_offset, to_store, uncommitted FROM inbox.lag", &[])?;
    Ok((row.get(0), row.get(1), row.get(2)))
}

/// What the check says of open transactions.
fn check(client: &mut Client) -> Result<Vec<(String, String)>> {
    let sql = "SELECT finding, hint FROM inbox.check() WHERE subject = 'transaction' AND verdict = 'warning'";
    Ok(client.query(sql, &[])?.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Nobody gets its records before it ends, and none of those that others have written since.
#[test]
fn an_open_transaction_is_told() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("open")?;
    subscribe(&mut db.client, "s", &[&topic], "earliest")?;
    let producer = Producer::new(&db.broker.bootstrap_servers())?;
    producer.send_numbers(&topic, 0, 0..3, |_| None)?;
    assert_eq!(until_numbers(&mut db.client, "s", 3)?, [0, 1, 2]);
    assert_eq!(lag(&mut db.client)?, (3, 0, 0));
    let transactional = Producer::transactional(&db.broker.bootstrap_servers(), &topic)?;
    transactional.begin()?;
    transactional.send_numbers(&topic, 0, 3..5, |_| None)?;
    producer.send_numbers(&topic, 0, 5..9, |_| None)?;
    assert_eq!(lag(&mut db.client)?, (3, 0, 6));
    let [(finding, hint)] = &check(&mut db.client)?[..] else { panic!("one partition is held back") };
    assert!(finding.contains(&format!("partition 0 of \"{topic}\"")), "{finding}");
    assert!(finding.contains("from offset 3 on (6 offsets)"), "{finding}");
    assert!(hint.contains(&format!("describe-producers --topic {topic} --partition 0")), "{hint}");
    transactional.commit()?;
    assert_eq!(until_numbers(&mut db.client, "s", 6)?, (3..9).collect::<Vec<_>>());
    until_no_lag(&mut db.client, "s")?;
    // The marker at the end of the transaction has an offset, too.
    wait::until_ok("the end", DEADLINE, || Ok((lag(&mut db.client)? == (10, 0, 0)).then_some(())))?;
    assert_eq!(check(&mut db.client)?, []);
    Ok(())
}
