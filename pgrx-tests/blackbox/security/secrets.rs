//! `event_outbox.kafka_properties` may contain passwords, so it is never shown.

use event_outbox_lab::{Broker, Cluster, Result, StopMode};
use postgres::Client;
use postgres::error::SqlState;

use crate::support::database::DEADLINE;
use crate::support::relay::{until_drained, until_idle, until_status};
use crate::support::server::DedicatedServer;

const SECRET: &str = "correcthorse";
const OTHER_SECRET: &str = "batterystaple";
const FILE_SECRET: &str = "ofthefile";
/// A pattern for each secret that does not match itself in the text of queries.
const ANY_SECRET: &str = "correcthors[e]|batterystapl[e]|ofthefil[e]";

/// All ways in which SQL shows a setting.
fn shown(client: &mut Client) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for sql in [
        "SHOW event_outbox.kafka_properties",
        "SELECT current_setting('event_outbox.kafka_properties')",
        "SELECT setting FROM pg_settings WHERE name = 'event_outbox.kafka_properties'",
        "SELECT reset_val FROM pg_settings WHERE name = 'event_outbox.kafka_properties'",
        "SELECT boot_val FROM pg_settings WHERE name = 'event_outbox.kafka_properties'",
        "SELECT s::text FROM pg_settings AS s",
        "SELECT s::text FROM outbox.status AS s",
        "SELECT a::text FROM pg_stat_activity AS a WHERE backend_type <> 'client backend'",
    ] {
        found.extend(client.query(sql, &[])?.iter().filter_map(|row| row.get::<_, Option<String>>(0)));
    }
    Ok(found)
}

fn server() -> Result<DedicatedServer> {
    let options = Cluster::options("secrets")
        .set("event_outbox.kafka_properties", format!("sasl.password={SECRET},linger.ms=1"));
    DedicatedServer::with(options, &Broker::shared()?.bootstrap_servers())
}

#[test]
fn sql_shows_stars() -> Result<()> {
    let dedicated = server()?;
    let mut client = dedicated.connect()?;
    let seen = shown(&mut client)?;
    assert_eq!(seen[..2], ["********", "********"]);
    let leak = seen.iter().find(|text| text.contains(SECRET));
    assert!(leak.is_none(), "{leak:?}");

    client.batch_execute("CREATE ROLE reader LOGIN; GRANT pg_read_all_settings TO reader")?;
    let mut reader = dedicated.server.connect_as(&dedicated.database, "reader")?;
    let row = reader.query_one("SHOW event_outbox.kafka_properties", &[])?;
    assert_eq!(row.get::<_, String>(0), "********");
    Ok(())
}

#[test]
fn an_ordinary_role_may_neither_see_nor_set_it() -> Result<()> {
    let dedicated = server()?;
    dedicated.connect()?.batch_execute("CREATE ROLE ordinary LOGIN")?;
    let mut ordinary = dedicated.server.connect_as(&dedicated.database, "ordinary")?;
    for sql in [
        "SHOW event_outbox.kafka_properties",
        "SELECT current_setting('event_outbox.kafka_properties')",
        "SET event_outbox.kafka_properties = 'debug=all'",
        "SET event_outbox.kafka_properties_file = '/etc/passwd'",
        "SET event_outbox.bootstrap_servers = '127.0.0.1:1'",
        "SHOW event_outbox.kafka_properties_file",
    ] {
        let error = ordinary.simple_query(sql).expect_err(sql);
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{sql}");
    }
    Ok(())
}

#[test]
fn the_log_does_not_tell() -> Result<()> {
    let mut dedicated = server()?;
    let mut client = dedicated.connect()?;
    until_idle(&mut client)?;
    // Postgres logs settings that a reload changes.
    for properties in
        [format!("sasl.password={OTHER_SECRET}"), String::new(), format!("sasl.password={SECRET}")]
    {
        let before = dedicated.server.log().matches("configuration").count();
        dedicated.server.set("event_outbox.kafka_properties", &properties)?;
        dedicated.server.reload()?;
        event_outbox_lab::wait::until("the reload", DEADLINE, || {
            (dedicated.server.log().matches("configuration").count() > before).then_some(())
        })?;
    }
    // An unreachable broker, and invalid properties.
    dedicated.server.set("event_outbox.bootstrap_servers", "127.0.0.1:1")?;
    dedicated.server.set("event_outbox.kafka_properties", format!("sasl.password={SECRET},acks=0"))?;
    dedicated.server.reload()?;
    until_status(&mut client, "the error", |status| status.state == "misconfigured")?;
    drop(client);
    dedicated.server.restart(StopMode::Fast)?;
    dedicated.server.set("event_outbox.bootstrap_servers", Broker::shared()?.bootstrap_servers())?;
    dedicated.server.set("event_outbox.kafka_properties", format!("sasl.password={OTHER_SECRET}"))?;
    dedicated.server.reload()?;
    client = dedicated.connect()?;
    client.query_one("SELECT outbox.emit('secrets.log', '{}')", &[])?;
    until_drained(&mut client)?;
    let log = dedicated.server.log();
    let leak = log.lines().find(|line| line.contains(SECRET) || line.contains(OTHER_SECRET));
    assert!(leak.is_none(), "{leak:?}");
    Ok(())
}

