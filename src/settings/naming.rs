//! Owns the settings of the convention for names of events.
//!
//! Runs in: the postmaster, which defines them; client backends read them.

use std::ffi::CString;

use pgrx::{GucSetting, PostgresGucEnum};

use super::{Guc, text};

/// `event_outbox.naming`: what becomes of an event whose name breaks the convention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub enum Naming {
    /// Nothing.
    #[name = c"off"]
    Off,
    /// Its author is warned.
    #[name = c"warn"]
    Warn,
    /// It is refused.
    #[name = c"error"]
    Error,
}

// Off, since names are a matter of taste and nothing may break by an update.
static NAMING: GucSetting<Naming> = GucSetting::<Naming>::new(Naming::Off);
static PATTERN: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

pub(super) fn init() {
    Guc::new(
        c"event_outbox.naming",
        c"What becomes of an event whose type breaks the naming convention.",
        c"\"off\" checks nothing, \"warn\" warns, \"error\" refuses the event.",
    )
    .choice(&NAMING);
    Guc::new(
        c"event_outbox.naming_pattern",
        c"A regular expression that event types match.",
        c"If empty, a type is an entity and a verb in the past tense.",
    )
    .text(&PATTERN);
}

/// What becomes of an event whose name breaks the convention.
#[must_use]
pub fn naming() -> Naming {
    NAMING.get()
}

/// The pattern; empty for the convention of the extension.
#[must_use]
pub fn pattern() -> String {
    text(&PATTERN)
}
