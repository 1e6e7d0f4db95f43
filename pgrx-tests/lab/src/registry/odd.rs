//! A server that answers as a Schema Registry in trouble does, or as something else does.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;

/// How long a silent server keeps a connection.
const SILENCE: Duration = Duration::from_secs(120);

/// What the server does with each request.
#[derive(Clone, Debug)]
pub enum Oddity {
    /// Answers with this status and this body.
    Answers(u16, String),
    /// Answers nothing.
    Silence,
    /// Sends these bytes instead of an answer.
    Sends(Vec<u8>),
    /// Sends a body without end.
    NoEnd,
    /// Sends the client elsewhere.
    Redirects(String),
}

/// A server that listens as long as this process lives.
pub struct OddRegistry {
    port: u16,
    oddity: Arc<Mutex<Oddity>>,
    /// The heads of the requests.
    heard: Arc<Mutex<Vec<String>>>,
}

impl OddRegistry {
    /// Starts a server on a port of its own.
    pub fn start(oddity: Oddity) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let registry =
            Self { port, oddity: Arc::new(Mutex::new(oddity)), heard: Arc::new(Mutex::new(Vec::new())) };
        let (oddity, heard) = (registry.oddity.clone(), registry.heard.clone());
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (oddity, heard) = (oddity.clone(), heard.clone());
                // A client whose connection breaks asks again.
                std::thread::spawn(move || answer(connection, &oddity, &heard));
            }
        });
        Ok(registry)
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Behaves in another way from now on.
    pub fn becomes(&self, oddity: Oddity) {
        *self.oddity.lock().unwrap_or_else(PoisonError::into_inner) = oddity;
    }

    /// The heads of the requests that it has got.
    pub fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn answer(mut connection: TcpStream, oddity: &Mutex<Oddity>, heard: &Mutex<Vec<String>>) -> Result<()> {
    let mut request = BufReader::new(connection.try_clone()?);
    let (mut head, mut length) = (String::new(), 0);
    for line in request.by_ref().lines() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        head += &line;
        head.push('\n');
    }
    request.read_exact(&mut vec![0; length])?;
    heard.lock().unwrap_or_else(PoisonError::into_inner).push(head);
    let oddity = oddity.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match oddity {
        Oddity::Answers(status, body) => write!(
            connection,
            "HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )?,
        Oddity::Silence => {
            connection.set_read_timeout(Some(SILENCE))?;
            let _ = connection.read(&mut [0]);
        }
        Oddity::Sends(bytes) => connection.write_all(&bytes)?,
        Oddity::NoEnd => {
            connection.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"id\":1,\"schema\":\"")?;
            while connection.write_all(&[b'a'; 65536]).is_ok() {}
        }
        Oddity::Redirects(to) => write!(
            connection,
            "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )?,
    }
    Ok(())
}
