//! A role that can create objects and set a search path cannot change what the outbox does.

use event_outbox_lab::Result;
use postgres::Client;

use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::events::emit;

/// Comparisons and arithmetic of every type that the outbox handles.
const OPERATORS: [&str; 8] = ["=", "<>", "<", "<=", ">", ">=", "-", "+"];
const TYPES: [&str; 10] =
    ["bigint", "integer", "uuid", "text", "bytea", "tid", "timestamptz", "interval", "xid", "oid"];

/// Functions of `pg_catalog` that the outbox's SQL calls, with the same arguments.
const FUNCTIONS: [&str; 13] = [
    "clock_timestamp()",
    "now()",
    "max(bigint)",
    "unnest(tid[])",
    "unnest(bigint[])",
    "unnest(text[])",
    "unnest(bigint[], text[])",
    "unnest(tid[], bigint[])",
    "pg_notify(text, text)",
    "nextval(regclass)",
    "uuid_v7()",
    "readable(bytea)",
    "channel(text)",
];

/// Creates operators, functions, tables, views and types in `schema` that shadow those of the outbox and of Postgres, and
/// raise an error when used.
fn shadow(client: &mut Client, schema: &str) -> Result<()> {
    client.batch_execute(&format!(
        "CREATE SCHEMA IF NOT EXISTS {schema};
         GRANT ALL ON SCHEMA {schema} TO PUBLIC;
         CREATE FUNCTION {schema}.trap() RETURNS text LANGUAGE plpgsql AS $$
         BEGIN RAISE EXCEPTION 'trapped, as %', current_user; END $$"
    ))?;
    for argument in TYPES {
        client.batch_execute(&format!(
            "CREATE FUNCTION {schema}.trap({argument}, {argument}) RETURNS boolean LANGUAGE plpgsql AS $$
             BEGIN RAISE EXCEPTION 'trapped by an operator of {argument}, as %', current_user; END $$"
        ))?;
        for operator in OPERATORS {
            client.batch_execute(&format!(
                "CREATE OPERATOR {schema}.{operator}
                     (FUNCTION = {schema}.trap, LEFTARG = {argument}, RIGHTARG = {argument})"
            ))?;
        }
    }
    for signature in FUNCTIONS {
        client.batch_execute(&format!(
            "CREATE FUNCTION {schema}.{signature} RETURNS text LANGUAGE plpgsql AS $$
             BEGIN RAISE EXCEPTION 'trapped by {signature}, as %', current_user; END $$"
        ))?;
    }
    for table in ["events", "pending", "status", "pg_class", "pg_extension", "pg_namespace"] {
        client.batch_execute(&format!("CREATE TABLE {schema}.{table} (id text DEFAULT {schema}.trap())"))?;
    }
    for name in ["uuid", "jsonb", "bytea", "interval"] {
        client.batch_execute(&format!(
            "CREATE DOMAIN {schema}.{name} AS text CHECK ({schema}.trap() IS NULL)"
        ))?;
    }
    Ok(())
}

/// Asserts that the traps work: otherwise the tests below would prove nothing.
fn assert_set(client: &mut Client) {
    for sql in
        ["SELECT 1::bigint <= 2::bigint", "SELECT clock_timestamp()", "INSERT INTO events DEFAULT VALUES"]
    {
        let error = client.batch_execute(sql).expect_err(sql);
        let message = error.as_db_error().map_or("", |error| error.message());
        assert!(message.starts_with("trapped"), "{sql}: {message}");
    }
}

fn attacker(db: &mut TestDatabase) -> Result<Client> {
    let role = format!("mallory_{}", db.database);
    db.client.batch_execute(&format!(
        "CREATE ROLE {role} LOGIN;
         GRANT USAGE ON SCHEMA outbox TO {role};
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA outbox TO {role};
         GRANT SELECT ON outbox.status, outbox.pending TO {role};
         GRANT USAGE ON SCHEMA inbox TO {role};
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA inbox TO {role};
         GRANT SELECT ON inbox.subscriptions, inbox.partitions, inbox.lag, inbox.retries TO {role};
         GRANT CREATE, TEMP ON DATABASE {} TO {role};
         GRANT ALL ON SCHEMA public TO {role}",
        db.database
    ))?;
    db.connect_as(&role)
}

