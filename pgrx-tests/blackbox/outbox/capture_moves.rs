//! Captures in dumps, copies, replicas and older databases.

use event_outbox_lab::{Broker, Cluster, Result, wait};

use crate::support::captures::{events_of, refusal, taken};
use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::dump::{dump, dump_and_restore, restore};
use crate::support::events::pending_count;
use crate::support::server::DedicatedServer;

const CAPTURED: &str = "CREATE TABLE orders (gone int, id int PRIMARY KEY, n int, ssn text, late int);
    ALTER TABLE orders DROP gone;
    INSERT INTO orders VALUES (1, 1, 'secret');
    CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (10);
    SELECT outbox.capture('orders', 'fat', topic => 't', \"except\" => '{ssn}', \"when\" => 'NEW.n > 0',
                          operations => '{insert,truncate}', replicated => true);
    ALTER TABLE orders RENAME ssn TO social;
    SELECT outbox.capture('parts', 'notification', topic => 'p')";

const CAPTURES: &str = "SELECT c::text FROM outbox.captures AS c ORDER BY 1";

fn shown(db: &mut TestDatabase) -> Result<Vec<String>> {
    Ok(db.client.query(CAPTURES, &[])?.iter().map(|row| row.get(0)).collect())
}

/// With its data or without, whole or one table alone. Rows that are restored are no changes.
#[test]
fn a_dump_carries_captures_over() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    db.client.batch_execute(CAPTURED)?;
    let before = shown(&mut db)?;
    assert_eq!(before.len(), 2);
    for options in [&[][..], &["--schema-only"], &["--table=orders", "--table=parts", "--table=low"]] {
        let dumped = dump(&db, options)?;
        let mut restored = TestDatabase::of(db.server.create_database()?)?;
        let off = format!("ALTER DATABASE {} SET event_outbox.enabled = off", restored.database);
        restored.client.batch_execute(&off)?;
        if options.len() > 1 {
            restored.client.batch_execute("CREATE EXTENSION event_outbox")?;
        }
        restore(&dumped, db.server, &restored.database, &[])?;
        assert_eq!(shown(&mut restored)?, before, "{options:?}");
        assert_eq!(taken(&mut restored.client)?, [""; 0], "{options:?}");
        let changes = "INSERT INTO orders VALUES (2, 0, 'x'), (3, 1, 'secret'); INSERT INTO parts VALUES (4)";
        assert_eq!(
            events_of(&mut restored.client, changes)?,
            [
                r#"orders.created 3 {"key":{"id":3},"old":null,"new":{"id":3,"n":1,"late":null}}"#,
                r#"parts.created 4 {"key":{"id":4}}"#
            ],
            "{options:?}"
        );
    }
    Ok(())
}

#[test]
fn a_dropped_table_leaves_nothing_and_an_extension_takes_its_captures_along() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    db.client.batch_execute(CAPTURED)?;
    db.client.batch_execute("DROP TABLE parts")?;
    assert_eq!(shown(&mut db)?.len(), 1);
    let refused = db.client.batch_execute("DROP EXTENSION event_outbox").expect_err("a trigger needs it");
    assert_eq!(refused.code().map(|code| code.code()), Some("2BP01"));
    db.client.batch_execute("DROP EXTENSION event_outbox CASCADE; INSERT INTO orders VALUES (2, 1)")?;
    db.client.batch_execute("CREATE EXTENSION event_outbox")?;
    assert_eq!(shown(&mut db)?, [""; 0]);
    Ok(())
}

#[test]
fn a_database_of_an_earlier_release_can_capture_once_it_is_updated() -> Result<()> {
    for version in event_outbox_lab::released::versions()? {
        let mut db = TestDatabase::of_version(version)?;
        db.client.batch_execute(
            "CREATE TABLE before (id int PRIMARY KEY); ALTER TABLE before RENAME id TO number;
             ALTER EXTENSION event_outbox UPDATE",
        )?;
        db.configure("event_outbox.enabled", "off")?;
        db.client.batch_execute(CAPTURED)?;
        let events = events_of(&mut db.client, "INSERT INTO orders VALUES (2, 1, 'x')")?;
        assert_eq!(events.len(), 1, "{version}");
    }
    Ok(())
}

/// What a subscription applies is captured at its origin, and here only on request. Each table is replicated, the outbox is not.
#[test]
fn replicated_changes_are_captured_on_request() -> Result<()> {
    let broker = Broker::shared()?;
    let options = Cluster::options("captured").set("wal_level", "logical").set("event_outbox.enabled", "off");
    let dedicated = DedicatedServer::with(options, &broker.bootstrap_servers())?;
    let mut source = dedicated.connect()?;
    let copy = dedicated.server.create_database()?;
    let mut client = dedicated.server.connect(&copy)?;
    let tables = "CREATE TABLE silent (id int PRIMARY KEY); CREATE TABLE loud (id int PRIMARY KEY)";
    client.batch_execute(&format!(
        "CREATE EXTENSION event_outbox; {tables};
         SELECT outbox.capture('silent', 'notification', topic => 't');
         SELECT outbox.capture('loud', 'notification', topic => 't', replicated => true)"
    ))?;
    source.batch_execute(&format!("{tables}; CREATE PUBLICATION p FOR TABLE silent, loud"))?;
    source.execute("SELECT pg_create_logical_replication_slot('copy', 'pgoutput')", &[])?;
    client.batch_execute(&format!(
        "CREATE SUBSCRIPTION copy CONNECTION 'host={} port={} user=postgres dbname={}' PUBLICATION p
         WITH (create_slot = false, slot_name = 'copy', copy_data = false)",
        dedicated.server.socket_dir().display(),
        dedicated.server.port(),
        dedicated.database,
    ))?;
    source.batch_execute("BEGIN; INSERT INTO silent VALUES (1); INSERT INTO loud VALUES (2); COMMIT")?;
    wait::until_ok("the change to be applied", DEADLINE, || {
        let found: i64 = client.query_one("SELECT count(*) FROM loud", &[])?.get(0);
        Ok((found > 0).then_some(()))
    })?;
    assert_eq!(pending_count(&mut client)?, 1);
    assert_eq!(taken(&mut client)?, [r#"loud.created 2 {"key":{"id":2}}"#]);
    // Written here, both are captured.
    assert_eq!(
        events_of(&mut client, "INSERT INTO silent VALUES (5); INSERT INTO loud VALUES (6)")?.len(),
        2
    );
    Ok(client.batch_execute("ALTER SUBSCRIPTION copy DISABLE")?)
}

/// The relay of a copy is another, and so are its captures.
#[test]
fn captures_of_one_database_are_not_those_of_another() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    db.client.batch_execute(CAPTURED)?;
    let mut other = TestDatabase::disabled()?;
    other.client.batch_execute("CREATE TABLE orders (id int)")?;
    assert_eq!(shown(&mut other)?, [""; 0]);
    assert_eq!(
        refusal(&mut other.client, "SELECT outbox.capture('orders', 'fat', topic => 't')").1,
        "the table has no primary key"
    );
    let restored = TestDatabase::of(db.server.create_database()?)?;
    dump_and_restore(&db, &restored.database)?;
    Ok(())
}
