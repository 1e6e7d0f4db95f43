//! Owns the relay's errands to the Schema Registry: it has schemas registered, fetches those that receivers want, and once per
//! start makes sure that the registry still has what it had.
//!
//! Runs in: a relay's background worker, main thread; the requests in a thread of their own.
//!
//! Nothing waits for the registry but who wants a schema of it. While it does not answer, it is tried again after pauses.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError, unbounded};
use event_outbox_policy::backoff::Backoff;
use event_outbox_policy::kafka::properties::{Role, of_role};
use event_outbox_policy::registry::answer::{Answer, Found};
use event_outbox_policy::registry::connection::RegistryConnection;
use event_outbox_policy::registry::failure::{Class, Failure};
use event_outbox_policy::registry::request::{New, Request};
use pgrx::prelude::*;

use super::Relay;
use super::registration::REGISTRY_CHANGED;
use crate::kafka::config::all_properties;
use crate::kafka::threads::with_signals_blocked;
use crate::kafka::wakeup_fd::SetAtEnd;
use crate::outbox::relay::registration;
use crate::pg::function::{Arguments, sql_function};
use crate::pg::snapshot::Snapshot;
use crate::registry::errand::{self, Order};
use crate::schemas::references;
use crate::schemas::registry::fetches::{self, Fetch};
use crate::schemas::registry::registrations::{self, Version};
use crate::schemas::registry::{REGISTRATION, functions, wanted};
use crate::settings::registry::Settings;
use crate::worker::{at_commit, transaction};

sql_function!(
    outbox_schema_registry_changed,
    pg_finfo_outbox_schema_registry_changed,
    schema_registry_changed
);

/// The first and the longest pause while the registry does not answer.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The most requests of one errand. Their definitions are in memory meanwhile.
const AT_ONCE: i64 = 20;

/// Trigger after statements that change what the registry is to be asked.
fn schema_registry_changed(_arguments: &Arguments) -> Option<pg_sys::Datum> {
    registration::look_at_registry_at_commit();
    Some(pg_sys::Datum::from(0_usize))
}

/// What the relay knows of the registry.
pub struct SchemaRegistry {
    settings: Settings,
    backoff: Backoff,
    /// There may be something to ask.
    must_look: bool,
    /// When something that was refused is due again, in microseconds since 1970.
    retry_at: Option<i64>,
    /// What was registered up to this version is known to be there still; `None` when all is.
    verified: Option<(String, i32)>,
    errand: Option<Errand>,
}

/// Requests on their way.
struct Errand {
    tasks: Vec<Task>,
    /// By the place of the task.
    answers: Receiver<(usize, Result<Answer, Failure>)>,
}

#[derive(Debug, Clone)]
enum Task {
    Register(Version),
    Fetch(Fetch),
}

impl Task {
    fn order(&self) -> Order {
        match self {
            Self::Register(version) => Order::Register(
                New {
                    subject: version.subject.clone(),
                    schema_type: references::schema_type(&version.format),
                    definition: version.definition.clone(),
                    references: version.references.clone(),
                },
                version.others.clone(),
            ),
            Self::Fetch(fetch) => Order::Ask(Request::WithId(fetch.id.unsigned_abs())),
        }
    }
}

impl Default for SchemaRegistry {
    fn default() -> Self {
        Self {
            settings: Settings::read(),
            backoff: Backoff::new(PAUSE.0, PAUSE.1),
            must_look: true,
            retry_at: None,
            verified: Some(Default::default()),
            errand: None,
        }
    }
}

impl SchemaRegistry {
    /// Applies changed settings. What another registry is asked is of no interest any more.
    pub(super) fn reload(&mut self) {
        let settings = Settings::read();
        // The contents of the file may have changed even though its name has not.
        if settings != self.settings || settings.properties_file.is_some() {
            *self = Self::default();
        }
    }

    /// The registry as the tables name it, if there is one.
    fn name(&self) -> Option<String> {
        self.settings.url.as_ref().map(ToString::to_string)
    }

    fn has_reason(&self) -> bool {
        self.must_look
            || self.verified.is_some()
            || wanted::is_any()
            || self.retry_at.is_some_and(|date| date <= crate::pg::now())
    }

    fn connection(&self) -> Option<Result<RegistryConnection, Failure>> {
        let misconfigured = |text: &str| Failure::new(Class::Unauthorized, text);
        let url = self.settings.url.clone()?;
        let properties = all_properties(&self.settings.properties, self.settings.properties_file.as_deref());
        Some(properties.map_err(|error| misconfigured(&error.to_string())).and_then(|properties| {
            let properties = of_role(properties, Role::Registry);
            RegistryConnection::new(url, properties.iter().map(|(name, value)| (&**name, &**value)))
                .map_err(misconfigured)
        }))
    }
}

