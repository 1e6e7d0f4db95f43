//! A Schema Registry behind TLS that has some schemas: openssl serves its answers as files.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::process::{Fate, Process};
use crate::scratch::Scratch;
use crate::{ports, run_as, wait};

const START_DEADLINE: Duration = Duration::from_secs(20);

/// A registry with a certificate for `localhost`. Dropping it ends it.
pub struct TlsRegistry {
    // Fields are dropped in this order: the process before its directory.
    _process: Process,
    _scratch: Scratch,
    port: u16,
}

impl TlsRegistry {
    /// Starts a registry with this certificate and its key in one file. It answers only clients whose certificates are of this
    /// authority. It has the Avro schemas, by their ids.
    pub fn start(certificate: &Path, authority: &Path, schemas: &[(i32, &str)]) -> Result<Self> {
        let scratch = Scratch::new("registry", Fate::DiesWithUs)?;
        let folder = scratch.path().join("schemas/ids");
        fs::create_dir_all(&folder)?;
        for (id, schema) in schemas {
            let body = json!({"schema": schema}).to_string();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            fs::write(folder.join(id.to_string()), head + &body)?;
        }
        let port = ports::free()?;
        let mut openssl = run_as::server_command("openssl")?;
        openssl.args(["s_server", "-quiet", "-HTTP", "-accept", &format!("127.0.0.1:{port}")]);
        openssl.arg("-cert").arg(certificate).arg("-key").arg(certificate);
        openssl.arg("-CAfile").arg(authority).args(["-Verify", "2", "-verify_return_error"]);
        let log = File::create(scratch.path().join("openssl.log"))?;
        openssl.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir(scratch.path());
        let mut process = Process::spawn(openssl, libc::SIGKILL, Fate::DiesWithUs)?;
        wait::until_ok("openssl to listen", START_DEADLINE, || {
            if let Some(status) = process.exited()? {
                let log = fs::read_to_string(scratch.path().join("openssl.log"));
                bail!("it ended at once ({status}): {}", log.context("no log")?);
            }
            Ok(TcpStream::connect(("127.0.0.1", port)).ok())
        })?;
        Ok(Self { _process: process, _scratch: scratch, port })
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }
}
