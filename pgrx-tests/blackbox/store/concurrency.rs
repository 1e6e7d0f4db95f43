//! Whoever appends at the same time: versions are dense, nothing is lost, and a stream is all that is locked.

use std::thread;

use event_outbox_lab::Result;
use postgres::Client;

use crate::support::database::TestDatabase;
use crate::support::streams::{append, types};

const WRITERS: usize = 64;

/// Runs `work` in as many sessions as there are writers.
fn together(db: &TestDatabase, work: impl Fn(usize, &mut Client) -> Result<()> + Sync) -> Result<()> {
    let clients: Vec<Client> = (0..WRITERS).map(|_| db.connect()).collect::<Result<_>>()?;
    thread::scope(|scope| {
        let work = &work;
        let sessions: Vec<_> = clients
            .into_iter()
            .enumerate()
            .map(|(writer, mut client)| scope.spawn(move || work(writer, &mut client)))
            .collect();
        sessions.into_iter().try_for_each(|session| session.join().expect("a writer"))
    })
}

/// Whether the versions of each stream are 1, 2, 3, …, in the order of positions, and how many events there are.
fn dense(db: &mut TestDatabase) -> Result<(bool, i64)> {
    let sql = "SELECT bool_and(version = place), count(*)
                 FROM (SELECT e.version, row_number() OVER (PARTITION BY e.stream_id ORDER BY e.position) AS place
                         FROM event_store.event AS e) AS e";
    let row = db.client.query_one(sql, &[])?;
    Ok((row.get(0), row.get(1)))
}

#[test]
fn any_never_fails_on_one_stream() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    together(&db, |writer, client| {
        for _ in 0..10 {
            append(client, "a-1", "any", &format!("w{writer}"))?;
        }
        Ok(())
    })?;
    assert_eq!(dense(&mut db)?, (true, 640));
    let mut found = types(&mut db.client, "a-1")?;
    found.dedup();
    assert!(found.len() > WRITERS, "the writers did not run together");
    Ok(())
}

#[test]
fn expected_versions_let_one_win_and_the_others_retry() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    together(&db, |writer, client| {
        for _ in 0..4 {
            loop {
                let version: i64 = client.query_one("SELECT event_store.stream_version('a-1')", &[])?.get(0);
                match append(client, "a-1", &version.to_string(), &format!("w{writer}")) {
                    Ok(after) => {
                        assert_eq!(after, version + 1);
                        break;
                    }
                    Err(error) => {
                        let error = error.as_db_error().expect("an error of the database");
                        assert_eq!(error.code().code(), "OE001", "{error}");
                        let actual = error.detail().and_then(|detail| {
                            detail.strip_prefix("The version is ")?.strip_suffix('.')?.parse::<i64>().ok()
                        });
                        assert!(actual > Some(version), "{error:?} after {version}");
                    }
                }
            }
        }
        Ok(())
    })?;
    assert_eq!(dense(&mut db)?, (true, 256));
    Ok(())
}

#[test]
fn many_streams_in_one_category_do_not_wait_for_each_other() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    // A transaction that stays open hinders nobody who appends to another stream, not even the first of its category.
    let mut idle = db.connect()?;
    idle.batch_execute("BEGIN")?;
    append(&mut idle, "a-idle", "no_stream", "x")?;
    together(&db, |writer, client| {
        client.batch_execute("SET lock_timeout = '20 s'")?;
        for at in 0..10 {
            append(client, &format!("a-{writer}"), &at.to_string(), "x")?;
        }
        Ok(())
    })?;
    idle.batch_execute("COMMIT")?;
    assert_eq!(dense(&mut db)?, (true, 641));
    Ok(())
}

#[test]
fn one_of_many_creates_a_stream() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    together(&db, |_, client| {
        match append(client, "a-new", "no_stream", "x") {
            Ok(version) => assert_eq!(version, 1),
            Err(error) => assert_eq!(error.code().map(|code| code.code()), Some("OE001"), "{error:?}"),
        }
        Ok(())
    })?;
    assert_eq!(dense(&mut db)?, (true, 1));
    Ok(())
}

#[test]
fn a_command_that_many_send_is_handled_once() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    together(&db, |_, client| {
        let sql = "SELECT event_store.append('a-1', 'any', '{\"type\": \"x\"}', command_id => 'c')";
        assert_eq!(client.query_one(sql, &[])?.get::<_, i64>(0), 1);
        Ok(())
    })?;
    assert_eq!(dense(&mut db)?, (true, 1));
    Ok(())
}

#[test]
fn an_older_snapshot_does_not_mislead() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    append(&mut db.client, "a-1", "any", "one")?;
    for isolation in ["REPEATABLE READ", "SERIALIZABLE"] {
        let before: i64 = db.client.query_one("SELECT event_store.stream_version('a-1')", &[])?.get(0);
        let mut old = db.connect()?;
        old.batch_execute(&format!(
            "BEGIN ISOLATION LEVEL {isolation}; SELECT count(*) FROM event_store.event"
        ))?;
        append(&mut db.client, "a-1", "any", "between")?;
        assert_eq!(append(&mut old, "a-1", "any", "late")?, before + 2);
        assert_eq!(append(&mut old, "a-1", &(before + 2).to_string(), "later")?, before + 3);
        old.batch_execute(
            "COMMIT; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM event_store.event",
        )?;
        append(&mut db.client, "a-1", "any", "between")?;
        let error = append(&mut old, "a-1", &(before + 3).to_string(), "late").expect_err("too late");
        assert_eq!(error.code().map(|code| code.code()), Some("OE001"), "{error:?}");
    }
    assert!(dense(&mut db)?.0);
    Ok(())
}
