//! Nobody appends or reads without a grant, and nobody's code runs with rights that it does not have.

use event_outbox_lab::Result;

use crate::support::database::TestDatabase;
use crate::support::roles::{assert_denied, create_role};
use crate::support::streams::{append, types};

const FUNCTIONS: &str = "GRANT USAGE ON SCHEMA event_store TO ROLE;
    GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA event_store TO ROLE";

#[test]
fn a_category_is_closed_until_it_is_granted() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    append(&mut db.client, "a-1", "any", "x")?;
    append(&mut db.client, "b.c-1", "any", "x")?;
    let role = create_role(&mut db, "clerk", FUNCTIONS)?;
    let mut clerk = db.connect_as(&role)?;
    let event = "{\"type\": \"x\"}";
    let write = format!("SELECT event_store.append('a-1', 'any', '{event}')");
    let reads = [
        "read_stream('a-1')",
        "stream_version('a-1')",
        "read_category('a')",
        "load_snapshot('a-1')",
        "command_version('a-1', 'c')",
    ];
    assert_denied(&mut clerk, &write);
    for read in reads {
        assert_denied(&mut clerk, &format!("SELECT * FROM event_store.{read}"));
    }
    let mut grant =
        |sql: &str| db.client.batch_execute(&format!("SELECT event_store.{}", sql.replace("ROLE", &role)));
    grant("grant_category('ROLE', 'a', 'append')")?;
    clerk.batch_execute(&write)?;
    assert_denied(&mut clerk, "SELECT event_store.read_stream('a-1')");
    assert_denied(&mut clerk, &write.replace("a-1", "b.c-1"));
    grant("grant_category('ROLE', 'a', 'read')")?;
    for read in reads {
        clerk.batch_execute(&format!("SELECT * FROM event_store.{read}"))?;
    }
    assert_denied(&mut clerk, "SELECT event_store.read_all()");
    assert_denied(&mut clerk, "SELECT * FROM event_store.read_category('b.c')");
    grant("grant_category('ROLE', 'b.*')")?;
    clerk.batch_execute(&write.replace("a-1", "b.c-1"))?;
    clerk.batch_execute("SELECT * FROM event_store.read_category('b.c')")?;
    assert_denied(&mut clerk, &write.replace("a-1", "b-1"));
    grant("revoke_category('ROLE', 'a', 'append')")?;
    assert_denied(&mut clerk, &write);
    clerk.batch_execute("SELECT event_store.read_stream('a-1')")?;
    grant("revoke_category('ROLE')")?;
    assert_denied(&mut clerk, &write.replace("a-1", "b.c-1"));
    // Without any grant the role can be dropped but for its rights.
    grant("grant_category('ROLE', '*')")?;
    clerk.batch_execute("SELECT event_store.read_all()")?;
    drop(clerk);
    db.client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))?;
    Ok(())
}

#[test]
fn what_ends_streams_is_for_administrators() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    append(&mut db.client, "a-1", "any", "x")?;
    let role = create_role(&mut db, "clerk", FUNCTIONS)?;
    db.client.batch_execute(&format!("SELECT event_store.grant_category('{role}', '*')"))?;
    let mut clerk = db.connect_as(&role)?;
    for call in ["tombstone('a-1')", "erase('a-1')"] {
        assert_denied(&mut clerk, &format!("SELECT event_store.{call}"));
    }
    for table in ["event", "stream", "command", "snapshot", "category_binding", "streams", "categories"] {
        assert_denied(&mut clerk, &format!("SELECT * FROM event_store.{table}"));
    }
    drop(clerk);
    db.client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))?;
    Ok(())
}

#[test]
fn functions_are_closed_to_everybody() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let open: i64 = db
        .client
        .query_one(
            "SELECT count(*) FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
              WHERE n.nspname = 'event_store' AND has_function_privilege('pg_monitor', p.oid, 'EXECUTE')",
            &[],
        )?
        .get(0);
    assert_eq!(open, 0);
    Ok(())
}

