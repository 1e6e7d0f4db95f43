//! Subscriptions are created where they are asked to begin, or refused with a reason.

use event_outbox_lab::Result;
use postgres::Client;

use crate::support::database::TestDatabase;
use crate::support::subscriptions::{filled_topic, refusal, subscribe};

/// The partitions of a subscription and where they begin, in order.
fn starts(client: &mut Client, name: &str) -> Result<Vec<(i32, i64)>> {
    let sql = "SELECT partition, next_offset FROM inbox.partitions WHERE subscription = $1 ORDER BY topic, partition";
    Ok(client.query(sql, &[&name])?.iter().map(|row| (row.get(0), row.get(1))).collect())
}

#[test]
fn a_subscription_begins_where_it_is_asked_to() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = filled_topic(&mut db, "places", &[3, 5])?;
    let offsets = format!("{{\"{topic}\": {{\"0\": 2, \"1\": 5}}}}");
    for (name, start, expected) in [
        ("first", "earliest", [(0, 0), (1, 0)]),
        // Offsets, not the word: what comes later is not missed, whenever reading begins.
        ("last", "latest", [(0, 3), (1, 5)]),
        ("old", "2001-01-01", [(0, 0), (1, 0)]),
        ("new", "2100-01-01 00:00+02", [(0, 3), (1, 5)]),
        ("offsets", &offsets, [(0, 2), (1, 5)]),
    ] {
        subscribe(&mut db.client, name, &[&topic], start)?;
        assert_eq!(starts(&mut db.client, name)?, expected, "{name}");
    }
    let sql = "SELECT count(DISTINCT topic_id), count(topic_id) FROM inbox.partitions";
    let row = db.client.query_one(sql, &[])?;
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (1, 10), "ids of topics");
    Ok(())
}

#[test]
fn a_pattern_finds_topics() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let first = filled_topic(&mut db, "found.a", &[1])?;
    let second = filled_topic(&mut db, "found.b", &[1, 1])?;
    filled_topic(&mut db, "lost", &[1])?;
    let pattern = db.topic("fo*d.*");
    subscribe(&mut db.client, "pattern", &[&pattern], "earliest")?;
    let sql = "SELECT topics, pattern, partitions FROM inbox.subscriptions";
    let row = db.client.query_one(sql, &[])?;
    assert_eq!(row.get::<_, Vec<String>>(0), [first, second]);
    assert_eq!((row.get::<_, String>(1), row.get::<_, i64>(2)), (pattern, 3));
    // It may find its first topic later.
    let nothing_yet = db.topic("later.*");
    subscribe(&mut db.client, "later", &[&nothing_yet], "latest")?;
    assert_eq!(starts(&mut db.client, "later")?, []);
    Ok(())
}

#[test]
fn shares_divide_the_partitions() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = filled_topic(&mut db, "shared", &[1, 2, 3, 4, 5])?;
    let sql = "SELECT inbox.subscribe($1, ARRAY[$2], $3, share => $1)";
    for share in ["1/3", "2/3", "3/3"] {
        let name = share.replace('/', ".");
        let sql = sql
            .replacen("$1", &format!("'{name}'"), 1)
            .replace("share => $1", &format!("share => '{share}'"));
        db.client.execute(&sql.replace("$2", "$1").replace("$3", "$2"), &[&topic, &"latest"])?;
    }
    assert_eq!(starts(&mut db.client, "1.3")?, [(0, 1), (3, 4)]);
    assert_eq!(starts(&mut db.client, "2.3")?, [(1, 2), (4, 5)]);
    assert_eq!(starts(&mut db.client, "3.3")?, [(2, 3)]);
    // Offsets are needed for the partitions of the share alone.
    let offsets = format!("{{\"{topic}\": {{\"1\": 1, \"4\": 2}}}}");
    db.client
        .execute("SELECT inbox.subscribe('offsets', ARRAY[$1], $2, share => '2/3')", &[&topic, &offsets])?;
    assert_eq!(starts(&mut db.client, "offsets")?, [(1, 1), (4, 2)]);
    Ok(())
}

