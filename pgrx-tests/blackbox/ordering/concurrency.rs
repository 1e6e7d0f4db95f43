//! Many writers at once: nothing is lost, invented or doubled, and each key keeps its order.

use std::thread;

use event_outbox_lab::verdict::{Promise, Verdict};
use event_outbox_lab::{Record, Result};
use postgres::Client;
use serde_json::Value;

use crate::support::database::{TestDatabase, values};
use crate::support::events::emit;

const WRITERS: usize = 8;
const TRANSACTIONS: u64 = 120;
const KEYS: u64 = 5;

#[test]
fn a_low_id_that_commits_late_is_published_promptly() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("late");
    let mut slow = db.connect()?;
    let mut late = slow.transaction()?;
    emit(&mut late, &topic, 1)?;
    // Other transactions overtake it, one commit after the other, and the relay passes it.
    for number in 2..=6 {
        emit(&mut db.client, &topic, number)?;
        db.promptly(&topic, number as usize - 1)?;
    }
    late.commit()?;
    assert_eq!(values(&db.promptly(&topic, 6)?), ["2", "3", "4", "5", "6", "1"]);
    Ok(())
}

#[test]
fn several_late_commits_are_found_in_whatever_order_they_come() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("several");
    let mut clients: Vec<_> = (0..5).map(|_| db.connect()).collect::<Result<_>>()?;
    for (client, number) in clients.iter_mut().zip(1..) {
        client.batch_execute("BEGIN")?;
        emit(client, &topic, number)?;
    }
    for (at, count) in [(3, 1), (0, 2), (4, 3)] {
        clients[at].batch_execute("COMMIT")?;
        db.promptly(&topic, count)?;
    }
    // A transaction that still runs emits again, with a higher id.
    emit(&mut clients[2], &topic, 6)?;
    clients[1].batch_execute("ROLLBACK")?;
    clients[2].batch_execute("COMMIT")?;
    assert_eq!(values(&db.promptly(&topic, 5)?), ["4", "1", "5", "3", "6"]);
    assert_eq!(db.drained(&topic)?.len(), 5);
    Ok(())
}

/// More subtransactions than a snapshot lists: it then knows only their parent.
#[test]
fn a_late_commit_with_many_savepoints_is_found_whole() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("savepoints");
    let mut slow = db.connect()?;
    let mut late = slow.transaction()?;
    for number in 1..=100 {
        let mut savepoint = late.savepoint("part")?;
        emit(&mut savepoint, &topic, number)?;
        if number % 10 == 0 {
            savepoint.rollback()?
        } else {
            savepoint.commit()?
        }
        // The relay sweeps while the transaction grows.
        if number % 20 == 0 {
            emit(&mut db.client, &topic, -number)?;
            db.promptly(&topic, number as usize / 20)?;
        }
    }
    late.commit()?;
    let numbers: Vec<i32> =
        db.promptly(&topic, 95)?.iter().filter_map(|record| record.value_text()?.parse().ok()).collect();
    assert_eq!(numbers[..5], [-20, -40, -60, -80, -100]);
    assert_eq!(numbers[5..], (1..=100).filter(|number| number % 10 != 0).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn two_databases_have_a_relay_each() -> Result<()> {
    let mut databases = [TestDatabase::new()?, TestDatabase::new()?];
    assert_ne!(databases[0].relay()?, databases[1].relay()?);
    // Both databases write to one topic, with the same ids.
    let topic = databases[0].topic("shared");
    for number in 1..=50 {
        for db in &mut databases {
            emit(&mut db.client, &topic, number)?;
        }
    }
    databases[0].drained(&topic)?;
    let records = databases[1].drained(&topic)?;
    for db in &databases {
        let is_own = |record: &&Record| {
            record.header("ce_source").is_some_and(|source| source.ends_with(&format!("/{}", db.database)))
        };
        let own: Vec<_> = records.iter().filter(is_own).cloned().collect();
        assert_eq!(values(&own), (1..=50).map(|number| number.to_string()).collect::<Vec<_>>());
    }
    assert_eq!(records.len(), 100);
    Ok(())
}

#[test]
fn eight_writers_keep_the_order_of_each_key() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("writers");
    db.broker.create_topic(&topic, 4, &[])?;
    db.client.batch_execute(
        "CREATE TABLE accounts (key text PRIMARY KEY, seq bigint NOT NULL);
         CREATE TABLE promises (key text, seq bigint, event_id uuid, payload jsonb)",
    )?;
    db.client.execute(
        "INSERT INTO accounts SELECT 'key ' || n, 0 FROM generate_series(0, $1::int - 1) AS n",
        &[&(KEYS as i32)],
    )?;
    let clients: Vec<_> = (0..WRITERS).map(|_| db.connect()).collect::<Result<_>>()?;
    let outcomes: Vec<Result<u64>> = thread::scope(|scope| {
        let writers: Vec<_> = (0_i32..)
            .zip(clients)
            .map(|(writer, client)| {
                scope.spawn({
                    let topic = &topic;
                    move || write(client, topic, writer)
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().expect("a writer panicked")).collect()
    });
    let committed: u64 = outcomes.into_iter().sum::<Result<u64>>()?;

    let records = db.drained(&topic)?;
    let promises = promises(&mut db.client)?;
    let verdict = Verdict::of(&promises, &records);
    assert!(verdict.is_clean(), "{verdict:?}");
    assert_eq!((promises.len() as u64, verdict.published as u64), (committed, committed));
    assert_eq!(verdict.busy_keys as u64, KEYS);
    Ok(())
}

/// One writer: each transaction locks an aggregate, then emits under its key. Some are rolled back, some of them in part.
/// Returns the number of committed events.
fn write(mut client: Client, topic: &str, writer: i32) -> Result<u64> {
    const PROMISE: &str = "
        WITH account AS (UPDATE accounts SET seq = seq + 1 WHERE key = $2 RETURNING seq),
             event AS (SELECT seq, jsonb_build_object('seq', seq, 'writer', $3::int) AS payload FROM account)
        INSERT INTO promises SELECT $2, seq, outbox.emit($1, payload, key => $2), payload FROM event";
    let mut random = Random(u64::from(writer.unsigned_abs()));
    let mut committed = 0;
    for _ in 0..TRANSACTIONS {
        let key = format!("key {}", random.below(KEYS));
        let arguments: [&(dyn postgres::types::ToSql + Sync); 3] = [&topic, &key, &writer];
        let mut transaction = client.transaction()?;
        transaction.execute(PROMISE, &arguments)?;
        let mut savepoint = transaction.savepoint("more")?;
        savepoint.execute(PROMISE, &arguments)?;
        let kept = random.below(3) > 0;
        if kept {
            savepoint.commit()?
        } else {
            savepoint.rollback()?
        }
        if random.below(4) > 0 {
            transaction.commit()?;
            committed += 1 + u64::from(kept);
        } else {
            transaction.rollback()?;
        }
    }
    Ok(committed)
}

fn promises(client: &mut Client) -> Result<Vec<Promise>> {
    let rows = client.query("SELECT seq, event_id, key, payload FROM promises", &[])?;
    Ok(rows
        .iter()
        .map(|row| Promise {
            seq: row.get(0),
            event_id: row.get(1),
            key: row.get(2),
            payload: row.get::<_, Value>(3),
            committed_ms: 0.0,
        })
        .collect())
}

/// The same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}
