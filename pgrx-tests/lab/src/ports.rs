//! Ports that stay ours while a server is down.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, bail};

/// Below the kernel's ephemeral range: otherwise an outgoing connection could take the port of a stopped server,
/// and a client that retries on loopback could even connect to itself.
const FIRST: u32 = 20_000;
const COUNT: u32 = 12_000;

static TAKEN: AtomicU32 = AtomicU32::new(0);

/// A port of 127.0.0.1 that nobody listens on; never the same twice in one process.
pub fn free() -> Result<u16> {
    // Processes that run side by side begin at different places.
    let begin = std::process::id().wrapping_mul(97) % COUNT;
    for _ in 0..COUNT {
        let port = FIRST + (begin + TAKEN.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(port)?;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between {FIRST} and {}", FIRST + COUNT)
}
