//! Commands that concern the relay: it is started, woken, sent away or made to read its settings
//! anew by what users do anyway, so that nothing has to be registered.

use std::ffi::{CStr, c_char};
use std::time::{Duration, Instant};

use once_cell::sync::OnceCell;
use pgrx::prelude::*;

use super::compat::guarded;
use super::shared::{self, Phase, Request, Slot};
use super::{topic_rights, wake};

/// How long a command waits for a relay to leave its database. Postgres itself then waits 5 s more
/// before it gives up with "database is being accessed by other users".
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

type Utility = unsafe extern "C-unwind" fn(
    *mut pg_sys::PlannedStmt,
    *const c_char,
    bool,
    pg_sys::ProcessUtilityContext::Type,
    pg_sys::ParamListInfo,
    *mut pg_sys::QueryEnvironment,
    *mut pg_sys::DestReceiver,
    *mut pg_sys::QueryCompletion,
);

static PREVIOUS: OnceCell<Option<Utility>> = OnceCell::new();

/// Puts the hook in front of those already there.
pub fn init() {
    // SAFETY: runs in the postmaster, once, before any backend exists.
    unsafe {
        if PREVIOUS.set(pg_sys::ProcessUtility_hook).is_ok() {
            pg_sys::ProcessUtility_hook = Some(process_utility);
        }
    }
}

/// What a command means to a relay.
enum Concern {
    /// Nothing.
    None,
    /// The extension was created here: start one when this commits.
    Start,
    /// Rows may have become visible, or the extension may have gone: look when this commits.
    Look,
    /// The settings of this database, or what the relay works with there, were changed.
    Reconfigure(pg_sys::Oid),
    /// The command needs this database to itself.
    Vacate(pg_sys::Oid),
    /// What these roles own here is dropped, and their rights here are revoked.
    DropOwned(Vec<pg_sys::Oid>),
    /// A database may have come to take connections: look into all when this commits.
    Survey,
}

#[pg_guard]
#[allow(clippy::too_many_arguments)]
unsafe extern "C-unwind" fn process_utility(
    statement: *mut pg_sys::PlannedStmt,
    query: *const c_char,
    read_only: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    parameters: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    receiver: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: Postgres passes a planned statement that holds a utility statement.
    let concern = unsafe { Concern::of((*statement).utilityStmt) };
    let _vacated = if let Concern::Vacate(database) = concern { Vacated::ask(database) } else { None };
    // SAFETY: the arguments are passed on as they came; the guard lets an ERROR of the C function unwind.
    unsafe {
        match PREVIOUS.get().copied().flatten() {
            Some(previous) => guarded(|| {
                previous(statement, query, read_only, context, parameters, environment, receiver, completion);
            }),
            None => pg_sys::standard_ProcessUtility(
                statement,
                query,
                read_only,
                context,
                parameters,
                environment,
                receiver,
                completion,
            ),
        }
    }
    match concern {
        Concern::Start => wake::at_commit(),
        Concern::Look => wake::at_commit_if_present(),
        Concern::Reconfigure(database) => wake::restart_at_commit(database),
        Concern::DropOwned(roles) => {
            wake::at_commit_if_present();
            topic_rights::drop_owned(&roles);
        }
        Concern::Survey => wake::survey_at_commit(),
        Concern::None | Concern::Vacate(_) => {}
    }
}

impl Concern {
    /// # Safety
    /// `node` is a parse tree's utility statement.
    unsafe fn of(node: *mut pg_sys::Node) -> Self {
        // SAFETY: the tag of a node says what it is; its strings are C strings or null.
        unsafe {
            match (*node).type_ {
                pg_sys::NodeTag::T_TransactionStmt => {
                    let kind = (*node.cast::<pg_sys::TransactionStmt>()).kind;
                    if kind == pg_sys::TransactionStmtKind::TRANS_STMT_COMMIT_PREPARED {
                        Self::Look
                    } else {
                        Self::None
                    }
                }
                pg_sys::NodeTag::T_CreateExtensionStmt => {
                    let name = (*node.cast::<pg_sys::CreateExtensionStmt>()).extname;
                    if CStr::from_ptr(name) == c"event_outbox" { Self::Start } else { Self::None }
                }
                pg_sys::NodeTag::T_AlterExtensionStmt => {
                    let name = (*node.cast::<pg_sys::AlterExtensionStmt>()).extname;
                    if CStr::from_ptr(name) == c"event_outbox" {
                        Self::Reconfigure(pg_sys::MyDatabaseId)
                    } else {
                        Self::None
                    }
                }
                // Whether the table is a copy.
                pg_sys::NodeTag::T_CreateSubscriptionStmt
                | pg_sys::NodeTag::T_AlterSubscriptionStmt
                | pg_sys::NodeTag::T_DropSubscriptionStmt => Self::Reconfigure(pg_sys::MyDatabaseId),
                pg_sys::NodeTag::T_DropStmt => {
                    let kind = (*node.cast::<pg_sys::DropStmt>()).removeType;
                    let may_end_it =
                        [pg_sys::ObjectType::OBJECT_EXTENSION, pg_sys::ObjectType::OBJECT_SCHEMA];
                    if may_end_it.contains(&kind) { Self::Look } else { Self::None }
                }
                pg_sys::NodeTag::T_DropOwnedStmt => {
                    let roles = list((*node.cast::<pg_sys::DropOwnedStmt>()).roles);
                    Self::DropOwned(
                        roles.map(|role| pg_sys::get_rolespec_oid(role.cast_const().cast(), false)).collect(),
                    )
                }
                pg_sys::NodeTag::T_AlterDatabaseSetStmt => {
                    Self::reconfigure((*node.cast::<pg_sys::AlterDatabaseSetStmt>()).dbname)
                }
                pg_sys::NodeTag::T_AlterRoleSetStmt => {
                    Self::reconfigure((*node.cast::<pg_sys::AlterRoleSetStmt>()).database)
                }
                pg_sys::NodeTag::T_DropdbStmt => Self::vacate((*node.cast::<pg_sys::DropdbStmt>()).dbname),
                pg_sys::NodeTag::T_RenameStmt => {
                    let rename = &*node.cast::<pg_sys::RenameStmt>();
                    if rename.renameType == pg_sys::ObjectType::OBJECT_DATABASE {
                        Self::vacate(rename.subname)
                    } else {
                        Self::None
                    }
                }
                pg_sys::NodeTag::T_AlterDatabaseStmt => {
                    let alter = &*node.cast::<pg_sys::AlterDatabaseStmt>();
                    let has = |name| option(alter.options, name).is_some();
                    if has(c"tablespace") {
                        Self::vacate(alter.dbname)
                    } else if has(c"allow_connections") || has(c"is_template") {
                        Self::Survey
                    } else {
                        Self::None
                    }
                }
                pg_sys::NodeTag::T_CreatedbStmt => {
                    let create = &*node.cast::<pg_sys::CreatedbStmt>();
                    option(create.options, c"template").map_or(Self::None, |name| Self::vacate(name))
                }
                _ => Self::None,
            }
        }
    }

