//! A relay that plays the rules, one step at a time, so that it can be ended between any two.

use std::collections::BTreeMap;

use event_outbox_policy::delivery::marker::{EventPart, Found, Owner};
use event_outbox_policy::delivery::transaction::Transactions;

use super::database::Database;
use super::kafka::{Fate, Kafka, NoAnswer, Producer, Record};

/// How the relay works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// As it is.
    Real,
    /// It does not read the markers when it starts.
    SkipsMarkers,
    /// It goes on with its producer after an outcome that is unknown.
    ReusesProducer,
    /// It compares ids alone with those of markers.
    ComparesIds,
    /// A marker lists the events of its own transaction alone.
    ListsOneTransaction,
    /// It leaves events out of the markers before their deletion is on disk.
    ForgetsUnflushed,
    /// It leaves listed events out of the markers at once if it does not find their rows.
    ForgetsMissing,
    /// A claim takes the place of the marker.
    ClaimsOverMarker,
    /// It initialises its second producer when it needs it, and so leaves that of the former relay alone until then.
    FencesOne,
}

const OWNER: Owner = Owner { system: 1, database: 2, timeline: 1 };

fn identity(event: u128) -> [u8; 16] {
    event.to_be_bytes()
}

/// Where the relay is.
#[derive(Debug)]
enum At {
    Outside,
    /// The first producer is initialised.
    Half,
    Initialised,
    Claimed,
    /// The producer may be used.
    Ready,
    /// Events are being produced: those that are left, and then the marker.
    Producing(Vec<u128>),
    /// All is produced.
    Produced,
}

/// A relay. `instance` differs from that of every other.
#[derive(Debug)]
pub struct Relay {
    variant: Variant,
    rules: Transactions,
    /// Its producers, and whose turn it is.
    producers: [Producer; 2],
    turn: usize,
    at: At,
    /// The events of the open transaction, or of one whose outcome is unknown.
    sent: BTreeMap<i64, u128>,
    /// Published events, whose rows are to be deleted.
    published: BTreeMap<i64, u128>,
    /// Deleted, but perhaps not on disk.
    deleted: Vec<(i64, EventPart)>,
}

fn named(id: i64, event: u128) -> (i64, EventPart) {
    (id, EventPart::of(&identity(event)))
}

impl Relay {
    /// A relay that has just started.
    pub fn new(variant: Variant, instance: u8) -> Self {
        Self {
            variant,
            rules: Transactions::new(OWNER, [instance; 16], false),
            producers: Default::default(),
            turn: 0,
            at: At::Outside,
            sent: BTreeMap::new(),
            published: BTreeMap::new(),
            deleted: Vec::new(),
        }
    }

    /// Does the next step. Returns whether there was anything to do.
    pub fn step(&mut self, kafka: &mut Kafka, database: &mut Database, most: usize, fate: Fate) -> bool {
        match std::mem::replace(&mut self.at, At::Outside) {
            At::Outside => {
                self.turn = 0;
                self.producers = [kafka.initialise(0), Producer::default()];
                self.at = At::Half;
            }
            At::Half => {
                if self.variant != Variant::FencesOne {
                    self.producers[1] = kafka.initialise(1);
                }
                self.at = At::Initialised;
            }
            At::Initialised => {
                let mut claim = self.rules.claim();
                if self.variant == Variant::ClaimsOverMarker {
                    claim.key = OWNER.marker_key();
                }
                let done = kafka
                    .produce(self.producer(), Record::Own(claim))
                    .and_then(|()| kafka.end(self.producer(), true, fate));
                if done.is_ok() {
                    self.take_turns();
                    self.at = At::Claimed;
                }
            }
            At::Claimed => self.read_markers(kafka, database),
            At::Ready => return self.begin(database, most),
            At::Producing(left) => self.produce(kafka, left),
            At::Produced => self.commit(kafka, fate),
        }
        true
    }

    fn producer(&self) -> Producer {
        self.producers[self.turn]
    }

    fn take_turns(&mut self) {
        self.turn = 1 - self.turn;
    }

