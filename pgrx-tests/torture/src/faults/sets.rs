//! Which faults each mode has, and how often.

use super::{Change, Fault, Refusal, Trouble};
use crate::kafka::Mode;

/// The relay's failpoints: see `src/failpoints.rs`.
const POINTS: [&str; 5] = ["after_read", "after_produce", "after_ack", "in_settle", "after_settle"];

/// The relay's failpoints between the deletion of events and their publication at most once.
const POINTS_OF_CLAIMS: [&str; 2] = ["in_claim", "after_claim"];

/// The relay's failpoints of transactions of Kafka.
const POINTS_OF_TRANSACTIONS: [&str; 2] = ["before_commit", "after_commit"];

/// The same, to which only a relay comes that starts.
pub(super) const POINTS_OF_STARTS: [&str; 2] = ["after_fence", "after_own_claim"];

/// The failpoints of the inbox worker, of sessions that receive and of handlers.
const INBOX_POINTS: [&str; 7] =
    ["after_fetch", "in_store", "after_store", "in_failure", "after_receive", "in_lease", "in_handler"];

/// A pause in which Kafka ends a transaction: see `TRANSACTION_TIMEOUT`, and how often brokers look.
const OUTLASTS_TRANSACTION: &str = "pause 13000";

/// Faults of transactions of Kafka, each as often as it deserves.
const OF_TRANSACTIONS: [Fault; 14] = [
    Fault::DeleteProgress,
    Fault::RecreateProgress,
    Fault::CompactProgress,
    Fault::KillKafkaInCommit,
    Fault::KillKafkaInCommit,
    Fault::KillKafkaInCommit,
    Fault::FreezeKafkaInCommit,
    Fault::LoseCommit,
    Fault::LoseCommit,
    Fault::Fence,
    Fault::Fence,
    Fault::At("before_commit", OUTLASTS_TRANSACTION),
    Fault::At("after_produce", OUTLASTS_TRANSACTION),
    Fault::At("after_read", OUTLASTS_TRANSACTION),
];

/// Faults of the relay and the server, besides those at failpoints.
const EVERYWHERE: [Fault; 12] = [
    Fault::TerminateRelay,
    Fault::KillRelay,
    Fault::Crash,
    Fault::Crash,
    Fault::PowerFailure,
    Fault::PowerFailure,
    Fault::Restart,
    Fault::CrashInOutage,
    Fault::SecondDatabase,
    Fault::Flood,
    Fault::At("after_produce", "fatal"),
    Fault::At("after_produce", "panic"),
];

/// Faults of Apache Kafka and the network, each as often as it deserves.
const OF_KAFKA: [Fault; 20] = [
    Fault::StopKafka,
    Fault::KillKafka,
    Fault::KillKafka,
    Fault::FreezeKafka,
    Fault::FreezeKafka,
    Fault::Cut,
    Fault::Cut,
    Fault::Slow,
    Fault::HalfOpen,
    Fault::HalfOpen,
    Fault::NoAnswers,
    Fault::NoAnswers,
    Fault::Refused,
    Fault::HugeKey,
    Fault::DeleteTopic,
    Fault::DeleteTopic,
    Fault::RecreateTopic,
    Fault::MoveKafka,
    Fault::CreateLate,
    Fault::CreateLate,
];

/// Faults that need several brokers, and more of those that matter most with several.
const OF_CLUSTER: [Fault; 9] = [
    Fault::MoveKafka,
    Fault::RestartInTurn,
    Fault::RestartInTurn,
    Fault::ElectLeaders,
    Fault::ElectLeaders,
    Fault::StopKafka,
    Fault::KillKafka,
    Fault::RecreateTopic,
    Fault::RecreateTopic,
];

/// Faults of the mock cluster, besides its refusals.
const OF_MOCK: [Fault; 5] =
    [Fault::MockDown, Fault::MockLeaders, Fault::MockSlow, Fault::MockNoIds, Fault::MockNoTopic];

/// All faults of a mode, each as often as it deserves.
pub fn all(mode: Mode) -> Vec<Fault> {
    let mut all = EVERYWHERE.to_vec();
    for point in POINTS {
        all.extend(["kill", "terminate", "pause 1500"].map(|action| Fault::At(point, action)));
        // The Kafka thread has no transaction that could fail.
        if point != "after_produce" {
            all.push(Fault::At(point, "error"));
        }
    }
    all.extend(Change::ALL.map(Fault::Reload));
    if mode != Mode::Mock {
        all.extend(inbox());
    }
    match mode {
        Mode::Kafka => all.extend(OF_KAFKA),
        Mode::Cluster => {
            all.extend(OF_KAFKA);
            all.extend(OF_CLUSTER);
        }
        Mode::Mock => {
            all.extend(OF_MOCK);
            all.extend(Refusal::ALL.map(Fault::Answer));
        }
    }
    all
}

/// The faults under which delivery at most once is tested. Those are left out that make a broker refuse events: it refuses
/// whole batches, and nothing of them is sent again.
#[must_use]
pub fn at_most_once() -> Vec<Fault> {
    let refuses = |fault: &Fault| {
        matches!(
            fault,
            Fault::Flood | Fault::HugeKey | Fault::DeleteTopic | Fault::RecreateTopic | Fault::CreateLate
        ) || matches!(fault, Fault::InboxAt(..) | Fault::Inbox(_))
    };
    let actions = ["kill", "terminate", "error", "pause 1500"];
    let of_claims = POINTS_OF_CLAIMS.iter().flat_map(|point| actions.map(|action| Fault::At(point, action)));
    all(Mode::Cluster).into_iter().filter(|fault| !refuses(fault)).chain(of_claims).collect()
}

/// The faults under which delivery exactly once is tested. A topic that is deleted takes what was published along.
#[must_use]
pub fn exactly_once() -> Vec<Fault> {
    // A transaction of the database that the Kafka thread could fail there is none.
    let actions = ["kill", "terminate", "pause 1500"];
    let of_transactions = POINTS_OF_TRANSACTIONS
        .iter()
        .chain(&POINTS_OF_STARTS)
        .flat_map(|point| actions.map(|action| Fault::At(point, action)));
    all(Mode::Cluster).into_iter().chain(of_transactions).chain(OF_TRANSACTIONS).collect()
}

/// All faults of the inbox.
#[must_use]
pub fn inbox() -> Vec<Fault> {
    let actions = ["kill", "terminate", "error", "pause 1500"];
    let at = INBOX_POINTS.iter().flat_map(|point| actions.map(|action| Fault::InboxAt(point, action)));
    at.chain(Trouble::ALL.map(Fault::Inbox)).collect()
}
