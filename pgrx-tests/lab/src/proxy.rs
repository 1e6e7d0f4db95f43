//! A TCP proxy on loopback that can do to its connections what networks do.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use anyhow::Result;

/// How often a connection that may not move looks whether it may.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Bytes read at once.
const CHUNK: usize = 64 * 1024;

/// What the network is like.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Weather {
    /// All passes.
    #[default]
    Fair,
    /// All passes, each piece late by so much.
    Slow(Duration),
    /// Connections stay open, nothing passes, nobody is told.
    HalfOpen,
    /// What clients send arrives; the answers are lost.
    NoAnswers,
    /// Nobody listens.
    Refused,
}

/// A proxy in front of one server. Dropped, its connections are cut.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    doorman: Option<JoinHandle<()>>,
}

struct Shared {
    server: Mutex<Option<SocketAddr>>,
    weather: Mutex<Weather>,
    ended: AtomicBool,
    connections: Mutex<BTreeMap<u64, (TcpStream, TcpStream)>>,
    count: AtomicU64,
}

/// The lock protects single values: none is left half written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// Listens on `port` of 127.0.0.1, for a server that [`Proxy::forward_to`] names later.
    pub fn listen(port: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        let shared = Arc::new(Shared {
            server: Mutex::default(),
            weather: Mutex::default(),
            ended: AtomicBool::new(false),
            connections: Mutex::default(),
            count: AtomicU64::new(0),
        });
        let for_doorman = shared.clone();
        let doorman = spawn(move || {
            for client in listener.incoming().flatten() {
                if for_doorman.ended.load(Ordering::Relaxed) {
                    return;
                }
                // A client that is not let in sees its connection closed at once.
                let _ = for_doorman.admit(client);
            }
        });
        Ok(Self { port, shared, doorman: Some(doorman) })
    }

    /// Where the server listens on 127.0.0.1.
    pub fn forward_to(&self, port: u16) {
        *lock(&self.shared.server) = Some(SocketAddr::from(([127, 0, 0, 1], port)));
    }

    /// Where clients connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes what the network is like, also for the connections there are.
    pub fn set_weather(&self, weather: Weather) {
        let before = std::mem::replace(&mut *lock(&self.shared.weather), weather);
        // A stream of which a piece is missing is of no use to anybody.
        if before == Weather::NoAnswers || weather == Weather::Refused {
            self.cut();
        }
    }

    /// Cuts all connections; says how many there were. New ones may come.
    pub fn cut(&self) -> usize {
        let connections = std::mem::take(&mut *lock(&self.shared.connections));
        for (client, server) in connections.values() {
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        }
        connections.len()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        self.cut();
        // Wakes the doorman, who is waiting for a client.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(doorman) = self.doorman.take() {
            let _ = doorman.join();
        }
    }
}

impl Shared {
    fn weather(&self) -> Weather {
        *lock(&self.weather)
    }

    fn admit(self: &Arc<Self>, client: TcpStream) -> Result<()> {
        let server = *lock(&self.server);
        let (Some(server), false) = (server, self.weather() == Weather::Refused) else { return Ok(()) };
        let server = TcpStream::connect_timeout(&server, Duration::from_secs(1))?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
        }
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let ways = [
            (client.try_clone()?, server.try_clone()?, false),
            (server.try_clone()?, client.try_clone()?, true),
        ];
        lock(&self.connections).insert(number, (client, server));
        for (from, to, is_answer) in ways {
            let shared = self.clone();
            spawn(move || shared.carry(number, from, to, is_answer));
        }
        Ok(())
    }

    /// One way of a connection, until either end is closed.
    fn carry(&self, number: u64, mut from: TcpStream, mut to: TcpStream, is_answer: bool) {
        let mut piece = vec![0; CHUNK];
        while let Ok(length) = from.read(&mut piece) {
            if length == 0 {
                break;
            }
            while self.weather() == Weather::HalfOpen && lock(&self.connections).contains_key(&number) {
                sleep(LOOK_EVERY);
            }
            match self.weather() {
                Weather::NoAnswers if is_answer => continue,
                Weather::Slow(delay) => sleep(delay),
                _ => {}
            }
            if to.write_all(&piece[..length]).is_err() {
                break;
            }
        }
        lock(&self.connections).remove(&number);
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;
    use crate::ports;

    /// A server that sends back what it is sent.
    fn echo() -> Result<u16> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        spawn(move || {
            for stream in listener.incoming().flatten() {
                spawn(move || {
                    let mut writer = stream.try_clone()?;
                    std::io::copy(&mut &stream, &mut writer)
                });
            }
        });
        Ok(port)
    }

    fn client(proxy: &Proxy) -> Result<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", proxy.port()))?;
        stream.set_read_timeout(Some(Duration::from_millis(300)))?;
        Ok(stream)
    }

    fn ask(stream: &mut TcpStream) -> std::io::Result<usize> {
        stream.write_all(b"x")?;
        stream.read(&mut [0; 8])
    }

    fn is_silence(answer: &std::io::Result<usize>) -> bool {
        matches!(answer, Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
    }

    #[test]
    fn weathers() -> Result<()> {
        let proxy = Proxy::listen(ports::free()?)?;
        proxy.forward_to(echo()?);
        let mut stream = client(&proxy)?;
        assert_eq!(ask(&mut stream)?, 1);

        proxy.set_weather(Weather::Slow(Duration::from_millis(20)));
        let begin = std::time::Instant::now();
        assert_eq!(ask(&mut stream)?, 1);
        assert!(begin.elapsed() >= Duration::from_millis(40));

        proxy.set_weather(Weather::HalfOpen);
        assert!(is_silence(&ask(&mut stream)));
        proxy.set_weather(Weather::Fair);
        assert_eq!(stream.read(&mut [0; 8])?, 1, "what was held back comes");

        proxy.set_weather(Weather::NoAnswers);
        assert!(is_silence(&ask(&mut stream)));
        proxy.set_weather(Weather::Fair);
        assert!(!is_silence(&ask(&mut stream)), "the connection is cut");

        let mut stream = client(&proxy)?;
        assert_eq!(ask(&mut stream)?, 1);
        proxy.set_weather(Weather::Refused);
        assert!(!matches!(ask(&mut client(&proxy)?), Ok(1)));
        assert!(!matches!(ask(&mut stream), Ok(1)));
        proxy.set_weather(Weather::Fair);
        assert_eq!(ask(&mut client(&proxy)?)?, 1);
        Ok(())
    }
}