/// All that a role can read of catalogs, statistics and the outbox, also with the privileges of monitoring.
#[test]
fn no_relation_that_an_ordinary_role_can_read_shows_it() -> Result<()> {
    let dedicated = server()?;
    let file = dedicated.server.data_dir().join("kafka.properties");
    std::fs::write(&file, format!("sasl.password={FILE_SECRET}\nssl.key.password={FILE_SECRET}\n"))?;
    dedicated.server.set("event_outbox.kafka_properties_file", file.display())?;
    dedicated.server.reload()?;
    let mut client = dedicated.connect()?;
    client.batch_execute(
        "CREATE ROLE ordinary LOGIN; GRANT USAGE ON SCHEMA outbox TO ordinary;
         GRANT SELECT ON ALL TABLES IN SCHEMA outbox TO ordinary;
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA outbox TO ordinary;
         CREATE ROLE watcher LOGIN IN ROLE ordinary, pg_monitor, pg_read_all_stats, pg_read_all_settings",
    )?;
    // Properties without a working producer, and some with.
    dedicated.server.set("event_outbox.kafka_properties", format!("sasl.password={SECRET},acks=0"))?;
    dedicated.server.reload()?;
    until_status(&mut client, "the error", |status| status.state == "misconfigured")?;
    client.batch_execute(&format!(
        "ALTER SYSTEM SET event_outbox.kafka_properties = 'sasl.password={OTHER_SECRET}'"
    ))?;
    dedicated.server.reload()?;
    client.query_one("SELECT outbox.emit('secrets.relations', '{}')", &[])?;
    until_drained(&mut client)?;
    for user in ["ordinary", "watcher"] {
        let mut reader = dedicated.server.connect_as(&dedicated.database, user)?;
        assert_eq!(relations_that_show(&mut reader)?, [] as [String; 0], "{user}");
        let checked =
            reader.query("SELECT c::text FROM outbox.check() AS c WHERE c::text ~ $1", &[&ANY_SECRET])?;
        assert!(checked.is_empty(), "{user}");
    }
    let log = dedicated.server.log();
    let leak = log.lines().find(|line| line.contains(FILE_SECRET));
    assert!(leak.is_none(), "{leak:?}");

    // The documentation warns of this; and it proves that the search finds secrets.
    dedicated.alter("kafka_properties", &format!("sasl.password={OTHER_SECRET}"))?;
    let mut reader = dedicated.server.connect_as(&dedicated.database, "ordinary")?;
    assert_eq!(relations_that_show(&mut reader)?, ["pg_catalog.pg_db_role_setting"]);
    Ok(())
}

/// The tables and views that the role can read and that contain a secret.
fn relations_that_show(reader: &mut Client) -> Result<Vec<String>> {
    let sql = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class AS c
                 JOIN pg_namespace AS n ON n.oid = c.relnamespace
                WHERE c.relname !~ '_numa$' -- what a machine may not have
                  AND c.relkind IN ('r', 'v', 'm', 'f') AND n.nspname IN ('pg_catalog', 'information_schema', 'outbox')
                  AND has_table_privilege(c.oid, 'SELECT')";
    let readable: Vec<String> = reader.query(sql, &[])?.iter().map(|row| row.get(0)).collect();
    assert!(readable.len() > 100, "{} relations", readable.len());
    let mut shown = Vec::new();
    let mut looked = 0;
    for relation in readable {
        let sql = format!("SELECT FROM {relation} AS t WHERE t::text ~ $1 LIMIT 1");
        match reader.query_opt(&sql, &[&ANY_SECRET]) {
            Ok(found) => {
                shown.extend(found.map(|_| relation));
                looked += 1;
            }
            // Some views call functions that the role may not execute.
            Err(error) => {
                assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{relation}: {error}");
            }
        }
    }
    assert!(looked > 100, "{looked} relations");
    Ok(shown)
}
