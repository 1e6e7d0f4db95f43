//! A lane with a large backlog does not keep the others waiting.

use event_outbox_lab::Result;

use super::Projected;
use crate::support::inbox::until_stored;

const PARTITIONS: i32 = 4;

/// Together more than two transactions take.
const LARGE: usize = 100;
const LENGTH: usize = 700_000;

#[test]
fn a_lane_that_fills_a_transaction_leaves_the_next_to_others() -> Result<()> {
    let mut p = Projected::new(PARTITIONS)?;
    p.sql("CREATE TABLE fair (key text PRIMARY KEY, v text)")?;
    for partition in 0..PARTITIONS {
        p.send_to(partition, Some(&format!("of {partition}")), Some("{}"))?;
    }
    p.producer.flush()?;
    p.project("fair", "")?;
    p.settle()?;
    // A partition's events have a lane. The one that is looked at first is to be busy.
    let sql = "SELECT l.partition FROM inbox.log AS l ORDER BY l.lane";
    let by_lane: Vec<i32> = p.db.client.query(sql, &[])?.iter().map(|row| row.get(0)).collect();
    let lanes = p.rows("SELECT count(DISTINCT l.lane) > 1 FROM inbox.log AS l")?;
    assert_eq!(lanes, ["(t)"], "{by_lane:?}");
    let (busy, other) = (by_lane[0], by_lane[by_lane.len() - 1]);
    p.sql("SELECT inbox.pause('p')")?;
    let value = format!("{{\"v\": \"{}\"}}", "x".repeat(LENGTH));
    for n in 0..LARGE {
        p.send_to(busy, Some(&n.to_string()), Some(&value))?;
    }
    p.send_to(other, Some("small"), Some("{\"v\": \"small\"}"))?;
    p.producer.flush()?;
    until_stored(&mut p.db.client, i64::from(PARTITIONS) + i64::try_from(LARGE)? + 1)?;
    p.sql("SELECT inbox.resume('p')")?;
    p.settle()?;
    // A transaction that wrote a row is told by its number.
    let transactions = p.rows(
        "SELECT count(DISTINCT f.xmin::text) FROM fair AS f, fair AS s
          WHERE s.key = 'small' AND f.v IS NOT NULL AND f.xmin::text::bigint < s.xmin::text::bigint",
    )?;
    assert_eq!(transactions, ["(1)"], "transactions before that with the small value");
    Ok(())
}
