//! What logs in at the registry is in the properties file, goes to the registry alone, and is shown nowhere.

use std::fs;

use event_outbox_lab::{Broker, Cluster, OddRegistry, Oddity, Result, wait};
use postgres::error::SqlState;

use super::{ORDER, register};
use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::server::DedicatedServer;

const PASSWORD: &str = "correcthorse";
/// `shop:correcthorse` as HTTP sends it.
const ENCODED: &str = "c2hvcDpjb3JyZWN0aG9yc2U=";

#[test]
fn the_login_reaches_the_registry_and_nobody_else() -> Result<()> {
    // It repeats what it was told.
    let said =
        format!(r#"{{"error_code":401,"message":"no {PASSWORD}, no shop:{PASSWORD}, no Basic {ENCODED}"}}"#);
    let registry = OddRegistry::start(Oddity::Answers(401, said))?;
    let file = std::env::temp_dir().join(format!("event_outbox-{}.properties", std::process::id()));
    fs::write(&file, format!("schema.registry.basic.auth.user.info=shop:{PASSWORD}\n"))?;
    let options = Cluster::options("login")
        .set("event_outbox.schema_registry_url", registry.url())
        .set("event_outbox.kafka_properties_file", file.display());
    let dedicated = DedicatedServer::with(options, &Broker::shared()?.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    register(&mut client, "orders", ORDER)?;
    let error = wait::until_ok("the error", DEADLINE, || {
        let sql = "SELECT registry_error FROM outbox.schemas WHERE registry_error IS NOT NULL";
        Ok(client.query_opt(sql, &[])?.map(|row| row.get::<_, String>(0)))
    })?;
    let _ = fs::remove_file(&file);
    assert!(
        registry.heard().iter().any(|head| head.contains(&format!("Basic {ENCODED}"))),
        "{:?}",
        registry.heard()
    );
    assert!(error.contains("no ********"), "{error}");
    let status: String = client.query_one("SELECT s::text FROM outbox.status AS s", &[])?.get(0);
    for text in [error, status, dedicated.server.log()] {
        assert!(!text.contains(PASSWORD) && !text.contains(ENCODED), "{text}");
    }
    Ok(())
}

/// Whoever chooses the address is told the login.
#[test]
fn only_superusers_choose_the_registry() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let role = format!("chooser_{}", db.database);
    db.client.batch_execute(&format!(
        "CREATE ROLE {role} LOGIN; GRANT SET ON PARAMETER event_outbox.schema_registry_url TO {role}"
    ))?;
    let mut chooser = db.connect_as(&role)?;
    let error =
        chooser.batch_execute("SET event_outbox.schema_registry_url = 'http://evil'").expect_err("set");
    assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{error:?}");
    drop(chooser);
    db.client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))?;
    for wrong in ["localhost:8081", "http://me:pw@host", "http://host?x", "file:///etc/passwd"] {
        let set = format!("SET event_outbox.schema_registry_url = '{wrong}'");
        let error = db.client.batch_execute(&set).expect_err(wrong);
        assert_eq!(error.code(), Some(&SqlState::INVALID_PARAMETER_VALUE), "{error:?}");
        assert!(error.as_db_error().is_some_and(|error| error.detail().is_some()), "{error:?}");
    }
    Ok(())
}
