//! The paths that the laboratory shares with the scripts. `scripts/lib.sh` is the other side of this file.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

fn from_env(name: &str, default: &str) -> PathBuf {
    std::env::var_os(name).map_or_else(|| repository().join(default), PathBuf::from)
}

/// The root of the checkout. Cargo says where it is now, which may not be where it was compiled.
pub fn repository() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let root = Path::new(&package).ancestors().find(|folder| folder.join("event_outbox.control").exists());
    root.map_or_else(PathBuf::new, Path::to_path_buf)
}

/// The directory that the servers' user can reach: PostgreSQL trees, clusters, Kafka's data.
pub fn lab() -> Result<PathBuf> {
    from_env("EVENT_OUTBOX_LAB", "target/lab").canonicalize().context("no lab yet: run scripts/bootstrap")
}

/// The directory of one PostgreSQL installation's private trees.
pub fn postgres_home() -> Result<PathBuf> {
    let home = from_env("EVENT_OUTBOX_PG_HOME", "target/lab/pg15");
    home.canonicalize().context("no private PostgreSQL yet: run scripts/bootstrap")
}

/// The same directory of the newer PostgreSQL that the test of pg_upgrade needs.
pub fn newer_postgres_home() -> Result<PathBuf> {
    let home = std::env::var_os("EVENT_OUTBOX_NEWER_PG_HOME")
        .context("no newer PostgreSQL: run scripts/pg-upgrade")?;
    PathBuf::from(home)
        .canonicalize()
        .context("the newer PostgreSQL has no private trees: run scripts/bootstrap")
}

/// The name of the private PostgreSQL tree that holds the release build of the extension.
pub const RELEASE: &str = "release";

/// The programs of that tree.
pub fn postgres_bin() -> Result<PathBuf> {
    tree_bin(&postgres_home()?, RELEASE)
}

/// The programs of a private PostgreSQL tree.
pub fn tree_bin(home: &Path, tree: &str) -> Result<PathBuf> {
    // PostgreSQL finds its files relative to the real path of the binary.
    home.join(tree)
        .join("bin")
        .canonicalize()
        .with_context(|| format!("no PostgreSQL tree {tree} in {}: run scripts/bootstrap", home.display()))
}

/// The class path of Apache Kafka, for its console tools.
pub fn kafka_class_path() -> Result<String> {
    let libs = from_env("EVENT_OUTBOX_KAFKA_LIBS", "target/kafka/libs");
    ensure!(libs.join("stamp").exists(), "no Kafka in {}: run scripts/bootstrap", libs.display());
    Ok(format!("{}/*", libs.display()))
}

/// The directory of the Schema Registry.
pub fn registry() -> Result<PathBuf> {
    let home = from_env("EVENT_OUTBOX_REGISTRY", "target/registry");
    ensure!(home.join("stamp").exists(), "no Schema Registry in {}: run scripts/bootstrap", home.display());
    Ok(home)
}

/// The directory of the broker's logging configuration.
pub fn kafka_logging() -> PathBuf {
    repository().join("pgrx-tests/lab/kafka")
}
