//! Any role can fill the server's NOTIFY queue. Publishing goes on, and listeners are notified later of what they have
//! missed.

use event_outbox_lab::{Broker, Consumer, FullQueue, Result, StopMode, wait};
use postgres::fallible_iterator::FallibleIterator;
use serde_json::Value;

use crate::support::database::{DEADLINE, PROMPTLY};
use crate::support::relay::{until_drained, until_idle, until_status};
use crate::support::server::DedicatedServer;

fn server() -> Result<DedicatedServer> {
    let mut dedicated = DedicatedServer::start(&Broker::shared()?.bootstrap_servers())?;
    if FullQueue::can_be_made_small(&dedicated.server)? {
        dedicated.server.set("max_notify_queue_pages", 64)?;
        dedicated.server.restart(StopMode::Fast)?;
    }
    Ok(dedicated)
}

#[test]
fn a_full_queue_stops_nothing_and_listeners_hear_later() -> Result<()> {
    const TOPIC: &str = "queue.full";
    let dedicated = server()?;
    Broker::shared()?.create_topic(TOPIC, 1, &[])?;
    let (mut client, mut listener) = (dedicated.connect()?, dedicated.connect()?);
    dedicated.alter("max_attempts", "1")?;
    until_idle(&mut client)?;
    listener.batch_execute(&format!("LISTEN \"outbox:{TOPIC}\"; LISTEN outbox_dead_letter"))?;

    let full = FullQueue::fill(&dedicated.server)?;
    let refused = client.batch_execute("NOTIFY anything").expect_err("the queue has room");
    assert_eq!(refused.code().map(|code| code.code()), Some("54000"));
    let sql = format!("SELECT outbox.emit('{TOPIC}', to_jsonb($1::int))");
    for number in 1..=10 {
        client.execute(&sql, &[&number])?;
        until_drained(&mut client)?;
    }
    // Also an event that dies, about which listeners are notified, too.
    client.execute(&format!("SELECT outbox.emit('{TOPIC}', '0', partition => 999)"), &[])?;
    until_drained(&mut client)?;
    assert_eq!(Consumer::read_all(&Broker::shared()?.bootstrap_servers(), &[TOPIC])?.len(), 10);
    until_status(&mut client, "the full queue to be shown", |status| {
        status.error().contains("NOTIFY queue") && status.state == "idle"
    })?;
    let sql = "SELECT verdict, finding, hint FROM outbox.check() WHERE subject = 'notifications'";
    let row = client.query_one(sql, &[])?;
    assert_eq!(row.get::<_, String>(0), "warning");
    assert!(listener.notifications().iter().next()?.is_none());

    full.clear()?;
    let (mut offsets, mut dead) = (0, 0);
    wait::until_ok("the listener to hear of all", DEADLINE, || {
        let Some(notification) = listener.notifications().timeout_iter(PROMPTLY).next()? else {
            return Ok(None);
        };
        let body: Value = serde_json::from_str(notification.payload())?;
        if notification.channel() == "outbox_dead_letter" {
            assert_eq!(body["error_class"], "unknown_partition");
            dead += 1;
        } else {
            assert_eq!(body["topic"], TOPIC);
            offsets += body["count"].as_i64().unwrap_or_default();
        }
        Ok((offsets == 10 && dead == 1).then_some(()))
    })
    .map_err(|error| error.context(format!("heard of {offsets} and {dead}")))?;
    wait::until_ok("the warning to be gone", DEADLINE, || {
        Ok((client.query_one(sql, &[])?.get::<_, String>(0) == "ok").then_some(()))
    })?;
    let log = dedicated.server.log();
    assert_eq!(log.matches("WARNING:  event_outbox: the NOTIFY queue").count(), 1, "logged once");
    Ok(())
}

/// The session that keeps the queue from being emptied is named.
#[test]
fn the_session_that_holds_the_queue_is_named() -> Result<()> {
    let dedicated = server()?;
    let (mut client, mut holder) = (dedicated.connect()?, dedicated.connect()?);
    until_idle(&mut client)?;
    // Two commands: LISTEN takes effect at its commit.
    holder.batch_execute("LISTEN anything")?;
    holder.batch_execute("BEGIN; SELECT 1")?;
    let pid: i32 = holder.query_one("SELECT pg_backend_pid()", &[])?.get(0);
    let full = FullQueue::fill(&dedicated.server)?;
    client.execute("SELECT outbox.emit('queue.named', '1')", &[])?;
    until_status(&mut client, "the full queue to be shown", |status| {
        status.error().contains("NOTIFY queue")
    })?;
    let sql = "SELECT hint FROM outbox.check() WHERE subject = 'notifications'";
    let hint: String = client.query_one(sql, &[])?.get(0);
    assert!(hint.contains(&format!("pg_terminate_backend({pid})")), "{hint}");
    full.clear()
}
