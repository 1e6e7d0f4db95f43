//! The cluster that all others are copied from: `initdb` runs once for a PostgreSQL version.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use super::{SUPERUSER, run};
use crate::run_as;

/// Copies a freshly initialised cluster, and makes it a server of its own.
pub fn copy(home: &Path, bin: &Path, data: &Path) -> Result<()> {
    let template = home.join("template");
    let stamp = home.join("template.stamp");
    let version = fs::read_to_string(home.join("release/stamp"))?;
    {
        let lock = File::create(home.join("template.lock"))?;
        // SAFETY: the descriptor is open as long as `lock` lives; the lock goes with it.
        ensure!(unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX) } == 0, "cannot lock the template");
        if fs::read_to_string(&stamp).ok().as_ref() != Some(&version) {
            make(bin, &template)?;
            fs::write(stamp, version)?;
        }
    }
    let mut copy = run_as::server_command("cp")?;
    copy.args(["-a", "--reflink=auto"]).arg(&template).arg(data);
    run(copy)?;
    give_identifier(bin, data)
}

/// Gives a copy a system identifier of its own. Those that share one are copies of the same server to whoever meets both.
fn give_identifier(bin: &Path, data: &Path) -> Result<()> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let number = (std::process::id() & 0xffff) << 16 | COUNT.fetch_add(1, Ordering::Relaxed) & 0xffff;
    let control = OpenOptions::new().write(true).open(data.join("global/pg_control"))?;
    // Its first field, in every version.
    control.write_all_at(&(now << 32 | u64::from(number)).to_ne_bytes(), 0)?;
    drop(control);
    // Writes the checksum of pg_control, and a log that begins with this identifier.
    let mut reset = run_as::server_command(bin.join("pg_resetwal"))?;
    reset.arg("--force").arg("--pgdata").arg(data);
    run(reset).context("pg_resetwal")
}

fn make(bin: &Path, template: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(template);
    fs::create_dir(template)?;
    fs::set_permissions(template, fs::Permissions::from_mode(0o700))?;
    run_as::give_to_server(template)?;
    let mut initdb = run_as::server_command(bin.join("initdb"))?;
    initdb.args([
        "--username",
        SUPERUSER,
        "--auth",
        "trust",
        "--encoding",
        "UTF8",
        "--locale",
        "C",
        "--no-sync",
    ]);
    run(initdb.arg("-D").arg(template)).context("initdb")?;
    let conf = template.join("postgresql.conf");
    let text = fs::read_to_string(&conf)? + "\ninclude = 'lab.conf'\n";
    Ok(fs::write(conf, text)?)
}
