//! An eventfd by which one thread wakes another, which can wait on it together with other descriptors.
//!
//! Used on both sides: the relay's main thread and the Kafka thread each sleep on one.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

/// Set by one thread, waited for by another.
#[derive(Debug)]
pub struct WakeupFd(OwnedFd);

impl WakeupFd {
    /// A descriptor that is not set.
    ///
    /// # Errors
    /// The operating system's: the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointer; the result is checked, and nobody else owns it.
        unsafe {
            let fd = libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
            if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(Self(OwnedFd::from_raw_fd(fd))) }
        }
    }

    /// Makes the descriptor readable until [`clear`](Self::clear).
    pub fn set(&self) {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: writes 8 bytes that exist. It fails only after 2^64 calls without a clear.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Clears the descriptor. Call it before looking for work, so that work that arrives meanwhile sets it again.
    pub fn clear(&self) {
        let mut count = [0_u8; 8];
        // SAFETY: reads 8 bytes into an array of 8; does not block.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }

    /// The descriptor, readable while it is set.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Sets the descriptor when its thread ends, however it ends.
pub struct SetAtEnd(pub Arc<WakeupFd>);

impl Drop for SetAtEnd {
    fn drop(&mut self) {
        self.0.set();
    }
}
