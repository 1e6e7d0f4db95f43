//! Owns the questions about this process: its database, its pid, its user.
//!
//! Runs in: any process.

use pgrx::pg_sys;

/// The database that this process is connected to; invalid for one that is connected to none.
#[must_use]
pub fn database() -> pg_sys::Oid {
    // SAFETY: a plain global of this process.
    unsafe { pg_sys::MyDatabaseId }
}

/// The process id.
#[must_use]
pub fn pid() -> i32 {
    // SAFETY: a plain global of this process.
    unsafe { pg_sys::MyProcPid }
}

/// The number of this process among those that use databases. No other has it while this one lives.
#[must_use]
pub fn number() -> u32 {
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    use pg_sys::MyBackendId as number;
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    use pg_sys::MyProcNumber as number;
    // SAFETY: a plain global of this process.
    unsafe { number }.cast_unsigned()
}

/// Whether the postmaster has died: then this process ends, and what it leaves in shared memory is lost.
#[must_use]
pub fn is_orphan() -> bool {
    unsafe extern "C" {
        // Not in pgrx. The parent's id changes later than other processes notice.
        fn PostmasterIsAliveInternal() -> bool;
    }
    // SAFETY: reads a pipe without waiting; in a process below the postmaster, which has the pipe.
    unsafe { pg_sys::IsUnderPostmaster && !PostmasterIsAliveInternal() }
}

/// The user with whose rights the session acts at present. In a transaction.
#[must_use]
pub fn user() -> pg_sys::Oid {
    // SAFETY: reads a plain global of this process.
    unsafe { pg_sys::GetUserId() }
}

/// The name of a role; its oid, if there is none any more. In a transaction.
#[must_use]
pub fn role_name(role: pg_sys::Oid) -> String {
    // SAFETY: in a transaction; gives a C string, or null for a role that is no more.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        if name.is_null() {
            role.to_u32().to_string()
        } else {
            std::ffi::CStr::from_ptr(name).to_string_lossy().into_owned()
        }
    }
}
