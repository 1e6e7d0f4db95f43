//! Owns the file that says what each session is receiving. It survives a crash of the server, which leaves nothing in memory:
//! so an event whose handler brings down the server is found. A session writes it when it has received, and clears it when its
//! transaction ends.
//!
//! The file is written, not mapped: a full disk must fail a write, and not kill the process. What is not written is not counted,
//! and the events are received again all the same.
//!
//! Runs in: the postmaster, which reads it before any session starts; then backends.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use event_outbox_policy::inbox::in_flight::{self, InFlight, NOTHING, SESSION};
use once_cell::sync::OnceCell;

use crate::pg::backend;

/// In this directory extensions may keep files that a base backup does not need.
const PATH: &str = "pg_stat_tmp/event_outbox.receiving";

/// Opened by the postmaster; all processes inherit it. `None` if it could not be opened.
static FILE: OnceCell<Option<File>> = OnceCell::new();

thread_local! {
    /// The place at which this session has written something, while its transaction lasts.
    static WRITTEN: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Opens a file of the server, in its data directory.
pub fn open(path: &str) -> Option<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.open(Path::new(path)).ok()
}

/// Takes what was being received when the server ended, if it crashed: about `most` records. In the postmaster, each time that
/// it sets up the shared memory.
pub fn take(most: usize) -> Vec<InFlight> {
    let Some(file) = FILE.get_or_init(|| open(PATH)) else { return Vec::new() };
    let length = fs::metadata(PATH).map_or(0, |found| found.len());
    let mut records = Vec::new();
    let mut room = [0; SESSION];
    for at in (0..length).step_by(SESSION) {
        let read = file.read_at(&mut room, at).unwrap_or(0);
        records.extend(in_flight::decode(&room[..read]));
        if records.len() >= most {
            break;
        }
    }
    // Without it, what is left of one crash would count at the next, too.
    let _ = file.set_len(0);
    records
}

/// Writes what the transaction has received so far, before a handler sees it.
pub fn write(records: &[InFlight]) {
    let Some(file) = FILE.get().and_then(Option::as_ref) else { return };
    let Some(at) = u64::from(backend::number()).checked_mul(SESSION as u64) else { return };
    if records.is_empty() {
        return clear();
    }
    let mut room = vec![0; in_flight::bytes_of(records.len())];
    let length = in_flight::encode(records, &mut room);
    WRITTEN.set(Some(at));
    let _ = file.write_all_at(&room[..length], at);
}

/// The transaction has ended. No allocation, no error.
pub fn clear() {
    if let (Some(at), Some(file)) = (WRITTEN.take(), FILE.get().and_then(Option::as_ref)) {
        let _ = file.write_all_at(&NOTHING, at);
    }
}

/// The database of this session, as records name it.
pub fn database() -> u32 {
    backend::database().to_u32()
}
