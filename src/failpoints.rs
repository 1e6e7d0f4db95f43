//! Owns the failpoints: named points of the relay and the inbox at which the torture test injects faults. The functions do
//! nothing without the cargo feature `failpoints`, which no shipped build has.
//!
//! Runs in: a relay's background worker, main thread and Kafka thread; an inbox worker, main thread; sessions and
//! handlers that receive.
//!
//! The test controls them by files in the data directory, whose names end in the oid of the database:
//!
//! - `event_outbox.failpoint.OID` holds `POINT ACTION`. When a process reaches the point, it removes the file
//!   and performs the action. So each fault happens once, and the test sees that it has happened.
//! - `event_outbox.sabotage.OID` holds the name of a mistake, which a process makes as long as it lives. It
//!   proves that the torture test notices the mistake.

/// A point at which a fault can be injected.
#[cfg_attr(not(feature = "failpoints"), allow(dead_code, reason = "without it only some are named"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// At the end of the transaction that has read new events.
    AfterRead,
    /// In the transaction that deletes events before they are published, at its end.
    InClaim,
    /// After that transaction has committed, before the events are handed over.
    AfterClaim,
    /// On the Kafka thread, after a batch has been handed to librdkafka.
    AfterProduce,
    /// On the Kafka thread, when a new producer of transactions has fenced the former one, before the relay's claim.
    AfterFence,
    /// On the Kafka thread, when that claim is committed, before it is read back.
    AfterOwnClaim,
    /// On the Kafka thread, when Kafka has all records of a transaction, before its commit is requested.
    BeforeCommit,
    /// On the Kafka thread, when Kafka has confirmed the commit, before the main thread is told.
    AfterCommit,
    /// After reports have arrived, before the transaction that settles them.
    AfterAck,
    /// In that transaction, after the delivered events are deleted, and before anything else.
    InSettle,
    /// After that transaction has committed, before the relay records it.
    AfterSettle,
    /// When a relay that ends has no more events in flight, before it says whether it sleeps.
    BeforeSleep,
    /// In the inbox worker, after records have been read, before the transaction that stores them.
    AfterFetch,
    /// In that transaction, after the events are inserted, before the offsets.
    InStore,
    /// After that transaction has committed, before the worker records it.
    AfterStore,
    /// In the transaction that records a failure, at its end.
    InFailure,
    /// In a session, at the end of `inbox.receive()`.
    AfterReceive,
    /// In a session, when `inbox.ack()` or `inbox.extend()` has changed a lane.
    InLease,
    /// In a handler's process, when its function has been called for a batch, before the commit.
    InHandler,
}

/// A mistake that the relay or the inbox can be told to make.
#[cfg_attr(not(feature = "failpoints"), allow(dead_code, reason = "without it only some are named"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Events are deleted when they are read, not when they are acknowledged.
    DeleteBeforeAck,
    /// Ids below one that was read are never read again.
    NaiveCursor,
    /// A refused event is tried again after the events that followed it.
    RetryAtTail,
    /// Events that are delivered at most once are published before their rows are deleted.
    PublishBeforeDelete,
    /// A relay that delivers exactly once does not read what was published before it.
    SkipMarkers,
    /// A relay that delivers exactly once takes a commit that was not answered for none, and goes on with its producer.
    ReuseProducer,
    /// Visible events are published even if their commits are not on disk.
    PublishUnflushed,
    /// The offsets of a batch are stored in a transaction of their own, before its events.
    OffsetsFirst,
    /// Sessions receive from a lane without its lock, and store its state without the proof that nobody else has.
    UnlockedLanes,
    /// What was received and rolled back is acknowledged.
    FailuresAcknowledged,
    /// Later events of a key do not wait for one that has failed.
    RetriesOvertaken,
    /// A transaction that keeps to one snapshot begins with a lane of which it has not looked whether it has events.
    LanesUnlooked,
}

#[cfg(feature = "failpoints")]
pub use armed::{after_produce, reach, reuses_producers, sabotaged, skips_markers};

