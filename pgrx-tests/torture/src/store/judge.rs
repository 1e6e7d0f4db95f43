//! The judge of the event store.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;

use anyhow::Result;
use postgres::Client;

use super::{Journal, SUBSCRIPTION, TOPIC};
use crate::journal::Ending;
use event_outbox_lab::Consumer;
use event_outbox_lab::progress::grouped;

/// How many cases of one fault are told.
const TOLD: usize = 5;

/// The transaction and the number of an event.
type Id = (i64, i64);

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    /// What must not be.
    pub wrong: Vec<String>,
    /// How much there was.
    pub figures: String,
}

/// An event in the store.
struct Stored {
    stream: String,
    category: String,
    version: i64,
    position: i64,
    event_id: String,
    id: Id,
}

const COMMITTED: &str = "SELECT number FROM torture.store_transactions";
const STORED: &str = "SELECT s.name, e.category, e.version, e.position, e.event_id::text, \
                             (e.data ->> 't')::int8, (e.data ->> 'n')::int8 \
                        FROM event_store.event AS e JOIN event_store.stream AS s ON s.id = e.stream_id ORDER BY e.position";
const HANDLED: &str = "SELECT stream, version FROM torture.store_handled ORDER BY place";
const GOT: &str = "SELECT stream, version, position FROM torture.store_read ORDER BY place";
const DEAD: &str = "SELECT concat_ws(' ', d.\"offset\", d.last_error) FROM inbox.dead_letters AS d \
                      JOIN inbox.subscription AS s ON s.id = d.subscription_id WHERE s.name = $1";

impl Findings {
    fn report(&mut self, what: &str, cases: Vec<impl Debug>) {
        if !cases.is_empty() {
            self.wrong.push(format!(
                "{}: {}, such as {:?}",
                what,
                cases.len(),
                &cases[..cases.len().min(TOLD)]
            ));
        }
    }
}

/// Compares what was appended with everything that came of it.
pub fn judge(journal: &Journal, client: &mut Client, bootstrap_servers: &str) -> Result<Findings> {
    let mut findings = Findings { wrong: journal.wrong.clone(), ..Findings::default() };
    let rows = client.query(COMMITTED, &[])?;
    let committed: HashSet<i64> = rows.iter().map(|row| row.get(0)).collect();
    let stored = stored(client)?;
    endings(journal, &committed, &mut findings);
    versions(&stored, &mut findings);
    content(journal, &committed, &stored, &mut findings);
    let handled = handled(client, &stored, &mut findings)?;
    reader(client, &stored, &mut findings)?;
    let published = published(bootstrap_servers, journal, &committed, &stored, &mut findings)?;
    let dead = client.query(DEAD, &[&SUBSCRIPTION])?;
    findings.report("events that died", dead.iter().map(|row| row.get::<_, String>(0)).collect());
    let [transactions, of_them, events, handled, published, conflicts, retries] = [
        journal.endings.len(),
        committed.len(),
        stored.len(),
        handled,
        published,
        journal.conflicts,
        journal.retries,
    ]
    .map(grouped);
    findings.figures = format!(
        "{transactions} transactions, {of_them} committed, {events} events in streams, {handled} handled, \
         {published} records published, {conflicts} conflicts, {retries} commands repeated"
    );
    Ok(findings)
}

fn stored(client: &mut Client) -> Result<Vec<Stored>> {
    let rows = client.query(STORED, &[])?;
    let event = |row: &postgres::Row| Stored {
        stream: row.get(0),
        category: row.get(1),
        version: row.get(2),
        position: row.get(3),
        event_id: row.get(4),
        id: (row.get::<_, Option<i64>>(5).unwrap_or(0), row.get::<_, Option<i64>>(6).unwrap_or(0)),
    };
    Ok(rows.iter().map(event).collect())
}

/// What the server has reported is what became of the transactions.
fn endings(journal: &Journal, committed: &HashSet<i64>, findings: &mut Findings) {
    let contradicted = journal.endings.iter().filter(|(number, ending)| match ending {
        Ending::Committed => !committed.contains(number),
        Ending::RolledBack => committed.contains(number),
        Ending::CommittedAsynchronously(_) | Ending::Unknown => false,
    });
    findings.report("transactions of which the server has reported another end", contradicted.collect());
}

