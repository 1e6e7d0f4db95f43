//! Attacks by roles with few privileges, through events, tables and functions.

use event_outbox_lab::{Result, wait};
use postgres::fallible_iterator::FallibleIterator;
use serde_json::Value;

use crate::support::database::{DEADLINE, PROMPTLY, TestDatabase};
use crate::support::events::emit;
use crate::support::relay::until_drained;
use crate::support::roles::{assert_denied, create_role, is_superuser};

/// Nobody else can add code that would run with the privileges of emitting roles or of the relay.
#[test]
fn nobody_but_the_owner_puts_code_on_the_table() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let mallory = create_role(
        &mut db,
        "mallory",
        "GRANT INSERT, SELECT, UPDATE, DELETE ON outbox.events TO ROLE; GRANT ALL ON SCHEMA public TO ROLE",
    )?;
    let mut client = db.connect_as(&mallory)?;
    client.batch_execute(
        "CREATE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''trapped''; END';
         CREATE FUNCTION trap(bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT 1/0::bigint'",
    )?;
    for sql in [
        "CREATE TRIGGER t BEFORE INSERT ON outbox.events FOR EACH ROW EXECUTE FUNCTION trap()",
        "CREATE CONSTRAINT TRIGGER t AFTER DELETE ON outbox.events DEFERRABLE FOR EACH ROW EXECUTE FUNCTION trap()",
        "CREATE RULE r AS ON DELETE TO outbox.events DO INSTEAD NOTHING",
        "CREATE POLICY p ON outbox.events USING (false)",
        "CREATE INDEX ON outbox.events (trap(id))",
        "CREATE STATISTICS s ON topic, key FROM outbox.events",
        "ALTER TABLE outbox.events ALTER id SET DEFAULT trap(1)",
        "ALTER TABLE outbox.events ADD CHECK (trap(id) > 0)",
        "ALTER TABLE outbox.events ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE outbox.events DISABLE TRIGGER check_event",
        "ALTER TABLE outbox.events DISABLE RULE r",
        "ALTER TABLE outbox.events RENAME TO other",
        "ALTER TABLE outbox.events SET SCHEMA public",
        "ALTER TABLE outbox.events SET (fillfactor = 10)",
        "ALTER SEQUENCE outbox.events_id_seq CACHE 100",
        "ALTER FUNCTION outbox.move_to_dead_letters() SECURITY INVOKER",
        "CREATE OR REPLACE FUNCTION outbox.uuid_v7() RETURNS uuid LANGUAGE sql AS 'SELECT NULL::uuid'",
        "CREATE TABLE child () INHERITS (outbox.events)",
        // Its rows could not be deleted then.
        "CREATE TABLE held (id bigint REFERENCES outbox.events)",
        "COMMENT ON TABLE outbox.events IS 'mine'",
        "TRUNCATE outbox.events",
    ] {
        assert_denied(&mut client, sql);
    }
    let topic = db.topic("unharmed");
    db.client.execute("SELECT outbox.emit($1, '1')", &[&topic])?;
    assert_eq!(db.drained_values(&topic)?, ["1"]);
    Ok(())
}

