//! A registry in trouble keeps nobody waiting but who needs it.

use std::time::{Duration, Instant};

use event_outbox_lab::{Broker, Cluster, OddRegistry, Oddity, Result, SchemaRegistry, StopMode, ports};

use super::{ORDER, bind, database_with, id, register, shown, until_state, wait_registered};
use crate::support::server::DedicatedServer;

/// Long before the registry's client gives up.
const AT_ONCE: Duration = Duration::from_secs(8);

/// Whatever answers, or does not: other events are published, the error says what is wrong, and when the registry works again,
/// schemas are registered.
#[test]
fn trouble_is_shown_and_holds_up_nothing_else() -> Result<()> {
    let registry = OddRegistry::start(Oddity::Silence)?;
    let mut db = database_with(&registry.url())?;
    let topic = db.own_topic("others")?;
    let html = "<html>not here</html>";
    let troubles = [
        (Oddity::Answers(500, String::new()), "waiting", "status 500"),
        (Oddity::Answers(503, html.into()), "waiting", "status 503"),
        (Oddity::Answers(429, html.into()), "waiting", "status 429"),
        (
            Oddity::Answers(401, r#"{"error_code":401,"message":"who are you"}"#.into()),
            "waiting",
            "who are you",
        ),
        (Oddity::Answers(403, r#"{"error_code":40301,"message":"not you"}"#.into()), "refused", "not you"),
        (Oddity::Answers(404, html.into()), "waiting", "event_outbox.schema_registry_url"),
        (
            Oddity::Answers(409, r#"{"error_code":409,"message":"no such field"}"#.into()),
            "refused",
            "no such field",
        ),
        (
            Oddity::Answers(422, r#"{"error_code":42201,"message":"what is it"}"#.into()),
            "refused",
            "what is it",
        ),
        (Oddity::Answers(200, html.into()), "waiting", "event_outbox.schema_registry_url"),
        (Oddity::Answers(200, r#"{"id":4294967295}"#.into()), "refused", "too large"),
        (Oddity::Redirects("http://127.0.0.1:1/".into()), "waiting", "event_outbox.schema_registry_url"),
        (Oddity::Sends(b"\0\x01garbage\r\n\r\n".to_vec()), "waiting", ""),
        (Oddity::Sends(Vec::new()), "waiting", "does not answer"),
        (Oddity::NoEnd, "refused", "larger than"),
    ];
    let count = troubles.len();
    for (number, (oddity, state, clue)) in troubles.into_iter().enumerate() {
        registry.becomes(oddity.clone());
        let subject = format!("{topic}-{number}");
        register(&mut db.client, &subject, ORDER)?;
        // A registry that did not answer is asked again after a pause.
        db.client.query_one("SELECT outbox.restart_relay()", &[])?;
        db.relay()?;
        let said = wait_for(&mut db.client, &subject, state, clue)?;
        assert!(said.contains(clue), "{oddity:?}: {said}");
        db.client.execute("SELECT outbox.emit($1, to_jsonb($2::int))", &[&topic, &i32::try_from(number)?])?;
        db.promptly(&topic, number + 1)?;
    }
    registry.becomes(Oddity::Answers(200, r#"{"id":5}"#.into()));
    db.client.query_one("SELECT outbox.retry_registration()", &[])?;
    for number in 0..count {
        wait_until_registered(&mut db.client, &format!("{topic}-{number}"))?;
    }
    Ok(())
}

fn wait_for(client: &mut postgres::Client, subject: &str, state: &str, clue: &str) -> Result<String> {
    let sql = "SELECT registry_error FROM outbox.schemas
                WHERE subject = $1 AND registry_state = $2 AND position($3 IN registry_error) > 0";
    let found =
        event_outbox_lab::wait::until_ok(&format!("\"{clue}\", {state}"), Duration::from_secs(60), || {
            Ok(client.query_opt(sql, &[&subject, &state, &clue])?.map(|row| row.get(0)))
        });
    let shown = shown(client)?;
    found.map_err(|error| error.context(shown))
}

fn wait_until_registered(client: &mut postgres::Client, subject: &str) -> Result<()> {
    event_outbox_lab::wait::until_ok(subject, Duration::from_secs(60), || id(client, subject, 1))?;
    Ok(())
}

/// While the registry is silent, the server stops and the database is dropped as if there were none.
#[test]
fn a_silent_registry_delays_neither_publishing_nor_the_end() -> Result<()> {
    let registry = OddRegistry::start(Oddity::Silence)?;
    let options = Cluster::options("silent").set("event_outbox.schema_registry_url", registry.url());
    let mut dedicated = DedicatedServer::with(options, &Broker::shared()?.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let topic = format!("{}.silent", dedicated.database);
    Broker::shared()?.create_topic(&topic, 1, &[])?;
    register(&mut client, "orders", ORDER)?;
    event_outbox_lab::wait::until_ok("a request", Duration::from_secs(30), || {
        Ok((!registry.heard().is_empty()).then_some(()))
    })?;
    let begin = Instant::now();
    client.execute("SELECT outbox.emit($1, '1'::jsonb)", &[&topic])?;
    let published: bool = client.query_one("SELECT outbox.wait_published('30 s')", &[])?.get(0);
    assert!(published && begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());

    let begin = Instant::now();
    drop(client);
    let drop_it = format!("DROP DATABASE {} WITH (FORCE)", dedicated.database);
    dedicated.server.connect("postgres")?.batch_execute(&drop_it)?;
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());

    dedicated.database = dedicated.server.create_database()?;
    let mut client = dedicated.connect()?;
    client.batch_execute("CREATE EXTENSION event_outbox")?;
    let heard = registry.heard().len();
    register(&mut client, "orders", ORDER)?;
    event_outbox_lab::wait::until_ok("another request", Duration::from_secs(30), || {
        Ok((registry.heard().len() > heard).then_some(()))
    })?;
    let begin = Instant::now();
    drop(client);
    dedicated.server.stop(StopMode::Fast)?;
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    Ok(())
}

/// A registry that is down is found when it comes up.
#[test]
fn a_registry_that_comes_up_is_found() -> Result<()> {
    let mut db = database_with(&format!("http://127.0.0.1:{}", ports::free()?))?;
    let subject = db.topic("orders");
    register(&mut db.client, &subject, ORDER)?;
    until_state(&mut db.client, &subject, 1, "waiting")?;
    wait_for(&mut db.client, &subject, "waiting", "does not answer")?;
    // The second server of the address is up.
    let registry = SchemaRegistry::shared()?;
    let url = format!("http://127.0.0.1:{},{}", ports::free()?, registry.url());
    super::use_registry(&mut db, &url)?;
    wait_registered(&mut db.client, &subject)?;
    bind(&mut db.client, &subject, &subject)?;
    Ok(())
}
