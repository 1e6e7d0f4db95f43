//! Relays that end while they have nothing to do, and that take turns when there are fewer processes than databases.

use std::time::{Duration, Instant};

use event_outbox_lab::{Broker, Cluster, Consumer, Result, wait};
use postgres::Client;

use crate::support::database::{DEADLINE, values};
use crate::support::events::emit;
use crate::support::relay::{check_relay, processes, status, until_drained, until_processes, until_status};
use crate::support::server::DedicatedServer;

/// A server whose relays sleep after a second without work.
fn drowsy() -> Result<(DedicatedServer, Client)> {
    let options = Cluster::options("drowsy").set("event_outbox.idle_timeout", "1s");
    let dedicated = DedicatedServer::with(options, &Broker::shared()?.bootstrap_servers())?;
    let client = dedicated.connect()?;
    Ok((dedicated, client))
}

fn until_asleep(client: &mut Client) -> Result<()> {
    let status = until_status(client, "the relay to sleep", |status| status.state == "asleep")?;
    assert_eq!(status.pid, None);
    Ok(())
}

fn published(topic: &str) -> Result<Vec<String>> {
    Ok(values(&Consumer::read_all(&Broker::shared()?.bootstrap_servers(), &[topic])?))
}

#[test]
fn a_relay_without_work_ends_and_the_next_commit_starts_it() -> Result<()> {
    let (dedicated, mut client) = drowsy()?;
    until_asleep(&mut client)?;
    assert_eq!(processes(&dedicated.server, &dedicated.database)?, [0_i32; 0]);
    let topic = format!("{}.now-and-then", dedicated.database);
    for number in 1..=3 {
        emit(&mut client, &topic, number)?;
        until_drained(&mut client)?;
        assert_eq!(status(&mut client)?.published, i64::from(number), "the counters are kept");
        until_asleep(&mut client)?;
    }
    assert_eq!(published(&topic)?, ["1", "2", "3"]);
    // A rollback wakes nobody.
    client.batch_execute(&format!("BEGIN; SELECT outbox.emit('{topic}', '0'); ROLLBACK"))?;
    assert_eq!(status(&mut client)?.state, "asleep");
    assert_eq!(check_relay(&mut client)?.0, "ok");
    Ok(())
}

#[test]
fn many_commits_race_with_a_relay_that_falls_asleep() -> Result<()> {
    let (dedicated, mut client) = drowsy()?;
    let topic = format!("{}.race", dedicated.database);
    // Each event comes about when the relay ends.
    for number in 0..12 {
        emit(&mut client, &topic, number)?;
        let mut last = Instant::now();
        wait::until_ok("the relay to be about to sleep", DEADLINE, || {
            let seen = status(&mut client)?;
            if seen.state != "idle" {
                last = Instant::now();
            }
            let pause = Duration::from_millis(900 + 20 * u64::from(number as u32 % 12));
            Ok((seen.state == "asleep" || last.elapsed() >= pause).then_some(()))
        })?;
    }
    until_drained(&mut client)?;
    assert_eq!(published(&topic)?.len(), 12);
    Ok(())
}

#[test]
fn scheduled_events_and_prepared_transactions_wake_it() -> Result<()> {
    let (dedicated, mut client) = drowsy()?;
    let topic = format!("{}.later", dedicated.database);
    client.batch_execute(&format!(
        "SELECT outbox.emit('{topic}', '1', deliver_at => clock_timestamp() + interval '4 s')"
    ))?;
    until_asleep(&mut client)?;
    // An earlier one is told to the launcher.
    client.batch_execute(&format!("SELECT outbox.emit('{topic}', '0', deliver_at => clock_timestamp())"))?;
    until_status(&mut client, "the first to be published", |status| status.published == 1)?;
    until_status(&mut client, "the second to be published", |status| status.published == 2)?;
    let late = client.query_one(
        "SELECT extract(epoch FROM last_publish_at - (SELECT max(emitted_at) FROM outbox.events))::float8 FROM outbox.status",
        &[],
    )?;
    assert!(late.get::<_, Option<f64>>(0).is_none(), "nothing is left");
    until_asleep(&mut client)?;
    assert_eq!(published(&topic)?, ["0", "1"]);

    client
        .batch_execute(&format!("BEGIN; SELECT outbox.emit('{topic}', '2'); PREPARE TRANSACTION 'asleep'"))?;
    assert_eq!(status(&mut client)?.state, "asleep");
    client.batch_execute("COMMIT PREPARED 'asleep'")?;
    until_status(&mut client, "the prepared one to be published", |status| status.published == 3)?;
    Ok(())
}

