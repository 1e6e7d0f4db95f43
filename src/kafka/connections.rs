//! Owns the pace at which librdkafka connects to a broker that refuses.
//!
//! librdkafka pauses between two attempts (`reconnect.backoff.ms`), but a request for a certain broker ends the pause
//! (`RD_KAFKA_OP_CONNECT`, 2.12.1), and the state changes of each attempt have the request look again. So while a question to
//! Kafka is open, a refused connection is repeated at once: thousands of times a second, with two threads that do nothing else
//! for as long as the outage lasts. No setting prevents it. The only place of ours on that path is the creation of the socket.
//!
//! Runs in: librdkafka's threads of brokers, which wait for nothing else while they connect.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::time::{Duration, Instant};

use rdkafka::bindings as rdsys;

/// The most attempts of a broker's thread within this time. A name may have several addresses, which are tried in a row.
const ATTEMPTS: usize = 5;
const WITHIN: Duration = Duration::from_millis(500);

thread_local! {
    /// When this thread's last attempts began, the oldest first.
    static LAST: Cell<[Option<Instant>; ATTEMPTS]> = const { Cell::new([None; ATTEMPTS]) };
}

/// Gives a client that has just been made the pace.
///
/// # Safety
/// The client is alive.
pub unsafe fn pace(client: *mut rdsys::rd_kafka_t) {
    // SAFETY: as promised by the caller. The bindings create clients from settings that are texts, so what is none can only be set
    // afterwards, although librdkafka calls these settings read-only then: its function stores the pointer, which is aligned and
    // is read each time a connection is made. A thread that reads it meanwhile has either function.
    unsafe { rdsys::rd_kafka_conf_set_socket_cb(rdsys::rd_kafka_conf(client).cast_mut(), Some(socket)) }
}

/// Creates a socket as librdkafka does, when it is time for it.
unsafe extern "C" fn socket(domain: c_int, kind: c_int, protocol: c_int, _opaque: *mut c_void) -> c_int {
    let pause = LAST.get()[0].map_or(Duration::ZERO, |first| WITHIN.saturating_sub(first.elapsed()));
    if !pause.is_zero() {
        std::thread::sleep(pause);
    }
    let mut last = LAST.get();
    last.rotate_left(1);
    last[ATTEMPTS - 1] = Some(Instant::now());
    LAST.set(last);
    // SAFETY: a plain call. librdkafka sets the socket's other properties.
    unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) }
}
