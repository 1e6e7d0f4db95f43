//! librdkafka's properties: what a setting may contain, what only the server's file may, and what neither may.

use std::fs;

use event_outbox_lab::{Broker, Cluster, Result, run_as};
use postgres::error::SqlState;

use crate::support::database::DEADLINE;
use crate::support::events::pending_count;
use crate::support::relay::{until_drained, until_idle, until_status};
use crate::support::server::DedicatedServer;

/// Must never be shown anywhere.
const SECRET: &str = "hunter2";

const KERBEROS: &str = "security.protocol=sasl_plaintext,sasl.mechanisms=GSSAPI";

fn start() -> Result<DedicatedServer> {
    DedicatedServer::with(Cluster::options("properties"), &Broker::shared()?.bootstrap_servers())
}

fn set(dedicated: &DedicatedServer, properties: &str) -> Result<()> {
    dedicated.server.set("event_outbox.kafka_properties", properties)?;
    dedicated.server.reload()
}

/// Writes these properties to the file and has the relay reload it.
fn write(dedicated: &DedicatedServer, properties: &str) -> Result<()> {
    let path = dedicated.server.data_dir().join("kafka.properties");
    fs::write(&path, properties)?;
    run_as::give_to_server(&path)?;
    dedicated.server.set("event_outbox.kafka_properties_file", path.display())?;
    dedicated.server.reload()
}

/// Properties that run programs, load code or read files as the server's user are refused in the setting, since the
/// setting can be granted.
#[test]
fn a_setting_runs_nothing() -> Result<()> {
    let dedicated = start()?;
    let mut client = dedicated.connect()?;
    let mark = dedicated.server.data_dir().join("run");
    let touch = format!("touch {}", mark.display());
    for (properties, name) in [
        (format!("{KERBEROS},sasl.kerberos.kinit.cmd={touch}"), "sasl.kerberos.kinit.cmd"),
        (format!("{KERBEROS},sasl.kerberos.principal=$({touch})"), "sasl.kerberos.principal"),
        (format!("{KERBEROS},sasl.kerberos.keytab=$({touch})"), "sasl.kerberos.keytab"),
        (format!("{KERBEROS},sasl.kerberos.service.name=$({touch})"), "sasl.kerberos.service.name"),
        ("plugin.library.paths=x".into(), "plugin.library.paths"),
        ("ssl.engine.location=x".into(), "ssl.engine.location"),
        ("ssl.providers=x".into(), "ssl.providers"),
        ("ssl.key.location=/etc/passwd".into(), "ssl.key.location"),
        ("sasl.oauthbearer.assertion.file=/etc/passwd".into(), "sasl.oauthbearer.assertion.file"),
        ("sasl.oauthbearer.token.endpoint.url=http://x".into(), "sasl.oauthbearer.token.endpoint.url"),
        ("enable.ssl.certificate.verification=false".into(), "enable.ssl.certificate.verification"),
    ] {
        set(&dedicated, &properties)?;
        until_status(&mut client, name, |status| {
            status.state == "misconfigured"
                && status
                    .error()
                    .contains(&format!("\"{name}\" can be set only in event_outbox.kafka_properties_file"))
        })?;
    }
    assert!(!mark.exists());

    // In the server's file the administrator may do so. librdkafka logs the command that failed.
    dedicated.server.set("log_min_messages", "debug1")?;
    set(&dedicated, "")?;
    write(
        &dedicated,
        &format!("{}\nsasl.kerberos.kinit.cmd={touch}; : {SECRET}; false\n", KERBEROS.replace(',', "\n")),
    )?;
    event_outbox_lab::wait::until("the command to run", DEADLINE, || mark.exists().then_some(()))?;
    event_outbox_lab::wait::until("the log of it", DEADLINE, || {
        dedicated.server.log().contains("ticket refresh failed").then_some(())
    })?;
    assert!(!dedicated.server.log().contains(SECRET));
    Ok(())
}

/// librdkafka can mock a broker for tests: events would be deleted without being in Kafka.
#[test]
fn a_mock_is_no_kafka() -> Result<()> {
    let dedicated = start()?;
    let mut client = dedicated.connect()?;
    until_idle(&mut client)?;
    for name in ["test.mock.num.brokers", "test.mock.broker.rtt", "ut_handle_ProduceResponse"] {
        set(&dedicated, &format!("{name}=1"))?;
        until_status(&mut client, name, |status| {
            status.state == "misconfigured" && status.error().contains(&format!("\"{name}\" cannot be set"))
        })?;
    }
    set(&dedicated, "")?;
    until_idle(&mut client)?;
    write(&dedicated, "test.mock.num.brokers=1\n")?;
    until_status(&mut client, "the file's", |status| {
        status.state == "misconfigured" && status.error().contains("test.mock.num.brokers")
    })?;
    client.query_one("SELECT outbox.emit('properties.mock', '{}')", &[])?;
    let left = pending_count(&mut client)?;
    assert_eq!(left, 1);
    Ok(())
}

/// Properties that the outbox sets itself are refused with the reason, not silently replaced.
#[test]
fn nothing_is_overridden_in_silence() -> Result<()> {
    let dedicated = start()?;
    let mut client = dedicated.connect()?;
    for (property, words) in [
        ("message.max.bytes=1000000", "event_outbox.max_event_bytes"),
        ("log_level=7", "log_min_messages"),
        ("enable.idempotence=FALSE", "retry"),
    ] {
        set(&dedicated, property)?;
        until_status(&mut client, property, |status| {
            status.state == "misconfigured" && status.error().contains(words)
        })?;
    }
    Ok(())
}