#[cfg(not(feature = "failpoints"))]
pub use unarmed::{after_produce, reach, skips_markers};

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::OnceLock;
    use std::time::Duration;

    use pgrx::prelude::*;
    use rdkafka::bindings as rdsys;

    use super::{Point, Sabotage};

    /// Performs the fault for this point, if there is one.
    pub fn reach(point: Point) {
        if let Some(action) = take(point) {
            act(&action);
        }
    }

    /// The same for [`Point::AfterProduce`], where the producer can also be given a fatal error.
    pub fn after_produce(client: *mut rdsys::rd_kafka_t) {
        match take(Point::AfterProduce).as_deref() {
            Some("fatal") => {
                let fenced = rdsys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH;
                // SAFETY: the caller's client is alive; the reason is copied.
                unsafe { rdsys::rd_kafka_test_fatal_error(client, fenced, c"a failpoint".as_ptr()) };
            }
            Some(action) => act(action),
            None => {}
        }
    }

    /// Whether a relay ignores what was published before it.
    pub fn skips_markers() -> bool {
        sabotaged(Sabotage::SkipMarkers)
    }

    /// Whether a relay goes on with its producer after a commit that was not answered.
    pub fn reuses_producers() -> bool {
        sabotaged(Sabotage::ReuseProducer)
    }

    /// Whether this process must make this mistake.
    pub fn sabotaged(sabotage: Sabotage) -> bool {
        static CHOSEN: OnceLock<Option<Sabotage>> = OnceLock::new();
        *CHOSEN.get_or_init(chosen) == Some(sabotage)
    }

    fn chosen() -> Option<Sabotage> {
        match std::fs::read_to_string(file("sabotage")).ok()?.trim() {
            "delete_before_ack" => Some(Sabotage::DeleteBeforeAck),
            "naive_cursor" => Some(Sabotage::NaiveCursor),
            "retry_at_tail" => Some(Sabotage::RetryAtTail),
            "skip_markers" => Some(Sabotage::SkipMarkers),
            "reuse_producer" => Some(Sabotage::ReuseProducer),
            "publish_unflushed" => Some(Sabotage::PublishUnflushed),
            "publish_before_delete" => Some(Sabotage::PublishBeforeDelete),
            "offsets_first" => Some(Sabotage::OffsetsFirst),
            "unlocked_lanes" => Some(Sabotage::UnlockedLanes),
            "failures_acknowledged" => Some(Sabotage::FailuresAcknowledged),
            "retries_overtaken" => Some(Sabotage::RetriesOvertaken),
            "lanes_unlooked" => Some(Sabotage::LanesUnlooked),
            _ => None,
        }
    }

    fn name(point: Point) -> &'static str {
        match point {
            Point::AfterRead => "after_read",
            Point::InClaim => "in_claim",
            Point::AfterClaim => "after_claim",
            Point::AfterProduce => "after_produce",
            Point::AfterFence => "after_fence",
            Point::AfterOwnClaim => "after_own_claim",
            Point::BeforeCommit => "before_commit",
            Point::AfterCommit => "after_commit",
            Point::AfterAck => "after_ack",
            Point::InSettle => "in_settle",
            Point::AfterSettle => "after_settle",
            Point::BeforeSleep => "before_sleep",
            Point::AfterFetch => "after_fetch",
            Point::InStore => "in_store",
            Point::AfterStore => "after_store",
            Point::InFailure => "in_failure",
            Point::AfterReceive => "after_receive",
            Point::InLease => "in_lease",
            Point::InHandler => "in_handler",
        }
    }

    /// A path relative to the data directory, which is the server's working directory.
    fn file(what: &str) -> String {
        let database = crate::pg::backend::database();
        format!("event_outbox.{what}.{}", database.to_u32())
    }

    fn take(point: Point) -> Option<String> {
        let path = file("failpoint");
        let text = std::fs::read_to_string(&path).ok()?;
        let (at, action) = text.trim().split_once(' ')?;
        (at == name(point) && std::fs::remove_file(path).is_ok()).then(|| action.to_owned())
    }

    #[allow(clippy::panic, reason = "the test requested a panic")]
    fn act(action: &str) {
        let signal = |signal| {
            // SAFETY: no memory is touched; the signal is for this process.
            unsafe { libc::kill(libc::getpid(), signal) };
        };
        match action.split_once(' ').unwrap_or((action, "")) {
            ("kill", _) => signal(libc::SIGKILL),
            ("terminate", _) => signal(libc::SIGTERM),
            ("pause", millis) => std::thread::sleep(Duration::from_millis(millis.parse().unwrap_or(0))),
            ("error", _) => error!("a failpoint"),
            _ => panic!("a failpoint"),
        }
    }
}

#[cfg(not(feature = "failpoints"))]
mod unarmed {
    use rdkafka::bindings as rdsys;

    use super::Point;

    /// Does nothing.
    #[inline(always)]
    pub fn reach(_point: Point) {}

    /// Never.
    #[inline(always)]
    pub fn skips_markers() -> bool {
        false
    }

    /// Does nothing.
    #[inline(always)]
    pub fn after_produce(_client: *mut rdsys::rd_kafka_t) {}
}
