//! Certificates for brokers and their clients, made by openssl.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process::Fate;
use crate::run_as;
use crate::scratch::Scratch;

/// How long a certificate is valid: longer than any test runs.
const DAYS: &str = "2";

/// A certificate authority with a directory of its own, which the servers' user can read.
pub struct Authority(Scratch);

impl Authority {
    /// Creates an authority that nobody trusts yet.
    pub fn new(name: &str) -> Result<Self> {
        let authority = Self(Scratch::new("certificates", Fate::DiesWithUs)?);
        let mut openssl = new_certificate(name, &authority.certificate())?;
        run(openssl.args(["-addext", "keyUsage=critical,keyCertSign,cRLSign"]))?;
        Ok(authority)
    }

    /// The authority's certificate, for clients to trust. The file also holds its key.
    pub fn certificate(&self) -> PathBuf {
        self.0.path().join("ca.pem")
    }

    /// Issues a certificate for a host or a client of this name. The file also holds the key.
    pub fn issue(&self, name: &str) -> Result<PathBuf> {
        let file = self.0.path().join(format!("{name}.pem"));
        let mut openssl = new_certificate(name, &file)?;
        openssl.arg("-CA").arg(self.certificate());
        openssl.args(["-addext", &format!("subjectAltName=DNS:{name}")]);
        run(openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]))?;
        Ok(file)
    }
}

fn new_certificate(name: &str, file: &Path) -> Result<Command> {
    // Run as the servers' user: only the owner can read the key's file.
    let mut openssl = run_as::server_command("openssl")?;
    openssl.args(["req", "-x509", "-noenc", "-days", DAYS, "-subj", &format!("/CN={name}")]);
    openssl.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    // Both go into one file, the certificate after its key.
    openssl.arg("-keyout").arg(file).arg("-out").arg(file);
    Ok(openssl)
}

fn run(openssl: &mut Command) -> Result<()> {
    let output = openssl.output().context("run openssl")?;
    ensure!(output.status.success(), "{openssl:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
