//! The table is written as its owner, so nobody's code gets the rights of another.

use event_outbox_lab::Result;
use event_outbox_lab::wait;

use super::{PROJECTED, Projected, refusal, rows};
use crate::support::roles::create_role;

#[test]
fn the_code_of_a_table_runs_as_its_owner() -> Result<()> {
    let mut p = Projected::new(1)?;
    let owner = create_role(&mut p.db, "owner", "GRANT CREATE ON SCHEMA public TO ROLE")?;
    let mut own = p.db.connect_as(&owner)?;
    // Everything by which a table can run code, and a try to become somebody else.
    own.batch_execute(
        "CREATE TABLE ran (what text, who text, session text);
         CREATE FUNCTION note(what text) RETURNS boolean LANGUAGE plpgsql AS $$
             BEGIN
                 BEGIN EXECUTE 'RESET SESSION AUTHORIZATION'; EXCEPTION WHEN OTHERS THEN NULL; END;
                 BEGIN EXECUTE 'RESET ROLE'; EXCEPTION WHEN OTHERS THEN NULL; END;
                 INSERT INTO public.ran VALUES (what, current_user, session_user);
                 RETURN true;
             END $$;
         CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN PERFORM public.note(TG_NAME); RETURN NEW; END $$;
         CREATE TABLE hostile (id int PRIMARY KEY, v int CHECK (note('check')), d boolean DEFAULT note('default'));
         CREATE TRIGGER before BEFORE INSERT ON hostile FOR EACH ROW EXECUTE FUNCTION fire();
         CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON hostile DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION fire()",
    )?;
    p.send(&[("1", Some(r#"{"v": 1}"#))])?;
    // An administrator who projects into it lends it nothing.
    p.project("hostile", r#", columns => '["v"]'"#)?;
    p.settle()?;
    assert_eq!(
        p.rows("SELECT DISTINCT what FROM ran ORDER BY what")?,
        ["(before)", "(check)", "(default)", "(deferred)"]
    );
    assert_eq!(p.rows("SELECT DISTINCT who, session FROM ran")?, [format!("({owner},{owner})")]);
    assert_eq!(p.rows("SELECT role FROM inbox.projections")?, [format!("({owner})")]);
    // With another owner it is written as that one.
    let other = create_role(&mut p.db, "other", "GRANT ALL ON ran TO ROLE")?;
    p.sql(&format!("ALTER TABLE hostile OWNER TO {other}; GRANT CREATE ON SCHEMA public TO {other}"))?;
    p.send(&[("2", Some(r#"{"v": 1}"#))])?;
    p.settle()?;
    assert!(p.rows("SELECT DISTINCT who FROM ran")?.contains(&format!("({other})")));
    p.sql("SELECT inbox.unproject('p')")
}

#[test]
fn roles_project_topics_that_they_were_granted_into_tables_that_they_own() -> Result<()> {
    let mut p = Projected::new(1)?;
    let role = create_role(
        &mut p.db,
        "projector",
        "GRANT CREATE ON SCHEMA public TO ROLE; GRANT USAGE ON SCHEMA inbox TO ROLE;
         GRANT EXECUTE ON FUNCTION inbox.project, inbox.unproject, inbox.rebuild, inbox.wait_projected TO ROLE;
         GRANT SELECT ON inbox.projections TO ROLE",
    )?;
    p.sql("CREATE TABLE of_admin (id int PRIMARY KEY)")?;
    let mut own = p.db.connect_as(&role)?;
    own.batch_execute("CREATE TABLE mine (id int PRIMARY KEY, v int)")?;
    let project = |table: &str| format!("SELECT inbox.project('p', '{}', '{table}')", p.topic);
    assert_eq!(refusal(&mut own, &project("of_admin")).0, "permission denied for table public.of_admin");
    assert_eq!(refusal(&mut own, &project("mine")).0, format!("permission denied for topic \"{}\"", p.topic));
    p.db.client.execute("SELECT inbox.grant_topic($1::text::regrole, $2)", &[&role, &p.topic])?;
    own.batch_execute(&project("mine"))?;
    p.send(&[("1", Some(r#"{"v": 1}"#))])?;
    super::settle(&mut own, "p")?;
    assert_eq!(rows(&mut own, "SELECT id, v FROM mine")?, ["(1,1)"]);
    assert_eq!(rows(&mut own, "SELECT name, ready FROM inbox.projections")?, ["(p,t)"]);
    let name: String = own.query_one("SELECT inbox.rebuild('p')", &[])?.get(0);
    assert!(name.starts_with("p.rebuild-"), "{name}");
    wait::until_ok("the rebuild to end", PROJECTED, || {
        Ok((rows(&mut own, "SELECT name FROM inbox.projections")? == ["(p)"]).then_some(()))
    })?;
    // Somebody else sees and ends nothing of it.
    let stranger = create_role(
        &mut p.db,
        "stranger",
        "GRANT USAGE ON SCHEMA inbox TO ROLE; GRANT SELECT ON inbox.projections TO ROLE;
         GRANT EXECUTE ON FUNCTION inbox.unproject, inbox.wait_projected TO ROLE",
    )?;
    let mut foreign = p.db.connect_as(&stranger)?;
    assert_eq!(rows(&mut foreign, "SELECT name FROM inbox.projections")?, Vec::<String>::new());
    assert_eq!(
        refusal(&mut foreign, "SELECT inbox.unproject('p')").0,
        "permission denied for subscription \"p\""
    );
    assert_eq!(
        refusal(&mut foreign, "SELECT inbox.wait_projected('p')").0,
        "permission denied for projection \"p\""
    );
    own.batch_execute("SELECT inbox.unproject('p')")?;
    Ok(())
}