/// Calls the functions with SQL bodies as the owner; leaves the topic as it was.
fn written_in_sql(client: &mut Client, topic: &str) -> Result<()> {
    for payload in ["text", "jsonb"] {
        let sql =
            format!("SELECT status FROM outbox.try_emit('{topic}', '{topic}', '1'::pg_catalog.{payload})");
        let mut taken = client.transaction()?;
        assert_eq!(taken.query_one(&sql, &[])?.get::<_, &str>(0), "stored");
        taken.rollback()?;
    }
    for sql in [
        "SELECT outbox.redrive(topic => 'none')",
        "SELECT outbox.discard(topic => 'none')",
        "SELECT outbox.grant_topic('pg_monitor', 'none')",
        "SELECT outbox.grant_topic('pg_monitor', 'none.*')",
        "SELECT outbox.revoke_topic('pg_monitor', 'none')",
        "DROP OWNED BY CURRENT_USER",
        "SELECT outbox.revoke_topic('pg_monitor')",
        "SELECT outbox.pause(), outbox.resume()",
        "SELECT inbox.grant_topic('pg_monitor', 'none.*')",
        "SELECT inbox.revoke_topic('pg_monitor')",
        "SELECT inbox.channel('none') FROM inbox.check(), inbox.subscriptions, inbox.partitions, inbox.lag, inbox.retries",
        "DO $$ BEGIN PERFORM inbox.pause('none'); EXCEPTION WHEN undefined_object THEN NULL; END $$",
        "DO $$ BEGIN PERFORM inbox.subscribe('none', '{t}', 'latest'); EXCEPTION WHEN insufficient_privilege THEN NULL; END $$",
    ] {
        let mut undone = client.transaction()?;
        undone.batch_execute(sql).map_err(|error| anyhow::anyhow!("{sql}: {error:?}"))?;
        undone.rollback()?;
    }
    Ok(())
}

#[test]
fn a_hostile_search_path_changes_no_function_and_no_view() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("mallory");
    let mut mallory = attacker(&mut db)?;
    shadow(&mut mallory, "mallory")?;
    shadow(&mut mallory, "public")?;
    for path in ["mallory, public, pg_catalog", "pg_temp, mallory, pg_catalog", "mallory, outbox, pg_catalog"]
    {
        mallory.batch_execute(&format!("SET search_path = {path}"))?;
        assert_set(&mut mallory);
        // A session for each, so that each parses its statements anew.
        let sql = "SELECT outbox.emit($1, '1', 'k', 't', '{\"h\": 1}', NULL, 0)";
        mallory.execute(sql, &[&topic])?;
        mallory.execute("SELECT outbox.emit_bytes($1, '2')", &[&topic])?;
        written_in_sql(&mut mallory, &topic)?;
        let waited = mallory.query_one("SELECT outbox.wait_published('30 s')", &[])?;
        assert!(waited.get::<_, bool>(0));
        mallory.query("SELECT * FROM outbox.pending", &[])?;
        let row = mallory.query_one("SELECT state, outbox.channel('orders') FROM outbox.status", &[])?;
        assert_eq!(row.get::<_, &str>(1), "outbox:orders");
        mallory = db.connect_as(&format!("mallory_{}", db.database))?;
    }
    assert_eq!(db.drained_values(&topic)?, ["1", "2", "1", "2", "1", "2"]);
    Ok(())
}