/// Granted settings do not give access to the server's files.
#[test]
fn the_file_is_named_by_superusers_alone() -> Result<()> {
    let dedicated = start()?;
    dedicated.connect()?.batch_execute(&format!(
        "CREATE ROLE granted LOGIN;
         GRANT SET, ALTER SYSTEM ON PARAMETER event_outbox.kafka_properties_file, event_outbox.kafka_properties TO granted;
         ALTER DATABASE {} OWNER TO granted",
        dedicated.database
    ))?;
    let mut granted = dedicated.server.connect_as(&dedicated.database, "granted")?;
    for sql in [
        "SET event_outbox.kafka_properties_file = '/etc/hostname'".to_owned(),
        format!(
            "ALTER DATABASE {} SET event_outbox.kafka_properties_file = '/etc/hostname'",
            dedicated.database
        ),
        "ALTER ROLE granted SET event_outbox.kafka_properties_file = '/etc/hostname'".to_owned(),
        "ALTER SYSTEM SET event_outbox.kafka_properties_file = '/etc/hostname'".to_owned(),
    ] {
        let error = granted.simple_query(&sql).expect_err(&sql);
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{sql}: {error:?}");
    }
    granted.batch_execute("SET event_outbox.kafka_properties = 'linger.ms=1'")?;
    // A granted role can set it; the sessions of others go on.
    let path = dedicated.server.data_dir().join("kafka.properties");
    fs::write(&path, "linger.ms=1\n")?;
    run_as::give_to_server(&path)?;
    dedicated.alter("kafka_properties_file", &path.display().to_string())?;
    granted = dedicated.server.connect_as(&dedicated.database, "granted")?;
    granted.batch_execute("BEGIN; SELECT 1")?;
    dedicated.server.reload()?;
    granted.batch_execute("SELECT 1; COMMIT")?;
    let mut client = dedicated.connect()?;
    client.query_one("SELECT outbox.emit('properties.granted', '{}')", &[])?;
    until_drained(&mut client)
}

/// librdkafka quotes values in its errors and its log.
#[test]
fn what_librdkafka_quotes_is_hidden() -> Result<()> {
    let dedicated = start()?;
    dedicated.server.set("log_min_messages", "debug1")?;
    let mut client = dedicated.connect()?;
    let oauth = "security.protocol=sasl_plaintext\nsasl.mechanisms=OAUTHBEARER\n";
    for (properties, words) in [
        (
            format!("{oauth}enable.sasl.oauthbearer.unsecure.jwt=true\nsasl.oauthbearer.config={SECRET}\n"),
            "auth",
        ),
        (
            format!(
                "{oauth}enable.sasl.oauthbearer.unsecure.jwt=true\nsasl.oauthbearer.config=principal=x scope={SECRET} {SECRET}x\n"
            ),
            "auth",
        ),
        (
            format!(
                "{oauth}enable.sasl.oauthbearer.unsecure.jwt=true\nsasl.oauthbearer.config=principal=x\nsasl.oauthbearer.extensions={SECRET}\n"
            ),
            "",
        ),
        (format!("security.protocol=ssl\nssl.key.pem={SECRET}\n"), "ssl"),
        (format!("security.protocol=ssl\nssl.key.password={SECRET}\nssl.key.location=/nowhere\n"), "ssl"),
        (
            format!(
                "security.protocol=ssl\nssl.keystore.password={SECRET}\nssl.keystore.location=/nowhere\n"
            ),
            "ssl",
        ),
        (
            format!(
                "{oauth}sasl.oauthbearer.method=oidc\nsasl.oauthbearer.client.id=x\nsasl.oauthbearer.client.secret={SECRET}\nsasl.oauthbearer.token.endpoint.url=http://me:{SECRET}@127.0.0.1:1/?key={SECRET}\n"
            ),
            "token",
        ),
    ] {
        write(&dedicated, "")?;
        until_idle(&mut client)?;
        write(&dedicated, &properties)?;
        let seen = until_status(&mut client, &properties, |status| {
            status.state != "idle" && status.error().to_lowercase().contains(words)
                || status.is_disconnected()
        })?;
        assert!(!seen.error().contains(SECRET), "{seen:?}");
    }
    let log = dedicated.server.log();
    let leak = log.lines().find(|line| line.contains(SECRET));
    assert!(leak.is_none(), "{leak:?}");
    Ok(())
}

/// The path of the file is in the log, but not in the status.
#[test]
fn the_path_of_the_file_is_not_for_all() -> Result<()> {
    let dedicated = start()?;
    let mut client = dedicated.connect()?;
    write(&dedicated, "nonsense\n")?;
    let seen = until_status(&mut client, "the error", |status| {
        status.state == "misconfigured" && status.error().contains("entry 1")
    })?;
    assert!(!seen.error().contains("kafka.properties:") && !seen.error().contains('/'), "{seen:?}");
    let path = dedicated.server.data_dir().join("kafka.properties").display().to_string();
    event_outbox_lab::wait::until("the log's line", DEADLINE, || {
        dedicated.server.log().contains(&path).then_some(())
    })?;
    Ok(())
}
