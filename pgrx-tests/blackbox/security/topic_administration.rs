//! Topic grants and those who give them: roles that go, dumps, mistakes, several at once.

use std::thread;

use event_outbox_lab::Result;
use postgres::Client;
use postgres::error::SqlState;

use crate::security::topic_grants::{code_of, emit, emitter, grant, revoke, stage};
use crate::support::database::Stage;
use crate::upgrade::dump::dump_and_restore;

#[test]
fn a_role_with_grants_is_not_dropped_unasked() -> Result<()> {
    let mut stage = stage()?;
    let (shop, other) = (format!("shop_{}", stage.database), format!("other_{}", stage.database));
    // Nothing but topics is granted to them.
    stage.client.batch_execute(&format!("CREATE ROLE {shop} LOGIN; CREATE ROLE {other}"))?;
    grant(&mut stage, &shop, "orders")?;
    grant(&mut stage, &shop, "users")?;
    let drop_role = format!("DROP ROLE {shop}");
    let drop_owned = format!("DROP OWNED BY {shop}");
    let refused = |client: &mut Client, sql: &str| {
        let error = client.batch_execute(sql).expect_err(sql);
        assert_eq!(error.code(), Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST), "{sql}: {error:?}");
    };
    let count = |client: &mut Client| -> Result<i64> {
        Ok(client.query_one("SELECT count(*) FROM outbox.topic_grants", &[])?.get(0))
    };
    refused(&mut stage.client, &drop_role);
    revoke(&mut stage.client, &shop, Some("users"))?;
    refused(&mut stage.client, &drop_role);

    // What others have granted, a role cannot take from itself. With its rights its grants go, and count no more; which
    // does not open the topics again.
    let open =
        "GRANT USAGE ON SCHEMA outbox TO PUBLIC; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA outbox TO PUBLIC";
    stage.client.batch_execute(open)?;
    let mut client = stage.connect_as(&shop)?;
    emit(&mut client, "orders")?;
    client.batch_execute("DROP OWNED BY CURRENT_USER")?;
    emit(&mut client, "orders")?;
    stage.client.batch_execute(&drop_owned)?;
    for topic in ["orders", "users"] {
        let error = emit(&mut client, topic).expect_err("it is closed");
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
    }
    drop(client);
    assert_eq!(count(&mut stage.client)?, 1);

    // What counts no more is taken out with the next grant.
    grant(&mut stage, &other, "users")?;
    assert_eq!(count(&mut stage.client)?, 1);
    stage.client.batch_execute(&format!("{drop_owned}; {drop_role}"))?;
    revoke(&mut stage.client, &other, None)?;
    stage.client.batch_execute(&format!("DROP ROLE {other}"))?;
    // Where there is no outbox, nor one with grants, the command is what it was.
    stage.client.batch_execute("DROP OWNED BY CURRENT_USER RESTRICT").expect_err("pinned");
    stage.client.batch_execute(&format!("CREATE ROLE {other}; DROP OWNED BY {other}; DROP ROLE {other}"))?;
    Ok(())
}

#[test]
fn grants_survive_a_dump() -> Result<()> {
    let mut stage = stage()?;
    // A name that needs its quotes.
    let role = format!("\"Shop {}\"", stage.database);
    stage.client.batch_execute(&format!(
        "CREATE ROLE {role}; GRANT USAGE ON SCHEMA outbox TO {role}; GRANT EXECUTE ON FUNCTION outbox.emit(text, jsonb, text, text, jsonb, uuid, integer) TO {role}"
    ))?;
    grant(&mut stage, &role, "orders.*")?;
    let mut restored = Stage::of(stage.server.create_database()?)?;
    dump_and_restore(&stage, &restored.database)?;
    let row = restored.client.query_one("SELECT role::text, pattern FROM outbox.topic_grants", &[])?;
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), (role.as_str(), "orders.*"));
    restored.client.batch_execute(&format!("SET ROLE {role}"))?;
    emit(&mut restored.client, "orders.eu")?;
    let error = emit(&mut restored.client, "users").expect_err("it is closed");
    assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
    // In the restored database, too, the role is held.
    revoke(&mut stage.client, &role, None)?;
    stage.client.batch_execute(&format!("DROP OWNED BY {role}"))?;
    let error = stage.client.batch_execute(&format!("DROP ROLE {role}")).expect_err("it has grants there");
    assert_eq!(error.code(), Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST));
    Ok(())
}

#[test]
fn bad_grants_are_refused() -> Result<()> {
    let mut stage = stage()?;
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
        assert_eq!(code_of(&mut stage.client, &format!("SELECT outbox.grant_topic({arguments})")), code);
    }
    assert_eq!(
        code_of(&mut stage.client, "SELECT outbox.revoke_topic(NULL)"),
        SqlState::NULL_VALUE_NOT_ALLOWED
    );
    // To the owner, who needs none; and what is just right.
    for pattern in ["repeat('x', 249)", "repeat('x', 248) || '*'", "'*'"] {
        stage.client.batch_execute(&format!("SELECT outbox.grant_topic('postgres', {pattern})"))?;
    }
    assert_eq!(revoke(&mut stage.client, "postgres", None)?, 3);
    let row = stage.client.query_one(
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
    let mut stage = stage()?;
    let keeper = emitter(&mut stage, "keeper")?;
    grant(&mut stage, &keeper, "kept")?;
    let roles: Vec<String> =
        (0..SESSIONS).map(|at| emitter(&mut stage, &format!("r{at}"))).collect::<Result<_>>()?;
    let (server, database) = (stage.server, stage.database.as_str());
    let granting = |role: &str| -> Result<()> {
        let mut admin = server.connect(database)?;
        let mut client = server.connect_as(database, role)?;
        for _ in 0..ROUNDS {
            admin.execute("SELECT outbox.grant_topic($1::text::regrole, 'orders')", &[&role])?;
            emit(&mut client, "orders")?;
            assert_eq!(revoke(&mut admin, role, None)?, 1);
            let error = emit(&mut client, "orders").expect_err("it was revoked");
            assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = roles.iter().map(|role| scope.spawn(|| granting(role))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
    })
}
