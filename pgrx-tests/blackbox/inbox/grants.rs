//! Who may subscribe, to what, and who may change and see a subscription.

use event_outbox_lab::Result;
use postgres::Client;

use crate::support::database::TestDatabase;
use crate::support::dump::dump_and_restore;
use crate::support::roles::assert_denied;
use crate::support::subscriptions::{filled_topic, refusal, subscribe};

/// A role that may call the functions of the inbox and see its views.
fn create_role(db: &mut TestDatabase, name: &str) -> Result<String> {
    let role = format!("{name}_{}", db.database);
    db.client.batch_execute(&format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA inbox TO {role};
         GRANT EXECUTE ON FUNCTION inbox.subscribe, inbox.unsubscribe, inbox.pause, inbox.resume, inbox.seek, inbox.replay,
             inbox.redrive, inbox.discard, inbox.grant_subscription, inbox.revoke_subscription TO {role};
         GRANT SELECT ON inbox.subscriptions, inbox.partitions, inbox.retries TO {role}"
    ))?;
    Ok(role)
}

fn grant_topic(db: &mut TestDatabase, role: &str, topic: &str) -> Result<()> {
    db.client.execute("SELECT inbox.grant_topic($1::text::regrole, $2)", &[&role, &topic])?;
    Ok(())
}

/// The names of the subscriptions that the session sees.
fn seen(client: &mut Client) -> Result<Vec<String>> {
    let sql = "SELECT name FROM inbox.subscriptions ORDER BY name";
    Ok(client.query(sql, &[])?.iter().map(|row| row.get(0)).collect())
}

#[test]
fn a_role_subscribes_to_granted_topics_alone() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let (own, other) = (filled_topic(&mut db, "own.a", &[1])?, filled_topic(&mut db, "other", &[1])?);
    let role = create_role(&mut db, "reader")?;
    let mut client = db.connect_as(&role)?;
    let subscribe_to = |topic: &str| format!("SELECT inbox.subscribe('n', '{{{topic}}}', 'latest')");
    for topic in [&own, &other, &db.topic("own.*"), "*"] {
        assert_eq!(refusal(&mut client, &subscribe_to(topic)), "42501", "{topic}");
    }
    let prefix = db.topic("own.*");
    grant_topic(&mut db, &role, &prefix)?;
    for topic in [&other, &db.topic("own*"), &db.topic("o*"), "*", &db.topic("*.a"), &db.topic("own")] {
        assert_eq!(refusal(&mut client, &subscribe_to(topic)), "42501", "{topic}");
    }
    // All topics of a subscription must be granted.
    let both = format!("SELECT inbox.subscribe('n', '{{{own},{other}}}', 'latest')");
    assert_eq!(refusal(&mut client, &both), "42501");
    for (name, topic) in [("named", &own), ("prefix", &prefix), ("narrower", &db.topic("own.*a"))] {
        subscribe(&mut client, name, &[topic], "latest")?;
    }
    assert_eq!(seen(&mut client)?, ["named", "narrower", "prefix"]);

    // Without the grant the subscriptions go on, but there are no new ones.
    let revoked = db.client.query_one("SELECT inbox.revoke_topic($1::text::regrole)", &[&role])?;
    assert_eq!(revoked.get::<_, i64>(0), 1);
    assert_eq!(refusal(&mut client, &subscribe_to(&own)), "42501");
    assert_eq!(seen(&mut client)?.len(), 3);
    Ok(())
}

