//! A bell between two threads that a sleeper can wait on together with other things: an eventfd.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

/// Rung by one thread, waited for by another.
#[derive(Debug)]
pub struct WakeupFd(OwnedFd);

impl WakeupFd {
    /// A bell that has not been rung.
    ///
    /// # Errors
    /// Those of the operating system: no descriptor is left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointer; the result is checked and owned by nobody else.
        unsafe {
            let fd = libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
            if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(Self(OwnedFd::from_raw_fd(fd))) }
        }
    }

    /// Rings; stays rung until answered.
    pub fn set(&self) {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: writes 8 bytes that exist. It can fail only where the bell has rung 2^64 times already.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Takes note: the bell is silent until it is rung again. What it was rung for is looked for afterwards.
    pub fn clear(&self) {
        let mut count = [0_u8; 8];
        // SAFETY: reads 8 bytes into an array of 8; does not block.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }

    /// The descriptor, readable while the bell is rung.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Rings when its thread ends, however it does: who waits for the thread is to look.
pub struct SignalAtEnd(pub Arc<WakeupFd>);

impl Drop for SignalAtEnd {
    fn drop(&mut self) {
        self.0.set();
    }
}
