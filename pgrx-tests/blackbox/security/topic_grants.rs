//! Topic grants: without any, all topics are open; with the first, a role can emit only to its own topics.

use std::io::Write;

use event_outbox_lab::{Result, wait};
use postgres::Client;
use postgres::error::SqlState;

use crate::support::database::{DEADLINE, PROMPTLY, TestDatabase};
use crate::support::events::emit;
use crate::support::roles::create_emitter;
use crate::support::topic_grants::{code_of, grant, revoke};

fn copy(client: &mut Client, topic: &str) -> Result<(), postgres::Error> {
    let mut copy = client.copy_in("COPY outbox.events (topic, payload) FROM STDIN")?;
    // A failed write means that the server has refused already; `finish` reports why.
    let _ = writeln!(copy, "{topic}\t1");
    copy.finish().map(drop)
}

type Way = fn(&mut Client, &str) -> Result<(), postgres::Error>;

/// All ways of an event into the outbox.
const WAYS: [(&str, Way); 6] = [
    ("emit", |client, topic| emit(client, topic, 1).map(drop)),
    ("emit_bytes", |client, topic| client.execute("SELECT outbox.emit_bytes($1, '1')", &[&topic]).map(drop)),
    ("try_emit", |client, topic| {
        let sql = "SELECT * FROM outbox.try_emit(gen_random_uuid()::text, $1, '1'::text)";
        client.query_one(sql, &[&topic]).map(drop)
    }),
    ("try_emit of jsonb", |client, topic| {
        let sql = "SELECT * FROM outbox.try_emit(gen_random_uuid()::text, $1, '1'::jsonb)";
        client.query_one(sql, &[&topic]).map(drop)
    }),
    ("INSERT", |client, topic| {
        client.execute("INSERT INTO outbox.events (topic, payload) VALUES ($1, '1')", &[&topic]).map(drop)
    }),
    ("COPY", copy),
];

fn is_refused(client: &mut Client, topic: &str) {
    for (way, put) in WAYS {
        let error = put(client, topic).expect_err(&format!("{way} to {topic}"));
        let db_error = error.as_db_error().unwrap_or_else(|| panic!("{way}: {error}"));
        assert_eq!(db_error.code(), &SqlState::INSUFFICIENT_PRIVILEGE, "{way}: {db_error:?}");
        assert_eq!(db_error.message(), format!("permission denied for topic \"{topic}\""), "{way}");
        assert!(
            db_error.detail().unwrap_or_default().contains("was granted this topic"),
            "{way}: {db_error:?}"
        );
        assert!(db_error.hint().unwrap_or_default().contains("outbox.grant_topic"), "{way}: {db_error:?}");
    }
}

fn is_allowed(client: &mut Client, topic: &str) {
    for (way, put) in WAYS {
        put(client, topic).unwrap_or_else(|error| panic!("{way} to {topic}: {error:?}"));
    }
}

#[test]
fn the_first_grant_closes_all_topics_and_the_last_to_go_opens_them() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let (shop, other) = (create_emitter(&mut db, "shop")?, create_emitter(&mut db, "other")?);
    let (mut shops, mut others) = (db.connect_as(&shop)?, db.connect_as(&other)?);
    is_allowed(&mut shops, "orders");
    is_allowed(&mut others, "orders");

    grant(&mut db, &shop, "orders")?;
    is_allowed(&mut shops, "orders");
    for topic in ["orders.eu", "order", "Orders", "users"] {
        is_refused(&mut shops, topic);
    }
    is_refused(&mut others, "orders");
    is_allowed(&mut db.client, "users");

    grant(&mut db, &other, "orders.*")?;
    is_allowed(&mut others, "orders.eu");
    is_refused(&mut others, "orders");
    is_refused(&mut shops, "orders.eu");

    // The same grant twice is one grant.
    grant(&mut db, &shop, "orders")?;
    grant(&mut db, &shop, "*")?;
    is_allowed(&mut shops, "users");
    assert_eq!(revoke(&mut db.client, &shop, Some("*"))?, 1);
    is_refused(&mut shops, "users");
    is_allowed(&mut shops, "orders");
    assert_eq!(revoke(&mut db.client, &shop, Some("users"))?, 0);
    assert_eq!(revoke(&mut db.client, &shop, None)?, 1);
    is_refused(&mut shops, "orders");
    assert_eq!(revoke(&mut db.client, &other, None)?, 1);
    is_allowed(&mut shops, "users");
    Ok(())
}

