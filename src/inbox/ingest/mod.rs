//! The worker that stores Kafka's events: one for each database, while it has a subscription.
//!
//! Its main thread ([`main_loop`]) does everything in Postgres; each subscription has a Kafka thread
//! ([`crate::kafka::consumer`]), which reads. Records, and the offset up to which they were read, are stored in one
//! transaction ([`store`]), so both go back together after a failover.

use std::sync::Arc;
use std::time::{Duration, Instant};

use event_outbox_policy::backoff::Backoff;

use crate::inbox::handlers::supervisor::{Supervisor, Wanted};
use crate::inbox::handlers::task::Task;
use crate::inbox::project::task::Task as Projecting;
use crate::kafka::wakeup_fd::WakeupFd;
use crate::pg::wait_set::Sleep;
use crate::settings::consumer::Settings;
use crate::worker::process;
use crate::worker::slot::Slot;
use crate::worker::transaction::Failed;
use failures::Failures;
use local::Local;
use registration::SUBSCRIPTIONS_CHANGED;
use segments::Segments;
use sources::Source;

pub mod catalog;
pub mod changes;
pub mod duplicates;
pub mod failures;
pub mod local;
pub mod main;
pub mod main_loop;
pub mod metrics;
pub mod registration;
pub mod segments;
pub mod sources;
pub mod store;

/// The first and the longest pause after a failed transaction.
const DATABASE_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// The state of a running worker.
pub struct Ingest {
    slot: &'static Slot,
    settings: Settings,
    sources: Vec<Source>,
    /// The subscriptions to categories of the event store.
    locals: Vec<Local>,
    /// The memory of each consumer, in bytes.
    memory_of_each: usize,
    /// The last position that was given to an event.
    last_position: i64,
    segments: Segments,
    failures: Failures,
    handlers: Supervisor<Task>,
    /// The handlers as they are defined.
    wanted_handlers: Vec<Wanted<Task>>,
    projections: Supervisor<Projecting>,
    /// The projections as they are defined.
    wanted_projections: Vec<Wanted<Projecting>>,
    db_backoff: Backoff,
    /// There is no subscription any more.
    is_done: bool,
    kafka_wakeup: Arc<WakeupFd>,
    sleep: Sleep,
}

impl Ingest {
    /// A worker that has not read anything yet. Kafka threads wake it through `kafka_wakeup`.
    #[must_use]
    pub fn new(slot: &'static Slot, kafka_wakeup: WakeupFd) -> Self {
        // The definitions are read in the first round.
        slot.notify(SUBSCRIPTIONS_CHANGED);
        Self {
            slot,
            settings: Settings::read(),
            sources: Vec::new(),
            locals: Vec::new(),
            memory_of_each: 0,
            last_position: 0,
            segments: Segments::default(),
            failures: Failures::of_crash(),
            handlers: Supervisor::default(),
            wanted_handlers: Vec::new(),
            projections: Supervisor::default(),
            wanted_projections: Vec::new(),
            db_backoff: Backoff::new(DATABASE_PAUSE.0, DATABASE_PAUSE.1),
            is_done: false,
            sleep: Sleep::new(c"EventOutboxInbox", Some(kafka_wakeup.fd())),
            kafka_wakeup: Arc::new(kafka_wakeup),
        }
    }

    /// Records the result of a transaction. The first of several failures is logged, and each delays the next try.
    fn note<R>(&mut self, result: Result<R, Failed>) -> Option<R> {
        match result {
            Ok(value) => {
                if self.db_backoff.record_success() {
                    tracing::info!("transactions of the inbox worker succeed again");
                }
                Some(value)
            }
            // An error caused by our own shutdown is not reported.
            Err(_) if process::stop_requested() => None,
            Err(failed) => {
                self.slot.show_error(&failed.message);
                if self.db_backoff.record_failure(Instant::now()) {
                    tracing::warn!("transaction of the inbox worker failed, will retry: {failed}");
                }
                None
            }
        }
    }
}
