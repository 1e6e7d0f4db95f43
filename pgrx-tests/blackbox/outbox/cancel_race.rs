//! `outbox.cancel()` beside a relay that is moving the event: exactly one of the two has it.

use std::thread;

use event_outbox_lab::{Result, wait};
use uuid::Uuid;

use crate::support::database::{DEADLINE, TestDatabase};

/// The move of the relay, whose transaction a session plays: it locks the row, and commits or not.
const MOVE: &str = "WITH due AS (DELETE FROM outbox.scheduled RETURNING *)
    INSERT INTO outbox.events (event_id, topic, payload) SELECT event_id, topic, payload FROM due";

#[test]
fn an_event_is_either_cancelled_or_on_its_way() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    for is_moved in [true, false] {
        let emit = "SELECT outbox.emit('t', '1'::jsonb, deliver_at => now() + interval '1 hour')";
        let id: Uuid = db.client.query_one(emit, &[])?.get(0);
        let mut relay = db.connect()?;
        let mut moving = relay.transaction()?;
        moving.batch_execute(MOVE)?;
        let mut session = db.connect()?;
        let pid: i32 = session.query_one("SELECT pg_backend_pid()", &[])?.get(0);
        let cancelling = thread::spawn(move || {
            session.query_one("SELECT outbox.cancel($1)", &[&id]).map(|row| row.get::<_, bool>(0))
        });
        wait::until_ok("the cancellation to wait for the move", DEADLINE, || {
            let sql = "SELECT cardinality(pg_blocking_pids($1)) > 0";
            Ok(db.client.query_one(sql, &[&pid])?.get::<_, bool>(0).then_some(()))
        })?;
        if is_moved {
            moving.commit()?;
        } else {
            moving.rollback()?;
        }
        let is_cancelled = cancelling.join().expect("no panic")?;
        assert_eq!(is_cancelled, !is_moved);
        let sql = "SELECT (SELECT count(*) FROM outbox.events), (SELECT count(*) FROM outbox.scheduled)";
        let row = db.client.query_one(sql, &[])?;
        assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (i64::from(is_moved), 0));
        db.client.batch_execute("DELETE FROM outbox.events")?;
    }
    Ok(())
}
