//! A ledger of emitted events, to compare with the records that arrive.

use event_outbox_lab::verdict::{Promise, Verdict};
use event_outbox_lab::{Broker, Consumer, Result};
use postgres::Client;

/// The keys of a ledger's events.
const KEYS: i32 = 7;

/// The events of a topic, recorded in the table `promised` of the database that emits them.
pub struct Ledger {
    pub topic: String,
}

impl Ledger {
    /// Opens the ledger of a topic.
    pub fn open(client: &mut Client, topic: &str) -> Result<Self> {
        client.batch_execute(
            "CREATE TABLE IF NOT EXISTS promised (
               seq bigint GENERATED ALWAYS AS IDENTITY, topic text, event_id uuid, key text, payload jsonb)",
        )?;
        Ok(Self { topic: topic.into() })
    }

    /// Emits `count` events of a few keys in one transaction.
    pub fn emit(&self, client: &mut Client, count: i32) -> Result<()> {
        client.execute(
            "INSERT INTO promised (topic, event_id, key, payload)
             SELECT $1, outbox.emit($1, e.payload, key => e.key), e.key, e.payload
               FROM (SELECT (n % $3)::text AS key, jsonb_build_object('n', n, 'pad', repeat('x', 100)) AS payload
                       FROM generate_series(1, $2) AS n) AS e",
            &[&self.topic, &count, &KEYS],
        )?;
        Ok(())
    }

    /// Compares what the broker holds with what was promised.
    pub fn verdict(&self, client: &mut Client, broker: &Broker) -> Result<Verdict> {
        let rows = client
            .query("SELECT seq, event_id, key, payload FROM promised WHERE topic = $1", &[&self.topic])?;
        let promises: Vec<_> = rows
            .iter()
            .map(|row| Promise {
                seq: row.get(0),
                event_id: row.get(1),
                key: row.get(2),
                payload: row.get(3),
                committed_ms: 0.0,
            })
            .collect();
        assert!(!promises.is_empty(), "nothing was promised");
        let records = Consumer::read_all(&broker.bootstrap_servers(), &[&self.topic])?;
        // The ledger does not have the times of the commits.
        Ok(Verdict { latencies_ms: Vec::new(), ..Verdict::of(&promises, &records) })
    }

    /// Asserts that all events arrived exactly once and in order.
    pub fn assert_exactly_once(&self, client: &mut Client, broker: &Broker) -> Result<()> {
        let verdict = self.verdict(client, broker)?;
        assert!(verdict.is_clean(), "{verdict:?}");
        Ok(())
    }

    /// Asserts that all events arrived in order, some of them perhaps more than once.
    pub fn assert_at_least_once(&self, client: &mut Client, broker: &Broker) -> Result<()> {
        let mut verdict = self.verdict(client, broker)?;
        let duplicated = std::mem::take(&mut verdict.duplicated);
        assert!(verdict.is_clean(), "{verdict:?}, and {duplicated} duplicated, which is allowed");
        Ok(())
    }
}
