//! Owns the settings of what sessions add to the headers of events: the trace, and the transaction.
//!
//! Runs in: the postmaster, which defines them; client backends read them.

use std::ffi::{CStr, CString, c_char, c_void};

use event_outbox_policy::event::trace_context;
use pgrx::prelude::*;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

use super::{Guc, explain};

static TRACEPARENT: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static TRACESTATE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static TRANSACTION_HEADERS: GucSetting<bool> = GucSetting::<bool>::new(false);

/// Why a parent is refused.
pub const NO_PARENT: &CStr =
    c"It must be as W3C Trace Context has it: 00-<trace: 32 digits>-<span: 16 digits>-<flags: 2 digits>.";

/// Why a state is refused.
pub const NO_STATE: &CStr =
    c"It must be as W3C Trace Context has it: up to 32 different key=value, separated by commas, and 512 bytes.";

pub(super) fn init() {
    // SAFETY: the hooks have the signature of a check hook and change nothing.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            c"event_outbox.traceparent",
            c"The trace of which events are a part, sent as the header traceparent.",
            c"A driver sets it for a transaction: SET LOCAL. If empty, none is sent.",
            &TRACEPARENT,
            // A session says of its own events where they come from.
            GucContext::Userset,
            GucFlags::default(),
            Some(check_traceparent),
            None,
            None,
        );
        GucRegistry::define_string_guc_with_hooks(
            c"event_outbox.tracestate",
            c"What tracing systems add to the trace, sent as the header tracestate.",
            c"It is sent only with a traceparent.",
            &TRACESTATE,
            GucContext::Userset,
            GucFlags::default(),
            Some(check_tracestate),
            None,
            None,
        );
    }
    Guc::new(
        c"event_outbox.transaction_headers",
        c"Sends the id of each event's transaction, and the event's place in it, as headers.",
        c"The headers are outbox_transaction_id and outbox_transaction_order.",
    )
    .boolean(&TRANSACTION_HEADERS);
}

/// Check hook: the value is empty or a parent.
unsafe extern "C-unwind" fn check_traceparent(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: Postgres passes a C string.
    let value = unsafe { CStr::from_ptr(*value) };
    explain(value.is_empty() || value.to_str().is_ok_and(trace_context::is_parent), NO_PARENT)
}

/// Check hook: the value is a state.
unsafe extern "C-unwind" fn check_tracestate(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: Postgres passes a C string.
    let value = unsafe { CStr::from_ptr(*value) };
    explain(value.to_str().is_ok_and(trace_context::is_state), NO_STATE)
}

/// Whether a text setting has a value. It costs no copy: this is asked for each event.
fn is_set(setting: &GucSetting<Option<CString>>) -> bool {
    // SAFETY: the variable holds a C string of Postgres', or null.
    unsafe {
        let value = *setting.as_ptr();
        !value.is_null() && *value != 0
    }
}

fn text(setting: &GucSetting<Option<CString>>) -> Option<String> {
    is_set(setting).then(|| super::text(setting))
}

/// The parent of this session's events, if one is set.
#[must_use]
pub fn traceparent() -> Option<String> {
    text(&TRACEPARENT)
}

/// The state that goes with it.
#[must_use]
pub fn tracestate() -> Option<String> {
    text(&TRACESTATE)
}

/// Whether events say which transaction they are a part of.
#[must_use]
pub fn has_transaction_headers() -> bool {
    TRANSACTION_HEADERS.get()
}

/// Whether any header is to be added to an event.
#[must_use]
pub fn are_on() -> bool {
    is_set(&TRACEPARENT) || TRANSACTION_HEADERS.get()
}
