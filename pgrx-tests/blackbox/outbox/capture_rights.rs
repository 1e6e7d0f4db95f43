//! Who may capture what, and with whose rights events are made.

use event_outbox_lab::Result;
use postgres::error::SqlState;

use crate::support::captures::{events_of, refusal, taken};
use crate::support::database::TestDatabase;
use crate::support::roles::{assert_denied, create_role, is_superuser};
use crate::support::topic_grants::{grant, revoke};

const MAY_CAPTURE: &str = "GRANT CREATE ON SCHEMA public TO ROLE;
    GRANT EXECUTE ON FUNCTION outbox.capture, outbox.uncapture, outbox.capture_changes TO ROLE;
    GRANT SELECT ON outbox.captures TO ROLE";

/// A role that has a table and may capture it, and one that only writes to it.
fn owner_and_writer(db: &mut TestDatabase) -> Result<(String, String)> {
    let owner = create_role(db, "owner", MAY_CAPTURE)?;
    let writer = create_role(db, "writer", "")?;
    db.connect_as(&owner)?.batch_execute(&format!(
        "CREATE TABLE orders (id int PRIMARY KEY, n int); GRANT ALL ON orders TO {writer}"
    ))?;
    Ok((owner, writer))
}

#[test]
fn the_owner_of_a_table_captures_it_and_writers_need_no_right() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let (owner, writer) = owner_and_writer(&mut db)?;
    let mut client = db.connect_as(&owner)?;
    client.batch_execute("SELECT outbox.capture('orders', 'notification', topic => 't')")?;
    let shown: String = client.query_one("SELECT topic FROM outbox.captures", &[])?.get(0);
    assert_eq!(shown, "t");
    let mut session = db.connect_as(&writer)?;
    session.batch_execute("INSERT INTO orders VALUES (1); UPDATE orders SET n = 1; DELETE FROM orders")?;
    assert_eq!(taken(&mut db.client)?.len(), 3);
    assert_denied(&mut session, "SELECT outbox.emit('t', '{}')");
    Ok(())
}

#[test]
fn nobody_else_captures_a_table() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let (owner, writer) = owner_and_writer(&mut db)?;
    for capture in
        ["SELECT outbox.capture('orders', 'fat', topic => 't')", "SELECT outbox.uncapture('orders')"]
    {
        assert_denied(&mut db.connect_as(&writer)?, capture);
    }
    let mallory = create_role(&mut db, "mallory", MAY_CAPTURE)?;
    // The right to make triggers on a table is not enough for its owner's capture.
    db.connect_as(&owner)?.batch_execute(&format!("GRANT ALL ON orders TO {mallory}"))?;
    let mut client = db.connect_as(&mallory)?;
    for capture in
        ["SELECT outbox.capture('orders', 'fat', topic => 't')", "SELECT outbox.uncapture('orders')"]
    {
        assert_denied(&mut client, capture);
    }
    // Without the right to call it, the trigger cannot be made by hand.
    let by_hand =
        "CREATE TRIGGER t AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION outbox.capture_changes('{}')";
    assert_denied(&mut db.connect_as(&writer)?, by_hand);
    Ok(())
}

#[test]
fn the_topic_is_granted_to_the_owner_of_the_table() -> Result<()> {
    the_owners_grants_count("row")
}

#[test]
fn so_it_is_by_statement() -> Result<()> {
    the_owners_grants_count("statement")
}