/// Invalid messages are reported as before; a closed topic is an error of the caller.
#[test]
fn an_invalid_message_is_not_a_matter_of_rights() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let shop = create_emitter(&mut db, "shop")?;
    grant(&mut db, &shop, "orders")?;
    let mut client = db.connect_as(&shop)?;
    for (source, topic) in [("m1", Some("or ders")), ("m2", None)] {
        let sql = "SELECT status FROM outbox.try_emit($1, $2, '1'::text)";
        assert_eq!(client.query_one(sql, &[&source, &topic])?.get::<_, &str>(0), "invalid");
    }
    assert_eq!(code_of(&mut client, "SELECT outbox.emit('or ders', '1')"), SqlState::INVALID_NAME);
    // A message that was refused for its topic leaves no trace.
    assert!(client.execute("SELECT outbox.try_emit('m3', 'users', '1'::text)", &[]).is_err());
    let taken: i64 = db.client.query_one("SELECT count(*) FROM outbox.intake", &[])?.get(0);
    assert_eq!(taken, 2);
    Ok(())
}

#[test]
fn rights_are_inherited_as_others_are() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let (member, stranger) = (create_emitter(&mut db, "member")?, create_emitter(&mut db, "stranger")?);
    let group = format!("group_{}", db.database);
    db.client.batch_execute(&format!("CREATE ROLE {group}; GRANT {group} TO {member}"))?;
    grant(&mut db, &group, "orders")?;
    let mut client = db.connect_as(&member)?;
    is_allowed(&mut client, "orders");
    is_refused(&mut db.connect_as(&stranger)?, "orders");
    // Membership with NOINHERIT does not give the rights of the group.
    db.client.batch_execute(&format!(
        "REVOKE {group} FROM {member}; ALTER ROLE {member} NOINHERIT; GRANT {group} TO {member};
         GRANT USAGE ON SCHEMA outbox TO {group}; GRANT EXECUTE ON FUNCTION outbox.emit(text, jsonb, text, text, jsonb, uuid, integer) TO {group}"
    ))?;
    is_refused(&mut client, "orders");
    client.batch_execute(&format!("SET ROLE {group}"))?;
    emit(&mut client, "orders", 1)?;
    Ok(())
}

/// As for any privilege, the owner of the function counts, neither its caller nor the session's user.
#[test]
fn a_security_definer_function_has_the_rights_of_its_owner() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let (shop, clerk) = (create_emitter(&mut db, "shop")?, create_emitter(&mut db, "clerk")?);
    grant(&mut db, &shop, "orders")?;
    grant(&mut db, &clerk, "notes")?;
    db.client.batch_execute(&format!(
        "CREATE FUNCTION put(topic text) RETURNS uuid LANGUAGE sql SECURITY DEFINER
             SET search_path = pg_catalog, pg_temp RETURN outbox.emit(topic, '1');
         ALTER FUNCTION put OWNER TO {shop};
         CREATE FUNCTION try_put(topic text) RETURNS text LANGUAGE sql SECURITY DEFINER
             SET search_path = pg_catalog, pg_temp AS
             $$ SELECT t.status FROM outbox.try_emit(gen_random_uuid()::text, topic, '1'::jsonb) AS t $$;
         ALTER FUNCTION try_put OWNER TO {shop}"
    ))?;
    let mut client = db.connect_as(&clerk)?;
    for function in ["put", "try_put"] {
        client.batch_execute(&format!("SELECT {function}('orders')"))?;
        let sql = format!("SELECT {function}('notes')");
        assert_eq!(code_of(&mut client, &sql), SqlState::INSUFFICIENT_PRIVILEGE);
    }
    // Afterwards the session has its own rights again.
    is_allowed(&mut client, "notes");
    is_refused(&mut client, "orders");
    // A superuser after SET ROLE has the rights of that role.
    db.client.batch_execute(&format!("SET ROLE {clerk}"))?;
    is_refused(&mut db.client, "orders");
    Ok(())
}

#[test]
fn changes_count_when_they_are_committed_and_at_once() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let shop = create_emitter(&mut db, "shop")?;
    grant(&mut db, &shop, "orders")?;
    let mut shops = db.connect_as(&shop)?;
    is_refused(&mut shops, "users");

    // Not before the commit, and not after a rollback, nor after one to a savepoint.
    let mut other = db.connect()?;
    let mut granting = other.transaction()?;
    granting.execute("SELECT outbox.grant_topic($1::text::regrole, 'users')", &[&shop])?;
    is_refused(&mut shops, "users");
    granting.rollback()?;
    is_refused(&mut shops, "users");
    let mut granting = other.transaction()?;
    let mut inner = granting.savepoint("s")?;
    inner.execute("SELECT outbox.grant_topic($1::text::regrole, 'users')", &[&shop])?;
    // The granting transaction already sees the grant.
    inner.batch_execute(&format!("SET LOCAL ROLE {shop}; SELECT outbox.emit('users', '1')"))?;
    inner.rollback()?;
    granting.batch_execute(&format!("SET LOCAL ROLE {shop}"))?;
    assert!(granting.execute("SELECT outbox.emit('users', '1')", &[]).is_err());
    granting.rollback()?;

    // Also in a transaction that began before, whatever its snapshot.
    shops.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT outbox.emit('orders', '1')")?;
    grant(&mut db, &shop, "users")?;
    emit(&mut shops, "users", 1)?;
    revoke(&mut db.client, &shop, Some("users"))?;
    let error = emit(&mut shops, "users", 1).expect_err("it was revoked");
    assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
    shops.batch_execute("ROLLBACK")?;

    // The same for changes of the table by hand.
    for sql in ["UPDATE outbox.topic_grants SET pattern = 'users'", "TRUNCATE outbox.topic_grants"] {
        db.client.batch_execute(sql)?;
        emit(&mut shops, "users", 1)?;
    }
    emit(&mut shops, "orders", 1)?;
    Ok(())
}

