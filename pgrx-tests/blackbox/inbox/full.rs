//! What happens when as many events wait as may: the bound holds, and who waits for events sleeps until there are some.

use std::thread;
use std::time::{Duration, Instant};

use event_outbox_lab::{Result, wait};
use postgres::Client;
use postgres::error::SqlState;

use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::inbox_log::{number, receive, store, subscription};

/// How many events may wait.
const MOST: i64 = 10_000;

/// A subscription in which this many events wait in lane 5, behind one that has failed.
fn waiting(count: i64) -> Result<TestDatabase> {
    let mut db = subscription("key")?;
    db.client.execute(
        "INSERT INTO inbox.retry (subscription_id, position, lane, topic, partition, \"offset\", key, value, order_key,
                                  attempts, next_attempt_at, skip_after)
         SELECT 1000, n, 5, 't', 0, n, 'z', '1', inbox.order_key('key', 't', 0, 'z'), (n = 1)::int,
                CASE n WHEN 1 THEN now() + '1 hour' END, 0
           FROM generate_series(1, $1::bigint) AS n",
        &[&count],
    )?;
    Ok(db)
}

fn is_full(error: &postgres::Error) -> bool {
    error.as_db_error().is_some_and(|error| {
        error.code() == &SqlState::CONFIGURATION_LIMIT_EXCEEDED
            && error.detail().is_some()
            && error.hint().is_some()
    })
}

/// The failures of the first events of a lane are counted all the same. Then it stands still, and those who wait sleep.
#[test]
fn a_lane_whose_events_fail_stands_still_when_all_places_are_taken() -> Result<()> {
    let mut db = waiting(MOST)?;
    let sql = "SELECT finding FROM inbox.check() WHERE subject = 'retries'";
    let finding: String = db.client.query_one(sql, &[])?.get(0);
    assert_eq!(
        finding,
        "10000 events of \"s\" wait, because some have failed; these are the most, and lanes with such keys stand still."
    );
    store(&mut db, &[(20_001, 3, "a"), (20_002, 3, "b"), (20_003, 3, "c")])?;
    let mut session = db.connect()?;
    for failed in 1..=2 {
        session.batch_execute("BEGIN")?;
        assert_eq!(receive(&mut session, 1)?, [20_000 + failed]);
        session.batch_execute("ROLLBACK")?;
        wait::until_ok("the failed event to wait", DEADLINE, || {
            let found = number(&mut db, "SELECT count(*) FROM inbox.retry WHERE lane = 3")?;
            Ok((found == failed).then_some(()))
        })?;
        db.client
            .batch_execute("UPDATE inbox.retry SET next_attempt_at = now() + '1 hour' WHERE attempts > 0")?;
    }
    let call = |client: &mut Client| -> Result<bool> {
        Ok(client.query_one("CALL inbox.await('s', '300 ms')", &[])?.get(0))
    };
    assert!(!call(&mut session)?, "nothing can be received");
    assert!(receive(&mut session, 100)?.is_empty());
    store(&mut db, &[(20_004, 4, "d")])?;
    assert!(call(&mut session)?);
    assert_eq!(receive(&mut session, 100)?, [20_004]);
    // There is room again.
    db.client.batch_execute("DELETE FROM inbox.retry WHERE lane = 5 AND position > 1000")?;
    assert!(call(&mut session)?);
    assert_eq!(receive(&mut session, 100)?, [20_003]);
    Ok(())
}