/// Whoever writes, and at each change.
fn the_owners_grants_count(mode: &str) -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let (owner, writer) = owner_and_writer(&mut db)?;
    let other = create_role(&mut db, "other", "")?;
    grant(&mut db, &writer, "orders.*")?;
    let capture = format!(
        "SELECT outbox.capture('orders', 'notification', topic => 'orders.changes', mode => '{mode}')"
    );
    let mut client = db.connect_as(&owner)?;
    assert_eq!(refusal(&mut client, &capture).0, SqlState::INSUFFICIENT_PRIVILEGE);
    // Nor does a superuser capture to a topic that the table's owner may not use.
    assert_eq!(refusal(&mut db.client, &capture).0, SqlState::INSUFFICIENT_PRIVILEGE);
    grant(&mut db, &owner, "orders.changes")?;
    client.batch_execute(&capture)?;
    let mut session = db.connect_as(&writer)?;
    session.batch_execute("INSERT INTO orders VALUES (1)")?;
    revoke(&mut db.client, &writer, None)?;
    session.batch_execute("INSERT INTO orders VALUES (2)")?;
    grant(&mut db, &other, "x")?;
    revoke(&mut db.client, &owner, None)?;
    assert_denied(&mut session, "INSERT INTO orders VALUES (3)");
    assert_eq!(taken(&mut db.client)?.len(), 2);
    // A new owner's grants count.
    db.client
        .batch_execute(&format!("ALTER TABLE orders OWNER TO {other}; GRANT ALL ON orders TO {writer}"))?;
    assert_denied(&mut session, "INSERT INTO orders VALUES (3)");
    grant(&mut db, &other, "orders.changes")?;
    session.batch_execute("INSERT INTO orders VALUES (3)")?;
    assert_eq!(taken(&mut db.client)?.len(), 1);
    Ok(())
}