/// The relay, a superuser, lends the owner's triggers no privileges.
#[test]
fn the_relay_runs_the_owners_triggers_with_the_owners_rights() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("owned");
    let keeper = create_role(&mut db, "keeper", "GRANT ALL ON SCHEMA public TO ROLE")?;
    db.client.batch_execute(&format!("ALTER TABLE outbox.events OWNER TO {keeper}"))?;
    let mut client = db.connect_as(&keeper)?;
    client.batch_execute(
        "CREATE TABLE seen (command text, seen_by name, can_become boolean, search_path text, timeouts text);
         CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
         DECLARE can_become boolean := true;
         BEGIN
             BEGIN
                 RESET ROLE; RESET SESSION AUTHORIZATION; SET ROLE postgres;
             EXCEPTION WHEN insufficient_privilege THEN can_become := false;
             END;
             INSERT INTO public.seen VALUES (TG_NAME, current_user, can_become, current_setting('search_path'),
                 current_setting('statement_timeout') || ' ' || current_setting('lock_timeout') || ' ' ||
                 current_setting('row_security') || ' ' || current_setting('session_replication_role'));
             RETURN NULL;
         END $$;
         CREATE TRIGGER at_delete AFTER DELETE ON outbox.events FOR EACH ROW EXECUTE FUNCTION look();
         CREATE CONSTRAINT TRIGGER at_delete_deferred AFTER DELETE ON outbox.events
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION look();
         CREATE TRIGGER at_refusal AFTER UPDATE OF last_error ON outbox.events FOR EACH ROW EXECUTE FUNCTION look();
         CREATE CONSTRAINT TRIGGER at_refusal_deferred AFTER UPDATE ON outbox.events
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION look()",
    )?;
    db.client.batch_execute(&format!("ALTER DATABASE {} SET row_security = off", db.database))?;
    db.configure("event_outbox.max_attempts", "5")?;
    db.client.execute("SELECT outbox.emit($1, '1')", &[&topic])?;
    db.client.execute("SELECT outbox.emit($1, '2', partition => 99)", &[&topic])?;
    assert_eq!(db.promptly(&topic, 1)?[0].value_text(), Some("1"));
    let expected = format!("{keeper} false pg_catalog 0 500ms on origin");
    for trigger in ["at_delete", "at_delete_deferred", "at_refusal", "at_refusal_deferred"] {
        let sql =
            "SELECT concat_ws(' ', seen_by, can_become, search_path, timeouts) FROM seen WHERE command = $1";
        let seen: String = wait::until_ok(trigger, DEADLINE, || {
            Ok(client.query(sql, &[&trigger])?.first().map(|row| row.get(0)))
        })?;
        assert_eq!(seen.replace(" f ", " false "), expected, "{trigger}");
    }
    Ok(())
}

/// Code that the owner's trigger leaves behind does not run with the relay's privileges later.
#[test]
fn the_owners_code_leaves_nothing_behind_in_the_relay() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("trap");
    let keeper = create_role(&mut db, "keeper", "GRANT ALL ON SCHEMA public TO ROLE")?;
    db.client.batch_execute(&format!("ALTER TABLE outbox.events OWNER TO {keeper}"))?;
    // An error would undo the trap, so each attempt is made by itself.
    let mut client = db.connect_as(&keeper)?;
    client.batch_execute(&format!(
        "CREATE TABLE seen (seen_by name, path text);
         CREATE FUNCTION evil() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO public.seen VALUES (current_user, current_setting('search_path'));
             IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
                 EXECUTE 'ALTER ROLE {keeper} SUPERUSER';
             END IF;
             RETURN 1;
         END $$;
         CREATE FUNCTION later() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             PERFORM public.evil(); RETURN NULL;
         END $$;
         CREATE TABLE other (n int);
         CREATE CONSTRAINT TRIGGER later AFTER INSERT ON other DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION later();
         CREATE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS $$
         DECLARE attempt text;
         BEGIN
             PERFORM public.evil();
             FOREACH attempt IN ARRAY ARRAY[
                 'DECLARE trap CURSOR WITH HOLD FOR SELECT public.evil()',
                 'SET CONSTRAINTS ALL DEFERRED', 'INSERT INTO public.other VALUES (1)',
                 'SELECT set_config(''search_path'', ''public'', false)', 'LISTEN trap',
                 'CREATE TEMP TABLE trap (n int) ON COMMIT DELETE ROWS', 'PREPARE trap AS SELECT 1']
             LOOP
                 BEGIN EXECUTE attempt; EXCEPTION WHEN OTHERS THEN NULL; END;
             END LOOP;
             RETURN NULL;
         END $$;
         CREATE TRIGGER trap AFTER DELETE ON outbox.events FOR EACH STATEMENT EXECUTE FUNCTION trap()"
    ))?;
    for number in 1..=2 {
        emit(&mut db.client, &topic, number)?;
        until_drained(&mut db.client)?;
    }
    assert!(!is_superuser(&mut db.client, &keeper)?, "the owner became superuser");
    let seen = client.query("SELECT DISTINCT seen_by::text, path FROM seen", &[])?;
    let seen: Vec<(String, String)> = seen.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(seen, [(keeper, "pg_catalog".to_owned())]);
    Ok(())
}

