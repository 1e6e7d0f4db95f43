//! Roles without rights of a superuser subscribe to and receive what they were granted, and nothing else.

use event_outbox_lab::{Producer, Result};

use crate::support::database::TestDatabase;
use crate::support::inbox::{receive, until_numbers};
use crate::support::roles::assert_denied;
use crate::support::subscriptions::{refusal, subscribe};

#[test]
fn a_subscriber_shares_what_it_reads_and_no_more() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("t")?;
    let producer = Producer::new(&db.broker.bootstrap_servers())?;
    producer.send_numbers(&topic, 0, 0..10, |number| Some(number.to_string()))?;
    let [owner, colleague, stranger] =
        ["owner", "colleague", "stranger"].map(|name| format!("{name}_{}", db.database));
    db.client.batch_execute(&format!(
        "CREATE ROLE {owner} LOGIN; CREATE ROLE {colleague} LOGIN; CREATE ROLE {stranger} LOGIN;
         GRANT USAGE ON SCHEMA inbox TO {owner}, {colleague}, {stranger};
         GRANT EXECUTE ON FUNCTION inbox.subscribe, inbox.receive, inbox.nack, inbox.ack, inbox.extend, inbox.grant_subscription
             TO {owner}, {colleague}, {stranger};
         SELECT inbox.grant_topic('{owner}', '{topic}')"
    ))?;
    let mut owners = db.connect_as(&owner)?;
    subscribe(&mut owners, "s", &[&topic], "earliest")?;
    assert_eq!(until_numbers(&mut owners, "s", 10)?, (0..10).collect::<Vec<_>>());

    let mut colleagues = db.connect_as(&colleague)?;
    assert_eq!(refusal(&mut colleagues, "SELECT inbox.receive('s')"), "42501");
    owners.execute("SELECT inbox.grant_subscription($1::text::regrole, 's')", &[&colleague])?;
    producer.send_numbers(&topic, 0, 10..20, |number| Some(number.to_string()))?;
    assert_eq!(until_numbers(&mut colleagues, "s", 10)?, (10..20).collect::<Vec<_>>());
    assert_denied(&mut colleagues, "SELECT FROM inbox.log");
    // Receiving is no right to subscribe.
    let sql = format!("SELECT inbox.subscribe('own', '{{{topic}}}', 'earliest')");
    assert_eq!(refusal(&mut colleagues, &sql), "42501");

    let mut strangers = db.connect_as(&stranger)?;
    for sql in ["SELECT inbox.receive('s')", "SELECT inbox.nack('s', 1, 'x')", &sql] {
        assert_eq!(refusal(&mut strangers, sql), "42501", "{sql}");
    }
    assert_eq!(receive(&mut db.client, "s", 100)?, []);
    Ok(())
}