/// The current user at the call counts, as for every right of PostgreSQL.
#[test]
fn a_function_of_someone_else_lends_its_callers_rights_to_nobody() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = filled_topic(&mut db, "t", &[1])?;
    let (reader, member) = (create_role(&mut db, "reader")?, create_role(&mut db, "member")?);
    db.client.batch_execute(&format!("GRANT CREATE ON SCHEMA public TO {reader}"))?;
    let mut readers = db.connect_as(&reader)?;
    // Called by a superuser, it has the rights of its owner: none.
    readers.batch_execute(&format!(
        "CREATE FUNCTION public.trick() RETURNS void LANGUAGE sql SECURITY DEFINER AS
             $$ SELECT inbox.subscribe('tricked', '{{{topic}}}', 'latest') $$"
    ))?;
    assert_eq!(refusal(&mut db.client, "SELECT public.trick()"), "42501");
    db.client.batch_execute(&format!("SET ROLE {reader}"))?;
    let sql = format!("SELECT inbox.subscribe('n', '{{{topic}}}', 'latest')");
    assert_eq!(refusal(&mut db.client, &sql), "42501");
    db.client.batch_execute("RESET ROLE")?;

    grant_topic(&mut db, &reader, &topic)?;
    db.client.batch_execute("SELECT public.trick()")?;
    let sql = "SELECT owner::text FROM inbox.subscriptions";
    assert_eq!(db.client.query_one(sql, &[])?.get::<_, String>(0), reader);
    // A member has the rights of its group.
    let mut members = db.connect_as(&member)?;
    assert_eq!(refusal(&mut members, "SELECT inbox.pause('tricked')"), "42501");
    db.client.batch_execute(&format!("GRANT {reader} TO {member}"))?;
    members.batch_execute("SELECT inbox.pause('tricked')")?;
    subscribe(&mut members, "members", &[&topic], "latest")?;
    // But the group does not have those of the member.
    assert_eq!(refusal(&mut readers, "SELECT inbox.pause('members')"), "42501");
    Ok(())
}

#[test]
fn only_the_owner_changes_a_subscription() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = filled_topic(&mut db, "t", &[1])?;
    let (owner, granted, stranger) =
        (create_role(&mut db, "owner")?, create_role(&mut db, "granted")?, create_role(&mut db, "stranger")?);
    grant_topic(&mut db, &owner, &topic)?;
    let mut owners = db.connect_as(&owner)?;
    subscribe(&mut owners, "s", &[&topic], "latest")?;
    owners.execute("SELECT inbox.grant_subscription($1::text::regrole, 's')", &[&granted])?;

    for (role, sees) in [(&granted, vec!["s"]), (&stranger, vec![])] {
        let mut client = db.connect_as(role)?;
        assert_eq!(seen(&mut client)?, sees, "{role}");
        for call in [
            "unsubscribe('s')",
            "pause('s')",
            "resume('s')",
            "seek('s', 'latest')",
            "replay('s', '2001-01-01')",
            "redrive('s', max => 1)",
            "discard('s', max => 1)",
            &format!("grant_subscription('{role}', 's')"),
            &format!("revoke_subscription('{granted}', 's')"),
        ] {
            assert_eq!(refusal(&mut client, &format!("SELECT inbox.{call}")), "42501", "{role}: {call}");
        }
    }
    for call in [
        "pause('s')",
        "resume('s')",
        "seek('s', 'earliest')",
        "redrive('s', max => 1)",
        "discard('s', max => 1)",
    ] {
        owners.batch_execute(&format!("SELECT inbox.{call}"))?;
    }
    assert_eq!(refusal(&mut owners, "SELECT inbox.grant_subscription('-', 's')"), "42704");
    assert_eq!(refusal(&mut owners, "SELECT inbox.grant_subscription(NULL, 's')"), "22004");
    let sql = "SELECT inbox.revoke_subscription($1::text::regrole, 's')";
    assert!(owners.query_one(sql, &[&granted])?.get::<_, bool>(0));
    assert!(!owners.query_one(sql, &[&granted])?.get::<_, bool>(0));
    assert_eq!(seen(&mut db.connect_as(&granted)?)?, [] as [&str; 0]);
    owners.batch_execute("SELECT inbox.unsubscribe('s')")?;
    Ok(())
}