#[test]
fn temporary_objects_are_not_taken_for_the_outboxs() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("temporary");
    let mut mallory = attacker(&mut db)?;
    mallory.batch_execute(
        "CREATE TEMP TABLE events (id bigint, event_id uuid, topic text, payload bytea);
         CREATE TEMP TABLE pg_extension (oid oid, extname name);
         CREATE TEMP TABLE pg_roles (oid oid); CREATE TEMP TABLE topic_grants (role regrole, pattern text);
         CREATE TEMP TABLE dead_letters (id bigint, event_id uuid, topic text);
         CREATE TEMP TABLE intake (source_id text, status text);
         CREATE TEMP TABLE paused (only_one boolean);
         CREATE FUNCTION pg_temp.format(text, text) RETURNS text LANGUAGE plpgsql AS
             'BEGIN RAISE EXCEPTION ''trapped''; END';
         CREATE FUNCTION pg_temp.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS
             'BEGIN RAISE EXCEPTION ''trapped''; END';
         CREATE TEMP SEQUENCE events_id_seq;
         CREATE FUNCTION pg_temp.trap(bigint, bigint) RETURNS boolean LANGUAGE plpgsql AS
             'BEGIN RAISE EXCEPTION ''trapped''; END';
         CREATE OPERATOR pg_temp.<= (FUNCTION = pg_temp.trap, LEFTARG = bigint, RIGHTARG = bigint);
         SET search_path = pg_temp, pg_catalog",
    )?;
    written_in_sql(&mut mallory, &topic)?;
    emit(&mut mallory, &topic, 1)?;
    assert!(mallory.query_one("SELECT outbox.wait_published('30 s')", &[])?.get::<_, bool>(0));
    let shadowed: i64 = mallory.query_one("SELECT count(*) FROM pg_temp.events", &[])?.get(0);
    assert_eq!(shadowed, 0);
    assert_eq!(db.drained_values(&topic)?, ["1"]);
    Ok(())
}

/// The search path of the database, which its relay would inherit, and that of an inserting session.
#[test]
fn a_hostile_search_path_of_the_database_does_not_reach_the_relay() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("relay");
    shadow(&mut db.client, "mallory")?;
    shadow(&mut db.client, "public")?;
    db.alter_database("SET search_path = mallory, public, pg_catalog")?;
    let mut client = db.connect()?;
    assert_set(&mut client);
    client.execute("SELECT outbox.emit($1, '1')", &[&topic])?;
    client.execute("INSERT INTO outbox.events (topic, payload) VALUES ($1, '2')", &[&topic])?;
    // A refusal, too, is recorded: the partition does not exist.
    client.execute("SELECT outbox.emit($1, '3', partition => 99)", &[&topic])?;
    db.promptly(&topic, 2)?;
    event_outbox_lab::wait::until_ok("the refusal", DEADLINE, || {
        let sql = "SELECT FROM outbox.events WHERE attempts > 0 AND last_error IS NOT NULL";
        Ok(db.client.query_opt(sql, &[])?)
    })?;
    let trapped = "SELECT FROM outbox.status WHERE last_error LIKE '%trapped%'";
    assert!(db.client.query_opt(trapped, &[])?.is_none(), "the relay was trapped");
    Ok(())
}

/// As in a database that an attacker has prepared.
#[test]
fn the_extension_is_created_among_hostile_objects() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("created");
    db.client.batch_execute("DROP EXTENSION event_outbox")?;
    shadow(&mut db.client, "mallory")?;
    shadow(&mut db.client, "public")?;
    db.client.batch_execute("SET search_path = mallory, public, pg_catalog")?;
    assert_set(&mut db.client);
    db.client.batch_execute("CREATE EXTENSION event_outbox")?;
    let mut client = db.connect()?;
    client.execute("INSERT INTO outbox.events (topic, payload) VALUES ($1, '1')", &[&topic])?;
    emit(&mut client, &topic, 2)?;
    db.promptly(&topic, 2)?;
    assert!(client.query_one("SELECT outbox.wait_published('30 s')", &[])?.get::<_, bool>(0));
    client.query("SELECT * FROM outbox.pending, outbox.status", &[])?;
    Ok(())
}
