//! Owns the tables of the schema `outbox`, and the access to the rows of `outbox.events`.
//!
//! Runs in: client backends and relays.

use crate::pg::catalog::Member;
use crate::pg::watch::Watch;

pub mod backlog;
pub mod columns;
pub mod delivery;
pub mod idempotency;
pub mod identity;
pub mod outbox;
pub mod row;
pub mod rows;
pub mod scan;
pub mod scheduled;
pub mod statements;

/// A relation of the schema `outbox`.
pub const fn member(name: &'static std::ffi::CStr) -> Member {
    Member::new(c"outbox", name)
}

/// Events that are not published yet.
pub const EVENTS: Member = member(c"events");
/// The sequence of their ids.
pub const EVENTS_ID_SEQ: Member = member(c"events_id_seq");
/// Events to be published at a later time.
pub const SCHEDULED: Member = member(c"scheduled");
/// The grants to emit to topics.
pub const TOPIC_GRANTS: Member = member(c"topic_grants");
/// The topics whose events are numbered.
pub const SEQUENCED_TOPICS: Member = member(c"sequenced_topics");
/// The last numbers of their keys.
pub const SEQUENCES: Member = member(c"sequences");
/// Messages that `try_emit()` could not turn into events.
pub const INTAKE: Member = member(c"intake");
/// Has a row while the outbox is paused.
pub const PAUSED: Member = member(c"paused");
/// Events that Kafka refused for the last time.
pub const DEAD_LETTERS: Member = member(c"dead_letters");
/// The topics whose published events are archived.
pub const ARCHIVED_TOPICS: Member = member(c"archived_topics");
/// The segments of the archive that hold events.
pub const ARCHIVE_SEGMENT: Member = member(c"archive_segment");
/// The deletions of events that are delivered at most once and not confirmed yet.
pub const UNCONFIRMED: Member = member(c"unconfirmed");
/// What became of dead letters.
pub const DEAD_LETTER_LOG: Member = member(c"dead_letter_log");

/// Watches `outbox.events`, and the functions that its triggers call.
pub static EVENTS_WATCH: Watch = Watch::over_table().and_functions();
/// Watches `outbox.topic_grants`.
pub static TOPIC_GRANTS_WATCH: Watch = Watch::over_table();
/// Watches `outbox.sequenced_topics`.
pub static SEQUENCED_TOPICS_WATCH: Watch = Watch::over_table();
/// All watches of the outbox.
pub static WATCHES: [&Watch; 3] = [&EVENTS_WATCH, &TOPIC_GRANTS_WATCH, &SEQUENCED_TOPICS_WATCH];
