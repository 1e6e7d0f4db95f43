//! Owns the settings that limit how many events may wait.
//!
//! Runs in: any process.

use pgrx::{GucFlags, GucSetting, PostgresGucEnum};

use super::Guc;

/// What happens at the limit: `event_outbox.max_backlog_action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub enum Action {
    /// The event is refused.
    #[name = c"error"]
    Error,
    /// The event is stored, with a warning.
    #[name = c"warning"]
    Warning,
}

// Off: how much may wait depends on the disk and on what the application can do without.
static MAX_BACKLOG: GucSetting<i32> = GucSetting::<i32>::new(0);
static MAX_BACKLOG_ACTION: GucSetting<Action> = GucSetting::<Action>::new(Action::Error);

pub(super) fn init() {
    Guc::new(
        c"event_outbox.max_backlog",
        c"Waiting events from which on emit() and captured tables refuse more, or warn; 0 for no limit.",
        c"Compared with a count that the relay and the commits keep.",
    )
    .integer(&MAX_BACKLOG, 0..=i32::MAX, GucFlags::default());
    Guc::new(
        c"event_outbox.max_backlog_action",
        c"What emit() and captured tables do when max_backlog events wait.",
        c"\"error\" refuses the event with SQLSTATE 53400, \"warning\" stores it and warns once in a transaction.",
    )
    .choice(&MAX_BACKLOG_ACTION);
}

/// How many events may wait; 0 for any number.
#[must_use]
pub fn max_backlog() -> i64 {
    MAX_BACKLOG.get().into()
}

/// What happens at the limit.
#[must_use]
pub fn max_backlog_action() -> Action {
    MAX_BACKLOG_ACTION.get()
}
