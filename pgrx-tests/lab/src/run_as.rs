//! Runs commands as the servers' user: Postgres refuses to run as root.

use std::ffi::{CStr, OsStr};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

/// The variables that a server inherits. RUST_BACKTRACE, for one, would put backtraces into error details.
const KEPT_ENVIRONMENT: [&str; 3] = ["PATH", "LD_LIBRARY_PATH", "LANG"];

/// The user of Debian's PostgreSQL package.
const SERVER_USER: &CStr = c"postgres";

#[derive(Clone, Copy)]
struct Ids {
    uid: u32,
    gid: u32,
}

/// `None` if the servers run as the current user.
fn server_ids() -> Result<Option<Ids>> {
    static IDS: OnceLock<Option<Ids>> = OnceLock::new();
    // SAFETY: geteuid has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        return Ok(None);
    }
    let ids = IDS.get_or_init(|| {
        // SAFETY: the name is a C string; the answer is read before anything else can ask (OnceLock runs this
        // once, and nothing else in this crate calls getpwnam).
        unsafe {
            let entry = libc::getpwnam(SERVER_USER.as_ptr());
            if entry.is_null() { None } else { Some(Ids { uid: (*entry).pw_uid, gid: (*entry).pw_gid }) }
        }
    });
    ensure!(ids.is_some(), "root needs a user 'postgres' to run servers as");
    Ok(*ids)
}

/// A command that runs as the servers' user (the current user, or `postgres` instead of root) in an environment that
/// does not depend on the shell that started the tests.
pub fn server_command(program: impl AsRef<OsStr>) -> Result<Command> {
    let mut command = Command::new(program);
    if let Some(ids) = server_ids()? {
        // The standard library drops root's supplementary groups together with the uid.
        command.uid(ids.uid).gid(ids.gid);
    }
    command.current_dir("/").env_clear();
    command.envs(KEPT_ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    Ok(command)
}

/// Makes the servers' user the owner of `path`.
pub fn give_to_server(path: &Path) -> Result<()> {
    if let Some(ids) = server_ids()? {
        chown(path, Some(ids.uid), Some(ids.gid)).with_context(|| format!("chown {}", path.display()))?;
    }
    Ok(())
}
