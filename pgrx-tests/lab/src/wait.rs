//! Waiting for conditions. Nothing in the tests sleeps for a time and hopes.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Waits until `condition` gives a value; an error that names `what` after `deadline`.
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
            bail!("waited {deadline:?} in vain for {what}");
        }
        sleep(LOOK_EVERY);
    }
}
