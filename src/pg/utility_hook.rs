//! Owns the hook around utility commands, and calls the observers that capabilities register.
//!
//! Runs in: any backend.

use std::ffi::c_char;

use once_cell::sync::OnceCell;
use pgrx::prelude::*;

use super::compat;

/// The greatest number of observers.
const MAX_OBSERVERS: usize = 4;

/// Sees commands before they run, and after they have succeeded.
pub trait Observer: Sync {
    /// Whether it observes commands of this kind. It must not fail.
    fn observes(&self, tag: pg_sys::NodeTag) -> bool;

    /// Called before a command. Returns the call to make after it, if any. An ERROR refuses the command.
    ///
    /// # Safety
    /// `statement` is the utility statement of a parse tree, of a kind that is observed. The session is in a transaction.
    unsafe fn before(&self, statement: *mut pg_sys::Node) -> Option<After>;
}

/// A call after a command has succeeded. It is not made after a failure: an observer undoes things at the end
/// of the transaction then. It is plain data, because an ERROR of the command jumps over the frame that holds
/// it.
#[derive(Clone, Copy)]
pub struct After {
    /// The function to call.
    pub call: fn(pg_sys::Oid),
    /// Its argument: the object of the command.
    pub object: pg_sys::Oid,
}

/// The calls to make after one command, by observer.
type Calls = [Option<After>; MAX_OBSERVERS];

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

struct Hook {
    observers: &'static [&'static dyn Observer],
    previous: Option<Utility>,
}

static HOOK: OnceCell<Hook> = OnceCell::new();

/// Puts the hook in front of the existing ones. Call it once, in the postmaster.
pub fn init(observers: &'static [&'static dyn Observer]) {
    assert!(observers.len() <= MAX_OBSERVERS, "each observer needs a place");
    // SAFETY: runs in the postmaster, once, before any backend exists.
    unsafe {
        if HOOK.set(Hook { observers, previous: pg_sys::ProcessUtility_hook }).is_ok() {
            pg_sys::ProcessUtility_hook = Some(process_utility);
        }
    }
}

/// Sees every utility command of every session; hardly any concerns an observer.
///
/// An ERROR of the command is not ours: it passes this frame unchanged, by C's own jump. So nothing around
/// the call catches it or has a destructor. To catch it and raise it again would lose its context, its
/// position, and the names of its table, column and constraint.
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
    // SAFETY: Postgres passes a planned statement that holds a utility statement. The arguments are passed on
    // unchanged.
    unsafe {
        let node = (*statement).utilityStmt;
        let calls = if is_observed((*node).type_) { before(node) } else { [None; MAX_OBSERVERS] };
        let previous = HOOK.get().and_then(|hook| hook.previous);
        let next = previous.unwrap_or(compat::raw::standard_ProcessUtility);
        next(statement, query, read_only, context, parameters, environment, receiver, completion);
        if calls.iter().any(Option::is_some) {
            after(calls);
        }
    }
}

fn observers() -> &'static [&'static dyn Observer] {
    HOOK.get().map_or(&[], |hook| hook.observers)
}

fn is_observed(tag: pg_sys::NodeTag) -> bool {
    observers().iter().any(|observer| observer.observes(tag))
}

/// Runs the observers before an observed command.
///
/// # Safety
/// `node` is a parse tree's utility statement.
#[pg_guard]
#[allow(improper_ctypes_definitions, reason = "called from here alone")]
unsafe extern "C-unwind" fn before(node: *mut pg_sys::Node) -> Calls {
    let mut calls = [None; MAX_OBSERVERS];
    for (call, observer) in calls.iter_mut().zip(observers()) {
        // SAFETY: as promised by the caller.
        unsafe {
            if observer.observes((*node).type_) {
                *call = observer.before(node);
            }
        }
    }
    calls
}

/// Makes the calls after the command has succeeded.
#[pg_guard]
#[allow(improper_ctypes_definitions, reason = "called from here alone")]
unsafe extern "C-unwind" fn after(calls: Calls) {
    calls.into_iter().flatten().for_each(|after| (after.call)(after.object));
}
