//! Owns the ingest worker's main loop.
//!
//! Runs in: an ingest worker, main thread.
//!
//! A round takes what the consumers have read, stores it, records the failures that sessions have noted, and sleeps until a
//! consumer, a commit or a signal wakes it, or until the next step is due.

use std::time::{Duration, Instant};

use super::local::Local;
use super::metrics::{self, State};
use super::registration::SUBSCRIPTIONS_CHANGED;
use super::segments::Segments;
use super::sources::{RETRY_PAUSE, Source};
use super::store::{Batch, Stored};
use super::{Ingest, catalog};
use crate::failpoints::{self, Point};
use crate::inbox::project::definition;
use crate::inbox::{arrivals, mistakes};
use crate::kafka::consumer::messages::{ConsumerEvent, Fetched};
use crate::settings::consumer::Settings;
use crate::worker::metrics::Connection;
use crate::worker::phase::Request;
use crate::worker::{entry, log, process, slots, transaction};

impl Ingest {
    /// Runs the loop until the worker is asked to end, or there is no subscription any more.
    pub fn run(mut self) {
        while !self.must_end() {
            self.slot.wakeup.take();
            if self.db_backoff.is_over(Instant::now()) {
                self.read_definitions();
                self.tend_sources();
                self.take_events();
                self.take_local_events();
                self.record_failures();
                self.tend_segments();
            }
            self.tend_processes();
            self.show();
            log::flush();
            self.rest();
            self.reload();
        }
        metrics::of(self.slot).show(State::Stopping);
        self.end_processes();
        self.sources.iter_mut().for_each(Source::stop);
        entry::set_not_installed(self.is_done);
        log::flush();
    }

    fn must_end(&self) -> bool {
        self.is_done || process::stop_requested() || self.slot.order() != Request::None
    }

    /// Reads the subscriptions again, if they may have changed.
    fn read_definitions(&mut self) {
        if !self.slot.take_notice(SUBSCRIPTIONS_CHANGED) {
            return;
        }
        let read = || {
            catalog::has_subscriptions().then(|| {
                let processes = (catalog::handlers(), definition::wanted());
                (catalog::definitions(), catalog::last_position(), Segments::load(), processes)
            })
        };
        match self.note(transaction::run(c"event_outbox: reading subscriptions", read)) {
            Some(Some((definitions, last_position, segments, processes))) => {
                (self.wanted_handlers, self.wanted_projections) = processes;
                let (local, definitions): (Vec<_>, Vec<_>) =
                    definitions.into_iter().partition(|definition| definition.cursor.is_some());
                self.redefine_locals(local);
                let ids: Vec<i32> = definitions.iter().map(|definition| definition.id).collect();
                self.sources.retain_mut(|source| {
                    let stays = ids.contains(&source.definition.id);
                    if !stays {
                        source.stop();
                    }
                    stays
                });
                for definition in definitions {
                    match self.sources.iter_mut().find(|source| source.definition.id == definition.id) {
                        Some(source) => source.redefine(definition),
                        None => self.sources.push(Source::new(definition)),
                    }
                }
                self.last_position = self.last_position.max(last_position);
                self.segments.set(segments);
                // One that was resumed, or whose dead letters were redriven, may have events to receive.
                arrivals::condition().broadcast();
            }
            Some(None) => self.is_done = true,
            None => self.slot.notify(SUBSCRIPTIONS_CHANGED),
        }
    }

    /// Starts the consumers that are missing. They share the memory.
    fn tend_sources(&mut self) {
        if !self.settings.enabled {
            self.sources.iter_mut().for_each(Source::stop);
            return;
        }
        let mut config = self.settings.consumer.clone();
        config.memory /= self.sources.len().max(1);
        if std::mem::replace(&mut self.memory_of_each, config.memory) != config.memory {
            self.sources.iter_mut().for_each(Source::stop);
        }
        for source in &mut self.sources {
            source.take_end();
            source.replace_stuck();
            if let Err(error) = source.tend(&config, &self.kafka_wakeup) {
                let file = error
                    .file()
                    .map_or_else(String::new, |path| format!(" (the file is {})", path.display()));
                tracing::warn!(
                    "the Kafka consumer of subscription \"{}\" cannot be started: {error}{file}",
                    source.definition.name
                );
                self.slot.show_error(&error.to_string());
            }
        }
    }

