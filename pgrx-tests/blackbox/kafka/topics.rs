//! Kafka's topics through the relay: created and described, and never created by mistake.

use event_outbox_lab::{Result, wait};
use postgres::Client;

use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::events::emit;
use crate::support::relay::until_status;

#[test]
fn a_topic_is_created_and_described() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("new");
    let sql =
        "SELECT outbox.create_topic($1, 3, 1, '{\"retention.ms\": 3600000, \"min.insync.replicas\": \"1\"}')";
    db.client.query_one(sql, &[&topic])?;
    let sql = "SELECT partitions, replication_factor, max_message_bytes, retention = '1 hour', cleanup_policy, error
                 FROM outbox.describe_topics(ARRAY[$1])";
    let row = db.client.query_one(sql, &[&topic])?;
    assert_eq!((row.get::<_, i32>(0), row.get::<_, i32>(1), row.get::<_, i64>(2)), (3, 1, 1_048_588));
    assert_eq!((row.get::<_, bool>(3), row.get(4), row.get(5)), (true, "delete", None::<&str>));
    // It exists at once, whatever becomes of the transaction.
    emit(&mut db.client, &topic, 1)?;
    assert_eq!(db.drained_values(&topic)?, ["1"]);
    // Omitted numbers are left to the brokers.
    let plain = db.topic("plain");
    db.client.batch_execute(&format!("BEGIN; SELECT outbox.create_topic('{plain}'); ROLLBACK"))?;
    let row = db.client.query_one(sql, &[&plain])?;
    assert_eq!(row.get::<_, i32>(0), 1);
    // Topics in use: those that the relay has published to, those of pending events, those of dead letters.
    let sql = "SELECT array_agg(topic) FROM outbox.topics";
    assert_eq!(db.client.query_one(sql, &[])?.get::<_, Vec<String>>(0), [topic]);
    Ok(())
}

#[test]
fn what_cannot_be_created_says_why() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("once");
    db.client.query_one("SELECT outbox.create_topic($1)", &[&topic])?;
    for (arguments, code) in [
        (format!("'{topic}'"), "42710"),
        ("'a b'".to_owned(), "42602"),
        ("NULL".to_owned(), "42602"),
        ("'..'".to_owned(), "42602"),
        ("'x', 0".to_owned(), "22023"),
        ("'x', NULL".to_owned(), "22023"),
        ("'x', 1, 40000".to_owned(), "22023"),
        ("'x', 1, 7".to_owned(), "22023"),
        ("'x', config => '[1]'".to_owned(), "22023"),
        ("'x', config => '{\"a\": {}}'".to_owned(), "22023"),
        ("'x', config => '{\"no.such.thing\": 1}'".to_owned(), "22023"),
        ("'x', config => '{\"retention.ms\": \"soon\"}'".to_owned(), "22023"),
    ] {
        let sql = format!("SELECT outbox.create_topic({arguments})");
        let error = db.client.query(&sql, &[]).expect_err(&sql);
        let refusal = error.as_db_error().expect("of the server");
        assert_eq!(refusal.code().code(), code, "{sql}: {error}");
        assert!(refusal.detail().is_some() && refusal.hint().is_some(), "{sql}: {refusal:?}");
    }
    let sql = "SELECT error IS NOT NULL, partitions FROM outbox.describe_topics('{no.such.topic}')";
    let row = db.client.query_one(sql, &[])?;
    assert_eq!((row.get(0), row.get(1)), (true, None::<i32>));
    Ok(())
}

/// Two callers at the same time take turns.
#[test]
fn many_ask_at_the_same_time() -> Result<()> {
    let mut db = TestDatabase::new()?;
    db.relay()?;
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..6)
            .map(|number| {
                let (topic, client) = (db.topic(&format!("many{number}")), db.connect());
                scope.spawn(move || {
                    let mut client = client?;
                    client.query_one("SELECT outbox.create_topic($1, $2)", &[&topic, &(number + 1)])?;
                    let sql = "SELECT partitions FROM outbox.describe_topics(ARRAY[$1])";
                    anyhow::Ok(client.query_one(sql, &[&topic])?.get::<_, i32>(0) == number + 1)
                })
            })
            .collect();
        for asked in asking {
            assert!(matches!(asked.join(), Ok(Ok(true))));
        }
    });
    Ok(())
}

