//! Subscriptions are paused, moved, replayed and ended; dead letters are redriven and discarded.

use event_outbox_lab::{Result, wait};
use postgres::Client;
use postgres::fallible_iterator::FallibleIterator;

use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::subscriptions::{filled_topic, refusal, subscribe};

/// Topic, partition and next offset of each partition, in order.
fn next_offsets(client: &mut Client) -> Result<Vec<(i32, i64)>> {
    let sql = "SELECT partition, next_offset FROM inbox.partitions ORDER BY topic, partition";
    Ok(client.query(sql, &[])?.iter().map(|row| (row.get(0), row.get(1))).collect())
}

#[test]
fn a_pause_says_whether_it_changed_anything() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = filled_topic(&mut db, "t", &[1])?;
    subscribe(&mut db.client, "s", &[&topic], "latest")?;
    let is = |client: &mut Client, sql: &str| -> Result<bool> { Ok(client.query_one(sql, &[])?.get(0)) };
    assert!(is(&mut db.client, "SELECT inbox.pause('s', 'a reason')")?);
    assert!(!is(&mut db.client, "SELECT inbox.pause('s', 'another')")?);
    let row = db
        .client
        .query_one("SELECT pause_reason, paused_at <= clock_timestamp() FROM inbox.subscriptions", &[])?;
    assert_eq!((row.get::<_, &str>(0), row.get::<_, bool>(1)), ("a reason", true));
    assert!(is(&mut db.client, "SELECT inbox.resume('s')")?);
    assert!(!is(&mut db.client, "SELECT inbox.resume('s')")?);
    assert!(is(
        &mut db.client,
        "SELECT paused_at IS NULL AND pause_reason IS NULL FROM inbox.subscriptions"
    )?);
    Ok(())
}

#[test]
fn a_seek_moves_what_it_names() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = filled_topic(&mut db, "t", &[3, 4, 5])?;
    subscribe(&mut db.client, "s", &[&topic], "latest")?;
    // Moved partitions begin behind what was stored before.
    let stopped = "UPDATE inbox.partition SET state = 'stopped', stop_reason = 'lost', lost_from = 1, lost_to = 2, stopped_at = now()";
    for (seek, expected) in [
        ("'earliest', topic => 'TOPIC', partition => 1", [(0, 3), (1, 0), (2, 5)]),
        ("'2', 'TOPIC', 2", [(0, 3), (1, 0), (2, 2)]),
        ("'{\"TOPIC\": {\"0\": 1, \"2\": 4}}'", [(0, 1), (1, 0), (2, 4)]),
        ("'latest', 'TOPIC'", [(0, 3), (1, 4), (2, 5)]),
        ("'2001-01-01'", [(0, 0), (1, 0), (2, 0)]),
    ] {
        let seek = format!("SELECT inbox.seek('s', {})", seek.replace("TOPIC", &topic));
        let before: i64 = db.client.query_one("SELECT generation FROM inbox.subscription", &[])?.get(0);
        db.client.batch_execute(&format!("BEGIN; {stopped}; {seek}"))?;
        assert_eq!(next_offsets(&mut db.client)?, expected, "{seek}");
        let row = db.client.query_one(
            "SELECT (SELECT generation FROM inbox.subscription),
                    count(*) FILTER (WHERE state = 'reading' AND stop_reason IS NULL AND lost_from IS NULL),
                    count(*) FILTER (WHERE state = 'stopped') FROM inbox.partition",
            &[],
        )?;
        assert_eq!(row.get::<_, i64>(0), before + 1, "{seek}");
        assert!(row.get::<_, i64>(1) >= 1 && row.get::<_, i64>(1) + row.get::<_, i64>(2) == 3, "{seek}");
        db.client.batch_execute(
            "COMMIT; UPDATE inbox.partition SET state = 'reading', stop_reason = NULL, lost_from = NULL",
        )?;
    }
    Ok(())
}

/// What was stored and not received, by partition, once all is stored.
fn to_receive(client: &mut Client) -> Result<Vec<i64>> {
    wait::until_ok("everything to be stored", DEADLINE, || {
        let sql = "SELECT array_agg(to_receive ORDER BY partition) FROM inbox.lag HAVING sum(to_store) = 0";
        Ok(client.query_opt(sql, &[])?.map(|row| row.get(0)))
    })
}

