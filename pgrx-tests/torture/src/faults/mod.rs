//! The faults, and the schedule that chooses among them.

mod broker;
mod database;
mod inbox;
mod mock;
mod network;
mod refused;
mod settings;
mod topics;
mod transactions;

use std::fmt;

use anyhow::Result;

pub use inbox::Trouble;
pub use mock::Refusal;
pub use settings::Change;

use super::kafka::Mode;
use super::random::Random;
use super::stage::{Harm, Stage};

/// The relay's failpoints: see `src/failpoints.rs`.
const POINTS: [&str; 5] = ["after_read", "after_produce", "after_ack", "in_settle", "after_settle"];

/// The relay's failpoints between the deletion of events and their publication at most once.
const POINTS_OF_CLAIMS: [&str; 2] = ["in_claim", "after_claim"];

/// The relay's failpoints of transactions of Kafka.
const POINTS_OF_TRANSACTIONS: [&str; 4] = ["after_fence", "after_own_claim", "before_commit", "after_commit"];

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

/// One kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// At a failpoint of the relay: a signal, an error, a broken producer or a pause.
    At(&'static str, &'static str),
    /// At a failpoint of the inbox: a signal, an error or a pause.
    InboxAt(&'static str, &'static str),
    /// A fault of the inbox or of its receivers.
    Inbox(Trouble),
    /// The relay is terminated.
    TerminateRelay,
    /// The relay gets SIGKILL, which restarts the server.
    KillRelay,
    /// `pg_ctl stop -m immediate`, then a start.
    Crash,
    /// Commits stay in memory; then all processes of the server are killed.
    PowerFailure,
    /// `pg_ctl stop -m fast`, then a start.
    Restart,
    /// The brokers cannot be reached; then the server crashes.
    CrashInOutage,
    /// Kafka is shut down cleanly and started.
    StopKafka,
    /// Kafka is killed and started.
    KillKafka,
    /// Kafka is frozen for a while.
    FreezeKafka,
    /// All connections to Kafka are cut.
    Cut,
    /// The network to Kafka is slow.
    Slow,
    /// Connections to Kafka stay open, but nothing passes.
    HalfOpen,
    /// Kafka gets all requests; its answers are lost.
    NoAnswers,
    /// Connections to Kafka are refused.
    Refused,
    /// Brokers come back at other addresses.
    MoveKafka,
    /// Brokers are stopped and started in turn.
    RestartInTurn,
    /// Partitions get other leaders.
    ElectLeaders,
    /// A topic is deleted, missing for a while, and created again.
    DeleteTopic,
    /// A topic is deleted and created again at once.
    RecreateTopic,
    /// The relays' progress topic is deleted.
    DeleteProgress,
    /// The relays' progress topic is deleted, and created by somebody else.
    RecreateProgress,
    /// The relays' progress topic is compacted; then the relay is killed.
    CompactProgress,
    /// Kafka is killed when a transaction is committed.
    KillKafkaInCommit,
    /// Kafka is frozen when a transaction is committed, for longer than one may last.
    FreezeKafkaInCommit,
    /// The answer to a commit is lost, and all others are for longer than a transaction may last.
    LoseCommit,
    /// Another producer has the relay's transactional id.
    Fence,
    /// A missing topic is created, and its dead letters are redriven.
    CreateLate,
    /// A setting is changed.
    Reload(Change),
    /// Thousands of events that each broker refuses.
    Flood,
    /// An event whose key is larger than any request.
    HugeKey,
    /// DROP and CREATE EXTENSION in another database.
    SecondDatabase,
    /// The mock cluster answers produce requests with an error, several times.
    Answer(Refusal),
    /// Brokers of the mock cluster go down and up.
    MockDown,
    /// The mock cluster's partitions get other leaders.
    MockLeaders,
    /// The mock cluster is slow to answer.
    MockSlow,
    /// The mock cluster assigns no producer ids for a while.
    MockNoIds,
    /// The mock cluster denies that a topic exists.
    MockNoTopic,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::At(point, action) => {
                let action = action.split(' ').next().unwrap_or(action);
                return write!(f, "relay: {action} {}", point.replace('_', " "));
            }
            Self::InboxAt(point, action) => {
                let action = action.split(' ').next().unwrap_or(action);
                return write!(f, "inbox: {action} {}", point.replace('_', " "));
            }
            Self::Inbox(trouble) => return write!(f, "inbox: {trouble}"),
            Self::Reload(change) => return write!(f, "reload: {change}"),
            Self::Answer(refusal) => return write!(f, "mock: {refusal}"),
            Self::TerminateRelay => "relay: terminated",
            Self::KillRelay => "relay: killed",
            Self::Crash => "PostgreSQL: immediate stop",
            Self::PowerFailure => "PostgreSQL: killed with commits in memory",
            Self::Restart => "PostgreSQL: fast stop",
            Self::CrashInOutage => "PostgreSQL: immediate stop in an outage",
            Self::StopKafka => "Kafka: stopped",
            Self::KillKafka => "Kafka: killed",
            Self::FreezeKafka => "Kafka: frozen",
            Self::Cut => "network: cut",
            Self::Slow => "network: slow",
            Self::HalfOpen => "network: half-open",
            Self::NoAnswers => "network: answers lost",
            Self::Refused => "network: refused",
            Self::MoveKafka => "Kafka: at another address",
            Self::RestartInTurn => "Kafka: restarted in turn",
            Self::ElectLeaders => "Kafka: other leaders",
            Self::DeleteTopic => "topic: deleted, missed, created again",
            Self::RecreateTopic => "topic: deleted, created at once",
            Self::DeleteProgress => "topic: the relays' own deleted",
            Self::RecreateProgress => "topic: the relays' own created again",
            Self::CompactProgress => "topic: the relays' own compacted",
            Self::KillKafkaInCommit => "commit: Kafka killed",
            Self::FreezeKafkaInCommit => "commit: Kafka frozen for long",
            Self::LoseCommit => "commit: answer lost",
            Self::Fence => "relay: fenced by another",
            Self::CreateLate => "topic: created, dead sent again",
            Self::Flood => "events: thousands refused",
            Self::HugeKey => "events: a huge key",
            Self::SecondDatabase => "second database: DROP, CREATE EXTENSION",
            Self::MockDown => "mock: brokers down",
            Self::MockLeaders => "mock: other leaders",
            Self::MockSlow => "mock: slow",
            Self::MockNoIds => "mock: no producer ids",
            Self::MockNoTopic => "mock: topic denied",
        };
        f.write_str(name)
    }
}

