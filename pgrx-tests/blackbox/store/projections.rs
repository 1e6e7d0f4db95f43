//! Categories as tables: each stream has a row, which is as its last event says.

use event_outbox_lab::{Result, wait};
use postgres::Client;

use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::roles::{assert_denied, create_role};
use crate::support::server::DedicatedServer;
use crate::support::streams::{append, refusal};

const TABLE: &str =
    "CREATE TABLE public.accounts (account text PRIMARY KEY, balance numeric, version bigint, type text)";
const PROJECT: &str = "SELECT event_store.project('accounts', 'account', 'public.accounts', columns => \
     '{\"balance\": \"$.balance\", \"version\": \"@header.version\", \"type\": \"@header.ce_type\"}')";

fn balance(client: &mut Client, stream: &str, balance: &str) -> Result<i64> {
    let sql = "SELECT event_store.append($1, 'any', jsonb_build_object('type', 'changed', 'data', jsonb_build_object('balance', $2::text::numeric)))";
    client.execute(sql, &[&stream, &balance])?;
    let sql = "SELECT position FROM event_store.read_stream($1, backwards => true, \"limit\" => 1)";
    Ok(client.query_one(sql, &[&stream])?.get(0))
}

fn wait_projected(client: &mut Client, arguments: &str) -> Result<bool> {
    let sql = format!("SELECT inbox.wait_projected('accounts'{arguments}, timeout => '40 seconds')");
    Ok(client.query_one(&sql, &[])?.get(0))
}

/// The rows of the table, one after the other.
fn rows(client: &mut Client) -> Result<String> {
    let sql = "SELECT coalesce(string_agg(concat_ws(' ', account, balance, version, type), ', ' ORDER BY account), '') FROM public.accounts";
    Ok(client.query_one(sql, &[])?.get(0))
}

#[test]
fn a_category_becomes_a_table_without_kafka() -> Result<()> {
    let nowhere = DedicatedServer::start("127.0.0.1:1")?;
    let mut client = nowhere.connect()?;
    client.batch_execute(TABLE)?;
    balance(&mut client, "account-1", "10")?;
    balance(&mut client, "account-1", "12.50")?;
    balance(&mut client, "other-1", "1")?;
    append(&mut client, "account-2", "no_stream", "opened")?;
    client.batch_execute(PROJECT)?;
    assert!(wait_projected(&mut client, "")?);
    assert_eq!(rows(&mut client)?, "account-1 12.50 2 changed, account-2 1 opened");
    // Its own position is enough to wait for, and is in the table when the wait ends.
    for at in 1..=20 {
        let position = balance(&mut client, "account-2", &at.to_string())?;
        balance(&mut client, "other-1", "1")?;
        assert!(wait_projected(&mut client, &format!(", {position}"))?);
        assert_eq!(
            rows(&mut client)?,
            format!("account-1 12.50 2 changed, account-2 {at} {} changed", at + 1)
        );
    }
    wait::until_ok("a projection that is ready", DEADLINE, || {
        let sql = "SELECT ready AND state = 'following' AND topic = 'account' AND format = 'event' FROM inbox.projections";
        Ok(client.query_one(sql, &[])?.get::<_, bool>(0).then_some(()))
    })?;
    client.batch_execute("SELECT inbox.unproject('accounts')")?;
    assert_eq!(rows(&mut client)?, "account-1 12.50 2 changed, account-2 20 21 changed");
    Ok(())
}

#[test]
fn it_is_ready_though_there_is_nothing_to_project() -> Result<()> {
    let mut db = TestDatabase::new()?;
    db.client.batch_execute(TABLE)?;
    append(&mut db.client, "other-1", "any", "x")?;
    append(&mut db.client, "account-1", "any", "x")?;
    db.client.batch_execute("SELECT event_store.erase('account-1')")?;
    db.client.batch_execute(PROJECT)?;
    assert!(wait_projected(&mut db.client, "")?);
    let mut last = String::new();
    wait::until_ok("a projection that is ready", DEADLINE, || {
        let sql = "SELECT p.ready, concat(to_json(p), (SELECT json_agg(c) FROM inbox.consumers AS c)) FROM inbox.projections AS p";
        let row = db.client.query_one(sql, &[])?;
        last = row.get(1);
        Ok(row.get::<_, bool>(0).then_some(()))
    })
    .map_err(|error| error.context(last))?;
    assert_eq!(rows(&mut db.client)?, "");
    Ok(())
}