/// Each stream has the versions from 1 on, without a gap, and its positions have the same order.
fn versions(stored: &[Stored], findings: &mut Findings) {
    let mut last: HashMap<&str, i64> = HashMap::new();
    let mut wrong = Vec::new();
    for event in stored {
        let before = last.insert(&event.stream, event.version).unwrap_or(0);
        if event.version != before + 1 {
            wrong.push(format!("{} has version {} after {before}", event.stream, event.version));
        }
    }
    findings.report("versions that do not follow each other", wrong);
}

/// The store has the events of the committed transactions, each once and in its stream, and no others.
fn content(journal: &Journal, committed: &HashSet<i64>, stored: &[Stored], findings: &mut Findings) {
    let mut found: HashMap<Id, Vec<&str>> = HashMap::new();
    for event in stored {
        found.entry(event.id).or_default().push(&event.stream);
    }
    let (mut lost, mut ghosts, mut other) = (Vec::new(), Vec::new(), Vec::new());
    for event in &journal.events {
        let streams = found.remove(&event.id).unwrap_or_default();
        match (committed.contains(&event.id.0), &streams[..]) {
            (true, []) => lost.push(event),
            (true, [stream]) if *stream == event.stream => {}
            (false, []) => {}
            (false, _) => ghosts.push(event),
            (true, _) => other.push((event, streams)),
        }
    }
    findings.report("events of committed transactions that are not in the store", lost);
    findings.report("events of rolled back transactions that are in the store", ghosts);
    findings.report("events that are in the store twice, or in another stream", other);
    findings.report("events that nobody has appended", found.into_iter().collect());
}

/// The handler was called with each event of the category once, in the order of its stream. Returns how often.
fn handled(client: &mut Client, stored: &[Stored], findings: &mut Findings) -> Result<usize> {
    let rows = client.query(HANDLED, &[])?;
    let mut last: HashMap<String, i64> = HashMap::new();
    let mut wrong = Vec::new();
    for row in &rows {
        let (stream, version): (String, i64) = (row.get(0), row.get(1));
        let before = last.insert(stream.clone(), version).unwrap_or(0);
        if version != before + 1 {
            wrong.push(format!("{stream}: version {version} after {before}"));
        }
    }
    findings.report("events that were not handled once, in the order of their stream", wrong);
    let wanted = stored.iter().filter(|event| event.category == "stream");
    let missing = wanted.filter(|event| last.get(&event.stream).is_none_or(|last| *last < event.version));
    let missing = missing.map(|event| (&event.stream, event.version)).collect();
    findings.report("events that were not handled", missing);
    Ok(rows.len())
}

/// The reader has got each event once, in the order of positions.
fn reader(client: &mut Client, stored: &[Stored], findings: &mut Findings) -> Result<()> {
    let rows = client.query(GOT, &[])?;
    let got: Vec<(String, i64, i64)> = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let known: HashSet<i64> = got.iter().map(|(.., position)| *position).collect();
    let back = got.windows(2).filter(|pair| pair[1].2 <= pair[0].2).map(|pair| pair[1].clone());
    findings.report("events that a reader got again, or late", back.collect());
    let missed = stored.iter().filter(|event| !known.contains(&event.position));
    findings.report("events that a reader has missed", missed.map(|event| event.position).collect());
    let exist: HashSet<i64> = stored.iter().map(|event| event.position).collect();
    findings.report("events that only a reader has", known.difference(&exist).collect());
    Ok(())
}

