//! Owns the reactions to utility commands: CREATE EXTENSION starts workers, and other commands wake, restart
//! or vacate them. So users need not register anything.
//!
//! Runs in: client backends, around utility commands.

use std::ffi::{CStr, c_char};

use pgrx::prelude::*;

use super::{at_commit, vacate};
use crate::pg::backend;
use crate::pg::utility_hook::{After, Observer};
use crate::settings;

/// Observes the commands.
pub static OBSERVER: Lifecycle = Lifecycle;

/// The observer.
pub struct Lifecycle;

impl Observer for Lifecycle {
    fn observes(&self, tag: pg_sys::NodeTag) -> bool {
        use pg_sys::NodeTag::*;
        matches!(
            tag,
            T_TransactionStmt
                | T_CreateExtensionStmt
                | T_AlterExtensionStmt
                | T_CreateSubscriptionStmt
                | T_AlterSubscriptionStmt
                | T_DropSubscriptionStmt
                | T_DropStmt
                | T_DropOwnedStmt
                | T_AlterDatabaseSetStmt
                | T_AlterRoleSetStmt
                | T_DropdbStmt
                | T_RenameStmt
                | T_AlterDatabaseStmt
                | T_CreatedbStmt
        )
    }

    unsafe fn before(&self, statement: *mut pg_sys::Node) -> Option<After> {
        // SAFETY: as promised by the caller.
        let concern = unsafe { Concern::of(statement) };
        let (call, object): (fn(pg_sys::Oid), _) = match concern {
            Concern::None => return None,
            Concern::Start => (|_| at_commit::wake_all(), pg_sys::InvalidOid),
            Concern::Wake => (|_| at_commit::wake_present(), pg_sys::InvalidOid),
            Concern::Reconfigure(database) => (at_commit::restart, database),
            Concern::Rescan => (|_| at_commit::rescan(), pg_sys::InvalidOid),
            Concern::Vacate(database) => {
                vacate::ask(database);
                (|_| vacate::call_back(), database)
            }
        };
        Some(After { call, object })
    }
}

/// The effect of a command on workers.
#[derive(Clone, Copy)]
enum Concern {
    /// Nothing.
    None,
    /// The extension was created here: start workers when this commits.
    Start,
    /// Rows may have become visible, or the extension may have gone: wake the workers when this commits.
    Wake,
    /// The settings of this database, or something that the workers depend on there, were changed.
    Reconfigure(pg_sys::Oid),
    /// The command needs this database to itself.
    Vacate(pg_sys::Oid),
    /// A database may have come to take connections: examine all when this commits.
    Rescan,
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
                        Self::Wake
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
                        Self::Reconfigure(backend::database())
                    } else {
                        Self::None
                    }
                }
                // Whether the table is a copy.
                pg_sys::NodeTag::T_CreateSubscriptionStmt
                | pg_sys::NodeTag::T_AlterSubscriptionStmt
                | pg_sys::NodeTag::T_DropSubscriptionStmt => Self::Reconfigure(backend::database()),
                pg_sys::NodeTag::T_DropStmt => {
                    let kind = (*node.cast::<pg_sys::DropStmt>()).removeType;
                    let may_end_it =
                        [pg_sys::ObjectType::OBJECT_EXTENSION, pg_sys::ObjectType::OBJECT_SCHEMA];
                    if may_end_it.contains(&kind) { Self::Wake } else { Self::None }
                }
                // The extension may be among what is dropped.
                pg_sys::NodeTag::T_DropOwnedStmt => Self::Wake,
                _ => Self::of_database_command(node),
            }
        }
    }

    /// # Safety
    /// `node` is a parse tree's utility statement.
    unsafe fn of_database_command(node: *mut pg_sys::Node) -> Self {
        // SAFETY: as above.
        unsafe {
            match (*node).type_ {
                pg_sys::NodeTag::T_AlterDatabaseSetStmt => {
                    let alter = &*node.cast::<pg_sys::AlterDatabaseSetStmt>();
                    Self::reconfigure(alter.dbname, alter.setstmt)
                }
                pg_sys::NodeTag::T_AlterRoleSetStmt => {
                    let alter = &*node.cast::<pg_sys::AlterRoleSetStmt>();
                    if is_workers_role(alter.role) {
                        Self::reconfigure(alter.database, alter.setstmt)
                    } else {
                        Self::None
                    }
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
                        Self::Rescan
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

    /// Workers go by the extension's own settings, and override other settings of the database.
    ///
    /// # Safety
    /// `name` is a C string or null, `change` what is to be set or reset.
    unsafe fn reconfigure(name: *const c_char, change: *const pg_sys::VariableSetStmt) -> Self {
        // SAFETY: as promised by the caller.
        unsafe { database(name).filter(|_| is_ours(change)) }.map_or(Self::None, Self::Reconfigure)
    }

    /// Only for roles that may carry out the command: others must not be able to disturb the workers.
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

/// Whether one of the extension's own settings is set or reset.
///
/// # Safety
/// `change` is such a statement, or null.
unsafe fn is_ours(change: *const pg_sys::VariableSetStmt) -> bool {
    // SAFETY: as promised by the caller; the name is a C string or null.
    unsafe {
        let Some(change) = change.as_ref() else { return false };
        change.kind == pg_sys::VariableSetKind::VAR_RESET_ALL
            || !change.name.is_null()
                && CStr::from_ptr(change.name)
                    .to_bytes()
                    .get(..settings::PREFIX.len())
                    .is_some_and(|begin| begin.eq_ignore_ascii_case(settings::PREFIX.as_bytes()))
    }
}

/// Whether workers log in as this role, or all roles are meant. A role may change its own settings in every
/// database, also where it may not even connect.
///
/// # Safety
/// `role` is a role as a statement names it, or null for all.
unsafe fn is_workers_role(role: *const pg_sys::RoleSpec) -> bool {
    // SAFETY: as promised by the caller; a role that does not exist is the command's business.
    role.is_null()
        || unsafe { pg_sys::get_rolespec_oid(role, true) } == pg_sys::Oid::from(pg_sys::BOOTSTRAP_SUPERUSERID)
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
