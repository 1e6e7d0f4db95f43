//! Owns the eventfd with which one thread wakes another. The other can wait on it together with other descriptors.
//!
//! Runs in: any thread. The relay's main thread and the Kafka thread each sleep on one.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

/// A descriptor that one thread sets and another waits for.
#[derive(Debug)]
pub struct WakeupFd(OwnedFd);

impl WakeupFd {
    /// A new descriptor. It is not set.
    ///
    /// # Errors
    /// The operating system's error: the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: the call takes no pointer; the result is checked, and nothing else owns it.
        unsafe {
            let fd = libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
            if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(Self(OwnedFd::from_raw_fd(fd))) }
        }
    }

    /// Makes the descriptor readable until [`clear`](Self::clear).
    pub fn set(&self) {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: writes the 8 bytes of `one`. The write fails only after 2^64 calls without a clear.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Clears the descriptor. Call it before looking for work, so that work that arrives meanwhile sets it again.
    pub fn clear(&self) {
        let mut count = [0_u8; 8];
        // SAFETY: reads 8 bytes into an array of 8 bytes; does not block.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }

    /// Sleeps until the descriptor is set, or the time is up; `None` for no limit.
    pub fn wait(&self, timeout: Option<Duration>) {
        let millis = timeout
            .map_or(-1, |timeout| i32::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(i32::MAX));
        let mut wait = libc::pollfd { fd: self.fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: passes one descriptor, which lives as long as this object.
        unsafe { libc::poll(&mut wait, 1, millis) };
    }

    /// The descriptor, readable while it is set.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Sets the descriptor when its owner is dropped: however a thread ends, it wakes the other one.
pub struct SetAtEnd(pub Arc<WakeupFd>);

impl Drop for SetAtEnd {
    fn drop(&mut self) {
        self.0.set();
    }
}