    /// # Safety
    /// `name` is a C string or null.
    unsafe fn reconfigure(name: *const c_char) -> Self {
        // SAFETY: as promised by the caller.
        unsafe { database(name) }.map_or(Self::None, Self::Reconfigure)
    }

    /// Only for those who may carry the command out: others must not be able to disturb the relay.
    ///
    /// # Safety
    /// `name` is a C string or null.
    unsafe fn vacate(name: *const c_char) -> Self {
        // SAFETY: as promised by the caller.
        unsafe { database(name) }
            .filter(|database| super::databases::is_mine(*database))
            .map_or(Self::None, Self::Vacate)
    }
}

/// The database of this name, if there is one.
///
/// # Safety
/// `name` is a C string or null.
unsafe fn database(name: *const c_char) -> Option<pg_sys::Oid> {
    if name.is_null() {
        return None;
    }
    // SAFETY: as promised by the caller; in a transaction.
    let oid = unsafe { pg_sys::get_database_oid(name, true) };
    (oid != pg_sys::InvalidOid).then_some(oid)
}

/// The text of an option in a list of `DefElem`.
///
/// # Safety
/// `list` is a list of `DefElem`, or null.
unsafe fn option(list: *mut pg_sys::List, name: &CStr) -> Option<*const c_char> {
    // SAFETY: as promised by the caller; the list has as many elements as its length says.
    unsafe {
        self::list(list)
            .map(|element| element.cast::<pg_sys::DefElem>())
            .find(|element| CStr::from_ptr((**element).defname) == name && !(**element).arg.is_null())
            .map(|element| pg_sys::defGetString(element).cast_const())
    }
}

/// The elements of a list of pointers.
///
/// # Safety
/// `list` is such a list, or null, and outlives what is returned.
unsafe fn list(list: *mut pg_sys::List) -> impl Iterator<Item = *mut std::ffi::c_void> {
    // SAFETY: the list has as many elements as its length says.
    let length = if list.is_null() { 0 } else { unsafe { (*list).length as usize } };
    // SAFETY: as above.
    (0..length).map(move |at| unsafe { (*(*list).elements.add(at)).ptr_value })
}

/// While it lives, the relay of a database stays away.
struct Vacated(&'static Slot);

impl Vacated {
    /// Asks the relay to leave and waits until it has, or the time is up: then Postgres says that the
    /// database is in use, which is true.
    fn ask(database: pg_sys::Oid) -> Option<Self> {
        let slot = shared::roster().find(database)?;
        slot.ask(Request::Leave);
        let vacated = Self(slot);
        let deadline = Instant::now() + LEAVE_TIMEOUT;
        while matches!(slot.phase(), Phase::Starting | Phase::Running) && Instant::now() < deadline {
            // SAFETY: sleeps a moment, and answers interrupts, as Postgres does where it waits for others to leave.
            unsafe { pg_sys::pg_usleep(10_000) };
            check_for_interrupts!();
        }
        // One that is not running is not to be started now.
        let _ = [Phase::Wanted, Phase::Ended, Phase::Failed]
            .into_iter()
            .any(|phase| slot.advance(phase, Phase::Away));
        Some(vacated)
    }
}

impl Drop for Vacated {
    fn drop(&mut self) {
        // The launcher looks whether the database is still there.
        self.0.forget_request();
        self.0.advance(Phase::Away, Phase::Wanted);
        shared::roster().launcher.ring();
    }
}