#[test]
fn a_seek_discards_what_is_stored_of_the_partition_alone() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = filled_topic(&mut db, "t", &[3, 40])?;
    subscribe(&mut db.client, "s", &[&topic], "earliest")?;
    assert_eq!(to_receive(&mut db.client)?, [3, 40]);
    for (seek, expected) in [
        // It is read again, and not there twice.
        (format!("'earliest', '{topic}', 1"), [3, 40]),
        (format!("'30', '{topic}', 1"), [3, 10]),
        (format!("'latest', '{topic}', 0"), [0, 10]),
        ("'earliest'".to_owned(), [3, 40]),
    ] {
        db.client.batch_execute(&format!("SELECT inbox.seek('s', {seek})"))?;
        assert_eq!(to_receive(&mut db.client)?, expected, "{seek}");
    }
    // Many seeks while events arrive: nothing is lost, nothing is there twice.
    for round in 0..20 {
        let sql = "SELECT outbox.emit($1, '1', partition => 0)";
        db.client.execute(sql, &[&topic])?;
        db.client.batch_execute(&format!("SELECT inbox.seek('s', '{}', '{topic}', 0)", round % 3))?;
    }
    let published: bool = db.client.query_one("SELECT outbox.wait_published('30 s')", &[])?.get(0);
    assert!(published);
    // The last of them went to 1, when the partition had 3 events and got 20 more.
    assert_eq!(to_receive(&mut db.client)?, [22, 40]);
    // A replay receives what was discarded, too.
    let replay: String = db.client.query_one("SELECT inbox.replay('s', '2001-01-01')", &[])?.get(0);
    let sql = "SELECT to_receive FROM inbox.lag WHERE subscription = $1 AND partition = 1";
    assert_eq!(db.client.query_one(sql, &[&replay])?.get::<_, i64>(0), 40 + 40 + 10 + 40);
    Ok(())
}

#[test]
fn what_cannot_be_sought_says_why() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = filled_topic(&mut db, "t", &[3, 4])?;
    subscribe(&mut db.client, "s", &[&topic], "latest")?;
    let replay: String = db.client.query_one("SELECT inbox.replay('s', '2001-01-01')", &[])?.get(0);
    for (arguments, code) in [
        ("NULL, 'latest'", "22004"),
        ("'none', 'latest'", "42704"),
        ("'s', NULL", "22023"),
        ("'s', 'sometime'", "22023"),
        ("'s', '3'", "22023"),
        ("'s', '9', 'TOPIC', 0", "22003"),
        ("'s', 'latest', 'other'", "42704"),
        ("'s', 'latest', 'TOPIC', 2", "42704"),
        ("'s', 'latest', NULL, 0", "42704"),
        ("'s', '{}'", "22023"),
        ("'s', '{\"TOPIC\": {\"7\": 0}}'", "42704"),
        ("'REPLAY', 'latest'", "42809"),
    ] {
        let arguments = arguments.replace("TOPIC", &topic).replace("REPLAY", &replay);
        let sql = format!("SELECT inbox.seek({arguments})");
        assert_eq!(refusal(&mut db.client, &sql), code, "{sql}");
    }
    // It must see what was stored since its transaction began.
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        db.client.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}"))?;
        assert_eq!(refusal(&mut db.client, "SELECT inbox.seek('s', 'latest')"), "25000", "{level}");
        db.client.batch_execute("ROLLBACK")?;
    }
    Ok(())
}

#[test]
fn a_replay_is_a_second_subscription() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = filled_topic(&mut db, "t", &[1])?;
    let long = "x".repeat(57);
    subscribe(&mut db.client, &long, &[&topic], "latest")?;
    let sql = "SELECT inbox.replay($1, now() - interval '1 hour')";
    let replay: String = db.client.query_one(sql, &[&long])?.get(0);
    assert!(replay.len() <= 57 && replay.starts_with("xxxx"), "{replay}");
    let sql = "SELECT replay_of, topics FROM inbox.subscriptions WHERE name = $1";
    let row = db.client.query_one(sql, &[&replay])?;
    assert_eq!((row.get::<_, &str>(0), row.get::<_, Vec<String>>(1)), (long.as_str(), vec![topic]));
    // It reads nothing from Kafka.
    let sql = "SELECT count(*) FROM inbox.partitions WHERE subscription = $1";
    assert_eq!(db.client.query_one(sql, &[&replay])?.get::<_, i64>(0), 0);
    for times in ["NULL", "now(), now()", "now(), '2001-01-01'"] {
        let sql = format!("SELECT inbox.replay('{long}', {times})");
        assert_eq!(refusal(&mut db.client, &sql), "22023", "{sql}");
    }

    // What is being replayed cannot end before.
    assert_eq!(refusal(&mut db.client, &format!("SELECT inbox.unsubscribe('{long}')")), "2BP01");
    db.client.execute("SELECT inbox.unsubscribe($1)", &[&replay])?;
    db.client.execute("SELECT inbox.unsubscribe($1)", &[&long])?;
    assert_eq!(refusal(&mut db.client, &format!("SELECT inbox.unsubscribe('{long}')")), "42704");
    for table in
        ["subscription", "partition", "progress", "lane", "retry", "dead_letters", "subscription_grants"]
    {
        let sql = format!("SELECT count(*) FROM inbox.{table}");
        assert_eq!(db.client.query_one(&sql, &[])?.get::<_, i64>(0), 0, "{table}");
    }
    Ok(())
}

