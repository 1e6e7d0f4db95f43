//! Owns the phases of a worker's life, and the requests to a running worker.
//!
//! Runs in: any process.

use crate::pg::atomic_enum::numbered;

numbered! {
    /// The phase of a worker's life. `docs/architecture.md` draws the transitions.
    pub enum Phase {
        /// To be started. Set by whoever reserves the slot (a backend at CREATE EXTENSION or at an emit, the
        /// launcher when it examines a database); by the worker when it ends to restart; by the launcher
        /// after `Exited`, `Failed`, or a commit that arrives during `NotInstalled`; by a backend whose
        /// command had vacated the database.
        Requested,
        /// To be started when a process is free, behind those that wait longer. Set by the launcher if Postgres has no
        /// background worker left.
        Queued,
        /// Registered with the postmaster. Set by the launcher.
        Starting,
        /// Running. Set by the worker when its process has taken the slot.
        Running,
        /// Ended by a signal. Set by the worker when its process ends; the launcher starts it again in a
        /// moment.
        Exited,
        /// Ended because the database lacks the extension. Set by the worker when its process ends; the
        /// launcher frees the slot.
        NotInstalled,
        /// Left so that a command can have the database to itself. Set by the worker when its process ends,
        /// or by the command's backend if no worker runs; the same backend ends it, or the launcher after
        /// half a minute.
        Vacated,
        /// Ended because it had nothing to do. It keeps its slot. Set by the worker when its process ends; the launcher
        /// starts it again when a commit or a command wakes it, or when the next thing is due.
        Asleep,
        /// Ended by an error. Set by the worker when its process ends, or by the launcher if the process
        /// ended before it took the slot; the launcher starts it again after a pause, longer each time.
        Failed,
    }
}

impl Phase {
    /// What the status says of a worker without a process, if that is neither its start nor its end.
    #[must_use]
    pub fn word_of_rest(self) -> Option<&'static str> {
        match self {
            Self::Asleep => Some("asleep"),
            Self::Queued => Some("queued"),
            _ => None,
        }
    }

    /// Whether a process runs, or is about to.
    #[must_use]
    pub fn is_alive(self) -> bool {
        matches!(self, Self::Starting | Self::Running)
    }
}

numbered! {
    /// A request to a running worker.
    pub enum Request {
        /// No request.
        None,
        /// End and come back at once, to read the database's settings again.
        Restart,
        /// End, and stay away until called back.
        Leave,
        /// End, because another worker waits for a process, and queue behind it.
        MakeWay,
    }
}
