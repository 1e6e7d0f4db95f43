//! Where the extension can be created, and the errors where it cannot.

use event_outbox_lab::{Cluster, Result};
use postgres::Client;
use postgres::error::{DbError, SqlState};

use crate::support::database::TestDatabase;
use crate::support::relay;

fn refusal(client: &mut Client) -> DbError {
    let error = client.batch_execute("CREATE EXTENSION event_outbox").expect_err("it was created");
    error.as_db_error().expect("no error of the server").clone()
}

#[test]
fn without_preloading_it_says_what_to_do() -> Result<()> {
    let server = Cluster::options("plain").without_preload().start()?;
    let mut client = server.connect("postgres")?;
    let error = refusal(&mut client);
    assert_eq!(*error.code(), SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
    assert!(error.message().contains("shared_preload_libraries"), "{error:?}");
    assert!(error.detail().is_some(), "{error:?}");
    let hint = error.hint().unwrap_or_default();
    assert!(hint.contains("shared_preload_libraries = 'event_outbox'"), "{error:?}");
    // The session goes on, and nothing is left behind.
    let left: i64 =
        client.query_one("SELECT count(*) FROM pg_namespace WHERE nspname = 'outbox'", &[])?.get(0);
    assert_eq!(left, 0);
    Ok(())
}

#[test]
fn a_database_that_is_not_utf8_is_refused() -> Result<()> {
    let db = TestDatabase::new()?;
    let latin = format!("{}_latin", db.database);
    let mut admin = db.server.connect("postgres")?;
    admin
        .batch_execute(&format!("CREATE DATABASE {latin} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"))?;
    let error = refusal(&mut db.server.connect(&latin)?);
    assert_eq!(*error.code(), SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
    assert!(error.message().contains("UTF8"), "{error:?}");
    assert!(error.detail().unwrap_or_default().contains("LATIN1"), "{error:?}");
    assert!(error.hint().is_some(), "{error:?}");
    relay::until_processes(db.server, &latin, 0)?;
    Ok(admin.batch_execute(&format!("DROP DATABASE {latin}"))?)
}
