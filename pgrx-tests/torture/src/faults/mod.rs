//! The faults, and the schedule that chooses among them.

mod broker;
mod database;
mod inbox;
mod mock;
mod network;
mod refused;
mod sets;
mod settings;
mod topics;
mod transactions;

use std::fmt;

use anyhow::Result;

pub use inbox::Trouble;
pub use mock::Refusal;
pub use sets::{all, at_most_once, exactly_once, inbox};
pub use settings::Change;

use super::random::Random;
use super::stage::{Harm, Stage};

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
            Self::At(point, action) if sets::POINTS_OF_STARTS.contains(&point) => {
                stage.strike_at_start(point, action)
            }
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
