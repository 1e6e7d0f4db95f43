//! The registry behind TLS: whom the client trusts, and by what certificate it is known.

use std::fs;
use std::path::{Path, PathBuf};

use event_outbox_lab::{Authority, Broker, Cluster, Result, TlsRegistry, wait};
use postgres::Client;

use super::{ORDER, shown};
use crate::support::database::DEADLINE;
use crate::support::server::DedicatedServer;

/// A file of properties, which is removed at the end.
struct Properties(PathBuf);

impl Properties {
    fn write(&self, trusted: &Path, own: Option<&Path>) -> Result<()> {
        let mut lines = format!("schema.registry.ssl.ca.location={}\n", trusted.display());
        if let Some(own) = own {
            for name in ["certificate", "key"] {
                lines += &format!("schema.registry.ssl.{name}.location={}\n", own.display());
            }
        }
        Ok(fs::write(&self.0, lines)?)
    }
}

impl Drop for Properties {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Has the relay ask for a schema, as a receiver would.
fn want(client: &mut Client, id: i32) -> Result<()> {
    let sql = "INSERT INTO outbox.schema_fetch (registry, id, state) VALUES (outbox.schema_registry(), $1, 'waiting')";
    client.execute(sql, &[&id])?;
    Ok(())
}

fn until_fetched(client: &mut Client, id: i32) -> Result<()> {
    let fetched = wait::until_ok(&format!("schema {id}"), DEADLINE, || {
        Ok(client.query_opt("SELECT 1 FROM outbox.schema_registry_id WHERE id = $1", &[&id])?.map(|_| ()))
    });
    let shown = shown(client)?;
    fetched.map_err(|error| error.context(shown))
}

fn until_error(client: &mut Client, id: i32) -> Result<String> {
    let sql =
        "SELECT error FROM outbox.schema_fetch WHERE id = $1 AND state = 'waiting' AND error IS NOT NULL";
    wait::until_ok("the error", DEADLINE, || Ok(client.query_opt(sql, &[&id])?.map(|row| row.get(0))))
}

#[test]
fn the_registry_is_trusted_and_knows_the_client_by_certificates() -> Result<()> {
    let (authority, stranger) = (Authority::new("registry")?, Authority::new("stranger")?);
    let own = authority.issue("shop")?;
    let schemas: Vec<(i32, &str)> = (1..=4).map(|id| (id, ORDER)).collect();
    let registry = TlsRegistry::start(&authority.issue("localhost")?, &authority.certificate(), &schemas)?;
    let path = std::env::temp_dir().join(format!("event_outbox-tls-{}.properties", std::process::id()));
    let properties = Properties(path.clone());
    properties.write(&authority.certificate(), Some(&own))?;
    let options = Cluster::options("tls")
        .set("event_outbox.schema_registry_url", registry.url())
        .set("event_outbox.kafka_properties_file", path.display());
    let dedicated = DedicatedServer::with(options, &Broker::shared()?.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    want(&mut client, 1)?;
    until_fetched(&mut client, 1)?;
    // Without a certificate of its own, with one that the registry does not trust, and with a registry that it does not trust.
    let foreign = stranger.issue("shop")?;
    let troubles = [
        (authority.certificate(), None),
        (authority.certificate(), Some(&foreign)),
        (stranger.certificate(), Some(&own)),
    ];
    for (id, (trusted, known_by)) in (2..).zip(troubles) {
        properties.write(&trusted, known_by.map(PathBuf::as_path))?;
        client.query_one("SELECT pg_reload_conf()", &[])?;
        client.query_one("SELECT outbox.restart_relay()", &[])?;
        want(&mut client, id)?;
        let error = until_error(&mut client, id)?;
        assert!(error.contains("does not answer"), "{id}: {error}");
        properties.write(&authority.certificate(), Some(&own))?;
        client.query_one("SELECT outbox.restart_relay()", &[])?;
        until_fetched(&mut client, id)?;
    }
    let log = dedicated.server.log();
    assert!(!log.contains("PRIVATE KEY"), "{log}");
    Ok(())
}