/// Rights on the functions that do the work, and on everything else of the schema, open nothing.
#[test]
fn the_functions_behind_lend_no_rights() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = filled_topic(&mut db, "t", &[1])?;
    subscribe(&mut db.client, "s", &[&topic], "latest")?;
    let role = create_role(&mut db, "all")?;
    let mut client = db.connect_as(&role)?;
    for sql in [
        "SELECT FROM inbox.subscription",
        "SELECT FROM inbox.log",
        "SELECT FROM inbox.lag",
        "SELECT FROM inbox.check()",
        "SELECT FROM inbox.consumers",
        "SELECT FROM pg_database AS d, inbox.consumer_status(d.oid)",
        "SELECT inbox.grant_topic(current_user::regrole, '*')",
        "SELECT inbox.revoke_topic(current_user::regrole)",
    ] {
        assert_denied(&mut client, sql);
    }
    db.client.batch_execute(&format!("GRANT EXECUTE ON ALL ROUTINES IN SCHEMA inbox, outbox TO {role}; GRANT USAGE ON SCHEMA outbox TO {role}"))?;
    for sql in [
        &format!(
            "SELECT inbox.subscribe_for('postgres', 'n', '{{{topic}}}', 'latest', 'key', '1 day', 3, 'stop', NULL, NULL, '1 s')"
        ),
        "SELECT inbox.unsubscribe_for('postgres', 's')",
        "SELECT inbox.pause_for('postgres', 's', '')",
        "SELECT inbox.seek_for('postgres', 's', 'latest', NULL, NULL, '1 s')",
        "SELECT inbox.grant_subscription_for('postgres', current_user::regrole, 's')",
        "SELECT inbox.discard_for('postgres', 's', NULL, NULL, NULL, 1)",
        "SELECT inbox.mark(current_user::regrole, 'inbox.topic_grants')",
    ] {
        assert_denied(&mut client, sql);
    }
    // A function of one's own cannot borrow the C function.
    assert_denied(
        &mut client,
        "CREATE FUNCTION pg_temp.f() RETURNS void LANGUAGE c AS 'event_outbox', 'inbox_for_caller'",
    );
    db.client.batch_execute(
        "CREATE FUNCTION public.foreign_one() RETURNS void LANGUAGE c AS 'event_outbox', 'inbox_for_caller'",
    )?;
    assert_eq!(refusal(&mut db.client, "SELECT public.foreign_one()"), "42501");
    Ok(())
}

/// Tables that were given away: a function with more rights must not run what their new owner puts on them.
#[test]
fn tables_of_several_owners_are_not_written() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = filled_topic(&mut db, "t", &[1])?;
    subscribe(&mut db.client, "s", &[&topic], "latest")?;
    let role = create_role(&mut db, "mallory")?;
    db.client.batch_execute(&format!("ALTER TABLE inbox.retry OWNER TO {role}"))?;
    for call in ["seek('s', 'latest')", "unsubscribe('s')", "redrive('s', max => 1)"] {
        assert_eq!(refusal(&mut db.client, &format!("SELECT inbox.{call}")), "42501", "{call}");
    }
    Ok(())
}

