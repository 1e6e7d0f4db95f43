//! Owns the settings that sessions and triggers apply to events: the size, the attempts, and the topic for
//! copies of dead events.

use std::ffi::{CStr, CString, c_char, c_void};
use std::time::Duration;

use event_outbox_policy::delivery::attempts::{AttemptsByClass, MOST_ATTEMPTS};
use event_outbox_policy::delivery::error_class::ErrorClass;
use event_outbox_policy::event::size::LARGEST_EVENT;
use event_outbox_policy::event::topic;
use pgrx::prelude::*;
use pgrx::{GucFlags, GucRegistry, GucSetting};

use super::{CONTEXT, Guc, millis, size, text};

// Just below Kafka's default limit for a record batch (1048588), so that every accepted event can be sent.
static MAX_EVENT_BYTES: GucSetting<i32> = GucSetting::<i32>::new(1_000_000);
// Enough to outlast a mistake that is fixed within minutes, and few enough that nobody waits long behind it.
static MAX_ATTEMPTS: GucSetting<i32> = GucSetting::<i32>::new(3);
static MAX_ATTEMPTS_BY_CLASS: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static DEAD_LETTER_TOPIC: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
// Long enough for a deployment that creates topics and grants rights a moment too late. Short enough that a
// misspelt name is noticed while its author is still there.
static GRACE_PERIOD: GucSetting<i32> = GucSetting::<i32>::new(60_000);
static RETRY_BACKOFF: GucSetting<i32> = GucSetting::<i32>::new(1_000);
static RETRY_BACKOFF_MAX: GucSetting<i32> = GucSetting::<i32>::new(300_000);

// What events of a resource are named after: the namespace, and what changes.
static TOPIC_TEMPLATE: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"io.{namespace}.{resource}.resource"));
static NAMESPACE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

const DAY_MILLIS: i32 = 86_400_000;

pub(super) fn init() {
    Guc::new(
        c"event_outbox.max_event_bytes",
        c"Size of an event, at most.",
        c"Payload, key, headers, type and content type together. The outbox itself adds two thousand bytes at most.",
    )
    .integer(&MAX_EVENT_BYTES, 1..=LARGEST_EVENT as i32, GucFlags::UNIT_BYTE);
    Guc::new(
        c"event_outbox.max_attempts",
        c"Refusals after which an event is dead.",
        c"A dead event is kept in outbox.dead_letters and never tried again by itself. Also limits outbox.try_emit().",
    )
    .integer(&MAX_ATTEMPTS, 1..=MOST_ATTEMPTS, GucFlags::default());
    // SAFETY: each hook has the signature of a check hook and changes nothing.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            c"event_outbox.dead_letter_topic",
            c"Kafka topic to which a copy of each dead event is sent.",
            c"If empty, none is sent.",
            &DEAD_LETTER_TOPIC,
            CONTEXT,
            GucFlags::default(),
            Some(check_topic),
            None,
            None,
        );
        GucRegistry::define_string_guc_with_hooks(
            c"event_outbox.max_attempts_by_class",
            c"Refusals after which an event is dead, by the class of the last one.",
            c"A list such as \"too_large=1, invalid_record=2\"; event_outbox.max_attempts is for other classes.",
            &MAX_ATTEMPTS_BY_CLASS,
            CONTEXT,
            GucFlags::default(),
            Some(check_attempts),
            None,
            None,
        );
    }
    Guc::new(
        c"event_outbox.grace_period",
        c"Least time for which an event is tried whose topic is missing or closed to the relay.",
        c"Others can create the topic or grant the right; max_attempts counts only after that time.",
    )
    .integer(&GRACE_PERIOD, 0..=DAY_MILLIS, GucFlags::UNIT_MS);
    Guc::new(
        c"event_outbox.retry_backoff",
        c"Time before a refused event is tried again; doubled at each further refusal.",
        c"",
    )
    .integer(&RETRY_BACKOFF, 1..=DAY_MILLIS, GucFlags::UNIT_MS);
    Guc::new(
        c"event_outbox.retry_backoff_max",
        c"Longest time between two attempts of a refused event.",
        c"",
    )
    .integer(&RETRY_BACKOFF_MAX, 1..=DAY_MILLIS, GucFlags::UNIT_MS);
}

/// Defines the settings of captures.
pub(super) fn init_captures() {
    Guc::new(
        c"event_outbox.topic_template",
        c"Topic of a captured table for which outbox.capture() is given none.",
        c"{namespace}, {database}, {schema} and {resource}, the table's name, are replaced.",
    )
    .text(&TOPIC_TEMPLATE);
    Guc::new(
        c"event_outbox.namespace",
        c"What {namespace} stands for in the topics of captured tables.",
        c"If empty, the name of the database.",
    )
    .text(&NAMESPACE);
}

/// Check hook: the value is empty or a name that Kafka accepts.
unsafe extern "C-unwind" fn check_topic(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: Postgres passes a C string.
    let name = unsafe { CStr::from_ptr(*value) }.to_bytes();
    name.is_empty() || std::str::from_utf8(name).is_ok_and(topic::is_valid)
}

/// Check hook: the value is a list of classes with their attempts.
unsafe extern "C-unwind" fn check_attempts(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: Postgres passes a C string.
    let text = unsafe { CStr::from_ptr(*value) };
    let Err(fault) = text.to_str().map_err(|_| "it is not UTF-8".into()).and_then(AttemptsByClass::parse)
    else {
        return true;
    };
    let detail = CString::new(format!("In the list, {fault}.")).unwrap_or_default();
    // SAFETY: a C string, which is copied into Postgres' memory; Postgres shows it and then forgets it.
    unsafe { pg_sys::GUC_check_errdetail_string = pg_sys::pstrdup(detail.as_ptr()) };
    false
}

/// The maximum size of an event, in bytes.
pub fn max_event_bytes() -> usize {
    size(&MAX_EVENT_BYTES)
}

/// The template of the topics of captured tables.
pub fn topic_template() -> String {
    text(&TOPIC_TEMPLATE)
}

/// The namespace in the topics of captured tables; empty for the database's name.
pub fn namespace() -> String {
    text(&NAMESPACE)
}

/// The number of refusals after which an event is dead that was last refused with this class.
pub fn max_attempts(class: Option<ErrorClass>) -> i32 {
    let by_class = AttemptsByClass::parse(&text(&MAX_ATTEMPTS_BY_CLASS)).unwrap_or_default();
    by_class.of(class, MAX_ATTEMPTS.get())
}

/// The minimum time for which an event is retried if others can remove the cause of its refusal.
pub fn grace_period() -> Duration {
    millis(&GRACE_PERIOD)
}

/// The first and the longest delay after a refusal.
pub fn retry_backoff() -> (Duration, Duration) {
    (millis(&RETRY_BACKOFF), millis(&RETRY_BACKOFF_MAX))
}
