//! Owns one transaction of a projection: it takes events, applies them to the table, and acknowledges them.
//!
//! Runs in: the process of a projection, in a transaction.

use std::rc::Rc;
use std::time::{Duration, Instant};

use event_outbox_policy::inbox::projection::narrowing::{Blame, Narrowing, Refusal, blame};
use event_outbox_policy::inbox::projection::reduction::Reduced;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;

use super::definition::Definition;
use super::gathering::gather;
use super::progress;
use super::rebuild::{self, Attempt};
use super::rows::Way;
use super::taken::{MOST_EVENTS, Taken, Taking};
use super::target::Target;
use super::task::Task;
use crate::inbox::receive::subscription::Subscription;
use crate::inbox::table::{as_owner, member};
use crate::pg::snapshot::Snapshot;
use crate::pg::watch;
use crate::pg::{spi, subtransaction};
use crate::worker::transaction::sqlstate;

/// How long a schema is waited for before that is shown, if the registry has reported no error.
const SILENT: Duration = Duration::from_secs(10);

/// The SQLSTATE of a row whose key another one has.
const DUPLICATE: &str = "23505";

/// What a transaction has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// Events were applied, or set aside.
    Applied,
    /// There was nothing to do.
    Nothing,
    /// There is nothing to do until a schema has come.
    Waiting,
    /// The table refused the events, or one of them has hidden others and says nothing: fewer come again.
    Refused,
    /// There is no such projection any more, or it is for another process.
    Outdated,
}

/// What the process knows between transactions.
pub struct Work {
    task: Task,
    narrowing: Narrowing,
    /// The definition, and how many changes this process had received of its table when it was read.
    definition: Option<(u64, Definition)>,
    target: Option<Target>,
    /// The lane that is looked at first.
    first: u16,
    /// The last events had some that say nothing. Such a one must not hide an earlier one, so all of the next ones are kept.
    had_faults: bool,
    /// Since when a schema is waited for, and whether that is shown.
    waiting: Option<(Instant, bool)>,
    /// The table is not known to be without rows.
    may_have_rows: bool,
}

impl Work {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(task: &Task) -> Self {
        Self {
            task: task.clone(),
            narrowing: Narrowing::new(MOST_EVENTS),
            definition: None,
            target: None,
            first: 0,
            had_faults: false,
            waiting: None,
            may_have_rows: false,
        }
    }

    /// What was remembered may be wrong, after an error.
    pub fn forget(&mut self) {
        (self.definition, self.target) = (None, None);
    }

    /// Applies the next events. An ERROR if the table or its definition keeps it from that.
    pub fn run(&mut self) -> Done {
        let _snapshot = Snapshot::take();
        let Some(definition) = self.definition() else { return Done::Outdated };
        let Some(table) = definition.table else {
            if !rebuild::make_table(&self.task, &definition) {
                return Done::Outdated;
            }
            self.definition = None;
            return Done::Applied;
        };
        // Before any lane: a table that is locked for long keeps nobody from anything else.
        let Some(target) = Target::open(self.target.take(), table, &definition, self.task.role) else {
            return Done::Outdated;
        };
        self.note_table_name(&definition, &target);
        self.note_filenode(&definition, &target);
        self.may_have_rows = self.may_have_rows || definition.is_ready || !target.is_empty();
        let done = self.apply(&definition, &target);
        self.target = Some(target);
        done
    }

    /// A table that is gone has no name any more, so it is kept while there is one.
    fn note_table_name(&mut self, definition: &Definition, target: &Target) {
        let name = target.name();
        if definition.table_name.as_deref() == Some(&name) {
            return;
        }
        as_owner(|| progress::note_table_name(self.task.subscription, &name));
        if let Some((_, known)) = &mut self.definition {
            known.table_name = Some(name);
        }
    }

    /// A TRUNCATE gives the table another file, and so do commands that keep its rows.
    fn note_filenode(&mut self, definition: &Definition, target: &Target) {
        let filenode = target.filenode();
        if definition.filenode == Some(filenode) {
            return;
        }
        let is_emptied = definition.filenode.is_some() && target.is_empty();
        if as_owner(|| progress::note_filenode(self.task.subscription, filenode, is_emptied)) {
            tracing::warn!(
                "somebody has truncated the table of projection \"{}\": the rows of before are missing until inbox.rebuild()",
                self.task.name
            );
        }
        if let Some((_, known)) = &mut self.definition {
            known.filenode = Some(filenode);
        }
    }

    fn definition(&mut self) -> Option<Definition> {
        let id = self.task.subscription;
        // SAFETY: in a transaction, at a place where locks can be taken.
        unsafe { pg_sys::AcceptInvalidationMessages() };
        let read = [member(c"projection"), member(c"partition")];
        let changes = read.iter().map(|table| watch::changes_of(table.existing())).sum();
        if self.definition.as_ref().is_none_or(|(known, _)| *known != changes) {
            self.definition = as_owner(|| Definition::of(id)).map(|definition| (changes, definition));
        }
        self.definition.as_ref().map(|(_, definition)| definition.clone())
    }

