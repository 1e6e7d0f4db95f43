//! Puts the install scripts of earlier releases into the private tree, so that tests can start from them.

use std::fs;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, ensure};

use crate::layout;

/// The earlier versions that `CREATE EXTENSION event_outbox VERSION …` can create.
pub fn versions() -> Result<&'static [String]> {
    static VERSIONS: OnceLock<Result<Vec<String>>> = OnceLock::new();
    let versions = VERSIONS.get_or_init(provide).as_ref();
    Ok(versions.map_err(|error| anyhow!("cannot provide earlier releases: {error:#}"))?)
}

fn provide() -> Result<Vec<String>> {
    let pg_config = Command::new(layout::postgres_bin()?.join("pg_config")).arg("--sharedir").output()?;
    let extensions = std::path::PathBuf::from(String::from_utf8(pg_config.stdout)?.trim()).join("extension");
    let mut versions = Vec::new();
    for script in fs::read_dir(layout::repository().join("pgrx-tests/released"))? {
        let script = script?.path();
        let name = script.file_name().and_then(|name| name.to_str()).context("no name")?.to_string();
        let version = name.strip_prefix("event_outbox--").and_then(|name| name.strip_suffix(".sql"));
        versions.push(version.with_context(|| format!("not an install script: {name}"))?.to_string());
        // Renamed into place, since another test run may be reading it.
        let new = extensions.join(format!("{name}.{}", std::process::id()));
        fs::copy(&script, &new)?;
        fs::rename(new, extensions.join(name))?;
    }
    ensure!(!versions.is_empty(), "no install script of an earlier release");
    versions.sort();
    Ok(versions)
}
