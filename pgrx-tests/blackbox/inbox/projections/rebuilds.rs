//! A rebuild gives the table the rows of the topic, in one transaction, and keeps the table.

use event_outbox_lab::Result;

use super::{Projected, settle};
use crate::support::dump::dump_and_restore;

#[test]
fn a_rebuild_repairs_the_table_and_leaves_what_depends_on_it() -> Result<()> {
    let mut p = Projected::new(2)?;
    p.sql(
        "CREATE TABLE state (id int PRIMARY KEY, v int);
         CREATE VIEW seen AS SELECT * FROM state;
         CREATE TABLE refers (id int REFERENCES state);
         CREATE TABLE fired (op text, id int);
         CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO public.fired VALUES (TG_OP, coalesce(NEW.id, OLD.id)); RETURN NULL; END $$",
    )?;
    for n in 0..1000 {
        p.send_to(n % 2, Some(&n.to_string()), Some(&format!("{{\"v\": {n}}}")))?;
    }
    p.producer.flush()?;
    p.project("state", "")?;
    p.settle()?;
    let before = p.rows("SELECT 'state'::regclass::oid")?;
    // Somebody has changed what is not theirs.
    p.sql(
        "UPDATE state SET v = -1 WHERE id < 10; DELETE FROM state WHERE id = 20; INSERT INTO state VALUES (-5, 0);
         INSERT INTO refers VALUES (30);
         CREATE TRIGGER fire AFTER INSERT OR UPDATE OR DELETE ON state FOR EACH ROW EXECUTE FUNCTION fire()",
    )?;
    let name: String = p.db.client.query_one("SELECT inbox.rebuild('p')", &[])?.get(0);
    assert!(name.starts_with("p.rebuild-"), "{name}");
    p.until("SELECT name, state, ready FROM inbox.projections", &["(p,following,t)"])?;
    assert_eq!(p.rows("SELECT count(*), sum(v), min(id) FROM seen")?, ["(1000,499500,0)"]);
    assert_eq!(p.rows("SELECT 'state'::regclass::oid")?, before);
    assert_eq!(
        p.rows("SELECT op, count(*) FROM fired GROUP BY op ORDER BY op")?,
        ["(DELETE,1)", "(INSERT,1)", "(UPDATE,10)"]
    );
    assert_eq!(p.rows("SELECT count(*) FROM pg_class WHERE relname LIKE 'state_rebuild%'")?, ["(0)"]);
    assert_eq!(p.rows("SELECT count(*) FROM inbox.subscription")?, ["(1)"]);
    // It goes on.
    p.send(&[("0", None), ("5000", Some(r#"{"v": 1}"#))])?;
    p.settle()?;
    assert_eq!(p.rows("SELECT min(id), max(id) FROM state")?, ["(1,5000)"]);
    Ok(())
}

#[test]
fn a_rebuild_can_map_anew_and_can_be_ended() -> Result<()> {
    let mut p = Projected::new(1)?;
    p.sql("CREATE TABLE state (id int PRIMARY KEY, v int)")?;
    p.send(&[("1", Some(r#"{"v": 1, "w": {"x": 5}}"#)), ("2", Some(r#"{"v": 2, "w": {"x": 6}}"#))])?;
    p.project("state", "")?;
    p.settle()?;
    p.sql("ALTER TABLE state ADD COLUMN x int")?;
    p.sql("SELECT inbox.pause('p'); SELECT inbox.resume('p')")?;
    p.db.client
        .query_one("SELECT inbox.rebuild('p', columns => '{\"v\": \"$.v\", \"x\": \"$.w.x\"}')", &[])?;
    p.until("SELECT id, v, x FROM state ORDER BY id", &["(1,1,5)", "(2,2,6)"])?;
    p.until("SELECT name, columns FROM inbox.projections", &[r#"(p,"{""v"": ""$.v"", ""x"": ""$.w.x""}")"#])?;
    // The end of a projection is that of its rebuild.
    p.sql("BEGIN; SELECT inbox.rebuild('p'); SELECT inbox.unproject('p'); COMMIT")?;
    assert_eq!(p.rows("SELECT count(*) FROM inbox.projection")?, ["(0)"]);
    assert_eq!(p.rows("SELECT count(*) FROM inbox.subscription")?, ["(0)"]);
    Ok(())
}

/// Whoever ends a rebuild, and its process, lock the same things in the same order.
#[test]
fn a_rebuild_is_ended_though_its_process_is_at_work() -> Result<()> {
    for ended in ["p.rebuild-%", "p"] {
        let mut p = Projected::new(1)?;
        p.sql(
            "CREATE TABLE state (id int PRIMARY KEY, v int);
             CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$",
        )?;
        p.send(&[("1", Some(r#"{"v": 1}"#))])?;
        p.project("state", "")?;
        p.settle()?;
        p.sql(
            "UPDATE state SET v = 2;
             CREATE TRIGGER refuse BEFORE UPDATE ON state FOR EACH ROW EXECUTE FUNCTION refuse();
             SELECT inbox.rebuild('p')",
        )?;
        p.until("SELECT state FROM inbox.projections WHERE rebuild_of = 'p'", &["(failing)"])?;
        // Both come to wait, the process behind the session that ends it.
        p.sql("BEGIN; SELECT FROM inbox.projection WHERE rebuild_of IS NOT NULL FOR UPDATE")?;
        let mut other = p.db.connect()?;
        let pid: i32 = other.query_one("SELECT pg_backend_pid()", &[])?.get(0);
        // So that a deadlock would be this session's.
        other.batch_execute("SET deadlock_timeout = '100 ms'")?;
        let sql = format!(
            "SELECT inbox.unproject(s.name) FROM inbox.subscription AS s WHERE s.name LIKE '{ended}' LIMIT 1"
        );
        let ending = std::thread::spawn(move || other.execute(&sql, &[]));
        let waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database() AND";
        p.until(&format!("{waits} pid = {pid}"), &["(1)"])?;
        p.until(&format!("{waits} backend_type = 'event_outbox projection'"), &["(1)"])?;
        p.sql("COMMIT")?;
        ending.join().expect("the session")?;
        let left = if ended == "p" { "(0)" } else { "(1)" };
        assert_eq!(p.rows("SELECT count(*) FROM inbox.projection")?, [left]);
        assert_eq!(p.rows("SELECT count(*) FROM pg_class WHERE relname LIKE 'state_rebuild%'")?, ["(0)"]);
    }
    Ok(())
}

/// A dump has the rows and the positions of one snapshot.
#[test]
fn a_restored_projection_goes_on_where_its_rows_are() -> Result<()> {
    let mut p = Projected::new(1)?;
    p.sql("CREATE TABLE a_state (id int PRIMARY KEY, v int); CREATE TABLE log (id int)")?;
    p.send(&[("1", Some(r#"{"v": 1}"#)), ("2", Some(r#"{"v": 2}"#))])?;
    p.project("a_state", "")?;
    p.settle()?;
    let copy = p.db.server.create_database()?;
    dump_and_restore(&p.db, &copy)?;
    p.send(&[("2", None), ("3", Some(r#"{"v": 3}"#))])?;
    p.settle()?;
    let mut restored = p.db.server.connect(&copy)?;
    settle(&mut restored, "p")?;
    assert_eq!(super::rows(&mut restored, "SELECT id, v FROM a_state ORDER BY id")?, ["(1,1)", "(3,3)"]);
    restored.batch_execute("SELECT inbox.unproject('p')")?;
    Ok(())
}