    fn apply(&mut self, definition: &Definition, target: &Target) -> Done {
        let id = self.task.subscription;
        let taking = Taking {
            first: self.first,
            limit: self.narrowing.limit(),
            keeps_all: self.had_faults || !target.mapping().is_keyed_by_record(),
            takes_headers: target.mapping().reads_headers(),
        };
        let mut taken = Taken::new(taking);
        let Some(subscription) = as_owner(|| taken.look(id)) else { return Done::Outdated };
        if !definition.is_ready {
            gather(id, &mut taken);
        }
        taken.finish();
        if !taken.is_empty() {
            taken.write_down(&subscription);
            if let Err(Refused) = self.apply_taken(target, &subscription, &taken) {
                return Done::Refused;
            }
        }
        self.first = taken.next_lane(self.narrowing.is_narrow());
        self.narrowing.applied(taken.len());
        self.note(definition, &taken);
        if let Some((rebuilt, table)) = definition.rebuilds
            && self.is_ready()
            && rebuild::take_place(&self.task, target, rebuilt, table) == Attempt::Done
        {
            return Done::Outdated;
        }
        match taken.is_empty() {
            true if taken.awaited().is_some() => Done::Waiting,
            true => Done::Nothing,
            false => Done::Applied,
        }
    }

    fn apply_taken(
        &mut self,
        target: &Target,
        subscription: &Rc<Subscription>,
        taken: &Taken,
    ) -> Result<(), Refused> {
        let records = taken.records();
        let reduced = Reduced::of(&records, target.mapping(), |place| taken.fault(place));
        let mut faults = reduced.faults.clone();
        self.had_faults = !faults.is_empty();
        if faults.iter().any(|(place, _)| taken.has_hidden(*place)) {
            return Err(Refused);
        }
        if let Err(cause) = self.write(target, &reduced) {
            let Some(report) = report_of(&cause).filter(|(code, _)| blame(code) == Blame::Record) else {
                cause.rethrow()
            };
            if self.narrowing.refused(taken.len()) == Refusal::Narrow {
                return Err(Refused);
            }
            faults.push((0, report.1));
        }
        as_owner(|| {
            faults.iter().for_each(|(place, error)| taken.bury(subscription, *place, error));
            taken.acknowledge(subscription);
        });
        Ok(())
    }

    fn write(&mut self, target: &Target, reduced: &Reduced<'_>) -> Result<(), Box<CaughtError>> {
        let write = |way| subtransaction::run(|| spi::connected(|| target.apply(reduced, way)));
        if !std::mem::replace(&mut self.may_have_rows, true) {
            match write(Way::Insert) {
                // Others may write to the table, too.
                Err(cause) if report_of(&cause).is_some_and(|(code, _)| code == DUPLICATE) => {}
                done => return done,
            }
        }
        write(Way::Upsert)
    }

    /// Notes that the projection has become ready, or well again, or what it waits for.
    fn note(&mut self, definition: &Definition, taken: &Taken) {
        let id = self.task.subscription;
        if !definition.is_ready
            && as_owner(|| progress::note_ready(id))
            && let Some((_, definition)) = &mut self.definition
        {
            definition.is_ready = true;
        }
        if let Some(awaited) = taken.awaited() {
            self.note_awaited(awaited, taken.has_failed());
            return;
        }
        if self.waiting.take().is_some_and(|(_, is_shown)| is_shown) {
            tracing::info!("projection \"{}\" goes on: the schema has come", self.task.name);
        }
        if definition.is_failing {
            as_owner(|| progress::note_recovery(id));
            if let Some((_, definition)) = &mut self.definition {
                definition.is_failing = false;
            }
        }
    }

    /// Shows for which schema the projection waits, unless it has just begun to.
    fn note_awaited(&mut self, awaited: &str, has_failed: bool) {
        let (since, is_shown) = self.waiting.unwrap_or((Instant::now(), false));
        let shows = is_shown || has_failed || since.elapsed() > SILENT;
        self.waiting = Some((since, shows));
        if !shows {
            return;
        }
        if !is_shown {
            tracing::warn!("projection \"{}\" waits for a schema: {awaited}", self.task.name);
        }
        as_owner(|| progress::note_error(self.task.subscription, awaited));
        if let Some((_, definition)) = &mut self.definition {
            definition.is_failing = true;
        }
    }

    /// Whether the table has had all records that there were when the projection was created.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.definition.as_ref().is_some_and(|(_, definition)| definition.is_ready)
    }
}

/// The table has refused several events.
struct Refused;

/// The SQLSTATE of an error, and its text for a dead letter.
fn report_of(cause: &CaughtError) -> Option<(String, String)> {
    match cause {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => {
            let text = match report.detail() {
                Some(detail) => format!("{}: {detail}", report.message()),
                None => report.message().to_owned(),
            };
            Some((sqlstate(report.sql_error_code()), text))
        }
        CaughtError::RustPanic { .. } => None,
    }
}
