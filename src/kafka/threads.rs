//! Owns how threads that call librdkafka are started and ended.
//!
//! Runs in: a worker's main thread.

use std::io;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::config::ConfigError;

/// How often [`join_by`] checks whether the thread has ended.
const JOIN_STEP: Duration = Duration::from_millis(2);

/// Runs `spawn` with all signals blocked. New threads inherit this, so Postgres' signal handlers run on the main thread
/// only.
pub fn with_signals_blocked<R>(spawn: impl FnOnce() -> R) -> R {
    // SAFETY: the sets live on this stack; the old mask is restored afterwards.
    unsafe {
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        let mut before = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let result = spawn();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        result
    }
}

/// Waits for the end of a thread until `deadline`. Returns whether it ended. If not, it is abandoned and ends with the
/// process.
pub fn join_by(thread: JoinHandle<()>, deadline: Instant) -> bool {
    while !thread.is_finished() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(JOIN_STEP);
    }
    thread.join().is_ok()
}

/// Why a client could not be started.
#[derive(Debug)]
pub enum StartError {
    /// The settings are invalid.
    Config(ConfigError),
    /// The system has no thread or descriptor left.
    System(io::Error),
}

impl StartError {
    /// The properties file at fault, for the server's log.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Config(error) => error.file(),
            Self::System(_) => None,
        }
    }
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::System(error) => error.fmt(f),
        }
    }
}