#[test]
fn a_topic_needs_its_own_grant_unless_the_category_is_bound() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let role = create_role(
        &mut db,
        "clerk",
        "GRANT USAGE ON SCHEMA event_store TO ROLE;
         GRANT EXECUTE ON FUNCTION event_store.append(text, text, jsonb, text, text, uuid, uuid) TO ROLE",
    )?;
    db.client.batch_execute(&format!(
        "SELECT event_store.grant_category('{role}', 'a'), event_store.bind_category('a', 'bound');
         CREATE ROLE other_{role}; SELECT outbox.grant_topic('other_{role}', 'secret')"
    ))?;
    let mut clerk = db.connect_as(&role)?;
    let call = |emit: &str| format!("SELECT event_store.append('a-1', 'any', '{{\"type\": \"x\"}}' {emit})");
    clerk.batch_execute(&call(""))?;
    // Without the right to emit, and with it, but without a grant of the topic.
    assert_denied(&mut clerk, &call(", emit => 'secret'"));
    db.client.batch_execute(&format!(
        "GRANT EXECUTE ON FUNCTION outbox.emit(text, jsonb, text, text, jsonb, uuid, integer) TO {role}"
    ))?;
    assert_denied(&mut clerk, &call(", emit => 'secret'"));
    let topics: String = db.client.query_one("SELECT string_agg(topic, ',') FROM outbox.events", &[])?.get(0);
    assert_eq!(topics, "bound");
    drop(clerk);
    db.client
        .batch_execute(&format!("DROP OWNED BY {role}, other_{role}; DROP ROLE {role}, other_{role}"))?;
    Ok(())
}

#[test]
fn reducers_run_as_their_callers() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    append(&mut db.client, "a-1", "any", "x")?;
    let role = create_role(&mut db, "clerk", FUNCTIONS)?;
    db.client.batch_execute(&format!(
        "GRANT CREATE ON SCHEMA public TO {role}; SELECT event_store.grant_category('{role}', 'a');
         CREATE FUNCTION public.closed(state jsonb, event event_store.recorded_event) RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
         REVOKE ALL ON FUNCTION public.closed FROM PUBLIC"
    ))?;
    let mut clerk = db.connect_as(&role)?;
    clerk.batch_execute(
        "CREATE FUNCTION public.who(state jsonb, event event_store.recorded_event) RETURNS jsonb LANGUAGE sql
             AS 'SELECT to_jsonb(current_user::text)'",
    )?;
    let call = "SELECT state #>> '{}' FROM event_store.aggregate('a-1', 'public.who(jsonb, event_store.recorded_event)')";
    assert_eq!(clerk.query_one(call, &[])?.get::<_, String>(0), role);
    assert_denied(&mut clerk, &call.replace("who", "closed"));
    drop(clerk);
    db.client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))?;
    Ok(())
}

#[test]
fn names_of_the_session_do_not_matter() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    db.client.batch_execute(
        "CREATE SCHEMA evil;
         CREATE FUNCTION evil.wrong(bigint, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT 1/0 = 1';
         CREATE OPERATOR evil.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.wrong);
         CREATE OPERATOR evil.< (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.wrong);
         CREATE OPERATOR evil.> (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.wrong);
         CREATE FUNCTION evil.wrong(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT 1/0 = 1';
         CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.wrong);
         CREATE FUNCTION evil.wrong(uuid, uuid) RETURNS boolean LANGUAGE sql AS 'SELECT 1/0 = 1';
         CREATE OPERATOR evil.= (LEFTARG = uuid, RIGHTARG = uuid, FUNCTION = evil.wrong);
         SET search_path = evil, pg_catalog",
    )?;
    append(&mut db.client, "a-1", "any", "one")?;
    db.client.batch_execute(
        "SELECT event_store.append('a-1', 1, '{\"type\": \"two\", \"id\": \"00000000-0000-0000-0000-000000000001\"}', 'c');
         SELECT event_store.append('a-1', 1, '{\"type\": \"two\", \"id\": \"00000000-0000-0000-0000-000000000001\"}')",
    )?;
    assert_eq!(types(&mut db.client, "a-1")?, ["one", "two"]);
    Ok(())
}
