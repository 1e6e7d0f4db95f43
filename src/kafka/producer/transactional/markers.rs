//! Reads the progress topic.
//!
//! Runs in: the Kafka thread of the relay's process.

use std::time::{Duration, Instant};

use event_outbox_policy::delivery::marker::{Claim, Found};

use super::{End, TransactionalThread};
use crate::kafka::config;
use crate::kafka::consumer::callbacks::Context;
use crate::kafka::consumer::client::Client;
use crate::kafka::consumer::message::Problem;
use crate::kafka::consumer::messages::{Assigned, Fetched};

/// How long Kafka may send nothing.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often to look whether the thread is still wanted.
const WANTED_CHECK: Duration = Duration::from_millis(500);

/// How many bytes are taken at a time.
const ROOM: usize = 4 << 20;

/// librdkafka's `RD_KAFKA_OFFSET_BEGINNING`.
const BEGINNING: i64 = -2;

/// The only partition.
const ONLY: i32 = 0;

/// A reader of the markers, from the first one.
pub struct Markers<'t> {
    thread: &'t TransactionalThread,
    client: Client,
    context: Context,
    /// What was found so far.
    pub found: Found,
}

impl<'t> Markers<'t> {
    /// Begins to read.
    pub fn open(thread: &'t TransactionalThread) -> Result<Self, End> {
        let context = Context::new(config::redactor(&thread.progress));
        let mut client = Client::open(&thread.progress, context.clone(), &thread.wakeup)
            .map_err(|error| End::Broken(config::describe_error(&thread.progress, &error)))?;
        let only = Assigned {
            number: ONLY,
            topic: thread.topic.clone(),
            topic_id: None,
            partition: ONLY,
            offset: BEGINNING,
            last_read: None,
        };
        match client.assign(&[only], &thread.wakeup).into_iter().next() {
            Some(problem) => Err(unreadable(thread, &problem)),
            None => Ok(Self { thread, client, context, found: Found::default() }),
        }
    }

    /// Reads to the end: that of what is committed.
    pub fn read_to_end(&mut self) -> Result<(), End> {
        self.read(|_, at_end| at_end)
    }

    /// Reads up to this claim.
    pub fn read_to(&mut self, claim: Claim) -> Result<(), End> {
        self.read(|found, _| found.claim() == Some(claim))
    }

    fn read(&mut self, is_enough: impl Fn(&Found, bool) -> bool) -> Result<(), End> {
        let (owner, instance) = (self.thread.claimant.owner, self.thread.claimant.instance);
        let mut last = Instant::now();
        loop {
            self.thread.wakeup.clear();
            self.client.serve();
            let mut fetched = Fetched::default();
            let (problems, _) = self.client.read(&mut fetched, ROOM);
            for record in fetched.records.iter() {
                last = Instant::now();
                self.found.read(&owner, &instance, record.key.unwrap_or_default(), record.value);
                if is_enough(&self.found, false) {
                    return Ok(());
                }
            }
            if is_enough(&self.found, !fetched.ends.is_empty()) {
                return Ok(());
            }
            if let Some(problem) = problems.into_iter().next() {
                return Err(unreadable(self.thread, &problem));
            }
            if last.elapsed() > PATIENCE {
                let cause = self.context.client_log().last_error.clone();
                let cause = cause.unwrap_or_else(|| {
                    format!(
                        "no record arrived in time; if this lasts, a transaction may be open there: kafka-transactions \
                         describe-producers --topic {} --partition 0",
                        self.thread.topic
                    )
                });
                return Err(unreadable_because(self.thread, &cause));
            }
            self.thread.require_main()?;
            if fetched.records.iter().len() == 0 {
                self.thread.wakeup.wait(Some(WANTED_CHECK));
            }
        }
    }
}

fn unreadable(thread: &TransactionalThread, problem: &Problem) -> End {
    match problem {
        Problem::Lost(_) => unreadable_because(thread, "it was changed while it was read"),
        Problem::Other(_, cause) => unreadable_because(thread, cause),
    }
}

fn unreadable_because(thread: &TransactionalThread, cause: &str) -> End {
    End::Broken(format!("event_outbox.progress_topic \"{}\" cannot be read: {cause}", thread.topic))
}