    fn read_markers(&mut self, kafka: &Kafka, database: &Database) {
        let mut found = Found::default();
        if self.variant != Variant::SkipsMarkers {
            let claims_over_marker = self.variant == Variant::ClaimsOverMarker;
            for record in &kafka.committed {
                let Record::Own(own) = record else { continue };
                let is_empty = own.value.len() <= 19;
                let value = (!(claims_over_marker && is_empty)).then_some(&*own.value);
                found.read(&OWNER, self.rules.instance(), own.key.as_bytes(), value);
            }
            let is_there = found.claim() == Some(self.rules.last_claim());
            assert!(claims_over_marker || is_there, "a claim that was confirmed is there");
        }
        let start = self.rules.start(&found);
        if start.decided == Some(true) {
            self.published.append(&mut self.sent);
        }
        self.sent.clear();
        for (id, part) in start.published {
            let row = database.table.rows.get(&id).copied();
            let is_same = |event: &u128| {
                self.variant == Variant::ComparesIds || EventPart::of(&identity(*event)) == part
            };
            match row.filter(is_same) {
                Some(event) => {
                    self.published.insert(id, event);
                }
                None if self.variant == Variant::ForgetsMissing => self.rules.deleted([(id, part)]),
                // Whoever deleted it may have done so just before, and the disk may not have that yet.
                None => self.deleted.push((id, part)),
            }
        }
        self.at = At::Ready;
    }

    fn begin(&mut self, database: &Database, most: usize) -> bool {
        self.at = At::Ready;
        let is_new = |(id, _): &(&i64, &u128)| !self.published.contains_key(id);
        self.sent = database
            .table
            .rows
            .iter()
            .filter(is_new)
            .take(most.max(1))
            .map(|(id, event)| (*id, *event))
            .collect();
        if self.sent.is_empty() {
            return false;
        }
        if self.variant == Variant::ListsOneTransaction {
            let published = self.published.iter().map(|(id, event)| named(*id, *event));
            self.rules.deleted(published.chain(self.deleted.iter().copied()));
        }
        let events = self.sent.iter().map(|(id, event)| named(*id, *event)).collect();
        if !self.rules.begin(events) {
            return false;
        }
        self.at = At::Producing(self.sent.values().rev().copied().collect());
        true
    }

    fn produce(&mut self, kafka: &mut Kafka, mut left: Vec<u128>) {
        if self.producer() == Producer::default() {
            self.producers[self.turn] = kafka.initialise(self.turn);
        }
        let next = left.pop();
        let is_last = next.is_none();
        let record = next.map_or_else(|| Record::Own(self.rules.marker()), Record::Event);
        match kafka.produce(self.producer(), record) {
            Ok(()) if is_last => self.at = At::Produced,
            Ok(()) => self.at = At::Producing(left),
            Err(_) => self.lose(),
        }
    }

    fn commit(&mut self, kafka: &mut Kafka, fate: Fate) {
        self.rules.request_commit();
        match kafka.end(self.producer(), true, fate) {
            Ok(()) => {
                self.rules.committed();
                self.take_turns();
                self.published.append(&mut self.sent);
                self.at = At::Ready;
            }
            Err(NoAnswer::Unknown) if self.variant == Variant::ReusesProducer => {
                // It aborts, and sends all again. A new state has the same effect: it knows of no transaction.
                let _ = kafka.end(self.producer(), false, Fate::Answered);
                let found = Found::default();
                self.rules.lost();
                let _ = self.rules.start(&found);
                self.sent.clear();
                self.at = At::Ready;
            }
            Err(_) => self.lose(),
        }
    }

    /// The producer is used no more.
    fn lose(&mut self) {
        self.rules.lost();
        self.at = At::Outside;
    }

    /// Kafka refuses an event of the open transaction: the relay aborts it, if its commit was not requested.
    pub fn abort(&mut self, kafka: &mut Kafka) {
        if !matches!(self.at, At::Producing(_) | At::Produced) {
            return;
        }
        match kafka.end(self.producer(), false, Fate::Answered) {
            Ok(()) => {
                self.rules.aborted();
                self.take_turns();
                self.sent.clear();
                self.at = At::Ready;
            }
            Err(_) => self.lose(),
        }
    }

    /// Deletes the rows of published events.
    pub fn settle(&mut self, database: &mut Database) -> bool {
        let published = std::mem::take(&mut self.published);
        published.iter().for_each(|(id, event)| database.delete(*id, *event));
        self.deleted.extend(published.iter().map(|(id, event)| named(*id, *event)));
        if self.variant == Variant::ForgetsUnflushed {
            self.rules.deleted(published.iter().map(|(id, event)| named(*id, *event)));
        }
        !published.is_empty()
    }

    /// The disk has all deletions.
    pub fn flushed(&mut self) {
        self.rules.deleted(std::mem::take(&mut self.deleted));
    }
}