impl Fault {
    /// What the fault may do to events.
    fn harm(self) -> Harm {
        match self {
            Self::InboxAt(_, "kill") | Self::Inbox(Trouble::KillWorker | Trouble::KillReceiver) => {
                Harm::Crash
            }
            // These take time and break nothing that is published.
            Self::InboxAt(..) | Self::Inbox(_) => Harm::None,
            Self::SecondDatabase
            | Self::CreateLate
            | Self::Flood
            | Self::HugeKey
            | Self::Slow
            | Self::MockSlow => Harm::None,
            Self::At(_, action) if action.starts_with("pause") => Harm::None,
            Self::Reload(change) if !change.renews_producer() => Harm::None,
            Self::At(_, "kill")
            | Self::CompactProgress
            | Self::KillRelay
            | Self::Crash
            | Self::CrashInOutage
            | Self::PowerFailure => Harm::Crash,
            _ => Harm::Repetition,
        }
    }

    /// Inflicts the fault, and waits until the relay has recovered.
    pub fn inflict(self, stage: &mut Stage) -> Result<()> {
        let concerns_inbox = matches!(self, Self::InboxAt(..) | Self::Inbox(_));
        stage.strike(&self.to_string(), self.harm(), concerns_inbox, |stage| match self {
            Self::InboxAt(point, action) => stage.strike_inbox_at(point, action),
            Self::Inbox(trouble) => stage.trouble_inbox(trouble),
            Self::At(point, action) => stage.strike_at(point, action),
            Self::TerminateRelay => stage.terminate_relay(),
            Self::KillRelay => stage.kill_relay(),
            Self::Crash => stage.restart(event_outbox_lab::StopMode::Immediate),
            Self::PowerFailure => stage.power_failure(),
            Self::Restart => stage.restart(event_outbox_lab::StopMode::Fast),
            Self::CrashInOutage => stage.crash_in_outage(),
            Self::StopKafka => stage.stop_kafka(),
            Self::KillKafka => stage.kill_kafka(),
            Self::FreezeKafka => stage.freeze_kafka(),
            Self::Cut => stage.cut(),
            Self::Slow => stage.slow_down(),
            Self::HalfOpen => stage.half_open(),
            Self::NoAnswers => stage.lose_answers(),
            Self::Refused => stage.refuse_connections(),
            Self::MoveKafka => stage.move_kafka(),
            Self::RestartInTurn => stage.restart_in_turn(),
            Self::ElectLeaders => stage.elect_leaders(),
            Self::DeleteTopic => stage.delete_topic(true),
            Self::RecreateTopic => stage.delete_topic(false),
            Self::DeleteProgress => stage.delete_progress(),
            Self::RecreateProgress => stage.recreate_progress(),
            Self::CompactProgress => stage.compact_progress(),
            Self::KillKafkaInCommit => stage.kill_kafka_in_commit(),
            Self::FreezeKafkaInCommit => stage.freeze_kafka_in_commit(),
            Self::LoseCommit => stage.lose_commit(),
            Self::Fence => stage.fence(),
            Self::CreateLate => stage.create_late(),
            Self::Reload(change) => stage.reload(change),
            Self::Flood => stage.flood(),
            Self::HugeKey => stage.huge_key(),
            Self::SecondDatabase => stage.second_database(),
            Self::Answer(refusal) => stage.answer(refusal),
            Self::MockDown => stage.mock_down(),
            Self::MockLeaders => stage.mock_leaders(),
            Self::MockSlow => stage.mock_slow(),
            Self::MockNoIds => stage.mock_no_ids(),
            Self::MockNoTopic => stage.mock_no_topic(),
        })
    }
}

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
    let of_transactions =
        POINTS_OF_TRANSACTIONS.iter().flat_map(|point| actions.map(|action| Fault::At(point, action)));
    all(Mode::Cluster).into_iter().chain(of_transactions).chain(OF_TRANSACTIONS).collect()
}

/// All faults of the inbox.
#[must_use]
pub fn inbox() -> Vec<Fault> {
    let actions = ["kill", "terminate", "error", "pause 1500"];
    let at = INBOX_POINTS.iter().flat_map(|point| actions.map(|action| Fault::InboxAt(point, action)));
    at.chain(Trouble::ALL.map(Fault::Inbox)).collect()
}

/// Chooses faults in random order: each once before any comes again.
pub struct FaultSchedule {
    all: Vec<Fault>,
    left: Vec<Fault>,
}

impl FaultSchedule {
    /// A schedule of these faults.
    pub fn new(all: Vec<Fault>) -> Self {
        Self { all, left: Vec::new() }
    }

    /// The next fault; `None` if the schedule is empty.
    pub fn next_fault(&mut self, random: &mut Random) -> Option<Fault> {
        if self.left.is_empty() {
            self.left = self.all.clone();
            random.shuffle(&mut self.left);
        }
        self.left.pop()
    }
}