/// Each view works with the rights on it alone, and `lag` with those on its function.
#[test]
fn a_role_sees_its_subscriptions_in_every_view() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = filled_topic(&mut db, "t", &[3])?;
    subscribe(&mut db.client, "hidden", &[&topic], "latest")?;
    subscribe(&mut db.client, "seen", &[&topic], "latest")?;
    let role = create_role(&mut db, "watcher")?;
    db.client.batch_execute(&format!(
        "SELECT inbox.grant_subscription('{role}', 'seen');
         GRANT SELECT ON inbox.lag, inbox.consumers TO {role}; GRANT EXECUTE ON FUNCTION inbox.end_offsets TO {role}"
    ))?;
    let mut client = db.connect_as(&role)?;
    let sql = "SELECT l.subscription, l.end_offset, l.to_store, l.to_receive, s.name, p.subscription
                 FROM inbox.lag AS l, inbox.subscriptions AS s, inbox.partitions AS p";
    let rows = client.query(sql, &[])?;
    assert_eq!(rows.len(), 1);
    for column in [0, 4, 5] {
        assert_eq!(rows[0].get::<_, &str>(column), "seen");
    }
    assert_eq!((rows[0].get::<_, i64>(1), rows[0].get::<_, i64>(2), rows[0].get::<_, i64>(3)), (3, 0, 0));
    assert!(client.query("SELECT FROM inbox.retries", &[])?.is_empty());
    let row = client
        .query_one("SELECT count(state) FROM inbox.consumers WHERE database = current_database()", &[])?;
    assert_eq!(row.get::<_, i64>(0), 1);
    Ok(())
}

/// A function in a condition is not asked about the subscriptions of others.
#[test]
fn a_view_gives_nothing_away_to_a_function() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = filled_topic(&mut db, "t", &[1])?;
    subscribe(&mut db.client, "hidden", &[&topic], "latest")?;
    let role = create_role(&mut db, "curious")?;
    db.client.batch_execute(&format!("GRANT CREATE ON SCHEMA public TO {role}"))?;
    let mut client = db.connect_as(&role)?;
    client.batch_execute(
        "CREATE FUNCTION public.tell(name text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS
             $$ BEGIN RAISE EXCEPTION 'it is %', name; END $$",
    )?;
    for sql in [
        "SELECT FROM inbox.subscriptions WHERE public.tell(name)",
        "SELECT FROM inbox.partitions WHERE public.tell(topic)",
    ] {
        assert!(client.query(sql, &[])?.is_empty(), "{sql}");
        assert!(db.client.query(sql, &[]).is_err(), "{sql}: the function is never called");
    }
    Ok(())
}

