//! The extension does not interfere with the commands, errors, names and privileges of other users of the server.

use event_outbox_lab::{Broker, Cluster, Result, StopMode, wait};
use postgres::error::DbError;
use postgres::{Client, SimpleQueryMessage};

use crate::support::database::{DEADLINE, PROMPTLY, TestDatabase};
use crate::support::events::emit;
use crate::support::roles::is_superuser;
use crate::support::server::DedicatedServer;

/// Statements that fail, in ways that fill all fields of an error.
const FAILING: [&str; 31] = [
    "INSERT INTO t VALUES (-1, 'x')",
    "INSERT INTO t VALUES (1, NULL)",
    "INSERT INTO t VALUES (1, 'x'), (1, 'y')",
    "INSERT INTO child VALUES (99)",
    "CALL p(-1)",
    "CALL nested(-1)",
    "DO $$ BEGIN INSERT INTO t VALUES (-1, 'x'); END $$",
    "DO $$ BEGIN RAISE EXCEPTION USING MESSAGE = 'm', DETAIL = 'd', HINT = 'h', ERRCODE = 'U0001', \
     COLUMN = 'c', CONSTRAINT = 'k', DATATYPE = 'y', TABLE = 't', SCHEMA = 's'; END $$",
    "DO $$ BEGIN PERFORM 1/0; END $$",
    "EXECUTE ins(-1)",
    "EXECUTE ins('x')",
    "EXPLAIN ANALYZE INSERT INTO t VALUES (-5, 'x')",
    "EXPLAIN SELECT nosuch FROM t",
    "CREATE TABLE zz (a int, b nosuchtype)",
    "CREATE TABLE zz (a int, CHECK (nosuch > 0))",
    "CREATE TABLE t (a int)",
    "CREATE VIEW v AS SELECT nosuch FROM t",
    "CREATE VIEW v AS SELECT * FROM nosuch",
    "CREATE TABLE zz AS SELECT 1/0 AS a",
    "CREATE INDEX ON t ((1/(a-1)))",
    "CREATE UNIQUE INDEX ON twice (a)",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT nosuch'",
    "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN ; EN'",
    "CREATE DOMAIN dd AS int CHECK (nosuch)",
    "CREATE SCHEMA bad CREATE TABLE a (b nosuchtype)",
    "ALTER TABLE t ADD CONSTRAINT small CHECK (a < 1)",
    "ALTER TABLE t ALTER a TYPE boolean USING (b::int)",
    "ALTER DOMAIN positive_int ADD CONSTRAINT big CHECK (VALUE > 100)",
    "COPY t FROM PROGRAM 'printf \"1\\tok\\n2\\tok\\n-3\\tbad\\n\"'",
    "COPY t FROM PROGRAM 'printf \"5\\tok\\nabc\\tok\\n\"'",
    "REFRESH MATERIALIZED VIEW m",
];

const PREPARATION: &str = "
    CREATE TABLE t (a int PRIMARY KEY CONSTRAINT positive CHECK (a > 0), b text NOT NULL);
    CREATE TABLE child (a int REFERENCES t);
    CREATE TABLE twice AS SELECT 1 AS a FROM generate_series(1, 2);
    INSERT INTO t VALUES (1, 'x');
    CREATE DOMAIN positive_int AS int;
    CREATE TABLE dom AS SELECT 1::positive_int AS a;
    CREATE TABLE zero AS SELECT 1 AS a;
    CREATE MATERIALIZED VIEW m AS SELECT 1/a AS b FROM zero;
    UPDATE zero SET a = 0;
    CREATE PROCEDURE p(x int) LANGUAGE plpgsql AS $$ BEGIN INSERT INTO t VALUES (x, 'q'); END $$;
    CREATE PROCEDURE nested(x int) LANGUAGE plpgsql AS $$ BEGIN CALL p(x); END $$;
    PREPARE ins(int) AS INSERT INTO t VALUES ($1, 'x');";

/// All fields of an error that a driver gets.
fn fields(error: &DbError) -> String {
    format!(
        "{} {} {:?} {:?} {:?} where {:?} schema {:?} table {:?} column {:?} type {:?} constraint {:?} in {:?} of {:?}",
        error.severity(),
        error.code().code(),
        error.message(),
        error.detail(),
        error.hint(),
        error.where_(),
        error.schema(),
        error.table(),
        error.column(),
        error.datatype(),
        error.constraint(),
        error.routine(),
        error.file(),
    ) + &format!(" at {:?} line {:?}", error.position(), error.line())
}

