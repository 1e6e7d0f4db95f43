//! One transaction: events, marker, commit; or its end when Kafka refuses an event.
//!
//! Runs in: the Kafka thread of the relay's process.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use event_outbox_policy::delivery::error_class::ErrorClass;
use event_outbox_policy::delivery::marker::EventPart;
use event_outbox_policy::delivery::outcome::{Failure, Outcome, Report};
use event_outbox_policy::delivery::transaction::OwnRecord;
use rdkafka::producer::{BaseRecord, Producer};

use super::End;
use super::chosen::Chosen;
use super::session::{OFTEN, QUIET, SELDOM, Session};
use crate::failpoints::{self, Point};
use crate::kafka::config;
use crate::kafka::producer::messages::ProducerEvent;

/// How many messages to produce before serving callbacks again.
const SERVE_EVERY: usize = 256;

/// How long no report may arrive.
const REPORT_WITHIN: Duration = Duration::from_secs(10);

/// How often to look whether the transaction has failed, of which nothing wakes the thread.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How long Kafka may take to answer what is on its way, and to abort.
const ABORTED_WITHIN: Duration = Duration::from_secs(15);

/// The reports' name for a record of the relay's own. No event has this id: ids are drawn from a sequence.
const OWN: i64 = i64::MIN;

/// What became of the records of a transaction before its commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Records {
    /// Kafka has them all.
    Delivered,
    /// Kafka refused some.
    Refused,
    /// Kafka does not take them, for now.
    Stuck,
}

