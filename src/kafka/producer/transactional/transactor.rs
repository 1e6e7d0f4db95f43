//! Owns a producer of transactions, of which a relay has two that take turns, a transaction each.
//!
//! A broker answers a commit before it has told all partitions of it. Until then it begins no other transaction of the same
//! producer, and librdkafka asks again only after 20 ms. The other producer need not wait: the commit is decided, and what is
//! sent after the answer lies behind it in each partition, where readers of committed records come to it later.
//!
//! Runs in: the Kafka thread of the relay's process.

use event_outbox_policy::delivery::marker::Owner;

use super::{End, TransactionalThread};
use crate::kafka::config;
use crate::kafka::producer::callbacks::Context;
use crate::kafka::producer::client::Client;

/// A producer of transactions.
pub struct Transactor {
    /// Its transactional id.
    pub id: String,
    /// What its callbacks note.
    pub context: Context,
    /// The producer.
    pub client: Client,
}

impl Transactor {
    fn open(thread: &TransactionalThread, id: String) -> Result<Self, End> {
        let config = config::for_transactions(&thread.config, &id);
        let context = Context::new(config::redactor(&config));
        let client = Client::open(&config, context.clone(), &thread.wakeup)
            .map_err(|error| End::Broken(config::describe_error(&config, &error)))?;
        Ok(Self { id, context, client })
    }
}

/// How many there are.
pub const TRANSACTORS: usize = 2;

/// The producers.
pub struct Transactors {
    all: [Transactor; TRANSACTORS],
    turn: usize,
}

impl Transactors {
    /// Creates them. They are not initialised yet.
    pub fn open(thread: &TransactionalThread, owner: &Owner) -> Result<Self, End> {
        let [first, second] = owner.transactional_ids();
        Ok(Self { all: [Transactor::open(thread, first)?, Transactor::open(thread, second)?], turn: 0 })
    }

    /// The one whose turn it is.
    #[must_use]
    pub fn current(&self) -> &Transactor {
        &self.all[self.turn]
    }

    /// Gives the next one its turn.
    pub fn take_turns(&mut self) {
        self.turn = (self.turn + 1) % TRANSACTORS;
    }

    /// All.
    pub fn iter(&self) -> impl Iterator<Item = &Transactor> {
        self.all.iter()
    }
}