fn errors(server: &Cluster) -> Result<Vec<String>> {
    let mut client = server.connect(&server.create_database()?)?;
    client.batch_execute(PREPARATION)?;
    let fails = |sql: &&str| match client.batch_execute(sql) {
        Ok(()) => panic!("it does not fail: {sql}"),
        Err(error) => format!("{sql}: {}", fields(error.as_db_error().expect("an error of the server"))),
    };
    Ok(FAILING.iter().map(fails).collect())
}

#[test]
fn errors_of_others_keep_all_their_fields() -> Result<()> {
    let without = errors(&Cluster::options("bare").without_preload().start()?)?;
    let with = errors(&DedicatedServer::start(&Broker::shared()?.bootstrap_servers())?.server)?;
    for (with, without) in with.iter().zip(&without) {
        assert_eq!(with, without);
    }
    Ok(())
}

#[test]
fn drop_owned_runs_nothing_that_bears_our_names() -> Result<()> {
    let dedicated = DedicatedServer::start(&Broker::shared()?.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    client.batch_execute("CREATE ROLE mallory LOGIN; CREATE ROLE victim")?;
    client.batch_execute("CREATE DATABASE tenant OWNER mallory")?;
    let mut mallory = dedicated.server.connect_as("tenant", "mallory")?;
    mallory.batch_execute(
        "CREATE SCHEMA outbox;
         CREATE TABLE outbox.topic_grants (role oid, pattern text);
         CREATE FUNCTION outbox.evil() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
                 EXECUTE 'ALTER ROLE mallory SUPERUSER';
             END IF;
             RETURN NULL;
         END $$;
         CREATE CONSTRAINT TRIGGER evil AFTER DELETE ON outbox.topic_grants DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION outbox.evil();
         INSERT INTO outbox.topic_grants VALUES ('victim'::regrole, 'a'), ('mallory'::regrole, 'b')",
    )?;
    let mut superuser = dedicated.server.connect("tenant")?;
    superuser.batch_execute("DROP OWNED BY victim")?;
    assert!(!is_superuser(&mut superuser, "mallory")?);
    let rows: i64 = superuser.query_one("SELECT count(*) FROM outbox.topic_grants", &[])?.get(0);
    assert_eq!(rows, 2, "the table of another schema was changed");
    Ok(())
}

/// In a database with a foreign schema `outbox`, nothing of it is touched.
#[test]
fn objects_that_merely_bear_our_names_are_not_found() -> Result<()> {
    let dedicated = DedicatedServer::start(&Broker::shared()?.bootstrap_servers())?;
    dedicated.connect()?.batch_execute("CREATE DATABASE tenant")?;
    let mut tenant = dedicated.server.connect("tenant")?;
    // A superuser's mistake: functions of the library without the extension.
    tenant.batch_execute(
        "CREATE SCHEMA outbox;
         CREATE TABLE outbox.events (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, topic text);
         CREATE TABLE outbox.topic_grants (role oid, pattern text);
         CREATE FUNCTION emit(text, jsonb, text, text, jsonb, uuid, int) RETURNS uuid LANGUAGE c
             AS 'event_outbox', 'outbox_emit'",
    )?;
    let error =
        tenant.batch_execute("SELECT emit('t', '{}', NULL, NULL, NULL, NULL, NULL)").expect_err("no outbox");
    assert_eq!(error.code(), Some(&postgres::error::SqlState::UNDEFINED_TABLE), "{error:?}");
    Ok(())
}

/// The relay's process id.
fn relay(client: &mut Client) -> Result<i32> {
    wait::until_ok("the relay", DEADLINE, || {
        let sql = "SELECT pid FROM outbox.status WHERE state = 'idle'";
        Ok(client.query_opt(sql, &[])?.map(|row| row.get(0)))
    })
}

/// Counts the relays that a series of commands starts; looks after each.
fn relays_during(
    client: &mut Client,
    mut command: impl FnMut(usize) -> Result<()>,
    times: usize,
) -> Result<usize> {
    let mut seen = std::collections::BTreeSet::from([relay(client)?]);
    for time in 0..times {
        command(time)?;
        let row = client.query_one("SELECT pid FROM outbox.status", &[])?;
        seen.extend(row.get::<_, Option<i32>>(0));
        // Each command gets the time that a restart takes.
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    seen.insert(relay(client)?);
    Ok(seen.len())
}

#[test]
fn nobody_without_a_right_restarts_a_relay() -> Result<()> {
    let dedicated = DedicatedServer::start(&Broker::shared()?.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    client.batch_execute(&format!(
        "CREATE ROLE pauper LOGIN; CREATE ROLE landlord LOGIN; ALTER DATABASE {} OWNER TO landlord;
         REVOKE CONNECT ON DATABASE {0} FROM PUBLIC",
        dedicated.database
    ))?;
    let mut pauper = dedicated.server.connect_as("postgres", "pauper")?;
    let mut landlord = dedicated.server.connect_as("postgres", "landlord")?;
    let of_himself = |time| {
        Ok(pauper.batch_execute(&format!(
            "ALTER ROLE pauper IN DATABASE {} SET work_mem = '{}kB'",
            dedicated.database,
            4096 + time
        ))?)
    };
    assert_eq!(relays_during(&mut client, of_himself, 100)?, 1);
    let of_the_database = |time| {
        Ok(landlord.batch_execute(&format!(
            "ALTER DATABASE {} SET work_mem = '{}kB'",
            dedicated.database,
            4096 + time
        ))?)
    };
    assert_eq!(relays_during(&mut client, of_the_database, 100)?, 1);
    Ok(())
}

#[test]
fn orders_that_come_fast_are_joined_and_none_is_lost() -> Result<()> {
    let dedicated = DedicatedServer::start(&Broker::shared()?.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let mut operator = dedicated.server.connect("postgres")?;
    let alter = |time| {
        let sql =
            format!("ALTER DATABASE {} SET event_outbox.batch_size = {}", dedicated.database, 1_000 + time);
        Ok(operator.batch_execute(&sql)?)
    };
    let relays = relays_during(&mut client, alter, 500)?;
    assert!((2..=14).contains(&relays), "{relays} relays");
    // The last command takes effect, if late.
    dedicated.alter("max_in_flight", "77")?;
    wait::until_ok("the last order to be carried out", DEADLINE, || {
        Ok(client.query_opt("SELECT FROM outbox.status WHERE max_in_flight = 77", &[])?)
    })?;
    Ok(())
}

#[test]
fn a_role_that_the_database_sets_does_not_reach_the_relay() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let (database, topic) = (db.database.clone(), db.topic("role"));
    db.client.batch_execute(&format!(
        "CREATE ROLE owner_{database} LOGIN; ALTER DATABASE {database} OWNER TO owner_{database}"
    ))?;
    let mut owner = db.server.connect_as("postgres", &format!("owner_{database}"))?;
    for setting in ["role", "session_authorization"] {
        owner.batch_execute(&format!("ALTER DATABASE {database} SET {setting} = 'owner_{database}'"))?;
        let before = db.relay()?;
        db.client.query_one("SELECT outbox.restart_relay()", &[])?;
        wait::until_ok("another relay", DEADLINE, || Ok((db.relay()? != before).then_some(())))?;
        emit(&mut db.client, &topic, 1)?;
        db.drained(&topic)?;
        owner.batch_execute(&format!("ALTER DATABASE {database} RESET {setting}"))?;
    }
    drop(owner);
    db.client
        .batch_execute(&format!("ALTER DATABASE {database} OWNER TO postgres; DROP ROLE owner_{database}"))?;
    Ok(())
}

/// Sets every setting of a database to each end of its range, some at a time.
#[test]
fn no_setting_of_a_database_keeps_its_events_back() -> Result<()> {
    // Settings that prevent any process of the database, or that say whether and where it publishes.
    const LEFT_OUT: &str = "name NOT LIKE 'event\\_outbox.%' AND name NOT IN ('zero_damaged_pages', 'ignore_system_indexes', \
        'ignore_checksum_failure', 'allow_system_table_mods', 'jit_provider', 'session_preload_libraries', \
        'local_preload_libraries', 'dynamic_library_path', 'backtrace_functions', 'log_statement', 'debug_discard_caches', \
        'wal_consistency_checking', 'trace_sort', 'trace_notify', 'trace_lock_oidmin', 'max_stack_depth')";
    const VALUES: [&str; 4] = [
        "CASE vartype WHEN 'bool' THEN CASE setting WHEN 'on' THEN 'off' ELSE 'on' END END",
        "CASE vartype WHEN 'enum' THEN enumvals[1] WHEN 'integer' THEN min_val WHEN 'real' THEN min_val END",
        "CASE vartype WHEN 'enum' THEN enumvals[cardinality(enumvals)] WHEN 'integer' THEN max_val WHEN 'real' THEN max_val END",
        "CASE vartype WHEN 'string' THEN 'nonsense' END",
    ];
    let dedicated = DedicatedServer::start(&Broker::shared()?.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    for (round, value) in VALUES.iter().enumerate() {
        let set = format!(
            "DO $$
             DECLARE s record; n int := 0;
             BEGIN
                 FOR s IN SELECT name, {value} AS value FROM pg_settings
                           WHERE context IN ('user', 'superuser') AND {LEFT_OUT} LOOP
                     CONTINUE WHEN s.value IS NULL;
                     BEGIN
                         EXECUTE format('ALTER DATABASE {database} SET %I = %L', s.name, s.value);
                         n := n + 1;
                     EXCEPTION WHEN OTHERS THEN
                         NULL;
                     END;
                 END LOOP;
                 ASSERT n > 5, n;
             END $$",
            database = dedicated.database
        );
        // This session began before, so the settings do not apply to it.
        client.batch_execute(&set)?;
        let before = relay(&mut client)?;
        client.query_one("SELECT outbox.restart_relay()", &[])?;
        wait::until_ok("another relay", DEADLINE, || Ok((relay(&mut client)? != before).then_some(())))?;
        emit(&mut client, "settings", round as i32)?;
        let published: bool = client.query_one("SELECT outbox.wait_published('30 s')", &[])?.get(0);
        let status = client.simple_query("SELECT state, last_error FROM outbox.status")?;
        let shown = status.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(format!("{:?} {:?}", row.get(0), row.get(1))),
            _ => None,
        });
        assert!(published, "round {round}: {shown:?}");
        client.batch_execute(&format!("ALTER DATABASE {} RESET ALL", dedicated.database))?;
        wait::until_ok("the relay", DEADLINE, || Ok((relay(&mut client)? != before).then_some(())))?;
    }
    Ok(())
}

/// Every role can send notifications. A flood of them does not cause as many reads of the table.
#[test]
fn a_flood_of_notifications_is_paced() -> Result<()> {
    let mut db = TestDatabase::new()?;
    db.relay()?;
    let sweeps = |client: &mut Client| -> Result<i64> {
        Ok(client.query_one("SELECT sweeps FROM outbox.status", &[])?.get(0))
    };
    let before = sweeps(&mut db.client)?;
    let begin = std::time::Instant::now();
    let mut flood = db.connect()?;
    for _ in 0..20_000 {
        flood.batch_execute("NOTIFY outbox")?;
    }
    let seconds = begin.elapsed().as_secs_f64();
    let during = sweeps(&mut db.client)? - before;
    // Fifty reads a second, and some for other reasons.
    assert!((during as f64) < 60.0 * seconds + 60.0, "{during} reads in {seconds:.1} s");
    // The last notification causes a read.
    wait::until_ok("a read", DEADLINE, || Ok((sweeps(&mut db.client)? > before).then_some(())))
}

/// The relay reads raw rows, so it must notice when their columns are not what it expects.
#[test]
fn a_column_of_another_type_is_not_read() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("typed");
    db.relay()?;
    db.client.batch_execute(
        "ALTER EXTENSION event_outbox DROP VIEW outbox.pending;
         DROP VIEW outbox.pending;
         DROP TRIGGER check_change ON outbox.events;
         ALTER TABLE outbox.events ALTER event_type TYPE integer USING 7",
    )?;
    db.client.batch_execute("NOTIFY outbox")?;
    let error = db.until_state("failing")?;
    assert!(error.contains("\"event_type\" of the type"), "{error}");
    db.client.batch_execute("ALTER TABLE outbox.events ALTER event_type TYPE text")?;
    emit(&mut db.client, &topic, 1)?;
    db.drained(&topic)?;
    Ok(())
}

/// A relay that made way comes back when the command fails.
#[test]
fn a_relay_that_made_way_for_a_command_that_fails_comes_back() -> Result<()> {
    let mut dedicated = DedicatedServer::start(&Broker::shared()?.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let rename = format!("ALTER DATABASE {} RENAME TO postgres", dedicated.database);
    let caught = format!("DO $$ BEGIN {rename}; EXCEPTION WHEN OTHERS THEN NULL; END $$");
    let mut other = dedicated.server.connect("postgres")?;
    for (command, fails) in [(&rename, true), (&caught, false)] {
        let before = relay(&mut client)?;
        assert_eq!(other.batch_execute(command).is_err(), fails);
        wait::until_ok("another relay", PROMPTLY, || Ok((relay(&mut client)? != before).then_some(())))?;
    }
    dedicated.server.stop(StopMode::Fast)?;
    Ok(())
}