#[test]
fn what_cannot_be_subscribed_says_why() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = filled_topic(&mut db, "t", &[2, 0])?;
    let missing = db.topic("missing");
    subscribe(&mut db.client, "taken", &[&topic], "latest")?;
    for (arguments, code) in [
        ("NULL, '{TOPIC}', 'latest'", "42602"),
        ("'', '{TOPIC}', 'latest'", "42602"),
        ("'a b', '{TOPIC}', 'latest'", "42602"),
        ("repeat('x', 58), '{TOPIC}', 'latest'", "42602"),
        ("'taken', '{TOPIC}', 'latest'", "42710"),
        ("'n', NULL, 'latest'", "42602"),
        ("'n', '{}', 'latest'", "42602"),
        ("'n', '{TOPIC, NULL}', 'latest'", "42602"),
        ("'n', '{a b}', 'latest'", "42602"),
        ("'n', '{__consumer_offsets}', 'latest'", "42602"),
        ("'n', '{TOPIC, more.*}', 'latest'", "42602"),
        ("'n', '{MISSING}', 'latest'", "42704"),
        ("'n', '{TOPIC}', NULL", "22023"),
        ("'n', '{TOPIC}', 'now and then'", "22023"),
        ("'n', '{TOPIC}', '1969-01-01 00:00+00'", "22023"),
        ("'n', '{TOPIC}', 'infinity'", "22023"),
        ("'n', '{TOPIC}', '{\"TOPIC\": {\"0\": 1}'", "22023"),
        ("'n', '{TOPIC}', '{\"TOPIC\": {\"0\": -1, \"1\": 0}}'", "22023"),
        ("'n', '{TOPIC}', '{\"TOPIC\": {\"0\": 1.5, \"1\": 0}}'", "22023"),
        ("'n', '{TOPIC}', '{\"TOPIC\": [1, 0]}'", "22023"),
        ("'n', '{TOPIC}', '{\"TOPIC\": {\"0\": 1}}'", "22023"),
        ("'n', '{TOPIC}', '{\"TOPIC\": {\"0\": 3, \"1\": 0}}'", "22003"),
        ("'n', '{TOPIC}', '{\"TOPIC\": {\"0\": 1, \"1\": 0, \"2\": 0}}'", "42704"),
        ("'n', '{TOPIC}', '{\"TOPIC\": {\"0\": 1, \"1\": 0}, \"other\": {\"0\": 1}}'", "42704"),
        ("'n', '{TOPIC}', 'latest', ordering => 'by key'", "22023"),
        ("'n', '{TOPIC}', 'latest', ordering => NULL", "22023"),
        ("'n', '{TOPIC}', 'latest', retention => '-1 day'", "22023"),
        ("'n', '{TOPIC}', 'latest', retention => NULL", "22023"),
        ("'n', '{TOPIC}', 'latest', max_attempts => 0", "22023"),
        ("'n', '{TOPIC}', 'latest', on_data_loss => 'skip'", "22023"),
        ("'n', '{TOPIC}', 'latest', deduplicate => '0'", "22023"),
        ("'n', '{TOPIC}', 'latest', share => '0/3'", "22023"),
        ("'n', '{TOPIC}', 'latest', share => '4/3'", "22023"),
        ("'n', '{TOPIC}', 'latest', share => 'a third'", "22023"),
    ] {
        let arguments = arguments.replace("TOPIC", &topic).replace("MISSING", &missing);
        let sql = format!("SELECT inbox.subscribe({arguments})");
        assert_eq!(refusal(&mut db.client, &sql), code, "{sql}");
    }
    let left: i64 = db.client.query_one("SELECT count(*) FROM inbox.subscriptions", &[])?.get(0);
    assert_eq!(left, 1, "a refused subscription exists");
    Ok(())
}

/// Nothing exists before the commit, and nothing remains after a rollback.
#[test]
fn a_subscription_is_part_of_its_transaction() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = filled_topic(&mut db, "t", &[1])?;
    let mut other = db.connect()?;
    let mut subscribing = db.client.transaction()?;
    subscribing.execute("SELECT inbox.subscribe('s', ARRAY[$1], 'latest')", &[&topic])?;
    assert!(other.query("SELECT FROM inbox.subscriptions", &[])?.is_empty());
    subscribing.rollback()?;
    assert_eq!(refusal(&mut other, "SELECT inbox.pause('s')"), "42704");

    // Two that want the same name: the second waits, and is refused.
    let mut subscribing = db.client.transaction()?;
    subscribing.execute("SELECT inbox.subscribe('s', ARRAY[$1], 'latest')", &[&topic])?;
    let second = std::thread::spawn(move || {
        other
            .execute("SELECT inbox.subscribe('s', ARRAY[$1], 'latest')", &[&topic])
            .expect_err("it was created")
            .code()
            .cloned()
    });
    subscribing.commit()?;
    let code = second.join().expect("no panic").expect("of the server");
    assert_eq!(code.code(), "42710");
    Ok(())
}
