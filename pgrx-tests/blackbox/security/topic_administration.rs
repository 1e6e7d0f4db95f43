//! Administration of topic grants: dropped roles, dumps, mistakes, several administrators at once.

use std::thread;

use event_outbox_lab::Result;
use postgres::Client;
use postgres::error::SqlState;

use crate::support::database::TestDatabase;
use crate::support::dump::dump_and_restore;
use crate::support::events::emit;
use crate::support::roles::create_emitter;
use crate::support::topic_grants::{code_of, grant, revoke};

#[test]
fn a_role_with_grants_is_not_dropped_unasked() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let (shop, other) = (format!("shop_{}", db.database), format!("other_{}", db.database));
    // The roles have no other privileges.
    db.client.batch_execute(&format!("CREATE ROLE {shop} LOGIN; CREATE ROLE {other}"))?;
    grant(&mut db, &shop, "orders")?;
    grant(&mut db, &shop, "users")?;
    let drop_role = format!("DROP ROLE {shop}");
    let drop_owned = format!("DROP OWNED BY {shop}");
    let refused = |client: &mut Client, sql: &str| {
        let error = client.batch_execute(sql).expect_err(sql);
        assert_eq!(error.code(), Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST), "{sql}: {error:?}");
    };
    let count = |client: &mut Client| -> Result<i64> {
        Ok(client.query_one("SELECT count(*) FROM outbox.topic_grants", &[])?.get(0))
    };
    refused(&mut db.client, &drop_role);
    revoke(&mut db.client, &shop, Some("users"))?;
    refused(&mut db.client, &drop_role);

    // A role cannot drop grants that others gave it. When an administrator drops what it owns, its grants stop counting,
    // which does not open the topics again.
    let open =
        "GRANT USAGE ON SCHEMA outbox TO PUBLIC; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA outbox TO PUBLIC";
    db.client.batch_execute(open)?;
    let mut client = db.connect_as(&shop)?;
    emit(&mut client, "orders", 1)?;
    client.batch_execute("DROP OWNED BY CURRENT_USER")?;
    emit(&mut client, "orders", 1)?;
    db.client.batch_execute(&drop_owned)?;
    for topic in ["orders", "users"] {
        let error = emit(&mut client, topic, 1).expect_err("it is closed");
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
    }
    drop(client);
    assert_eq!(count(&mut db.client)?, 1);

    // The next grant removes grants that no longer count.
    grant(&mut db, &other, "users")?;
    assert_eq!(count(&mut db.client)?, 1);
    db.client.batch_execute(&format!("{drop_owned}; {drop_role}"))?;
    revoke(&mut db.client, &other, None)?;
    db.client.batch_execute(&format!("DROP ROLE {other}"))?;
    // Without an outbox, or without grants, the command is unchanged.
    db.client.batch_execute("DROP OWNED BY CURRENT_USER RESTRICT").expect_err("pinned");
    db.client.batch_execute(&format!("CREATE ROLE {other}; DROP OWNED BY {other}; DROP ROLE {other}"))?;
    Ok(())
}

#[test]
fn grants_survive_a_dump() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    // A name that needs quotes.
    let role = format!("\"Shop {}\"", db.database);
    db.client.batch_execute(&format!(
        "CREATE ROLE {role}; GRANT USAGE ON SCHEMA outbox TO {role}; GRANT EXECUTE ON FUNCTION outbox.emit(text, jsonb, text, text, jsonb, uuid, integer) TO {role}"
    ))?;
    grant(&mut db, &role, "orders.*")?;
    let mut restored = TestDatabase::of(db.server.create_database()?)?;
    dump_and_restore(&db, &restored.database)?;
    let row = restored.client.query_one("SELECT role::text, pattern FROM outbox.topic_grants", &[])?;
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), (role.as_str(), "orders.*"));
    restored.client.batch_execute(&format!("SET ROLE {role}"))?;
    emit(&mut restored.client, "orders.eu", 1)?;
    let error = emit(&mut restored.client, "users", 1).expect_err("it is closed");
    assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
    // The grants of the restored database, too, prevent DROP ROLE.
    revoke(&mut db.client, &role, None)?;
    db.client.batch_execute(&format!("DROP OWNED BY {role}"))?;
    let error = db.client.batch_execute(&format!("DROP ROLE {role}")).expect_err("it has grants there");
    assert_eq!(error.code(), Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST));
    Ok(())
}

#[test]
fn bad_grants_are_refused() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    for (arguments, code) in [
        ("NULL, 'orders'", SqlState::NULL_VALUE_NOT_ALLOWED),
        ("'postgres', NULL", SqlState::NULL_VALUE_NOT_ALLOWED),
        ("'-', 'orders'", SqlState::UNDEFINED_OBJECT),
        ("'4000000000', 'orders'", SqlState::UNDEFINED_OBJECT),
        ("'postgres', ''", SqlState::INVALID_NAME),
        ("'postgres', 'or ders'", SqlState::INVALID_NAME),
        ("'postgres', 'or*ders'", SqlState::INVALID_NAME),
        ("'postgres', '**'", SqlState::INVALID_NAME),
        ("'postgres', E'orders\\n'", SqlState::INVALID_NAME),
        ("'postgres', repeat('x', 250)", SqlState::INVALID_NAME),
        ("'postgres', repeat('x', 249) || '*'", SqlState::INVALID_NAME),
    ] {
        assert_eq!(code_of(&mut db.client, &format!("SELECT outbox.grant_topic({arguments})")), code);
    }
    assert_eq!(code_of(&mut db.client, "SELECT outbox.revoke_topic(NULL)"), SqlState::NULL_VALUE_NOT_ALLOWED);
    // A grant to the owner, who needs none; and valid patterns.
    for pattern in ["repeat('x', 249)", "repeat('x', 248) || '*'", "'*'"] {
        db.client.batch_execute(&format!("SELECT outbox.grant_topic('postgres', {pattern})"))?;
    }
    assert_eq!(revoke(&mut db.client, "postgres", None)?, 3);
    let row = db.client.query_one(
        "SELECT has_table_privilege('postgres', 'outbox.topic_grants', 'SELECT'),
                (SELECT relacl::text FROM pg_class WHERE oid = 'outbox.topic_grants'::regclass)",
        &[],
    )?;
    assert!(row.get::<_, bool>(0) && row.get::<_, String>(1).contains("postgres=arwdDxt"));
    Ok(())
}

#[test]
fn administrators_may_grant_at_the_same_time() -> Result<()> {
    const SESSIONS: usize = 4;
    const ROUNDS: usize = 25;
    let mut db = TestDatabase::disabled()?;
    let keeper = create_emitter(&mut db, "keeper")?;
    grant(&mut db, &keeper, "kept")?;
    let roles: Vec<String> =
        (0..SESSIONS).map(|at| create_emitter(&mut db, &format!("r{at}"))).collect::<Result<_>>()?;
    let (server, database) = (db.server, db.database.as_str());
    let granting = |role: &str| -> Result<()> {
        let mut admin = server.connect(database)?;
        let mut client = server.connect_as(database, role)?;
        for _ in 0..ROUNDS {
            admin.execute("SELECT outbox.grant_topic($1::text::regrole, 'orders')", &[&role])?;
            emit(&mut client, "orders", 1)?;
            assert_eq!(revoke(&mut admin, role, None)?, 1);
            let error = emit(&mut client, "orders", 1).expect_err("it was revoked");
            assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = roles.iter().map(|role| scope.spawn(|| granting(role))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
    })
}