/// Dead letters are moved by functions with more privileges than the tables' owner has.
#[test]
fn an_events_death_lends_the_tables_owners_no_rights() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let (topic, dead) = (db.topic("dying"), db.topic("dead"));
    let keeper = create_role(&mut db, "keeper", "GRANT ALL ON SCHEMA public TO ROLE")?;
    db.configure("event_outbox.max_attempts", "1")?;
    db.configure("event_outbox.dead_letter_topic", &dead)?;
    db.client.batch_execute(&format!("ALTER TABLE outbox.events OWNER TO {keeper}"))?;
    let mut client = db.connect_as(&keeper)?;
    client.batch_execute(
        "CREATE TABLE seen (command text, seen_by name);
         CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO public.seen VALUES (TG_OP, current_user);
             RETURN NULL;
         END $$;
         CREATE TRIGGER look AFTER INSERT OR UPDATE OR DELETE ON outbox.events
             FOR EACH ROW EXECUTE FUNCTION look()",
    )?;
    db.client.execute("SELECT outbox.emit($1, '1', partition => 99)", &[&topic])?;
    assert_eq!(db.promptly(&dead, 1)?.len(), 1);
    until_drained(&mut db.client)?;
    let sql = "SELECT string_agg(DISTINCT command, ' ' ORDER BY command), string_agg(DISTINCT seen_by, ' ') FROM seen";
    let seen = client.query_one(sql, &[])?;
    assert_eq!((seen.get::<_, &str>(0), seen.get::<_, &str>(1)), ("DELETE INSERT UPDATE", keeper.as_str()));
    Ok(())
}

/// Functions of operators run with more privileges; the tables' owner cannot get them by a trigger.
#[test]
fn functions_with_more_rights_lend_them_to_no_trigger() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("operated");
    let keeper = create_role(&mut db, "keeper", "GRANT ALL ON SCHEMA public TO ROLE")?;
    db.configure("event_outbox.max_attempts", "1")?;
    let tables = ["events", "dead_letters", "paused", "topic_grants"];
    for table in tables {
        db.client.batch_execute(&format!("ALTER TABLE outbox.{table} OWNER TO {keeper}"))?;
    }
    for partition in [98, 99] {
        db.client.execute("SELECT outbox.emit($1, '1', partition => $2::int)", &[&topic, &partition])?;
    }
    until_drained(&mut db.client)?;
    let mut client = db.connect_as(&keeper)?;
    client.batch_execute(
        "CREATE TABLE seen (place text, seen_by name);
         CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO public.seen VALUES (TG_TABLE_NAME, current_user);
             RETURN NULL;
         END $$",
    )?;
    for table in tables {
        client.batch_execute(&format!(
            "CREATE TRIGGER look AFTER INSERT OR DELETE ON outbox.{table} FOR EACH ROW EXECUTE FUNCTION look()"
        ))?;
    }
    let called: (bool, i64, i64, bool) = {
        let sql =
            "SELECT outbox.pause(), outbox.discard(max => 1), outbox.redrive(max => 1), outbox.resume()";
        let row = db.client.query_one(sql, &[])?;
        (row.get(0), row.get(1), row.get(2), row.get(3))
    };
    assert_eq!(called, (true, 1, 1, true));
    for sql in ["grant_topic($1::text::regrole, 'x')", "revoke_topic($1::text::regrole)"] {
        db.client.execute(&format!("SELECT outbox.{sql}"), &[&keeper])?;
    }
    let sql =
        "SELECT string_agg(DISTINCT place, ' ' ORDER BY place), string_agg(DISTINCT seen_by, ' ') FROM seen";
    let seen = client.query_one(sql, &[])?;
    let places = "dead_letters events paused topic_grants";
    assert_eq!((seen.get::<_, &str>(0), seen.get::<_, &str>(1)), (places, keeper.as_str()));
    Ok(())
}

