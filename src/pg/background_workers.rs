//! Owns the search for background workers by their database and type.
//!
//! Runs in: any process.

use std::ffi::CStr;

use pgrx::pg_sys;

/// Has the background workers of these types in a database end, as `pg_terminate_backend()` would, with no question of rights.
/// Cannot fail.
pub fn terminate(database: pg_sys::Oid, types: &[&str]) {
    // SAFETY: the array lives as long as the server. Its entries change meanwhile; then a pid is one of no background worker of
    // these types, or of one that has just come. The name is a C string of this process, valid until the next call.
    unsafe {
        let all = &*pg_sys::ProcGlobal;
        for place in 0..all.allProcCount as usize {
            let process = all.allProcs.add(place);
            let pid = (&raw const (*process).pid).read_volatile();
            if pid == 0 || (&raw const (*process).databaseId).read_volatile() != database {
                continue;
            }
            let name = pg_sys::GetBackgroundWorkerTypeByPid(pid);
            if !name.is_null() && types.iter().any(|of| of.as_bytes() == CStr::from_ptr(name).to_bytes()) {
                libc::kill(pid, libc::SIGTERM);
            }
        }
    }
}