#[test]
fn a_dropped_role_leaves_no_rights_behind() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let (first, second) = (filled_topic(&mut db, "first", &[1])?, filled_topic(&mut db, "second", &[1])?);
    let (role, granted) = (create_role(&mut db, "role")?, create_role(&mut db, "granted")?);
    grant_topic(&mut db, &role, &first)?;
    let mut client = db.connect_as(&role)?;
    subscribe(&mut client, "s", &[&first], "latest")?;
    client.execute("SELECT inbox.grant_subscription($1::text::regrole, 's')", &[&granted])?;
    let rights = |role: &str| {
        format!(
            "REVOKE ALL ON ALL ROUTINES IN SCHEMA inbox FROM {role}; REVOKE ALL ON SCHEMA inbox FROM {role};
                 REVOKE ALL ON inbox.subscriptions, inbox.partitions, inbox.retries FROM {role}"
        )
    };
    // With no other rights, grants and subscriptions alone keep a role from being dropped.
    for role in [&role, &granted] {
        db.client.batch_execute(&rights(role))?;
        let error = db.client.batch_execute(&format!("DROP ROLE {role}")).expect_err("dropped");
        assert_eq!(error.code().map(|code| code.code()), Some("2BP01"), "{error}");
    }

    // DROP OWNED ends them.
    db.client.batch_execute(&format!("DROP OWNED BY {role}, {granted}; GRANT USAGE ON SCHEMA inbox TO {role}, {granted};
        GRANT EXECUTE ON FUNCTION inbox.subscribe, inbox.pause TO {role}, {granted}; GRANT SELECT ON inbox.subscriptions TO {role}, {granted}"))?;
    let sql = format!("SELECT inbox.subscribe('n', '{{{first}}}', 'latest')");
    assert_eq!(refusal(&mut client, &sql), "42501");
    assert_eq!(refusal(&mut client, "SELECT inbox.pause('s')"), "42501");
    assert!(seen(&mut client)?.is_empty() && seen(&mut db.connect_as(&granted)?)?.is_empty());
    // The next grant does not revive them.
    grant_topic(&mut db, &role, &second)?;
    subscribe(&mut client, "s2", &[&second], "latest")?;
    assert_eq!(refusal(&mut client, &sql), "42501");
    assert_eq!(refusal(&mut client, "SELECT inbox.pause('s')"), "42501");
    assert_eq!(seen(&mut client)?, ["s2"]);
    let sql = "SELECT owner::text FROM inbox.subscriptions WHERE name = 's'";
    assert_eq!(db.client.query_one(sql, &[])?.get::<_, &str>(0), "postgres");

    // Without grants and subscriptions it can be dropped as any other.
    db.client.batch_execute("SELECT inbox.unsubscribe('s2')")?;
    db.client.execute("SELECT inbox.revoke_topic($1::text::regrole)", &[&role])?;
    drop(client);
    let rights = format!(
        "REVOKE ALL ON SCHEMA inbox FROM {role}; REVOKE ALL ON ALL ROUTINES IN SCHEMA inbox FROM {role};
                          REVOKE ALL ON inbox.subscriptions FROM {role}"
    );
    db.client.batch_execute(&format!("{rights}; DROP ROLE {role}"))?;
    Ok(())
}

#[test]
fn subscriptions_and_grants_survive_a_dump() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = filled_topic(&mut db, "t", &[1, 1])?;
    let role = create_role(&mut db, "shop")?;
    grant_topic(&mut db, &role, &topic)?;
    let mut client = db.connect_as(&role)?;
    subscribe(&mut client, "s", &[&topic], "latest")?;
    client.batch_execute("SELECT inbox.pause('s', 'for the dump')")?;
    let replay: String = client.query_one("SELECT inbox.replay('s', '2001-01-01')", &[])?.get(0);
    let mut restored = TestDatabase::of(db.server.create_database()?)?;
    dump_and_restore(&db, &restored.database)?;
    let mut there = restored.connect_as(&role)?;
    assert_eq!(seen(&mut there)?, ["s".to_owned(), replay]);
    let sql = "SELECT s.*, p.* FROM inbox.subscriptions AS s JOIN inbox.partitions AS p ON p.subscription = s.name ORDER BY partition";
    let rows = |client: &mut Client| -> Result<Vec<String>> {
        let sql = format!("SELECT r::text FROM ({sql}) AS r");
        Ok(client.query(&sql, &[])?.iter().map(|row| row.get(0)).collect())
    };
    let before = rows(&mut client)?;
    assert!(before.len() == 2 && before == rows(&mut there)?);
    // New ones do not collide with those of the dump.
    subscribe(&mut there, "another", &[&topic], "latest")?;
    restored.client.batch_execute("SELECT inbox.unsubscribe('another')")?;
    Ok(())
}

/// What is open to everybody in the schema of the inbox; what is not in this list is closed.
#[test]
fn without_grants_nothing_of_the_inbox_is_open() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let open = db.client.query(
        "SELECT p.oid::regprocedure::text FROM pg_proc AS p
          WHERE p.pronamespace = 'inbox'::regnamespace
            AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a WHERE a.grantee = 0)
         UNION ALL
         SELECT c.oid::regclass::text FROM pg_class AS c
          WHERE c.relnamespace = 'inbox'::regnamespace
            AND EXISTS (SELECT FROM aclexplode(c.relacl) AS a WHERE a.grantee = 0)
         UNION ALL
         SELECT n.nspname FROM pg_namespace AS n
          WHERE n.nspname = 'inbox' AND EXISTS (SELECT FROM aclexplode(n.nspacl) AS a WHERE a.grantee = 0)
          ORDER BY 1",
        &[],
    )?;
    let open: Vec<String> = open.iter().map(|row| row.get(0)).collect();
    assert_eq!(open, ["inbox.channel(text)", "inbox.consumer_status(oid)"]);
    Ok(())
}
