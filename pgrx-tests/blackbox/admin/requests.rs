//! Requests to Kafka through the relay: they end with their caller and delay nobody else.

use std::thread;

use event_outbox_lab::{Result, wait};
use postgres::CancelToken;
use postgres::NoTls;

use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::relay::{Status, until_status};

const ENDLESS: &str = "SELECT count(*) FROM outbox.describe_topics('{requests.none}', '1 hour')";

/// Threads of a process.
fn threads(pid: i32) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/task"))?.count())
}

/// A database whose brokers do not answer, and a session whose request waits for them for an hour.
struct Asking {
    db: TestDatabase,
    relay: i32,
    /// Threads of the relay before the request.
    before: usize,
    cancel: CancelToken,
    session: thread::JoinHandle<Option<String>>,
}

impl Asking {
    fn start() -> Result<Self> {
        let mut db = TestDatabase::new()?;
        db.configure("event_outbox.bootstrap_servers", "127.0.0.1:1")?;
        let relay = db.relay()?;
        until_status(&mut db.client, "no broker", Status::is_disconnected)?;
        let before = threads(relay)?;
        let mut client = db.connect()?;
        let cancel = client.cancel_token();
        let session = thread::spawn(move || {
            client.query_one(ENDLESS, &[]).err()?.code().map(|code| code.code().to_owned())
        });
        wait::until_ok("the request to be worked on", DEADLINE, || {
            Ok((threads(relay)? > before).then_some(()))
        })?;
        Ok(Self { db, relay, before, cancel, session })
    }

    fn cancel(self) -> Result<(TestDatabase, i32, usize)> {
        self.cancel.cancel_query(NoTls)?;
        assert_eq!(self.session.join().expect("no panic").as_deref(), Some("57014"));
        Ok((self.db, self.relay, self.before))
    }
}

#[test]
fn a_request_that_is_cancelled_leaves_no_thread() -> Result<()> {
    let (mut db, relay, before) = Asking::start()?.cancel()?;
    wait::until_ok("the request's threads to end", DEADLINE, || {
        Ok((threads(relay)? <= before).then_some(()))
    })?;
    assert_eq!(db.relay()?, relay);
    Ok(())
}

#[test]
fn the_request_of_one_database_holds_up_no_other() -> Result<()> {
    let asking = Asking::start()?;
    let mut other = TestDatabase::new()?;
    let sql = "SELECT count(*) FROM outbox.describe_topics('{requests.none}', '10 seconds')";
    assert_eq!(other.client.query_one(sql, &[])?.get::<_, i64>(0), 1);
    asking.cancel()?;
    Ok(())
}

/// Requests of one database run one after the other. A request that times out meanwhile says so.
#[test]
fn who_waits_for_another_says_so() -> Result<()> {
    let mut asking = Asking::start()?;
    let sql = "SELECT count(*) FROM outbox.describe_topics('{requests.none}', '10 milliseconds')";
    let error = asking.db.client.query_one(sql, &[]).expect_err("it waits");
    let detail = error.as_db_error().and_then(|error| error.detail()).unwrap_or_default().to_owned();
    assert!(detail.contains("another session"), "{error:?}");
    let (mut db, ..) = asking.cancel()?;
    // The next request is served soon, though the brokers still do not answer.
    wait::until_ok("the turn", DEADLINE, || {
        let error = db.client.query_one(sql, &[]).expect_err("there is no broker");
        let message = error.as_db_error().map(|error| error.message().to_owned());
        Ok((message.as_deref() == Some("Kafka did not answer")).then_some(()))
    })
}
