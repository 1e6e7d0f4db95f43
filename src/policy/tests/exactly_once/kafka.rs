//! A coordinator of transactions and the records that readers of committed data see. A request to end a transaction can
//! arrive late: then it ends whichever transaction of its epoch is open.

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

/// Kafka.
#[derive(Debug, Default)]
pub struct Kafka {
    /// The epoch of the latest producer.
    pub epoch: u32,
    open: Option<Vec<Record>>,
    /// The records of committed transactions.
    pub committed: Vec<Record>,
    /// Requests that are on their way: their epoch, and whether they commit.
    late: Vec<(u32, bool)>,
}

impl Kafka {
    /// Initialises a producer: fences all others, and ends what they left open.
    pub fn initialise(&mut self) -> u32 {
        self.time_out();
        self.epoch
    }

    /// The coordinator aborts a transaction that is open for too long.
    pub fn time_out(&mut self) {
        self.epoch += 1;
        self.open = None;
    }

    /// Adds a record to the open transaction. The first one opens it.
    pub fn produce(&mut self, epoch: u32, record: Record) -> Result<(), NoAnswer> {
        if epoch != self.epoch {
            return Err(NoAnswer::Fenced);
        }
        self.open.get_or_insert_default().push(record);
        Ok(())
    }

    /// Ends the open transaction.
    pub fn end(&mut self, epoch: u32, commits: bool, fate: Fate) -> Result<(), NoAnswer> {
        if epoch != self.epoch {
            return Err(NoAnswer::Fenced);
        }
        match fate {
            Fate::Answered => self.arrive(epoch, commits),
            Fate::AnswerLost => self.arrive(epoch, commits),
            Fate::Lost => {}
            Fate::Late => self.late.push((epoch, commits)),
        }
        if fate == Fate::Answered { Ok(()) } else { Err(NoAnswer::Unknown) }
    }

    /// A late request arrives.
    pub fn deliver_late(&mut self) {
        if let Some((epoch, commits)) = self.late.pop() {
            self.arrive(epoch, commits);
        }
    }

    fn arrive(&mut self, epoch: u32, commits: bool) {
        if epoch != self.epoch {
            return;
        }
        let records = self.open.take().unwrap_or_default();
        if commits {
            self.committed.extend(records);
        }
    }

    /// How often the events of readers of committed data are there.
    pub fn copies(&self, event: u128) -> usize {
        self.committed.iter().filter(|record| **record == Record::Event(event)).count()
    }
}