impl Relay {
    /// Stores what the registry has answered, and asks it what there is to ask.
    pub(super) fn serve_registry(&mut self) {
        if self.slot.take_notice(REGISTRY_CHANGED) {
            self.registry.must_look = true;
        }
        self.store_answers();
        if self.registry.errand.is_none() && self.may_ask_registry() && self.registry.has_reason() {
            self.ask_registry();
        }
    }

    fn may_ask_registry(&self) -> bool {
        let now = Instant::now();
        self.settings.enabled
            && self.registry.settings.url.is_some()
            && self.registry.backoff.is_over(now)
            && self.db_backoff.is_over(now)
    }

    /// When to ask the registry again, even if nothing wakes the relay.
    pub(super) fn next_registry(&self) -> Option<Instant> {
        if self.registry.errand.is_some() || !self.settings.enabled || self.registry.settings.url.is_none() {
            return None;
        }
        let instant = |date: i64| {
            let left = u64::try_from(date - crate::pg::now()).unwrap_or(0);
            Instant::now() + Duration::from_micros(left)
        };
        let due = if self.registry.must_look || self.registry.verified.is_some() || wanted::is_any() {
            Some(Instant::now())
        } else {
            self.registry.retry_at.map(instant)
        };
        let pauses = self.registry.backoff.until().into_iter().chain(self.db_backoff.until()).max();
        due.map(|date| pauses.map_or(date, |until| until.max(date)))
    }

    /// Whether a thread asks the registry.
    pub(super) fn is_asking_registry(&self) -> bool {
        self.registry.errand.is_some()
    }

    /// Reads what there is to ask, and starts a thread for it.
    fn ask_registry(&mut self) {
        let Some(registry) = self.registry.name() else { return };
        let (ids, verified) = (wanted::take(), self.registry.verified.clone());
        self.registry.must_look = false;
        let read = transaction::run(c"event_outbox: looking for schemas to register", || {
            // An extension that is not updated yet has no such table.
            if REGISTRATION.oid() == pg_sys::InvalidOid {
                return (Vec::new(), None);
            }
            if !ids.is_empty() {
                let _snapshot = Snapshot::take();
                fetches::want(&registry, ids);
            }
            let _snapshot = Snapshot::take();
            let mut tasks: Vec<Task> =
                fetches::due(&registry, AT_ONCE).into_iter().map(Task::Fetch).collect();
            tasks.extend(registrations::due(&registry, AT_ONCE).into_iter().map(Task::Register));
            if let Some(verified) = verified.filter(|_| tasks.is_empty()) {
                tasks.extend(
                    registrations::known(&registry, &verified, AT_ONCE).into_iter().map(Task::Register),
                );
            }
            let retries = [registrations::next_retry(&registry), fetches::next_retry(&registry)];
            (tasks, retries.into_iter().flatten().min())
        });
        let Some((tasks, retry_at)) = self.note(read) else {
            self.registry.must_look = true;
            return;
        };
        self.registry.retry_at = retry_at.filter(|_| tasks.is_empty());
        match tasks.last() {
            None => self.registry.verified = None,
            Some(_) => self.start_errand(tasks),
        }
    }

    fn start_errand(&mut self, tasks: Vec<Task>) {
        let (sender, answers) = unbounded();
        let connection = match self.registry.connection() {
            Some(Ok(connection)) => connection,
            Some(Err(failure)) => {
                let _ = sender.send((0, Err(failure)));
                self.registry.errand = Some(Errand { tasks, answers });
                return self.store_answers();
            }
            None => return,
        };
        let wakeup = self.kafka_wakeup.clone();
        let orders: Vec<Order> = tasks.iter().map(Task::order).collect();
        let work = move || {
            // Dropped after the last answer is sent.
            let _wake = SetAtEnd(wakeup.clone());
            errand::run(connection, &orders, |place, answer| {
                let is_wanted = sender.send((place, answer)).is_ok();
                wakeup.set();
                is_wanted
            });
        };
        let thread =
            with_signals_blocked(|| std::thread::Builder::new().name("schema-registry".into()).spawn(work));
        match thread {
            Ok(_) => self.registry.errand = Some(Errand { tasks, answers }),
            Err(error) => self.registry_failed(&Failure::new(Class::Unavailable, &error.to_string())),
        }
    }

