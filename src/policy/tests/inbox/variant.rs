//! The variants of the inbox that the small world can play.

/// How the inbox works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// As it is.
    Real,
    /// The states of a lane have no unique key. The lock suffices.
    LockAlone,
    /// Nobody locks a lane. The unique key suffices: it raises errors instead.
    FenceAlone,
    /// The lane moves before the work is done, in a transaction of its own.
    CursorBeforeWork,
    NoLockAndNoFence,
    /// The lane is read by the snapshot of the statement, which is older than the lock. The unique key makes errors of it.
    StaleCursor,
    /// The same without the unique key.
    StaleCursorAndNoFence,
    /// A transaction that is REPEATABLE READ receives although its snapshot does not see the lane's newest state.
    RepeatableReadGoesOn,
    /// Whatever is due is received, even behind an event of its key that is not.
    RetryAheadOfItsKey,
    /// New events pass the failed one of their key.
    NothingIsParked,
    /// New events come before waiting ones, and pass the parked ones of their key once the failed one is done.
    ParkedIsOvertaken,
    /// Events are parked whatever their number.
    NoBound,
    /// The followers of an event that is given back stay received.
    FollowersStay,
    /// A failure counts although the lane has moved since.
    StaleFailureCounts,
    /// A lane passes what a transaction had parked before the event that failed, although that was rolled back.
    PassesParked,
    /// Each lane of a transaction is blamed for its failure.
    BlamesEachLane,
    /// A lease is acknowledged although it has expired and others have received its events.
    AnyLeaseCounts,
    /// What was read before a seek is stored after it.
    NoGeneration,
    /// A seek does not see the events that are being set aside meanwhile, and they stay.
    SeekMissesParked,
    /// The worker goes on from where it has read, even if its transaction has failed.
    OffsetsBeforeRows,
}

/// The variants that keep all promises.
pub const SOUND: [Variant; 3] = [Variant::Real, Variant::LockAlone, Variant::FenceAlone];

/// The others, each with what the judge can say of it.
pub const FLAWED: [(Variant, &[&str]); 17] = [
    (Variant::CursorBeforeWork, &[LOST, ORDER]),
    (Variant::NoLockAndNoFence, &[TWICE]),
    (Variant::StaleCursor, &["has raised an error"]),
    (Variant::StaleCursorAndNoFence, &[TWICE, SOUGHT]),
    (Variant::RepeatableReadGoesOn, &["does not see the work"]),
    (Variant::RetryAheadOfItsKey, &[ORDER, LOST]),
    (Variant::NothingIsParked, &[ORDER]),
    (Variant::ParkedIsOvertaken, &[ORDER]),
    (Variant::NoBound, &["too many events wait"]),
    (Variant::FollowersStay, &[ORDER]),
    (Variant::StaleFailureCounts, &[TWICE, LOST, "dies although it is done", "handled and dead"]),
    (Variant::PassesParked, &[LOST, ORDER]),
    (Variant::BlamesEachLane, &["is charged for what it did not do"]),
    (Variant::AnyLeaseCounts, &[TWICE, ORDER, "handled and dead"]),
    (Variant::NoGeneration, &["wrong offset"]),
    (Variant::SeekMissesParked, &[SOUGHT]),
    (Variant::OffsetsBeforeRows, &["wrong offset", "is behind"]),
];

const TWICE: &str = "is handled twice";
const ORDER: &str = "of its key at";
const LOST: &str = "although nothing of its key waits";
const SOUGHT: &str = "although a seek has discarded it";

impl Variant {
    pub fn has_lock(self) -> bool {
        !matches!(self, Self::FenceAlone | Self::NoLockAndNoFence)
    }

    pub fn has_fence(self) -> bool {
        !matches!(self, Self::LockAlone | Self::NoLockAndNoFence | Self::StaleCursorAndNoFence)
    }

    pub fn reads_by_statement(self) -> bool {
        matches!(self, Self::StaleCursor | Self::StaleCursorAndNoFence)
    }
}
