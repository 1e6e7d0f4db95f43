//! An OAuth identity provider that issues tokens to Kafka clients.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};

use anyhow::{Context, Result};

/// An unsigned JSON web token for "shop", valid until the year 2100: `{"alg":"none"}`, then
/// `{"sub":"shop","iat":1700000000,"exp":4102444800}`.
const TOKEN: &str = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJzaG9wIiwiaWF0IjoxNzAwMDAwMDAwLCJleHAiOjQxMDI0NDQ4MDB9.";

/// The one client that gets a token, and its secret.
pub const CLIENT: (&str, &str) = ("shop-client", "correct-horse");

/// [`CLIENT`] as HTTP sends it.
const CREDENTIALS: &str = "Authorization: Basic c2hvcC1jbGllbnQ6Y29ycmVjdC1ob3JzZQ==";

/// A provider that listens as long as this process lives.
pub struct IdentityProvider {
    port: u16,
}

impl IdentityProvider {
    /// Starts a provider on a port of its own.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                // A client whose connection breaks asks again.
                let _ = answer(connection);
            }
        });
        Ok(Self { port })
    }

    /// The endpoint that issues tokens.
    pub fn token_url(&self) -> String {
        format!("http://127.0.0.1:{}/token", self.port)
    }
}

fn answer(mut connection: TcpStream) -> Result<()> {
    let mut request = BufReader::new(&mut connection);
    let (mut known, mut length) = (false, 0);
    for line in request.by_ref().lines() {
        let line = line?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().context("content-length")?;
        }
        known |= line == CREDENTIALS;
        if line.is_empty() {
            break;
        }
    }
    request.read_exact(&mut vec![0; length])?;
    let (status, body) = match known {
        true => (
            "200 OK",
            format!(r#"{{"access_token": "{TOKEN}", "token_type": "Bearer", "expires_in": 3600}}"#),
        ),
        false => ("401 Unauthorized", r#"{"error": "invalid_client"}"#.to_string()),
    };
    let length = body.len();
    write!(
        connection,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )?;
    Ok(())
}