/// Kafka has what was to be published, in the order of each stream, and nothing else. Returns how many records.
fn published(
    bootstrap_servers: &str,
    journal: &Journal,
    committed: &HashSet<i64>,
    stored: &[Stored],
    findings: &mut Findings,
) -> Result<usize> {
    let by_id: HashMap<Id, &Stored> = stored.iter().map(|event| (event.id, event)).collect();
    let emitted: HashSet<Id> =
        journal.events.iter().filter(|event| event.is_emitted).map(|event| event.id).collect();
    let (mut records, mut seen, mut last) = (0, HashSet::new(), HashMap::<&str, i64>::new());
    let (mut strange, mut unordered) = (Vec::new(), Vec::new());
    Consumer::visit_all(bootstrap_servers, &[TOPIC], |record| {
        records += 1;
        let value: serde_json::Value =
            record.value.as_deref().and_then(|value| serde_json::from_slice(value).ok()).unwrap_or_default();
        let id = (value["t"].as_i64().unwrap_or(0), value["n"].as_i64().unwrap_or(0));
        let event = by_id.get(&id).filter(|event| {
            emitted.contains(&id)
                && record.key_text() == Some(&event.stream)
                && record.header("ce_id") == Some(&event.event_id)
                && record.header("version") == Some(&event.version.to_string())
        });
        let Some(event) = event else { return strange.push(format!("{record:?}")) };
        if seen.insert(id) {
            let before = last.insert(&event.stream, event.version).unwrap_or(0);
            if event.version <= before {
                unordered.push((&event.stream, event.version, before));
            }
        }
    })?;
    findings.report("records of events that were not to be published", strange);
    findings.report("events that were published behind later ones of their stream", unordered);
    let missing = emitted.iter().filter(|id| committed.contains(&id.0) && !seen.contains(*id));
    findings.report("events that were not published", missing.collect());
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::super::Appended;
    use super::*;

    fn event(stream: &str, version: i64, position: i64, id: Id) -> Stored {
        let (stream, category) = (stream.to_owned(), "stream".to_owned());
        Stored { stream, category, version, position, event_id: String::new(), id }
    }

    fn journal(events: &[(Id, &str)]) -> Journal {
        let appended =
            |(id, stream): &(Id, &str)| Appended { id: *id, stream: (*stream).to_owned(), is_emitted: false };
        Journal { events: events.iter().map(appended).collect(), ..Journal::default() }
    }

    fn judged(journal: &Journal, committed: &[i64], stored: &[Stored]) -> Vec<String> {
        let mut findings = Findings::default();
        versions(stored, &mut findings);
        content(journal, &committed.iter().copied().collect(), stored, &mut findings);
        endings(journal, &committed.iter().copied().collect(), &mut findings);
        findings.wrong
    }

    #[test]
    fn what_is_right_is_not_reported() {
        let journal = journal(&[((1, 1), "a"), ((1, 2), "b"), ((2, 1), "a"), ((3, 1), "a")]);
        let stored = [event("a", 1, 1, (1, 1)), event("b", 1, 2, (1, 2)), event("a", 2, 5, (3, 1))];
        assert_eq!(judged(&journal, &[1, 3], &stored), Vec::<String>::new());
    }

    #[test]
    fn each_fault_is_found() {
        let both = journal(&[((1, 1), "a"), ((1, 2), "a")]);
        let [first, second] = [(1, 1), (1, 2)];
        for (what, committed, stored) in [
            ("not in the store", vec![1], vec![event("a", 1, 1, first)]),
            ("rolled back", vec![], vec![event("a", 1, 1, first)]),
            (
                "twice",
                vec![1],
                vec![event("a", 1, 1, first), event("a", 2, 2, second), event("a", 3, 3, first)],
            ),
            ("another stream", vec![1], vec![event("a", 1, 1, first), event("b", 1, 2, second)]),
            (
                "nobody",
                vec![1],
                vec![event("a", 1, 1, first), event("a", 2, 2, second), event("a", 3, 3, (1, 3))],
            ),
            ("do not follow", vec![1], vec![event("a", 1, 1, first), event("a", 3, 2, second)]),
            ("do not follow", vec![1], vec![event("a", 2, 1, first), event("a", 1, 2, second)]),
        ] {
            let found = judged(&both, &committed, &stored);
            assert!(found.iter().any(|found| found.contains(what)), "{what}: {found:?}");
        }
        let mut lied = journal(&[]);
        lied.endings = HashMap::from([(7, Ending::Committed)]);
        assert!(judged(&lied, &[], &[])[0].contains("another end"));
    }
}