#[test]
fn a_role_sees_the_grants_and_cannot_change_them() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let shop = create_emitter(&mut db, "shop")?;
    grant(&mut db, &shop, "orders")?;
    let mut client = db.connect_as(&shop)?;
    let seen = client.query("SELECT role::text, pattern FROM outbox.topic_grants", &[])?;
    assert_eq!(seen.iter().map(|row| row.get(1)).collect::<Vec<String>>(), ["orders"]);
    for sql in [
        &format!("SELECT outbox.grant_topic('{shop}', '*')"),
        &format!("SELECT outbox.revoke_topic('{shop}')"),
        &format!("INSERT INTO outbox.topic_grants VALUES ('{shop}', '*')"),
        "UPDATE outbox.topic_grants SET pattern = '*'",
        "DELETE FROM outbox.topic_grants",
        "TRUNCATE outbox.topic_grants",
        "ALTER TABLE outbox.topic_grants DISABLE TRIGGER ALL",
        "CREATE TRIGGER t BEFORE INSERT ON outbox.topic_grants FOR EACH ROW EXECUTE FUNCTION tsvector_update_trigger()",
        "SELECT outbox.store_message('m', 'users', '1', NULL, NULL, NULL, NULL, NULL)",
    ] {
        assert_eq!(code_of(&mut client, sql), SqlState::INSUFFICIENT_PRIVILEGE, "{sql}");
    }
    // store_message() has only the rights of its caller.
    db.client.batch_execute(&format!("GRANT EXECUTE ON FUNCTION outbox.store_message TO {shop}"))?;
    let sql = "SELECT outbox.store_message('m', 'users', '1', NULL, NULL, NULL, NULL, NULL)";
    assert_eq!(code_of(&mut client, sql), SqlState::INSUFFICIENT_PRIVILEGE);
    // A view of a role with more rights does not help.
    db.client.batch_execute(&format!(
        "CREATE VIEW way AS SELECT topic, payload FROM outbox.events; GRANT INSERT ON way TO {shop}"
    ))?;
    client.batch_execute("INSERT INTO way VALUES ('orders', '1')")?;
    let sql = "INSERT INTO way VALUES ('users', '1')";
    assert_eq!(code_of(&mut client, sql), SqlState::INSUFFICIENT_PRIVILEGE);
    Ok(())
}

/// A role without a grant on the dead letter topic, and an operator without any grant: both handle events that were
/// accepted before.
#[test]
fn dead_letters_go_their_ways_unhindered() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let (topic, dead) = (db.topic("orders"), db.topic("dead"));
    db.configure("event_outbox.max_attempts", "1")?;
    db.configure("event_outbox.dead_letter_topic", &dead)?;
    let (shop, operator) = (create_emitter(&mut db, "shop")?, format!("operator_{}", db.database));
    db.client.batch_execute(&format!(
        "CREATE ROLE {operator} LOGIN; GRANT USAGE ON SCHEMA outbox TO {operator};
         GRANT EXECUTE ON FUNCTION outbox.redrive TO {operator}"
    ))?;
    grant(&mut db, &shop, &topic)?;
    let mut client = db.connect_as(&shop)?;
    client.execute("SELECT outbox.emit($1, '7', partition => 99)", &[&topic])?;
    is_refused(&mut client, &dead);
    assert_eq!(db.promptly(&dead, 1)?[0].value_text(), Some("7"));
    wait::until_ok("the outbox to be empty", DEADLINE, || {
        Ok(db.client.query_opt("SELECT FROM outbox.events HAVING count(*) = 0", &[])?)
    })?;
    db.client.batch_execute("UPDATE outbox.dead_letters SET partition = NULL")?;
    let mut operators = db.connect_as(&operator)?;
    let redriven = operators.query_one("SELECT outbox.redrive(topic => $1)", &[&topic])?;
    assert_eq!(redriven.get::<_, i64>(0), 1);
    assert_eq!(db.promptly(&topic, 1)?[0].value_text(), Some("7"));
    wait::until_ok("nothing to be left", PROMPTLY, || {
        Ok(db.client.query_opt("SELECT FROM outbox.events HAVING count(*) = 0", &[])?)
    })
    .map(drop)
}