    /// Starts the processes of handlers and projections that are missing, and ends those that are not wanted.
    fn tend_processes(&mut self) {
        let is_enabled = self.settings.enabled;
        let is_offered = self.slot.helpers.take_offer();
        self.handlers.set(if is_enabled { &self.wanted_handlers } else { &[] });
        self.projections.set(if is_enabled { &self.wanted_projections } else { &[] });
        let others_wait = slots::all().others_wait(self.slot);
        let reports =
            [self.handlers.tend(is_offered, others_wait), self.projections.tend(is_offered, others_wait)];
        for report in reports.into_iter().flatten() {
            tracing::warn!("{report}");
            self.slot.show_error(&report);
        }
        let tasks = self.handlers.task_count() + self.projections.task_count();
        if self.slot.helpers.show(tasks, self.handlers.lacking() + self.projections.lacking()) {
            slots::all().launcher.set();
        }
    }

    /// Lets the processes of handlers and projections end after their transactions. A command that needs the database ends them
    /// itself.
    fn end_processes(&mut self) {
        self.handlers.leave();
        self.projections.leave();
        // They may be asleep.
        arrivals::condition().broadcast();
    }

    /// Takes what the consumers have sent, and stores it.
    fn take_events(&mut self) {
        self.kafka_wakeup.clear();
        for place in 0..self.sources.len() {
            if self.sources[place].may_store()
                && let Some(fetched) = self.sources[place].pending.take()
            {
                self.sources[place].retry_at = None;
                self.store(place, fetched);
            }
            // One of each in a round, so that a backlog delays neither other sources nor requests.
            if let Some(event) = self.sources[place].next_event() {
                self.take_event(place, event);
            }
        }
    }

    fn take_event(&mut self, place: usize, event: ConsumerEvent) {
        let source = &mut self.sources[place];
        match event {
            ConsumerEvent::Fetched(fetched) => self.store(place, fetched),
            ConsumerEvent::OutOfRange(found) => self.lost_data(place, &found),
            ConsumerEvent::Topics(topics) => self.found_topics(place, &topics),
            ConsumerEvent::OtherTopics(_) => source.renew(),
            ConsumerEvent::StandsStill(number) => source.replace_standing(number),
            ConsumerEvent::Trouble(number, text) => {
                let name = &source.definition.name;
                let of =
                    usize::try_from(number).ok().and_then(|number| source.definition.partitions.get(number));
                let text = of.map_or(text.clone(), |of| {
                    format!(
                        "subscription \"{name}\" cannot read partition {} of topic \"{}\": {text}",
                        of.partition, of.topic
                    )
                });
                self.slot.show_error(&text);
                source.has_trouble = true;
            }
            ConsumerEvent::Connected => {
                if source.connection == Connection::Disconnected {
                    tracing::info!(
                        "Kafka answers the consumer of subscription \"{}\" again",
                        source.definition.name
                    );
                }
                source.connected();
            }
            ConsumerEvent::Disconnected(reason) => {
                if source.connection != Connection::Disconnected {
                    tracing::warn!(
                        "no Kafka broker answers the consumer of subscription \"{}\": {reason}",
                        source.definition.name
                    );
                }
                source.disconnected();
                self.slot.show_error(&reason);
            }
            ConsumerEvent::Statistics(_) => {}
            ConsumerEvent::Broken(reason) => {
                tracing::warn!(
                    "the Kafka consumer of subscription \"{}\" ended: {reason}",
                    source.definition.name
                );
                self.slot.show_error(&reason);
            }
        }
    }