/// emit() lends the owner's triggers none of its caller's privileges, not even later.
#[test]
fn the_owners_code_leaves_nothing_behind_in_a_session_that_emits() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("emitted");
    let keeper = create_role(&mut db, "keeper", "GRANT ALL ON SCHEMA public TO ROLE")?;
    db.client.batch_execute(&format!("ALTER TABLE outbox.events OWNER TO {keeper}"))?;
    let mut client = db.connect_as(&keeper)?;
    client.batch_execute(&format!(
        "CREATE FUNCTION evil() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
             IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
                 EXECUTE 'ALTER ROLE {keeper} SUPERUSER';
             END IF;
             RETURN 1;
         END $$;
         CREATE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             BEGIN
                 EXECUTE 'DECLARE trap CURSOR WITH HOLD FOR SELECT public.evil()';
             EXCEPTION WHEN insufficient_privilege THEN NULL;
             END;
             PERFORM set_config('search_path', 'nowhere', false);
             RETURN NULL;
         END $$;
         CREATE TRIGGER trap AFTER INSERT ON outbox.events FOR EACH STATEMENT EXECUTE FUNCTION trap()"
    ))?;
    emit(&mut db.client, &topic, 1)?;
    assert!(!is_superuser(&mut db.client, &keeper)?, "the owner became superuser");
    let path: String = db.client.query_one("SHOW search_path", &[])?.get(0);
    assert_ne!(path, "nowhere");
    assert_eq!(db.promptly(&topic, 1)?.len(), 1);
    // A deferred trigger would run as the caller.
    client.batch_execute(
        "DROP TRIGGER trap ON outbox.events;
         CREATE FUNCTION later() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM public.evil(); RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER later AFTER INSERT ON outbox.events DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION later()",
    )?;
    let emitted = emit(&mut db.client, &topic, 2);
    assert!(!is_superuser(&mut db.client, &keeper)?, "the owner became superuser");
    let error = emitted.expect_err("a deferred trigger ran as the caller");
    assert!(format!("{error:?}").contains("security-restricted operation"), "{error:?}");
    Ok(())
}

/// emit() neither reveals nor needs rows that row-level security hides.
#[test]
fn row_security_of_other_tables_holds() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("tenants");
    let tenant = create_role(
        &mut db,
        "tenant",
        "GRANT EXECUTE ON FUNCTION outbox.emit(text, jsonb, text, text, jsonb, uuid, integer) TO ROLE",
    )?;
    db.client.batch_execute(&format!(
        "CREATE TABLE notes (tenant name DEFAULT current_user, note text);
         INSERT INTO notes VALUES ('other', 'secret');
         ALTER TABLE notes ENABLE ROW LEVEL SECURITY; ALTER TABLE notes FORCE ROW LEVEL SECURITY;
         CREATE POLICY own ON notes USING (tenant = current_user);
         GRANT SELECT, INSERT ON notes TO {tenant};
         CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             PERFORM outbox.emit('{topic}', to_jsonb(n.note)) FROM notes AS n;
             RETURN NULL;
         END $$;
         CREATE TRIGGER tell AFTER INSERT ON notes FOR EACH STATEMENT EXECUTE FUNCTION tell()"
    ))?;
    let mut client = db.connect_as(&tenant)?;
    client.batch_execute("INSERT INTO notes (note) VALUES ('mine')")?;
    // Arguments are evaluated as the caller, not as the owner.
    let sql = "SELECT count(outbox.emit($1, to_jsonb(n.note))) FROM notes AS n";
    assert_eq!(client.query_one(sql, &[&topic])?.get::<_, i64>(0), 1);
    client.batch_execute("SET row_security = off")?;
    client.execute("SELECT outbox.emit($1, '\"free\"')", &[&topic])?;
    assert!(client.execute(sql, &[&topic]).is_err());
    let mut values = db.drained_values(&topic)?;
    values.sort();
    assert_eq!(values, ["\"free\"", "\"mine\"", "\"mine\""]);
    Ok(())
}