/// The broker of these tests would create any topic that a producer asks for.
#[test]
fn a_misspelt_name_does_not_become_a_topic() -> Result<()> {
    let mut db = TestDatabase::new()?;
    db.alter_database("SET event_outbox.auto_create_topics = off")?;
    db.alter_database("SET event_outbox.kafka_properties = 'topic.metadata.propagation.max.ms=100'")?;
    db.alter_database("SET event_outbox.max_attempts = 1")?;
    let topic = db.topic("odrers");
    emit(&mut db.client, &topic, 1)?;
    until_status(&mut db.client, "a refusal", |status| status.refused == 1)?;
    let sql = "SELECT error_class FROM outbox.dead_letters";
    assert_eq!(db.client.query_one(sql, &[])?.get::<_, &str>(0), "unknown_topic");
    let sql = "SELECT partitions FROM outbox.describe_topics(ARRAY[$1])";
    assert_eq!(db.client.query_one(sql, &[&topic])?.get::<_, Option<i32>>(0), None);

    // check() gives a command that helps.
    let sql =
        "SELECT hint FROM outbox.check() WHERE subject = 'topic' AND verdict = 'error' AND finding LIKE $1";
    // A new session has the database's settings.
    db.client = db.connect()?;
    let hint: String = db.client.query_one(sql, &[&format!("\"{topic}\"%")])?.get(0);
    let command = hint.split(';').next().unwrap_or_default();
    db.client.batch_execute(command)?;
    // The producer again has its usual time to learn of a new topic.
    db.alter_database("RESET event_outbox.kafka_properties")?;
    db.client.query_one("SELECT outbox.redrive(topic => $1)", &[&topic])?;
    assert_eq!(db.drained_values(&topic)?, ["1"]);

    db.alter_database("SET event_outbox.auto_create_topics = on")?;
    let other = db.topic("asked");
    emit(&mut db.client, &other, 2)?;
    assert_eq!(db.drained_values(&other)?, ["2"]);
    Ok(())
}

/// Every subject of the check when all is well, and each problem that can be provoked here.
#[test]
fn check_tells_what_is_wrong() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("checked")?;
    emit(&mut db.client, &topic, 1)?;
    db.drained(&topic)?;
    let mut verdicts = || -> Result<Vec<(String, String)>> {
        let rows = db.client.query("SELECT subject, verdict, finding, hint FROM outbox.check()", &[])?;
        for row in &rows {
            let (verdict, hint): (&str, Option<&str>) = (row.get(1), row.get(3));
            assert_eq!(verdict == "ok", hint.is_none(), "{row:?}");
        }
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    };
    let well = [
        "preload",
        "version",
        "workers",
        "relay",
        "notifications",
        "brokers",
        "topic",
        "backlog",
        "scheduled events",
        "dead letters",
        "autovacuum",
        "table",
    ];
    let expected: Vec<_> = well.map(|subject| (subject.to_owned(), "ok".to_owned())).into();
    // Transactions and workers of other tests are not problems of this database.
    let mut last = Vec::new();
    let well = wait::until_ok("a set-up that is well", DEADLINE, || {
        last = verdicts()?;
        Ok((last == expected).then_some(()))
    });
    well.map_err(|error| error.context(format!("last seen: {last:?}")))?;

    let client = &mut db.client;
    expect_verdict(client, "SELECT outbox.pause('check')", "relay", "warning")?;
    expect_verdict(client, "SELECT outbox.resume()", "relay", "ok")?;
    expect_verdict(
        client,
        "ALTER TABLE outbox.events SET (autovacuum_enabled = off)",
        "autovacuum",
        "error",
    )?;
    expect_verdict(client, "ALTER TABLE outbox.events RESET (autovacuum_enabled)", "autovacuum", "ok")?;
    expect_verdict(client, "SET event_outbox.max_event_bytes = 2000000", "topic", "warning")?;
    expect_verdict(client, "RESET event_outbox.max_event_bytes", "topic", "ok")?;
    Ok(())
}

/// Waits for this verdict on a subject, after a change.
fn expect_verdict(client: &mut Client, change: &str, subject: &str, verdict: &str) -> Result<()> {
    client.batch_execute(change)?;
    let sql = "SELECT verdict FROM outbox.check() WHERE subject = $1 ORDER BY verdict = $2 DESC LIMIT 1";
    wait::until_ok(&format!("{subject} to be a {verdict} after {change}"), DEADLINE, || {
        let found = client.query_opt(sql, &[&subject, &verdict])?;
        Ok(found.is_some_and(|row| row.get::<_, &str>(0) == verdict).then_some(()))
    })
}