    /// Stores a batch. If that fails, it stays pending, unless the definition, which is read again, has moved.
    fn store(&mut self, place: usize, fetched: Fetched) {
        self.sources[place].note_ends(&fetched);
        let next_offsets = self.sources[place].offsets_after(&fetched);
        let definition = &self.sources[place].definition;
        let has_advanced =
            definition.partitions.iter().zip(&next_offsets).any(|(of, next)| *next != Some(of.next_offset));
        if !has_advanced {
            return;
        }
        let batch = Batch {
            definition,
            records: &fetched.records,
            next_offsets,
            last_reads: self.sources[place].last_after(&fetched),
            after: self.last_position,
            segment: self.segments.current(),
            undecided: None,
            notifies: self.settings.notifies,
        };
        let segments = &self.segments;
        let work = || {
            segments.begin(batch.after);
            batch.store()
        };
        failpoints::reach(Point::AfterFetch);
        if mistakes::stores_offsets_first() {
            let _ = transaction::run(c"event_outbox: storing offsets", || batch.store_offsets());
        }
        let stored = transaction::run(c"event_outbox: storing events", work);
        failpoints::reach(Point::AfterStore);
        let Batch { next_offsets, last_reads, .. } = batch;
        match self.note(stored) {
            Some(Stored::UpTo(last)) => {
                let count = usize::try_from(last - self.last_position).unwrap_or(0);
                self.segments.begun(self.last_position);
                self.last_position = last;
                self.sources[place].stored(&next_offsets, &last_reads);
                if count > 0 {
                    metrics::of(self.slot).count_stored(count, crate::pg::now());
                    arrivals::condition().broadcast();
                }
            }
            // The definition is read again.
            Some(Stored::Outdated) => self.slot.notify(SUBSCRIPTIONS_CHANGED),
            Some(Stored::Busy) => {
                self.sources[place].retry_at = Some(Instant::now() + RETRY_PAUSE);
                self.sources[place].pending = Some(fetched);
            }
            None => {
                self.sources[place].pending = Some(fetched);
                self.slot.notify(SUBSCRIPTIONS_CHANGED);
            }
        }
    }

    /// Shows the state.
    fn show(&self) {
        let metrics = metrics::of(self.slot);
        let connections = self.sources.iter().map(|source| source.connection);
        let disconnected = connections.clone().any(|connection| connection == Connection::Disconnected);
        let connected = connections.clone().all(|connection| connection == Connection::Connected);
        metrics.show_connection(match (disconnected, connected) {
            (true, _) => Connection::Disconnected,
            (false, true) => Connection::Connected,
            (false, false) => Connection::Unknown,
        });
        let state = if !self.settings.enabled {
            State::Disabled
        } else if self.db_backoff.until().is_some()
            || self.sources.iter().any(|source| source.pending.is_some() && source.retry_at.is_none())
        {
            State::Failing
        } else if self.sources.iter().any(|source| source.is_misconfigured) {
            State::Misconfigured
        } else if disconnected || self.sources.iter().any(Source::lacks_leaders) {
            State::Waiting
        } else if self.sources.iter().all(Source::is_at_end) {
            State::Idle
        } else {
            State::Reading
        };
        metrics.show(state);
        let is_well = self.sources.iter().all(|source| !source.has_trouble && !source.has_stopped())
            && self.slot.helpers.short_since() == 0;
        if is_well && matches!(state, State::Idle | State::Reading | State::Disabled) {
            self.slot.show_recovery();
        }
    }

    /// Sleeps until there is something to do. Returns at once if there is already.
    fn rest(&mut self) {
        process::answer_interrupts();
        let has_work = self.db_backoff.is_over(Instant::now())
            && (self.slot.has_notice(SUBSCRIPTIONS_CHANGED)
                || self.has_failures()
                || self.has_local_work()
                || self.sources.iter().any(Source::has_event));
        if has_work || self.must_end() || process::has_orders() || self.slot.wakeup.is_set() {
            return;
        }
        self.sleep.wait(self.next_date().map(|date| date.saturating_duration_since(Instant::now())));
    }

    /// When the next step is due, even if nothing wakes the worker.
    fn next_date(&self) -> Option<Instant> {
        let restart = self.slot.restart_date().map(|date| {
            let left = u64::try_from(date - crate::pg::now()).unwrap_or(0);
            Instant::now() + Duration::from_micros(left)
        });
        let may_start = self.settings.enabled && self.db_backoff.until().is_none();
        let starts = self.sources.iter().filter_map(Source::next_start).filter(|_| may_start);
        let looks = self.locals.iter().filter_map(Local::next_look).filter(|_| may_start);
        let retries = self.sources.iter().filter_map(|source| source.retry_at).chain(looks);
        let tasks = [
            self.db_backoff.until(),
            restart,
            self.next_tending(),
            self.next_failures(),
            self.handlers.next_date(),
            self.projections.next_date(),
        ];
        let stuck = self.sources.iter().filter_map(Source::stuck_at);
        starts.chain(retries).chain(stuck).chain(tasks.into_iter().flatten()).min()
    }

    /// Applies changed settings.
    fn reload(&mut self) {
        if !process::reload_if_asked() {
            return;
        }
        let before = std::mem::replace(&mut self.settings, Settings::read());
        // The contents of the file may have changed even though its name has not.
        if self.settings.consumer != before.consumer || self.settings.consumer.properties_file.is_some() {
            for source in &mut self.sources {
                source.stop();
                source.forgive();
            }
        }
    }
}
