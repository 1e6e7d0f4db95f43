//! A TCP proxy on loopback that simulates network faults.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use anyhow::Result;

/// How often a blocked connection checks whether it may go on.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Bytes read at once.
const CHUNK: usize = 64 * 1024;

/// The state of the network.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum NetworkState {
    /// Everything passes.
    #[default]
    Normal,
    /// Everything passes, each piece after this delay.
    Slow(Duration),
    /// Connections stay open, but nothing passes.
    HalfOpen,
    /// What clients send arrives; the answers are lost.
    NoAnswers,
    /// Connections are refused.
    Refused,
}

/// A proxy in front of one server. Dropping it cuts its connections.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    server: Mutex<Option<SocketAddr>>,
    network: Mutex<NetworkState>,
    ended: AtomicBool,
    connections: Mutex<BTreeMap<u64, (TcpStream, TcpStream)>>,
    count: AtomicU64,
}

/// Locks a single value, which no panic leaves half written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// Listens on `port` of 127.0.0.1, for a server that [`Proxy::forward_to`] names later.
    pub fn listen(port: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        let shared = Arc::new(Shared {
            server: Mutex::default(),
            network: Mutex::default(),
            ended: AtomicBool::new(false),
            connections: Mutex::default(),
            count: AtomicU64::new(0),
        });
        let for_acceptor = shared.clone();
        let acceptor = spawn(move || {
            for client in listener.incoming().flatten() {
                if for_acceptor.ended.load(Ordering::Relaxed) {
                    return;
                }
                // A client that is not admitted has its connection closed at once.
                let _ = for_acceptor.admit(client);
            }
        });
        Ok(Self { port, shared, acceptor: Some(acceptor) })
    }

    /// Sets the server's port on 127.0.0.1.
    pub fn forward_to(&self, port: u16) {
        *lock(&self.shared.server) = Some(SocketAddr::from(([127, 0, 0, 1], port)));
    }

    /// The port that clients connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes the state of the network, also for open connections.
    pub fn set_network(&self, network: NetworkState) {
        let before = std::mem::replace(&mut *lock(&self.shared.network), network);
        // A stream with a missing piece is useless.
        if before == NetworkState::NoAnswers || network == NetworkState::Refused {
            self.cut();
        }
    }

    /// Cuts all connections; returns their number. New ones are accepted.
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
        // Wakes the acceptor, which waits for a client.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    fn network(&self) -> NetworkState {
        *lock(&self.network)
    }

    fn admit(self: &Arc<Self>, client: TcpStream) -> Result<()> {
        let server = *lock(&self.server);
        let (Some(server), false) = (server, self.network() == NetworkState::Refused) else { return Ok(()) };
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

    /// Carries one direction of a connection until either end closes.
    fn carry(&self, number: u64, mut from: TcpStream, mut to: TcpStream, is_answer: bool) {
        let mut piece = vec![0; CHUNK];
        while let Ok(length) = from.read(&mut piece) {
            if length == 0 {
                break;
            }
            while self.network() == NetworkState::HalfOpen && lock(&self.connections).contains_key(&number) {
                sleep(LOOK_EVERY);
            }
            match self.network() {
                NetworkState::NoAnswers if is_answer => continue,
                NetworkState::Slow(delay) => sleep(delay),
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

    /// A server that echoes.
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
    fn network_states() -> Result<()> {
        let proxy = Proxy::listen(ports::free()?)?;
        proxy.forward_to(echo()?);
        let mut stream = client(&proxy)?;
        assert_eq!(ask(&mut stream)?, 1);

        proxy.set_network(NetworkState::Slow(Duration::from_millis(20)));
        let begin = std::time::Instant::now();
        assert_eq!(ask(&mut stream)?, 1);
        assert!(begin.elapsed() >= Duration::from_millis(40));

        proxy.set_network(NetworkState::HalfOpen);
        assert!(is_silence(&ask(&mut stream)));
        proxy.set_network(NetworkState::Normal);
        assert_eq!(stream.read(&mut [0; 8])?, 1, "data held back arrives");

        proxy.set_network(NetworkState::NoAnswers);
        assert!(is_silence(&ask(&mut stream)));
        proxy.set_network(NetworkState::Normal);
        assert!(!is_silence(&ask(&mut stream)), "the connection is cut");

        let mut stream = client(&proxy)?;
        assert_eq!(ask(&mut stream)?, 1);
        proxy.set_network(NetworkState::Refused);
        assert!(!matches!(ask(&mut client(&proxy)?), Ok(1)));
        assert!(!matches!(ask(&mut stream), Ok(1)));
        proxy.set_network(NetworkState::Normal);
        assert_eq!(ask(&mut client(&proxy)?)?, 1);
        Ok(())
    }
}