#[test]
fn a_sleeping_relay_answers_questions_and_commands() -> Result<()> {
    let (dedicated, mut client) = drowsy()?;
    let topic = format!("{}.asked", dedicated.database);
    until_asleep(&mut client)?;
    client.execute("SELECT outbox.create_topic($1, partitions => 2)", &[&topic])?;
    until_asleep(&mut client)?;
    let count =
        client.query_one("SELECT count(*) FROM outbox.describe_topics($1)", &[&vec![topic.as_str()]])?;
    assert_eq!(count.get::<_, i64>(0), 1);
    until_asleep(&mut client)?;

    // Settings of the database reach it.
    dedicated.alter("idle_timeout", "0")?;
    until_processes(&dedicated.server, &dedicated.database, 1)?;
    dedicated.alter("idle_timeout", "1s")?;
    until_asleep(&mut client)?;

    // A command that needs the database to itself does not wait for it, nor wakes it in vain.
    client.close()?;
    let mut admin = dedicated.server.connect("postgres")?;
    admin.batch_execute(&format!("ALTER DATABASE {} RENAME TO drowsy_renamed", dedicated.database))?;
    let mut client = dedicated.server.connect("drowsy_renamed")?;
    emit(&mut client, &topic, 1)?;
    until_drained(&mut client)?;
    until_asleep(&mut client)?;
    client.close()?;
    admin.batch_execute("DROP DATABASE drowsy_renamed")?;
    Ok(())
}

#[test]
fn databases_take_turns_when_there_are_too_few_processes() -> Result<()> {
    const DATABASES: usize = 12;
    let broker = Broker::shared()?;
    // One process is Postgres' own and one the launcher's, so two are left for relays.
    let options = Cluster::options("turns")
        .set("event_outbox.bootstrap_servers", broker.bootstrap_servers())
        .set("max_worker_processes", 4);
    let server = options.start()?;
    let databases: Vec<_> = (0..DATABASES).map(|_| server.create_database()).collect::<Result<_>>()?;
    let mut clients: Vec<_> =
        databases.iter().map(|database| server.connect(database)).collect::<Result<_>>()?;
    for client in &mut clients {
        client.batch_execute("CREATE EXTENSION event_outbox")?;
    }
    // One has work all the time, and takes no more than its turns.
    let busy = std::thread::spawn({
        let mut client = server.connect(&databases[0])?;
        move || -> Result<i64> {
            let begin = Instant::now();
            let mut emitted = 0;
            while begin.elapsed() < Duration::from_secs(15) {
                client.execute(
                    "SELECT outbox.emit('turns.busy', to_jsonb(n)) FROM generate_series(1, 50) AS n",
                    &[],
                )?;
                emitted += 50;
            }
            Ok(emitted)
        }
    });
    for round in 0..3 {
        for (client, database) in clients.iter_mut().zip(&databases).skip(1) {
            emit(client, &format!("turns.{database}"), round)?;
        }
        for client in clients.iter_mut().skip(1) {
            until_drained(client)?;
        }
    }
    let emitted = busy.join().expect("the busy session does not panic")?;
    until_drained(&mut clients[0])?;
    assert_eq!(published("turns.busy")?.len() as i64, emitted);
    for database in &databases[1..] {
        assert_eq!(published(&format!("turns.{database}"))?, ["0", "1", "2"]);
    }
    assert!(!server.log().contains("no background worker is left"), "turns are no shortage");
    Ok(())
}
