//! A coordinator of transactions and the records that readers of committed data see. A request to end a transaction can
//! arrive late: then it ends whichever transaction of its producer is open.

use event_outbox_policy::delivery::transaction::OwnRecord;

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// An event, by its identity.
    Event(u128),
    /// A marker or a claim.
    Own(OwnRecord),
}

/// What becomes of a request to end a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is answered.
    Answered,
    /// It arrives, but its answer does not.
    AnswerLost,
    /// It never arrives.
    Lost,
    /// It arrives at any later time.
    Late,
}

/// Kafka gave no answer, or refused the producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAnswer {
    /// The outcome is unknown.
    Unknown,
    /// Another producer has this transactional id now.
    Fenced,
}

/// What Kafka knows of a transactional id.
#[derive(Debug, Default)]
struct Transactor {
    /// The epoch of the latest producer.
    epoch: u32,
    open: Option<Vec<Record>>,
}

/// A producer: its place among the transactional ids, and its epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Producer {
    /// The transactional id.
    pub place: usize,
    epoch: u32,
}

/// Kafka.
#[derive(Debug, Default)]
pub struct Kafka {
    transactors: [Transactor; 2],
    /// The records of committed transactions.
    pub committed: Vec<Record>,
    /// Requests that are on their way, and whether they commit.
    late: Vec<(Producer, bool)>,
}

impl Kafka {
    /// Initialises a producer: fences all others with its transactional id, and ends what they left open.
    pub fn initialise(&mut self, place: usize) -> Producer {
        let transactor = &mut self.transactors[place];
        transactor.open = None;
        transactor.epoch += 1;
        Producer { place, epoch: transactor.epoch }
    }

    /// The coordinator aborts the transactions that are open for too long.
    pub fn time_out(&mut self) {
        for place in 0..self.transactors.len() {
            if self.transactors[place].open.is_some() {
                self.initialise(place);
            }
        }
    }

    fn has_fenced(&self, producer: Producer) -> bool {
        self.transactors[producer.place].epoch != producer.epoch
    }

    /// Adds a record to the open transaction. The first one opens it.
    pub fn produce(&mut self, producer: Producer, record: Record) -> Result<(), NoAnswer> {
        if self.has_fenced(producer) {
            return Err(NoAnswer::Fenced);
        }
        self.transactors[producer.place].open.get_or_insert_default().push(record);
        Ok(())
    }

    /// Ends the open transaction.
    pub fn end(&mut self, producer: Producer, commits: bool, fate: Fate) -> Result<(), NoAnswer> {
        if self.has_fenced(producer) {
            return Err(NoAnswer::Fenced);
        }
        match fate {
            Fate::Answered => self.arrive(producer, commits),
            Fate::AnswerLost => self.arrive(producer, commits),
            Fate::Lost => {}
            Fate::Late => self.late.push((producer, commits)),
        }
        if fate == Fate::Answered { Ok(()) } else { Err(NoAnswer::Unknown) }
    }

    /// A late request arrives.
    pub fn deliver_late(&mut self) {
        if let Some((producer, commits)) = self.late.pop() {
            self.arrive(producer, commits);
        }
    }

    fn arrive(&mut self, producer: Producer, commits: bool) {
        if self.has_fenced(producer) {
            return;
        }
        let records = self.transactors[producer.place].open.take().unwrap_or_default();
        if commits {
            self.committed.extend(records);
        }
    }

    /// How often the events of readers of committed data are there.
    pub fn copies(&self, event: u128) -> usize {
        self.committed.iter().filter(|record| **record == Record::Event(event)).count()
    }
}