/// An event that is given back, and the later ones of its key, need places.
#[test]
fn what_has_no_place_to_wait_cannot_be_given_back() -> Result<()> {
    let mut db = waiting(MOST - 2)?;
    store(&mut db, &[(20_001, 3, "a"), (20_002, 3, "a"), (20_003, 3, "a"), (20_004, 3, "b")])?;
    let nack = |position: i64| format!("SELECT inbox.nack('s', {position}, 'no')");
    db.client.batch_execute("BEGIN")?;
    assert_eq!(receive(&mut db.client, 100)?.len(), 4);
    db.client.batch_execute("SAVEPOINT s")?;
    let error = db.client.batch_execute(&nack(20_001)).expect_err("there is no place for three");
    assert!(is_full(&error), "{error:?}");
    db.client.batch_execute("ROLLBACK TO s")?;
    db.client.batch_execute(&nack(20_004))?;
    db.client.batch_execute(&nack(20_003))?;
    db.client.batch_execute("COMMIT")?;
    assert_eq!(number(&mut db, "SELECT count(*) FROM inbox.retry")?, MOST);
    Ok(())
}

/// The end of a transaction that has received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Commit,
    /// With an error that is not the events' fault, so the worker has nothing to record.
    Fail,
    CommitPrepared,
    RollBackPrepared,
}

impl End {
    /// What comes before somebody waits.
    fn prepare(self, client: &mut Client, id: &str) -> Result<()> {
        if matches!(self, Self::CommitPrepared | Self::RollBackPrepared) {
            client.batch_execute(&format!("PREPARE TRANSACTION '{id}'"))?;
        }
        Ok(())
    }

    fn end(self, client: &mut Client, id: &str) -> Result<()> {
        match self {
            Self::Commit => client.batch_execute("COMMIT")?,
            Self::CommitPrepared => client.batch_execute(&format!("COMMIT PREPARED '{id}'"))?,
            Self::RollBackPrepared => client.batch_execute(&format!("ROLLBACK PREPARED '{id}'"))?,
            Self::Fail => {
                let again = "DO $$ BEGIN RAISE EXCEPTION 'again' USING ERRCODE = '40001'; END $$";
                client.batch_execute(again).expect_err("raised");
                client.batch_execute("ROLLBACK")?;
            }
        }
        Ok(())
    }
}

/// Who waits is woken when another session gives back a lane, or leaves something in it.
#[test]
fn a_session_that_waits_is_woken_when_a_lane_is_free() -> Result<()> {
    const ROUNDS: i64 = 11;
    for end in [End::Commit, End::Fail, End::CommitPrepared, End::RollBackPrepared] {
        let mut db = subscription("key")?;
        let events: Vec<(i64, i16, String)> = (1..=2 * ROUNDS).map(|n| (n, 3, format!("k{n}"))).collect();
        let events: Vec<(i64, i16, &str)> = events.iter().map(|(n, lane, key)| (*n, *lane, &**key)).collect();
        store(&mut db, &events)?;
        let id = format!("waits_{}", db.database);
        let mut took = Vec::new();
        for _ in 0..ROUNDS {
            db.client.batch_execute("BEGIN")?;
            assert_eq!(receive(&mut db.client, 1)?.len(), 1);
            end.prepare(&mut db.client, &id)?;
            let mut waits = db.connect()?;
            let pid: i32 = waits.query_one("SELECT pg_backend_pid()", &[])?.get(0);
            let woken = thread::spawn(move || -> Result<(bool, Instant)> {
                let is_ready = waits.query_one("CALL inbox.await('s', '30 s')", &[])?.get(0);
                Ok((is_ready, Instant::now()))
            });
            let sql = format!(
                "SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Extension'"
            );
            let mut looks = db.connect()?;
            wait::until_ok("the session to sleep", DEADLINE, || {
                Ok((looks.query_one(&sql, &[])?.get::<_, i64>(0) == 1).then_some(()))
            })?;
            let begin = Instant::now();
            end.end(&mut db.client, &id)?;
            let (is_ready, at) = woken.join().map_err(|_| anyhow::anyhow!("the session panicked"))??;
            assert!(is_ready);
            took.push(at.saturating_duration_since(begin));
        }
        took.sort_unstable();
        // Without a signal the session looks again after a second.
        assert!(took[took.len() / 2] < Duration::from_millis(400), "{end:?}: {took:?}");
    }
    Ok(())
}