/// Kafka's headers carry their lengths: nothing in a name or a value can end one and begin another.
#[test]
fn headers_are_not_broken_out_of() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("headers");
    let headers = serde_json::json!({
        "a\r\nce_id": "1", "b": "2\r\nce_id: 3", " ce_type": "4", "c": "x\u{0}ce_id", "\u{ff43}e_id": "5", "ce-id": "6",
    });
    let sql = "SELECT outbox.emit($1, '1', headers => $2::text::jsonb, event_type => E'e\r\nce_id: 7')::text";
    // jsonb has no \u0000.
    assert!(db.client.query_one(sql, &[&topic, &headers.to_string()]).is_err());
    let sql = "INSERT INTO outbox.events (topic, payload, headers, event_type) VALUES ($1, '1', $2::text::json, E'e\r\nce_id: 7')
               RETURNING event_id::text";
    let id: String = db.client.query_one(sql, &[&topic, &headers.to_string()])?.get(0);
    let record = &db.drained(&topic)?[0];
    let named = |name: &str| -> Vec<_> {
        record.headers.iter().filter(|(header, _)| header == name).map(|(_, value)| value.clone()).collect()
    };
    assert_eq!(named("ce_id"), [Some(id.into_bytes())]);
    assert_eq!(named("ce_type"), [Some(b"e\r\nce_id: 7".to_vec())]);
    for (name, value) in headers.as_object().into_iter().flatten() {
        assert_eq!(named(name), [value.as_str().map(|text| text.as_bytes().to_vec())], "{name:?}");
    }
    Ok(())
}

/// A notification is one JSON object, whatever the event and its error contain.
#[test]
fn notifications_are_not_broken_out_of() -> Result<()> {
    const NASTY: &str = "'\"}, {\"topic\": \"x\\\\\" \r\n\u{1}\u{202e}漢); DROP TABLE outbox.events; --";
    let mut db = TestDatabase::new()?;
    let topic = db.topic("told");
    let mut listener = db.connect()?;
    let channel: String = listener.query_one("SELECT outbox.channel($1)", &[&topic])?.get(0);
    listener
        .batch_execute(&format!("LISTEN \"{channel}\"; LISTEN outbox_dead_letter; LISTEN \"outbox:x\""))?;
    let sql = "SELECT outbox.emit_bytes($1, convert_to($2, 'UTF8'), key => convert_to($2, 'UTF8'), event_type => $2,
                                        content_type => $2, headers => jsonb_build_object($2, $2))";
    db.client.execute(sql, &[&topic, &NASTY])?;
    until_drained(&mut db.client)?;
    // A refusal by hand, with an error long enough to be truncated.
    db.configure("event_outbox.enabled", "off")?;
    db.client.batch_execute("SET event_outbox.max_attempts = 1")?;
    db.client.execute(sql, &[&topic, &NASTY])?;
    let error = NASTY.repeat(100);
    db.client.execute("UPDATE outbox.events SET last_error = $1, error_class = $2", &[&error, &NASTY])?;

    let mut notifications = Vec::new();
    while notifications.len() < 2 {
        let next = listener.notifications().timeout_iter(PROMPTLY).next()?.expect("two notifications");
        notifications.push((next.channel().to_owned(), serde_json::from_str::<Value>(next.payload())?));
    }
    assert_eq!(
        (notifications[0].0.as_str(), &notifications[0].1["topic"]),
        (channel.as_str(), &Value::from(topic.as_str()))
    );
    assert_eq!(notifications[0].1["count"], 1);
    let (dead, what) = &notifications[1];
    assert_eq!((dead.as_str(), &what["topic"]), ("outbox_dead_letter", &Value::from(topic)));
    assert_eq!(what["error_class"], NASTY);
    assert_eq!(what["error"], error.chars().take(1000).collect::<String>());
    Ok(())
}

/// Each SQL function of the extension sets its search path, or was parsed when it was created.
#[test]
fn every_function_in_sql_has_a_search_path_of_its_own() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let sql = "SELECT p.oid::regprocedure::text FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang
                WHERE p.pronamespace IN ('outbox'::regnamespace, 'inbox'::regnamespace, 'event_store'::regnamespace) AND l.lanname IN ('sql', 'plpgsql')
                  AND p.prosqlbody IS NULL AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false)";
    let without: Vec<String> = db.client.query(sql, &[])?.iter().map(|row| row.get(0)).collect();
    assert_eq!(without, [] as [String; 0]);
    // There are such functions, so the check is not empty.
    let with =
        "SELECT count(*) FROM pg_proc WHERE pronamespace = 'outbox'::regnamespace AND proconfig IS NOT NULL";
    assert!(db.client.query_one(with, &[])?.get::<_, i64>(0) >= 7);
    Ok(())
}
