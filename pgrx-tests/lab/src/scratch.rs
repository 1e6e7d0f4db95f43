//! Directories that are removed with the process that created them.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::process::{self, Fate};
use crate::{layout, run_as};

/// A directory that is removed with its content on drop, or at the latest when the process ends.
pub struct Scratch {
    path: PathBuf,
}

const SOCKETS_HOME: &str = "/tmp";
const SOCKETS_NAME: &str = "event_outbox";

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Scratch {
    /// A new directory in the lab, owned by the servers' user.
    pub fn new(name: &str, fate: Fate) -> Result<Self> {
        let run = layout::lab()?.join("run");
        fs::create_dir_all(&run)?;
        static SWEEP: Once = Once::new();
        SWEEP.call_once(|| {
            remove_leftovers(&run, "");
            remove_leftovers(Path::new(SOCKETS_HOME), SOCKETS_NAME);
        });
        Self::create(run.join(unique(name, fate)))
    }

    /// A new directory right under /tmp: the path of a Unix socket must stay under 108 bytes.
    pub fn for_sockets(fate: Fate) -> Result<Self> {
        Self::create(Path::new(SOCKETS_HOME).join(unique(SOCKETS_NAME, fate)))
    }

    fn create(path: PathBuf) -> Result<Self> {
        // Not create_all: in /tmp somebody else may have created the directory.
        fs::DirBuilder::new().mode(0o700).create(&path).with_context(|| path.display().to_string())?;
        process::remove_at_exit(&path);
        let scratch = Self { path };
        run_as::give_to_server(&scratch.path)?;
        Ok(scratch)
    }

    /// The directory's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the directory behind for another process to remove.
    pub fn keep(self) -> PathBuf {
        process::keep_at_exit(&self.path);
        std::mem::take(&mut std::mem::ManuallyDrop::new(self).path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
        process::keep_at_exit(&self.path);
    }
}

/// A unique name that says which process owns the directory: see [`remove_leftovers`].
fn unique(name: &str, fate: Fate) -> String {
    let owner = match fate {
        Fate::DiesWithUs => "",
        Fate::CanStay => "kept-",
    };
    format!("{owner}{}-{name}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Removes the directories of processes that were killed before they could clean up.
fn remove_leftovers(home: &Path, name: &str) {
    for entry in fs::read_dir(home).into_iter().flatten().flatten() {
        let path = entry.path();
        let file_name = entry.file_name();
        let Some((pid, rest)) = file_name.to_str().and_then(|name| name.split_once('-')) else { continue };
        let is_ours = pid.parse::<u32>().is_ok() && rest.starts_with(name);
        if is_ours && !Path::new(&format!("/proc/{pid}")).exists() {
            let _ = fs::remove_dir_all(path);
        }
    }
}