impl Session<'_> {
    /// Ends what an earlier transaction of the producer may have left open in the progress topic. The producer was initialised
    /// just now, so Kafka regards all its transactions as ended.
    ///
    /// Kafka 4.3 answers a commit before it has told the partitions. It does not tell those that have no leader then, but forgets
    /// them (`TransactionMarkerChannelManager`: "likely deleted already"), as when the only broker was killed just after a commit.
    /// Such a transaction stays open for ever, and no reader of markers gets past it. The next transaction of its producer in the
    /// partition ends both of them alike.
    ///
    /// It is an abort, which is right whatever has become of the other: events whose marker was reported as committed are
    /// deleted, or known to this relay; all others must be published again.
    pub(super) fn end_hanging(&mut self) -> Result<(), End> {
        self.write_claim()?;
        self.patiently(ABORTED_WITHIN, OFTEN, "the end of hanging transactions", |producer, slice| {
            producer.abort_transaction(slice)
        })
    }

    /// Writes the claim, in a transaction of its own.
    pub fn claim(&mut self) -> Result<(), End> {
        self.write_claim()?;
        self.patiently(self.commit_patience(), SELDOM, "the commit of its claim", |producer, slice| {
            producer.commit_transaction(slice)
        })?;
        self.transactors.take_turns();
        Ok(())
    }

    /// Begins a transaction with a claim.
    fn write_claim(&mut self) -> Result<(), End> {
        let claim = self.rules.claim();
        self.keep_serial();
        self.begin_transaction()?;
        self.put_own(&claim);
        let records = self.await_reports(1)?;
        if records == Records::Delivered {
            return Ok(());
        }
        let why = self.own_failure().unwrap_or_else(|| "Kafka does not take it".into());
        Err(End::Broken(self.unwritten("its claim", &why)))
    }

    /// Runs a transaction. Returns whether its events are answered; if not, no event is to blame that it was aborted.
    pub(super) fn attempt(&mut self, all: &[Chosen<'_>], events: Vec<(i64, EventPart)>) -> Result<bool, End> {
        let count = events.len();
        if !self.rules.begin(events) {
            return Err(End::Broken("no transaction may begin".into()));
        }
        self.keep_serial();
        self.begin_transaction()?;
        for chosen in all {
            self.produce(chosen)?;
        }
        if !self.has_failed() {
            // Meanwhile librdkafka sends the events.
            self.put_own(&self.rules.marker());
        }
        failpoints::after_produce(self.client().handle());
        match self.await_reports(count + 1)? {
            Records::Delivered => match self.commit() {
                #[cfg(feature = "failpoints")]
                Err(End::Broken(_)) if failpoints::reuses_producers() => self.reuse(all),
                done => done.map(|()| true),
            },
            records => self.roll_back(all, records),
        }
    }

    fn begin_transaction(&mut self) -> Result<(), End> {
        let context = self.context();
        let mut log = context.callback_log();
        log.reports.clear();
        log.failures = 0;
        drop(log);
        self.client()
            .producer()
            .begin_transaction()
            .map_err(|error| End::Broken(context.redact(&format!("a transaction could not begin: {error}"))))
    }

    fn produce(&mut self, chosen: &Chosen<'_>) -> Result<(), End> {
        let mut events = chosen.events().peekable();
        while events.peek().is_some() && !self.has_failed() {
            self.client().produce(
                events.by_ref().take(SERVE_EVERY),
                chosen.batch.topics(),
                &self.thread.envelope,
            );
            self.serve()?;
        }
        Ok(())
    }

    fn put_own(&self, record: &OwnRecord) {
        let id = OWN.cast_unsigned() as usize;
        let record = BaseRecord::with_opaque_to(&self.thread.topic, id)
            .partition(0)
            .key(&record.key)
            .payload(&record.value);
        if let Err((error, _)) = self.client().producer().send(record) {
            self.context().failed(OWN, &self.thread.topic, &error);
        }
    }

    fn has_failed(&self) -> bool {
        self.context().callback_log().failures > 0
    }

    /// Why the relay's own record was not written, if Kafka has said so.
    fn own_failure(&self) -> Option<String> {
        let log = self.context().callback_log();
        log.reports.iter().find_map(|report| match &report.outcome {
            Outcome::Failed { failure, error, .. } if report.id == OWN && *failure != Failure::Stopped => {
                Some(error.clone())
            }
            _ => None,
        })
    }

    /// Why the relay's own record was not written, if Kafka does not take it. Perhaps the progress topic was deleted, of which
    /// librdkafka says nothing for long: it repeats its request to add the partition to the transaction. Only another
    /// producer looks at the topic, and creates it again.
    fn own_silence(&self, records: Records) -> Option<String> {
        let log = self.context().callback_log();
        let is_silent = records == Records::Stuck && !log.reports.iter().any(|report| report.id == OWN);
        is_silent.then(|| format!("Kafka has not taken it within {} s", REPORT_WITHIN.as_secs()))
    }

    fn unwritten(&self, what: &str, why: &str) -> String {
        self.cause(&format!("{what} could not be written to progress topic \"{}\": {why}", self.thread.topic))
    }

    /// Waits for so many reports, or for one that is a failure.
    fn await_reports(&mut self, expected: usize) -> Result<Records, End> {
        let (mut count, mut last) = (0, Instant::now());
        loop {
            self.thread.wakeup.clear();
            self.serve()?;
            if self.has_failed() {
                return Ok(Records::Refused);
            }
            let now = self.context().callback_log().reports.len();
            if now >= expected {
                return Ok(Records::Delivered);
            }
            if now > count {
                (count, last) = (now, Instant::now());
            }
            let left = REPORT_WITHIN.saturating_sub(last.elapsed());
            if left.is_zero() {
                return Ok(Records::Stuck);
            }
            let next = if last.elapsed() >= QUIET { self.doubt()? } else { Some(last + QUIET) };
            let next = next.map(|next| next.saturating_duration_since(Instant::now()));
            self.thread.wakeup.wait(Some(next.unwrap_or(QUIET).min(left).min(LOOK_AGAIN)));
        }
    }

    fn commit_patience(&self) -> Duration {
        config::transaction_timeout(&self.thread.config)
    }

    fn commit(&mut self) -> Result<(), End> {
        failpoints::reach(Point::BeforeCommit);
        self.rules.request_commit();
        let patience = self.commit_patience();
        let done = self.patiently(patience, SELDOM, "the commit of a transaction", |producer, slice| {
            producer.commit_transaction(slice)
        });
        if done.is_err() {
            self.rules.lost();
            return done;
        }
        failpoints::reach(Point::AfterCommit);
        let mut reports = std::mem::take(&mut self.context().callback_log().reports);
        reports.retain(|report| report.id != OWN);
        self.thread.send(ProducerEvent::Reports(reports))?;
        self.rules.committed();
        self.transactors.take_turns();
        self.connected()
    }

    /// Ends the transaction without a commit. What Kafka has refused is told, and the other events come back. If a request of
    /// it is not answered, the producer is used no more: the request could arrive in the next transaction.
    ///
    /// Returns false, and tells nothing, if no event is at fault. This is so in the transaction after a refusal: the refused
    /// batch has left a gap in the sequence of its partition, which the broker does not accept from the next one. With that
    /// abort librdkafka takes another epoch, in which sequences begin anew. So the same transaction succeeds then. If its
    /// events were given back as untried instead, larger groups would follow, be refused, and leave gaps for ever.
    fn roll_back(&mut self, all: &[Chosen<'_>], records: Records) -> Result<bool, End> {
        // Before another producer has its turn, whose last error would be shown.
        let marker = self.own_failure().or_else(|| self.own_silence(records));
        let marker = marker.map(|why| self.unwritten("a marker", &why));
        // librdkafka purges what was not sent, and waits for the answers to what was, before it aborts. A purge of ours would
        // leave a gap in the sequences of the partitions.
        let aborted = self.patiently(ABORTED_WITHIN, OFTEN, "the end of a transaction", |producer, slice| {
            producer.abort_transaction(slice)
        });
        if let Err(End::Closed) = aborted {
            return Err(End::Closed);
        }
        // Perhaps a topic was created again, with fewer partitions.
        self.known_partitions.forget();
        let told = std::mem::take(&mut self.context().callback_log().reports);
        self.transactors.take_turns();
        if aborted.is_ok() && marker.is_none() && records == Records::Refused && !told.iter().any(is_at_fault)
        {
            self.rules.aborted();
            return Ok(false);
        }
        self.is_rolled_back = true;
        self.thread.send(ProducerEvent::RolledBack)?;
        let reports = rolled_back(all, told, records);
        self.set_apart(all, &reports);
        self.thread.send(ProducerEvent::Reports(reports))?;
        if let Err(end) = aborted {
            self.rules.lost();
            return Err(end);
        }
        self.rules.aborted();
        marker.map_or(Ok(true), |why| Err(End::Broken(why)))
    }
}

/// Whether this is the report of an event because of which a transaction must end.
pub(super) fn is_at_fault(report: &Report) -> bool {
    let Outcome::Failed { failure, .. } = &report.outcome else { return false };
    report.id != OWN
        && match failure {
            Failure::Refused | Failure::Suspect | Failure::Unsendable | Failure::Outage => true,
            Failure::Stopped => false,
        }
}

/// The reports of a transaction that was rolled back: those of the events at fault, and all others come back.
pub(super) fn rolled_back(all: &[Chosen<'_>], told: Vec<Report>, records: Records) -> Vec<Report> {
    let delivered: HashSet<i64> = told
        .iter()
        .filter(|report| matches!(report.outcome, Outcome::Delivered { .. }))
        .map(|report| report.id)
        .collect();
    let mut reports: Vec<Report> = told.into_iter().filter(is_at_fault).collect();
    let at_fault: HashSet<i64> = reports.iter().map(|report| report.id).collect();
    let events = all.iter().flat_map(Chosen::events);
    let others = events.filter(|(_, event)| !at_fault.contains(&event.id)).map(|(_, event)| match records {
        // Those that Kafka has taken are not the ones that it does not take.
        Records::Stuck if !delivered.is_empty() && !delivered.contains(&event.id) => stuck(event.id),
        _ => given_back(event.id),
    });
    reports.extend(others);
    reports
}

/// The report of an event that comes back through no fault of its own.
pub(super) fn given_back(id: i64) -> Report {
    let error = "its transaction was rolled back".into();
    Report { id, outcome: Outcome::Failed { failure: Failure::Stopped, class: ErrorClass::Other, error } }
}

/// The report of an event that Kafka does not take, though it takes others.
fn stuck(id: i64) -> Report {
    let error = "Kafka has taken other events of its transaction, but not this one".into();
    Report { id, outcome: Outcome::Failed { failure: Failure::Outage, class: ErrorClass::Other, error } }
}
