//! Owns the log lines of a worker's threads, on their way to the server's log.
//!
//! Runs in: a worker's process, on any thread; [`flush`] on the main thread.
//!
//! Only the main thread may call Postgres. So all lines, which `tracing` takes from any thread, go into a
//! channel, and the main thread writes them to the log once per round of its loop.

use std::fmt::{Debug, Write};

use crossbeam_channel::{Receiver, Sender};
use once_cell::sync::Lazy;
use pgrx::prelude::*;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};

/// Lines that wait at most; further lines are dropped, since a log must not take memory without bound.
const WAITING_LINES: usize = 1000;

struct Line {
    level: Level,
    text: String,
}

static LINES: Lazy<(Sender<Line>, Receiver<Line>)> = Lazy::new(|| crossbeam_channel::bounded(WAITING_LINES));

/// Sends all events of `tracing` in this process to the server's log.
pub fn init() {
    let subscriber = tracing_subscriber::registry().with(ToChannel);
    // A second call finds the first one's subscriber, which does the same.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// Writes the waiting lines to the server's log. Main thread only.
pub fn flush() {
    for line in LINES.1.try_iter() {
        match line.level {
            // An ERROR would end the caller's work.
            Level::ERROR | Level::WARN => ereport!(WARNING, PgSqlErrorCode::ERRCODE_WARNING, line.text),
            Level::INFO => ereport!(LOG, PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, line.text),
            Level::DEBUG => ereport!(DEBUG1, PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, line.text),
            Level::TRACE => ereport!(DEBUG5, PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, line.text),
        }
    }
}

struct ToChannel;

impl<S: Subscriber> Layer<S> for ToChannel {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _context: Context<'_, S>) -> bool {
        *metadata.level() <= Level::DEBUG
    }

    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut text = Text(String::from("event_outbox: "));
        event.record(&mut text);
        let _ = LINES.0.try_send(Line { level: *event.metadata().level(), text: text.0 });
    }
}

/// An event's message, then its fields.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a String cannot fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}
