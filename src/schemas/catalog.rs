//! Owns what a session knows of the bindings of topics to schemas. Each session caches them, as it does the grants of topics,
//! so emitting to a topic costs next to nothing more while none is bound.
//!
//! Runs in: client backends, and workers that emit.

use std::cell::RefCell;
use std::rc::Rc;

use event_outbox_policy::event::topic::Pattern;
use event_outbox_policy::schema::compiled::Format;
use pgrx::prelude::*;

use super::table::{BINDING, WATCH};
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{self, Access, Row, Statement};
use crate::pg::user_context::{Owner, UserContext};

/// The bindings, those of the most specific topics first, each with the version that it uses.
static BINDINGS: Statement = Statement::new(
    c"SELECT b.topic, b.event_type, b.subject, v.version, v.schema_id, s.format, b.message, b.wire_format \
        FROM outbox.schema_binding AS b \
        LEFT JOIN outbox.schema_subject AS s ON s.subject OPERATOR(pg_catalog.=) b.subject \
        LEFT JOIN LATERAL (SELECT v.version, v.schema_id FROM outbox.schema_version AS v \
                            WHERE v.subject OPERATOR(pg_catalog.=) b.subject \
                              AND (b.version IS NULL OR v.version OPERATOR(pg_catalog.=) b.version) \
                            ORDER BY v.version DESC LIMIT 1) AS v ON true \
       ORDER BY pg_catalog.right(b.topic, 1) OPERATOR(pg_catalog.=) '*', pg_catalog.length(b.topic) DESC, \
                b.event_type OPERATOR(pg_catalog.=) ''",
    &[],
);

/// How the payloads of a binding begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// With the id of their schema.
    Confluent,
    /// With themselves.
    Plain,
}

/// The schema of a binding.
#[derive(Debug)]
pub struct Bound {
    /// The subject.
    pub subject: String,
    /// The version in use.
    pub version: i32,
    /// Its definition.
    pub schema_id: i32,
    /// Its format.
    pub format: Format,
    /// The message of a Protobuf schema, if it is not the first one.
    pub message: Option<String>,
    /// How payloads begin.
    pub framing: Framing,
}

/// A binding. Without a schema the events pass as they are.
struct Binding {
    topics: Pattern,
    event_type: Option<String>,
    bound: Option<Rc<Bound>>,
}

/// The bindings as of the change numbered `age`.
struct Known {
    age: u64,
    bindings: Vec<Binding>,
}

thread_local! {
    static KNOWN: RefCell<Option<Known>> = const { RefCell::new(None) };
}

/// What a topic is bound to.
pub enum Found {
    /// To nothing.
    Unbound,
    /// To a schema.
    Bound(Rc<Bound>),
    /// Events of other types are bound, and none of this one's.
    OtherTypes,
}

/// The binding of an event. The caller has accepted invalidations, as the check of the topic's grants does.
#[must_use]
pub fn find(topic: &str, event_type: Option<&str>) -> Found {
    refresh();
    KNOWN.with_borrow(|known| {
        let bindings = known.as_ref().map_or(&[][..], |known| &known.bindings);
        let mut found = Found::Unbound;
        for binding in bindings.iter().filter(|binding| binding.topics.matches(topic)) {
            if binding.event_type.is_none() || binding.event_type.as_deref() == event_type {
                return binding.bound.as_ref().map_or(Found::Unbound, |bound| Found::Bound(Rc::clone(bound)));
            }
            found = Found::OtherTypes;
        }
        found
    })
}

/// Whether any events of a topic are bound. As for [`find`].
#[must_use]
pub fn has_any(topic: &str) -> bool {
    refresh();
    KNOWN.with_borrow(|known| {
        known.as_ref().is_some_and(|known| known.bindings.iter().any(|binding| binding.topics.matches(topic)))
    })
}

/// The number of the last change of the tables that this session has received.
#[must_use]
pub fn age() -> u64 {
    WATCH.changes()
}

/// Learns of changes that others have committed.
pub fn accept_changes() {
    // SAFETY: in a transaction, at a place where locks can be taken.
    unsafe { pg_sys::AcceptInvalidationMessages() };
}

/// Reads the bindings again if something has changed.
fn refresh() {
    if KNOWN.with_borrow(|known| known.as_ref().is_some_and(|known| known.age == age())) {
        return;
    }
    let table = BINDING.oid();
    WATCH.set_table(table);
    let age = age();
    // The objects may be those of an earlier release.
    let known = (table != pg_sys::InvalidOid).then(|| Known { age, bindings: read() });
    KNOWN.set(known);
}

fn read() -> Vec<Binding> {
    as_owner(|| BINDINGS.execute(&[], Access::Read, 0).iter().filter_map(|row| binding(&row)).collect())
}

/// Reads the tables as their owner.
pub fn as_owner<R>(work: impl FnOnce() -> R) -> R {
    let _owner = UserContext::switch_to(Owner::of(BINDING));
    // The latest snapshot, not the transaction's: the caches outlive the transaction.
    let _snapshot = Snapshot::take_latest();
    spi::connected(work)
}

fn binding(row: &Row) -> Option<Binding> {
    let topics = Pattern::new(row.get::<&str>(1)?);
    let event_type = row.get::<String>(2).filter(|of| !of.is_empty());
    let Some(subject) = row.get::<String>(3) else {
        return Some(Binding { topics, event_type, bound: None });
    };
    let bound = Bound {
        subject,
        version: row.get(4)?,
        schema_id: row.get(5)?,
        format: Format::parse(row.get::<&str>(6)?)?,
        message: row.get(7),
        framing: if row.get::<&str>(8)? == "plain" { Framing::Plain } else { Framing::Confluent },
    };
    Some(Binding { topics, event_type, bound: Some(Rc::new(bound)) })
}
