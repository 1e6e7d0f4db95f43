//! Owns the headers that a session adds to its events: the trace that its driver has set, and the transaction.
//!
//! Runs in: client backends.

use std::borrow::Cow;
use std::cell::Cell;
use std::ffi::CStr;

use event_outbox_policy::event::headers;
use event_outbox_policy::event::trace_context::{self, TRACEPARENT, TRACESTATE};
use pgrx::prelude::*;

use crate::pg::user_error::UserError;
use crate::pg::varlena;
use crate::settings::additions;
pub use crate::settings::additions::are_on;

const TRANSACTION_ID: &str = "outbox_transaction_id";
const TRANSACTION_ORDER: &str = "outbox_transaction_order";

thread_local! {
    /// A transaction of this session, and how many events it has counted.
    static COUNTED: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
    /// This process is a relay.
    static IS_RELAY: Cell<bool> = const { Cell::new(false) };
}

/// Says that this process is a relay: the events that it inserts are those of sessions, and stay as they are.
pub fn leave_to_sessions() {
    IS_RELAY.set(true);
}

/// Whether the events that this process inserts by hand are its own.
#[must_use]
pub fn are_of_session() -> bool {
    !IS_RELAY.get()
}

/// The headers of a new event, a value of the type json, with those that are missing. What its author has written stays.
pub fn to_headers(own: Option<pg_sys::Datum>, trace: &Trace<'_>) -> Option<pg_sys::Datum> {
    if trace.parent.is_some() || are_on() { with_members(own, &Members::missing(own, trace)) } else { own }
}

/// A trace that a caller has passed. It goes before that of the session.
#[derive(Debug, Default)]
pub struct Trace<'a> {
    parent: Option<&'a str>,
    state: Option<&'a str>,
}

impl<'a> Trace<'a> {
    /// The trace of these arguments. An ERROR if they are of another form. A state without a parent says nothing.
    #[must_use]
    pub fn of(parent: Option<&'a str>, state: Option<&'a str>) -> Self {
        if parent.is_some_and(|parent| !trace_context::is_parent(parent)) {
            refuse(TRACEPARENT, additions::NO_PARENT);
        }
        if state.is_some_and(|state| !trace_context::is_state(state)) {
            refuse(TRACESTATE, additions::NO_STATE);
        }
        Self { parent, state: state.filter(|_| parent.is_some()) }
    }
}

fn refuse(name: &str, why: &CStr) -> ! {
    UserError {
        code: PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        message: format!("invalid {name}"),
        detail: why.to_string_lossy().into_owned(),
        hint: "Pass it as the tracing library has it, or NULL if there is no trace.".into(),
    }
    .raise()
}

/// Whether headers, a value of the type json, have none of this name.
#[must_use]
pub fn lack(own: Option<pg_sys::Datum>, name: &str) -> bool {
    Members::of(own).lack(name)
}

/// The headers with one more.
#[must_use]
pub fn with(own: Option<pg_sys::Datum>, name: &str, value: &str) -> Option<pg_sys::Datum> {
    let mut members = Members::of(own);
    members.add(name, value);
    with_members(own, &members)
}

/// The members of a JSON object that are added.
struct Members<'a> {
    own: Option<&'a str>,
    text: String,
}

impl<'a> Members<'a> {
    fn of(own: Option<pg_sys::Datum>) -> Self {
        // SAFETY: a json value that lives as long as the event.
        let own = own.map(|own| unsafe { varlena::text(own) });
        Self { own, text: String::new() }
    }

    /// What the caller and the session add to the headers.
    fn missing(own: Option<pg_sys::Datum>, trace: &Trace<'_>) -> Self {
        let mut members = Self::of(own);
        let (parent, state) = match trace.parent {
            Some(parent) => (Some(Cow::Borrowed(parent)), trace.state.map(Cow::Borrowed)),
            None => (additions::traceparent().map(Cow::Owned), additions::tracestate().map(Cow::Owned)),
        };
        // A state belongs to its parent. If the author has written one, nothing is added to it.
        if let Some(parent) = parent
            && members.lack(TRACEPARENT)
            && members.lack(TRACESTATE)
        {
            members.add(TRACEPARENT, &parent);
            if let Some(state) = state.filter(|state| !state.is_empty()) {
                members.add(TRACESTATE, &state);
            }
        }
        if additions::has_transaction_headers() && members.lack(TRANSACTION_ID) {
            let (transaction, order) = count();
            members.add(TRANSACTION_ID, &transaction.to_string());
            members.add(TRANSACTION_ORDER, &order.to_string());
        }
        members
    }

    fn lack(&self, name: &str) -> bool {
        self.own.is_none_or(|own| headers::lack(own, name))
    }

    /// Adds a member. Its length is bounded by what settings accept.
    fn add(&mut self, name: &str, value: &str) {
        if !self.text.is_empty() {
            self.text.push(',');
        }
        for (text, end) in [(name, ":"), (value, "")] {
            // A string can always be written as JSON.
            self.text.push_str(&serde_json::to_string(text).unwrap_or_default());
            self.text.push_str(end);
        }
    }
}

fn with_members(own: Option<pg_sys::Datum>, members: &Members<'_>) -> Option<pg_sys::Datum> {
    if members.text.is_empty() {
        return own;
    }
    let parts = headers::with_members(members.own, &members.text).map(str::as_bytes);
    let bytes = parts.iter().map(|part| part.len()).sum();
    Some(varlena::filled(bytes, |mut room| {
        for part in parts {
            let (begin, rest) = room.split_at_mut(part.len());
            begin.copy_from_slice(part);
            room = rest;
        }
    }))
}

/// Counts an event: the id of the transaction, and the place of the event in it, from 1.
fn count() -> (u64, u64) {
    // SAFETY: in a transaction; this assigns its id if it has none.
    let transaction = unsafe { pg_sys::GetTopFullTransactionId() }.value;
    let (last, counted) = COUNTED.get();
    let order = if last == transaction { counted + 1 } else { 1 };
    COUNTED.set((transaction, order));
    (transaction, order)
}
