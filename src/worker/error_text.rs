//! Owns the last error of a worker, in shared memory.
//!
//! Runs in: the worker and the launcher write it, any backend reads it.

use std::sync::atomic::{AtomicI64, AtomicU8, AtomicUsize, Ordering};

use pgrx::prelude::*;
use pgrx::{PgLwLock, pg_shmem_init};

/// The most bytes of an error that are kept.
const MAX_BYTES: usize = 512;

/// Guards all texts: a reader sees a whole one.
// SAFETY: the name is this extension's own.
static LOCK: PgLwLock<bool> = unsafe { PgLwLock::new(c"event_outbox_errors") };

/// Requests the shared memory.
pub fn init() {
    pg_shmem_init!(LOCK);
}

/// A text and its time, in microseconds since 1970; no text at time 0.
pub struct ErrorText {
    at: AtomicI64,
    length: AtomicUsize,
    bytes: [AtomicU8; MAX_BYTES],
}

impl Default for ErrorText {
    fn default() -> Self {
        Self {
            at: AtomicI64::new(0),
            length: AtomicUsize::new(0),
            bytes: [const { AtomicU8::new(0) }; MAX_BYTES],
        }
    }
}

impl ErrorText {
    /// Keeps the beginning of a text.
    pub fn set(&self, text: &str, now: i64) {
        let fits = |at: &usize| text.is_char_boundary(*at);
        let length = (0..=text.len().min(MAX_BYTES)).rev().find(fits).unwrap_or(0);
        let _lock = LOCK.exclusive();
        for (kept, byte) in self.bytes.iter().zip(&text.as_bytes()[..length]) {
            kept.store(*byte, Ordering::Relaxed);
        }
        self.length.store(length, Ordering::Relaxed);
        self.at.store(now, Ordering::Relaxed);
    }

    /// The text and its time, if there is one.
    pub fn get(&self) -> Option<(String, i64)> {
        let _lock = LOCK.share();
        let at = self.at.load(Ordering::Relaxed);
        let length = self.length.load(Ordering::Relaxed);
        let bytes: Vec<u8> = self.bytes[..length].iter().map(|byte| byte.load(Ordering::Relaxed)).collect();
        (at != 0).then(|| (String::from_utf8_lossy(&bytes).into_owned(), at))
    }

    /// Forgets the text.
    pub fn clear(&self) {
        let _lock = LOCK.exclusive();
        self.at.store(0, Ordering::Relaxed);
    }
}