#[test]
fn check_tells_what_was_altered() -> Result<()> {
    let mut db = TestDatabase::new()?;
    for (wrong, right, verdict) in [
        ("TABLE outbox.events SET UNLOGGED", "TABLE outbox.events SET LOGGED", "error"),
        (
            "TABLE outbox.events DISABLE TRIGGER check_event",
            "TABLE outbox.events ENABLE TRIGGER check_event",
            "error",
        ),
        ("TABLE outbox.paused DISABLE TRIGGER USER", "TABLE outbox.paused ENABLE TRIGGER USER", "error"),
        ("TABLE inbox.log_0 SET UNLOGGED", "TABLE inbox.log_0 SET LOGGED", "error"),
        ("SEQUENCE outbox.events_id_seq CACHE 10", "SEQUENCE outbox.events_id_seq CACHE 1", "warning"),
        (
            "SEQUENCE event_store.event_position_seq CACHE 10",
            "SEQUENCE event_store.event_position_seq CACHE 1",
            "error",
        ),
    ] {
        expect_verdict(&mut db.client, &format!("ALTER {wrong}"), "table", verdict)?;
        expect_verdict(&mut db.client, &format!("ALTER {right}"), "table", "ok")?;
    }
    Ok(())
}

/// A compacted topic refuses events without a key.
#[test]
fn check_tells_of_a_topic_that_wants_keys() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("compacted");
    db.broker.create_topic(&topic, 1, &[("cleanup.policy", "compact")])?;
    emit(&mut db.client, &topic, 1)?;
    let sql =
        "SELECT hint FROM outbox.check() WHERE subject = 'topic' AND verdict = 'error' AND finding LIKE $1";
    let hint: String = wait::until_ok("the verdict", DEADLINE, || {
        Ok(db.client.query_opt(sql, &[&format!("\"{topic}\" is compacted%")])?.map(|row| row.get(0)))
    })?;
    assert!(hint.contains("with a key"), "{hint}");
    Ok(())
}

/// A relay that is just starting is not a problem.
#[test]
fn check_waits_for_a_relay_that_is_starting() -> Result<()> {
    let db = TestDatabase::new()?;
    let database = db.server.create_database()?;
    let mut client = db.server.connect(&database)?;
    client.batch_execute("CREATE EXTENSION event_outbox")?;
    let sql = "SELECT verdict, finding FROM outbox.check() WHERE subject = 'relay'";
    let row = client.query_one(sql, &[])?;
    assert_eq!(row.get::<_, &str>(0), "ok", "{row:?}");
    drop(client);
    db.server.connect("postgres")?.batch_execute(&format!("DROP DATABASE {database} WITH (FORCE)"))?;
    Ok(())
}

/// The last error stays visible, with the time when it ended.
#[test]
fn an_error_that_is_over_has_an_end() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let servers = db.broker.bootstrap_servers();
    db.relay()?;
    let sql = "SELECT last_error IS NOT NULL, recovered_at >= last_error_at FROM outbox.status";
    let mut until = |what: &str, expected: (bool, Option<bool>)| {
        wait::until_ok(what, DEADLINE, || {
            let row = db.client.query_one(sql, &[])?;
            Ok(((row.get(0), row.get(1)) == expected).then_some(()))
        })
    };
    let alter = |change: &str| -> Result<()> {
        let sql = format!("ALTER DATABASE {} {change}", db.database);
        Ok(db.server.connect("postgres")?.batch_execute(&sql)?)
    };
    alter("SET event_outbox.bootstrap_servers = '127.0.0.1:1'")?;
    until("an error that lasts", (true, None))?;
    alter(&format!("SET event_outbox.bootstrap_servers = '{servers}'"))?;
    until("its end", (true, Some(true)))
}

#[test]
fn a_refusal_names_its_code_once() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("once")?;
    db.client.batch_execute(&format!("ALTER DATABASE {} SET event_outbox.max_attempts = 1", db.database))?;
    db.client.query_one("SELECT outbox.emit($1, '{}', partition => 999)", &[&topic])?;
    let error: String = wait::until_ok("a dead letter", DEADLINE, || {
        Ok(db.client.query_opt("SELECT error FROM outbox.dead_letters", &[])?.map(|row| row.get(0)))
    })?;
    assert_eq!(error, "Local: Unknown partition (UnknownPartition)");
    Ok(())
}

#[test]
fn topics_of_kafkas_own_are_refused() -> Result<()> {
    let mut db = TestDatabase::new()?;
    for (sql, code) in [
        ("SELECT outbox.emit('__consumer_offsets', '{}')", "42939"),
        ("SELECT outbox.emit_bytes('__transaction_state', '')", "42939"),
        ("INSERT INTO outbox.events (topic, payload) VALUES ('__cluster_metadata', '')", "42939"),
        ("SELECT outbox.create_topic('__share_group_state')", "42602"),
        ("SET event_outbox.dead_letter_topic = '__consumer_offsets'", "22023"),
    ] {
        let error = db.client.simple_query(sql).expect_err(sql);
        assert_eq!(error.code().map(|code| code.code()), Some(code), "{sql}: {error}");
    }
    Ok(())
}