    /// Stores what has come back.
    fn store_answers(&mut self) {
        let Some(Errand { tasks, answers }) = self.registry.errand.take() else { return };
        let mut arrived = Vec::new();
        let has_ended = loop {
            match answers.try_recv() {
                // It is why the tasks behind it are not done, too.
                Ok((place, Err(failure))) if failure.class.is_of_all() => {
                    let undone = tasks.iter().skip(place);
                    arrived.extend(undone.map(|task| (task.clone(), Err(failure.clone()))));
                }
                Ok((place, answer)) => arrived.extend(tasks.get(place).cloned().map(|task| (task, answer))),
                Err(TryRecvError::Empty) => break false,
                Err(TryRecvError::Disconnected) => break true,
            }
        };
        if has_ended {
            // There may be more than one errand takes.
            self.registry.must_look = true;
        } else {
            self.registry.errand = Some(Errand { tasks, answers });
        }
        let (Some(registry), false) = (self.registry.name(), arrived.is_empty()) else { return };
        let stored = transaction::run(c"event_outbox: storing what the Schema Registry has answered", || {
            let _snapshot = Snapshot::take();
            let is_other = arrived.iter().map(|(task, answer)| store(&registry, task, answer));
            is_other.fold(false, |one, other| one | other)
        });
        let is_other = self.note(stored);
        functions::answered().broadcast();
        for (task, answer) in &arrived {
            match answer {
                Err(failure) if failure.class.is_of_all() => {
                    self.registry_failed(failure);
                    break;
                }
                answer => self.registry_answered(task, answer),
            }
        }
        if is_other == Some(true) {
            tracing::warn!(
                "the Schema Registry gives other ids than before: it is another one, or has lost its schemas; all are registered again"
            );
            self.registry.verified = None;
        }
    }

    fn registry_answered(&mut self, task: &Task, answer: &Result<Answer, Failure>) {
        if self.registry.backoff.record_success() {
            tracing::info!("the Schema Registry answers again");
        }
        if let Task::Register(version) = task {
            match answer {
                Err(failure) if version.refusals == 0 => tracing::warn!(
                    "the Schema Registry has not registered version {} of subject \"{}\": {failure}",
                    version.version,
                    version.subject
                ),
                _ => {}
            }
            let place = (version.subject.clone(), version.version);
            if version.id.is_some()
                && self.registry.verified.as_ref().is_some_and(|verified| *verified < place)
            {
                self.registry.verified = Some(place);
            }
        }
    }

    /// Waits before the registry is asked again.
    fn registry_failed(&mut self, failure: &Failure) {
        if self.registry.backoff.record_failure(Instant::now()) {
            tracing::warn!("the Schema Registry cannot be asked, will retry: {failure}");
        }
        self.registry.must_look = true;
        self.slot.show_error(&format!("the Schema Registry cannot be asked: {failure}"));
    }
}

/// Stores an answer; returns whether it is not the registry that it was. Must run in a transaction.
fn store(registry: &str, task: &Task, answer: &Result<Answer, Failure>) -> bool {
    match (task, answer) {
        (Task::Register(version), Ok(Answer::Registered(id))) => match i32::try_from(*id) {
            Ok(id) => return registrations::registered(registry, version, id),
            Err(_) => registrations::failed(registry, version, &unreadable("its id is too large")),
        },
        (Task::Register(version), Err(failure)) => {
            registrations::failed(registry, version, failure);
            return failure.class == Class::NotFound && registrations::lacks_references(registry, version);
        }
        (Task::Fetch(fetch), Ok(Answer::Schema(found))) => match obstacle(found) {
            None => {
                fetches::fetched(registry, fetch.id, found);
                // Receivers may wait for it.
                at_commit::wake_present();
            }
            Some(failure) => fetches::failed(registry, *fetch, &failure),
        },
        (Task::Fetch(fetch), Err(failure)) => {
            fetches::failed(registry, *fetch, failure);
            at_commit::wake_present();
        }
        // No request has such an answer.
        (Task::Register(_), Ok(Answer::Schema(_))) | (Task::Fetch(_), Ok(Answer::Registered(_))) => {}
    }
    false
}

/// Why a schema cannot be used, if so.
fn obstacle(found: &Found) -> Option<Failure> {
    found.definition.contains('\0').then(|| unreadable("its definition has a zero byte"))
}

fn unreadable(text: &str) -> Failure {
    Failure::new(Class::Unreadable, text)
}
