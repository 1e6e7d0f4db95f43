//! Waits for conditions. No test sleeps for a fixed time.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is checked.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Waits until `condition` returns a value; after `deadline` fails with an error that names `what`.
pub fn until<T>(what: &str, deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> Result<T> {
    until_ok(what, deadline, || Ok(condition()))
}

/// Like [`until`], for a condition that can fail: its error ends the wait.
pub fn until_ok<T>(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let begin = Instant::now();
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if begin.elapsed() >= deadline {
            bail!("timed out after {deadline:?} waiting for {what}");
        }
        sleep(LOOK_EVERY);
    }
}