/// Puts dead letters at these positions, as the worker does.
fn bury(client: &mut Client, topic: &str, positions: &[i64]) -> Result<()> {
    for position in positions {
        client.execute(
            "INSERT INTO inbox.dead_letters (subscription_id, position, lane, topic, partition, \"offset\", key, value,
                                             order_key, attempts, last_error)
             SELECT s.id, $2, ($2::bigint % 64)::smallint, $1, 0, $2, 'k', '1', 'k', 3, 'it failed' FROM inbox.subscription AS s",
            &[&topic, position],
        )?;
    }
    Ok(())
}

#[test]
fn dead_letters_are_redriven_and_discarded() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = filled_topic(&mut db, "t", &[1])?;
    subscribe(&mut db.client, "s", &[&topic], "latest")?;
    // Nobody receives meanwhile.
    db.client.batch_execute("SELECT inbox.pause('s')")?;
    bury(&mut db.client, &topic, &[9, 4, 6, 7])?;
    let count = |client: &mut Client, sql: &str| -> Result<i64> { Ok(client.query_one(sql, &[])?.get(0)) };
    for sql in ["SELECT inbox.redrive('s')", "SELECT inbox.discard('s')"] {
        assert_eq!(refusal(&mut db.client, sql), "22004");
    }
    assert_eq!(count(&mut db.client, "SELECT inbox.redrive('s', topic => 'none')")?, 0);
    assert_eq!(count(&mut db.client, "SELECT inbox.redrive('s', since => now() + interval '1 hour')")?, 0);
    // The first of them, by their order; then one by its position. Listeners hear of it.
    db.client.batch_execute("LISTEN \"inbox:s\"")?;
    assert_eq!(count(&mut db.client, "SELECT inbox.redrive('s', max => 1)")?, 1);
    let heard = db.client.notifications().timeout_iter(DEADLINE).next()?.expect("a notification");
    let payload: serde_json::Value = serde_json::from_str(heard.payload())?;
    assert_eq!(payload, serde_json::json!({"first_position": 4, "last_position": 4, "count": 1}));
    assert_eq!(count(&mut db.client, "SELECT inbox.redrive('s', 9)")?, 1);
    let sql = "SELECT array_agg(position ORDER BY position), bool_and(attempts = 0 AND next_attempt_at <= clock_timestamp()
                      AND payload = '1' AND key = 'k' AND last_error = 'it failed') FROM inbox.retries";
    let row = db.client.query_one(sql, &[])?;
    assert_eq!((row.get::<_, Vec<i64>>(0), row.get::<_, bool>(1)), (vec![4, 9], true));
    assert_eq!(count(&mut db.client, "SELECT inbox.discard('s', max => 1)")?, 1);
    assert_eq!(count(&mut db.client, "SELECT position FROM inbox.dead_letters")?, 7);
    assert_eq!(count(&mut db.client, "SELECT inbox.discard('s', since => '-infinity')")?, 1);
    assert_eq!(count(&mut db.client, "SELECT dead_letters FROM inbox.subscriptions")?, 0);
    Ok(())
}

#[test]
fn the_check_says_what_to_type() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let sql = "SELECT verdict, finding, coalesce(hint, '') FROM inbox.check() WHERE subject = $1";
    let look = |client: &mut Client, subject: &str| -> Result<(String, String, String)> {
        let row = client.query_one(sql, &[&subject])?;
        Ok((row.get(0), row.get(1), row.get(2)))
    };
    // Without a subscription there is nothing to say, and outbox.check() does not speak of it.
    assert_eq!(db.client.query("SELECT FROM inbox.check()", &[])?.len(), 1);
    assert!(db.client.query("SELECT FROM outbox.check() WHERE subject = 'inbox'", &[])?.is_empty());

    let topic = filled_topic(&mut db, "t", &[2])?;
    subscribe(&mut db.client, "s", &[&topic], "latest")?;
    assert_eq!(look(&mut db.client, "topic")?.0, "ok");
    db.client.batch_execute("SELECT inbox.pause('s', 'a reason')")?;
    bury(&mut db.client, &topic, &[1])?;
    let (verdict, finding, hint) = look(&mut db.client, "subscription")?;
    assert!(verdict == "warning" && finding.contains("a reason"), "{finding}");
    let (verdict, finding, _) = look(&mut db.client, "dead letters")?;
    assert!(verdict == "warning" && finding.contains("1 dead letter"), "{finding}");
    // The hints are commands that help.
    db.client.batch_execute(&hint)?;
    assert_eq!(look(&mut db.client, "subscription")?.0, "ok");

    db.client.batch_execute(
        "UPDATE inbox.partition SET state = 'stopped', stop_reason = 'it was recreated', stopped_at = now()",
    )?;
    let (verdict, finding, hint) = look(&mut db.client, "partition")?;
    assert!(verdict == "error" && finding.contains("it was recreated"), "{finding}");
    let row = db.client.query_one("SELECT verdict, hint FROM outbox.check() WHERE subject = 'inbox'", &[])?;
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("error", "SELECT * FROM inbox.check();"));
    db.client.batch_execute(hint.split_once(';').map_or("", |(command, _)| command))?;
    assert!(db.client.query("SELECT FROM inbox.check() WHERE subject = 'partition'", &[])?.is_empty());
    Ok(())
}