/// Partitions may belong to others: the capture is that of the whole table's owner.
#[test]
fn a_partitions_owner_needs_no_grant() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let owner = create_role(&mut db, "owner", MAY_CAPTURE)?;
    let other = create_role(&mut db, "other", "")?;
    grant(&mut db, &owner, "t")?;
    db.connect_as(&owner)?.batch_execute(
        "CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (10);
         SELECT outbox.capture('parts', 'notification', topic => 't')",
    )?;
    db.client.batch_execute(&format!("ALTER TABLE low OWNER TO {other}"))?;
    db.connect_as(&other)?.batch_execute("INSERT INTO low VALUES (1)")?;
    assert_eq!(taken(&mut db.client)?, [r#"parts.created 1 {"key":{"id":1}}"#]);
    Ok(())
}

/// Code of a table's owner never runs with the rights of the outbox's.
#[test]
fn no_rights_are_lent() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let (owner, writer) = owner_and_writer(&mut db)?;
    let mut client = db.connect_as(&owner)?;
    // A cast that to_json calls, a condition, and a type's check: each notes and uses the rights that it has.
    client.batch_execute(&format!(
        "CREATE TABLE seen (what text, who name); GRANT ALL ON seen TO PUBLIC;
         CREATE FUNCTION note(what text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO public.seen VALUES (what, current_user);
             EXECUTE 'ALTER ROLE {owner} SUPERUSER';
             RETURN true;
         EXCEPTION WHEN insufficient_privilege THEN
             INSERT INTO public.seen VALUES (what, current_user); RETURN true;
         END $$;
         CREATE TYPE trap AS ENUM ('sprung');
         CREATE FUNCTION to_json(trap) RETURNS json LANGUAGE plpgsql AS
             $$ BEGIN PERFORM public.note('cast'); RETURN '1'; END $$;
         CREATE CAST (trap AS json) WITH FUNCTION to_json(trap);
         CREATE DOMAIN checked AS int CHECK (public.note('check'));
         CREATE TYPE spanned AS RANGE (subtype = checked);
         ALTER TABLE orders ADD t trap;
         SELECT outbox.capture('orders', 'fat', topic => 't', operations => '{{insert,update}}',
                               \"when\" => $$ public.note('condition') AND '[1,2)'::public.spanned IS NOT NULL $$)"
    ))?;
    db.connect_as(&writer)?.batch_execute("INSERT INTO orders VALUES (1, 1, 'sprung')")?;
    db.client
        .batch_execute("INSERT INTO orders VALUES (2, 1, 'sprung'); SELECT outbox.uncapture('orders')")?;
    assert!(
        !is_superuser(&mut db.client, &owner)? || {
            // A superuser who writes runs the triggers of the table, as with every trigger.
            let by_writer =
                "SELECT count(*) FROM seen WHERE what IN ('cast', 'condition') AND who = 'postgres'";
            db.client.query_one(by_writer, &[])?.get::<_, i64>(0) > 0
        }
    );
    let sql = "SELECT DISTINCT what || ' ' || split_part(who::text, '_', 1) FROM seen WHERE who <> 'postgres' ORDER BY 1";
    let seen: Vec<String> = db.client.query(sql, &[])?.iter().map(|row| row.get(0)).collect();
    assert_eq!(seen, ["cast writer", "check owner", "condition writer"]);
    Ok(())
}

/// The checks of a type run while a capture is made: with the caller's rights alone, whoever owns the extension.
#[test]
fn making_a_capture_lends_no_rights() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let (owner, _) = owner_and_writer(&mut db)?;
    let mut client = db.connect_as(&owner)?;
    client.batch_execute(&format!(
        "CREATE FUNCTION escalate() RETURNS boolean LANGUAGE plpgsql AS
             $$ BEGIN EXECUTE 'ALTER ROLE {owner} SUPERUSER'; RETURN true; EXCEPTION WHEN insufficient_privilege THEN RETURN true; END $$;
         CREATE DOMAIN checked AS int CHECK (public.escalate());
         CREATE TYPE spanned AS RANGE (subtype = checked);
         SELECT outbox.capture('orders', 'fat', topic => 't', operations => '{{insert}}',
                               \"when\" => '''[1,2)''::public.spanned IS NOT NULL');
         ALTER TABLE orders RENAME n TO m;
         SELECT outbox.uncapture('orders')"
    ))?;
    assert!(!is_superuser(&mut db.client, &owner)?);
    Ok(())
}

/// Row security hides rows from queries, not from triggers.
#[test]
fn row_security_does_not_filter_events() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let (owner, writer) = owner_and_writer(&mut db)?;
    db.connect_as(&owner)?.batch_execute(
        "ALTER TABLE orders ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON orders FOR ALL USING (n = 1) WITH CHECK (true);
         SELECT outbox.capture('orders', 'delta', topic => 't')",
    )?;
    db.connect_as(&writer)?.batch_execute("INSERT INTO orders VALUES (1, 2)")?;
    assert_eq!(taken(&mut db.client)?, [r#"orders.created 1 {"key":{"id":1},"changed":{"id":1,"n":2}}"#]);
    Ok(())
}

/// Names that the writer's search path finds first are not used.
#[test]
fn the_search_path_of_a_writer_means_nothing() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    db.client.batch_execute(
        "CREATE TABLE orders (id int PRIMARY KEY, j jsonb, a int[]); SELECT outbox.capture('orders', 'fat', topic => 't');
         CREATE SCHEMA evil;
         CREATE FUNCTION evil.to_json(anyelement) RETURNS json LANGUAGE sql AS $$ SELECT 1/0::int::text::json $$;
         CREATE OPERATOR evil.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = pg_catalog.oidne)",
    )?;
    let sql = "SET search_path = evil, pg_catalog, public; INSERT INTO orders VALUES (1, '{}', '{1}');
               ALTER TABLE orders RENAME a TO b; RESET search_path";
    assert_eq!(
        events_of(&mut db.client, sql)?,
        [r#"orders.created 1 {"key":{"id":1},"old":null,"new":{"id":1,"j":{},"a":[1]}}"#]
    );
    Ok(())
}

/// A trigger with a definition that is none fails where it is seen, and does not break the view.
#[test]
fn a_definition_made_by_hand_is_refused() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    db.client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)")?;
    for arguments in ["", "'{}'", "'not json'", "'a', 'b'", "repeat"] {
        let arguments =
            if arguments == "repeat" { format!("'{}'", "x".repeat(100_000)) } else { arguments.into() };
        db.client.batch_execute(&format!(
            "CREATE TRIGGER t AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION outbox.capture_changes({arguments})"
        ))?;
        assert_eq!(
            refusal(&mut db.client, "INSERT INTO t VALUES (1)").0,
            SqlState::INVALID_OBJECT_DEFINITION,
            "{arguments:.20}"
        );
        assert_eq!(db.client.query("SELECT * FROM outbox.captures", &[])?.len(), 0);
        db.client.batch_execute("DROP TRIGGER t ON t")?;
    }
    db.client.batch_execute(
        "CREATE TRIGGER t BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION outbox.capture_changes('x')",
    )?;
    db.client.batch_execute("INSERT INTO t VALUES (1)").expect_err("fired before the change");
    Ok(())
}