#[test]
fn a_wait_covers_what_was_committed_late() -> Result<()> {
    let mut db = TestDatabase::new()?;
    db.client.batch_execute(TABLE)?;
    db.client.batch_execute(PROJECT)?;
    for at in 1..=20 {
        let mut late = db.connect()?;
        late.batch_execute("BEGIN")?;
        let position = balance(&mut late, "account-late", &at.to_string())?;
        balance(&mut db.client, "account-1", &at.to_string())?;
        assert!(wait_projected(&mut db.client, "")?);
        late.batch_execute("COMMIT")?;
        // The projection is beyond this position since it has taken the other event.
        let arguments = if at % 2 == 0 { String::new() } else { format!(", {position}") };
        assert!(wait_projected(&mut db.client, &arguments)?);
        assert_eq!(
            rows(&mut db.client)?,
            format!("account-1 {at} {at} changed, account-late {at} {at} changed")
        );
    }
    Ok(())
}

#[test]
fn a_rebuild_reads_the_category_again() -> Result<()> {
    let mut db = TestDatabase::new()?;
    db.client.batch_execute(TABLE)?;
    for at in 0..50 {
        balance(&mut db.client, &format!("account-{}", at % 5), "7")?;
    }
    db.client.batch_execute(PROJECT)?;
    assert!(wait_projected(&mut db.client, "")?);
    db.client.batch_execute(
        "DELETE FROM public.accounts WHERE account = 'account-1'; UPDATE public.accounts SET balance = 0;
         SELECT inbox.rebuild('accounts', columns => '{\"balance\": \"$.balance\", \"version\": \"@header.version\"}')",
    )?;
    wait::until_ok("the rebuild to take the place", DEADLINE, || {
        let sql = "SELECT count(*) = 1 AND bool_and(ready) FROM inbox.projections";
        Ok(db.client.query_one(sql, &[])?.get::<_, bool>(0).then_some(()))
    })?;
    // A column that is not projected any more keeps what it has; the row that was gone has none.
    let of_row = |at| if at == 1 { "account-1 7 10".into() } else { format!("account-{at} 7 10 changed") };
    let all: Vec<String> = (0..5).map(of_row).collect();
    assert_eq!(rows(&mut db.client)?, all.join(", "));
    balance(&mut db.client, "account-1", "8")?;
    assert!(wait_projected(&mut db.client, "")?);
    assert!(rows(&mut db.client)?.contains("account-1 8 11"));
    Ok(())
}

#[test]
fn the_category_must_be_granted_and_the_table_be_ones_own() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let rights = "GRANT USAGE ON SCHEMA event_store, inbox TO ROLE; GRANT CREATE ON SCHEMA public TO ROLE;
                  GRANT EXECUTE ON FUNCTION event_store.project, inbox.wait_projected, inbox.unproject TO ROLE";
    let role = create_role(&mut db, "projector", rights)?;
    let mut projector = db.connect_as(&role)?;
    projector.batch_execute(TABLE)?;
    assert_denied(&mut projector, PROJECT);
    db.client.batch_execute(&format!(
        "SELECT event_store.grant_category('{role}', 'account', 'read'); CREATE TABLE public.others (LIKE public.accounts INCLUDING ALL)"
    ))?;
    assert_denied(&mut projector, &PROJECT.replace("public.accounts", "public.others"));
    assert_denied(&mut projector, &PROJECT.replace("'account'", "'other'"));
    projector.batch_execute(PROJECT)?;
    balance(&mut db.client, "account-1", "3")?;
    assert!(wait_projected(&mut projector, "")?);
    assert_eq!(rows(&mut projector)?, "account-1 3 1 changed");
    assert_eq!(refusal(&mut projector, PROJECT).0, "42710");
    projector.batch_execute("SELECT inbox.unproject('accounts')")?;
    for (call, state) in [
        ("event_store.project('p', 'account*', 'public.accounts')", "42602"),
        ("event_store.project('p', 'account', 'public.accounts', '[\"balance\"]')", "22023"),
        ("inbox.project('p', 'account', 'public.accounts', format => 'event')", "22023"),
    ] {
        assert_eq!(refusal(&mut db.client, &format!("SELECT {call}")).0, state, "{call}");
    }
    drop(projector);
    db.client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))?;
    Ok(())
}
