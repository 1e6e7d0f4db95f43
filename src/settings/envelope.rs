//! Owns the settings that shape the record of an event.
//!
//! Runs in: the postmaster, which defines them; the relay's main thread reads them.

use std::ffi::{CStr, CString, c_char, c_void};

use event_outbox_policy::event::envelope::{Envelope, MAX_SOURCE_BYTES};
use event_outbox_policy::event::router::AdditionalFields;
use pgrx::prelude::*;
use pgrx::{GucFlags, GucRegistry, GucSetting, PostgresGucEnum};

use super::{CONTEXT, Guc, text};

/// Why additional fields are refused.
const FIELDS_ARE_REFUSED: &CStr =
    c"It is a list of column:header:name, of up to 1000 bytes, whose columns are id, aggregatetype, aggregateid and type.";

/// `event_outbox.envelope`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
enum Layout {
    #[name = c"cloudevents"]
    CloudEvents,
    #[name = c"cloudevents_structured"]
    Structured,
    #[name = c"debezium"]
    Debezium,
    #[name = c"none"]
    None,
}

static ENVELOPE: GucSetting<Layout> = GucSetting::<Layout>::new(Layout::CloudEvents);
static SOURCE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
// As in Debezium, where the default sends the header id alone.
static ADDITIONAL_FIELDS: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

pub(super) fn init() {
    Guc::new(
        c"event_outbox.envelope",
        c"The form of each event's record.",
        c"\"cloudevents\" writes the headers of a CloudEvent, \"cloudevents_structured\" the whole CloudEvent as the value, \
          \"debezium\" what Debezium's outbox event router writes, \"none\" only the author's own headers.",
    )
    .choice(&ENVELOPE);
    // SAFETY: the hooks have the signature of a check hook and change nothing.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            c"event_outbox.source",
            c"The CloudEvents source of this database's events, a URI of up to 1000 bytes.",
            c"If empty, postgresql://CLUSTER/DATABASE with cluster_name or else the system identifier.",
            &SOURCE,
            CONTEXT,
            GucFlags::default(),
            Some(check_source),
            None,
            None,
        );
        GucRegistry::define_string_guc_with_hooks(
            c"event_outbox.debezium_additional_fields",
            c"The further headers of the layout of Debezium, as in table.fields.additional.placement.",
            c"A list of column:header:name; the columns are id, aggregatetype, aggregateid and type.",
            &ADDITIONAL_FIELDS,
            CONTEXT,
            GucFlags::default(),
            Some(check_additional_fields),
            None,
            None,
        );
    }
}

/// Check hook: the source is short enough to be sent with every event.
unsafe extern "C-unwind" fn check_source(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: Postgres passes a C string.
    unsafe { CStr::from_ptr(*value) }.count_bytes() <= MAX_SOURCE_BYTES
}

/// Check hook: the fields can be read, and are short enough to be sent with every event.
unsafe extern "C-unwind" fn check_additional_fields(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: Postgres passes a C string.
    let value = unsafe { CStr::from_ptr(*value) };
    let is_sound = value.count_bytes() <= MAX_SOURCE_BYTES
        && value.to_str().is_ok_and(|value| AdditionalFields::parse(value).is_some());
    if !is_sound {
        // SAFETY: Postgres reads the text when this returns; it is a constant.
        unsafe { pg_sys::GUC_check_errdetail_string = FIELDS_ARE_REFUSED.as_ptr().cast_mut() };
    }
    is_sound
}

/// The envelope of events. `default_source` is sent as their source if none is set.
pub(super) fn envelope(default_source: &str) -> Envelope {
    let source =
        || Some(text(&SOURCE)).filter(|set| !set.is_empty()).unwrap_or_else(|| default_source.to_owned());
    match ENVELOPE.get() {
        Layout::CloudEvents => Envelope::CloudEvents { source: source() },
        Layout::Structured => Envelope::Structured { source: source() },
        Layout::Debezium => {
            Envelope::Router(AdditionalFields::parse(&text(&ADDITIONAL_FIELDS)).unwrap_or_default())
        }
        Layout::None => Envelope::None,
    }
}
