//! How a relay takes its place: it reads who publishes, fences the former relay, claims the outbox, and reads what was
//! published.
//!
//! Runs in: the Kafka thread of the relay's process.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::TryRecvError;
use event_outbox_policy::delivery::transaction::{Fence, Transactions};

use super::markers::Markers;
use super::session::Session;
use super::{End, TransactionalThread};
use crate::failpoints::{self, Point};
use crate::kafka::admin::progress::{self, Prepared};
use crate::kafka::producer::messages::ProducerEvent;

/// The pause after which a progress topic that cannot be used is looked at again.
const UNFIT_PAUSE: Duration = Duration::from_secs(10);

/// The pause after Kafka has not answered.
const UNREACHABLE_PAUSE: Duration = Duration::from_secs(1);

/// For how long a relay that has taken over is left alone, if it does not claim the outbox again.
const FENCED_PAUSE: Duration = Duration::from_secs(15);

/// Why nothing is done when a later version has written to the progress topic.
const LATER_VERSION: &str = "event_outbox.progress_topic has records of a later version of event_outbox. \
                             Install that version, or set event_outbox.progress_topic to another topic";

/// Takes the place. If Kafka does not let it, waits until it does.
pub fn start(thread: &TransactionalThread) -> Result<Session<'_>, End> {
    loop {
        match take_place(thread) {
            Err(End::Unfit(reason)) => thread.hold_back(reason, UNFIT_PAUSE)?,
            done => return done,
        }
    }
}

fn take_place(thread: &TransactionalThread) -> Result<Session<'_>, End> {
    thread.prepare_topic()?;
    let mut rules = thread.rules();
    let mut markers = loop {
        // From the first one: the end of a partition is reported once.
        let mut markers = Markers::open(thread)?;
        markers.read_to_end()?;
        let (reason, pause) = match rules.look(&markers.found) {
            _ if markers.found.has_unknown() => (LATER_VERSION.into(), UNFIT_PAUSE),
            Ok(()) => break markers,
            Err(fence) => (thread.describe(fence), FENCED_PAUSE),
        };
        drop(markers);
        thread.hold_back(reason, pause)?;
    };
    let mut session = Session::open(thread, rules)?;
    failpoints::reach(Point::AfterFence);
    session.claim()?;
    failpoints::reach(Point::AfterOwnClaim);
    markers.read_to(session.rules().last_claim())?;
    if failpoints::skips_markers() {
        markers.found = Default::default();
    }
    session.begin(&markers.found)?;
    Ok(session)
}

impl TransactionalThread {
    fn rules(&self) -> Transactions {
        let claimant = &self.claimant;
        Transactions::new(claimant.owner, claimant.instance, claimant.takes_over)
            .resumed(claimant.serial.load(Ordering::Relaxed), claimant.known.iter().copied())
    }

    fn prepare_topic(&self) -> Result<(), End> {
        loop {
            match progress::prepare(&self.config, &self.topic, &|| self.require_main().is_ok()) {
                Prepared::Ready => return Ok(()),
                Prepared::Unfit(reason) => self.hold_back(reason, UNFIT_PAUSE)?,
                Prepared::Unreachable(reason) => {
                    self.require_main()?;
                    self.send(ProducerEvent::Disconnected(reason))?;
                    self.pause(UNREACHABLE_PAUSE)?;
                }
            }
        }
    }

    fn describe(&self, fence: Fence) -> String {
        match fence {
            Fence::LeftBehind(timeline) => format!(
                "a server that was promoted to timeline {timeline} publishes the events of this database. \
                 Stop this server; or, if it is the one to publish, SELECT outbox.take_over()"
            ),
            Fence::Replaced => format!(
                "another copy of this server publishes the events of this database. \
                 Stop one of the two; or set event_outbox.enabled = off in the copy (progress topic \"{}\")",
                self.topic
            ),
        }
    }

    /// Tells the main thread that nothing is published, and why. Returns after the pause.
    fn hold_back(&self, reason: String, pause: Duration) -> Result<(), End> {
        self.send(ProducerEvent::HoldsBack(reason))?;
        self.pause(pause)
    }

    /// Waits this long, while the thread is wanted.
    fn pause(&self, pause: Duration) -> Result<(), End> {
        let until = Instant::now() + pause;
        loop {
            self.wakeup.clear();
            self.require_main()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.wakeup.wait(Some(left));
        }
    }

    /// Ends the thread if the main thread has closed its channels. It sends nothing before the start.
    pub(super) fn require_main(&self) -> Result<(), End> {
        match self.commands.try_recv() {
            Err(TryRecvError::Disconnected) => Err(End::Closed),
            Ok(_) | Err(TryRecvError::Empty) => Ok(()),
        }
    }
}
