//! Topics to subscribe to, and subscriptions.

use event_outbox_lab::Result;
use postgres::Client;

use crate::support::database::TestDatabase;

/// Creates a topic with as many events in each partition; returns its full name.
pub fn filled_topic(db: &mut TestDatabase, name: &str, events: &[i32]) -> Result<String> {
    let topic = db.topic(name);
    db.broker.create_topic(&topic, i32::try_from(events.len())?, &[])?;
    for (partition, count) in events.iter().enumerate() {
        let sql = "SELECT outbox.emit($1, to_jsonb(n), partition => $2) FROM generate_series(1, $3) AS n";
        db.client.execute(sql, &[&topic, &i32::try_from(partition)?, count])?;
    }
    let published: bool = db.client.query_one("SELECT outbox.wait_published('30 s')", &[])?.get(0);
    assert!(published, "the events of {topic} were not published");
    Ok(topic)
}

pub fn subscribe(client: &mut Client, name: &str, topics: &[&str], start: &str) -> Result<()> {
    client.execute("SELECT inbox.subscribe($1, $2, $3)", &[&name, &topics, &start])?;
    Ok(())
}

/// The SQLSTATE with which the server refuses the statement. A refusal says why, and what to do.
pub fn refusal(client: &mut Client, sql: &str) -> String {
    let error = client.batch_execute(sql).expect_err(sql);
    let error = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error}"));
    assert!(error.detail().is_some() && error.hint().is_some(), "{sql}: {error:?}");
    error.code().code().to_owned()
}
