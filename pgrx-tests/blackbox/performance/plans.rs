//! What a look at the views costs: PostgreSQL compiles (JIT) a plan that it takes to be expensive, which takes most of a second.

use event_outbox_lab::{Result, wait};

use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::subscriptions::{filled_topic, subscribe};

/// The views whose plans are expensive enough to be compiled.
fn compiled(db: &mut TestDatabase) -> Result<Vec<(String, f64)>> {
    let sql = "SELECT c.oid::regclass::text, current_setting('jit_above_cost')::float8
                 FROM pg_class AS c WHERE c.relnamespace = ANY ('{inbox,outbox}'::regnamespace[]) AND c.relkind = 'v'";
    let views = db.client.query(sql, &[])?;
    assert!(views.len() >= 10, "{} views", views.len());
    let mut found = Vec::new();
    for view in views {
        let (name, limit): (String, f64) = (view.get(0), view.get(1));
        let sql = format!("EXPLAIN SELECT * FROM {name}");
        let plan: String = db.client.query(&sql, &[])?[0].get(0);
        let cost =
            plan.split_once("..").and_then(|(_, rest)| rest.split_once(' ')).map(|(cost, _)| cost.parse());
        let cost: f64 = cost.expect("a cost")?;
        if cost >= limit {
            found.push((name, cost));
        }
    }
    Ok(found)
}

#[test]
fn looking_compiles_no_plan() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = filled_topic(&mut db, "t", &[3, 40])?;
    for number in 0..20 {
        subscribe(&mut db.client, &format!("s{number}"), &[&topic], "earliest")?;
    }
    wait::until_ok("everything to be stored", DEADLINE, || {
        let sql = "SELECT count(*) FILTER (WHERE to_receive > 0) FROM inbox.lag";
        Ok((db.client.query_one(sql, &[])?.get::<_, i64>(0) == 40).then_some(()))
    })?;
    assert_eq!(compiled(&mut db)?, [], "without statistics");
    db.client.batch_execute("ANALYZE")?;
    assert_eq!(compiled(&mut db)?, [], "with statistics");
    Ok(())
}
