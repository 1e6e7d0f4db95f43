//! Tests of the laboratory itself: servers, brokers and consumers.

use std::time::Duration;

use event_outbox_lab::{Broker, Cluster, Consumer, KafkaCluster, Result, StopMode, wait};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

const DEADLINE: Duration = Duration::from_secs(30);

fn produce(broker: &Broker, topic: &str, key: &str, value: &str) -> Result<()> {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", broker.bootstrap_servers()).create()?;
    let headers =
        OwnedHeaders::new()
            .insert(Header { key: "kind", value: Some("first") })
            .insert(Header::<&[u8]> { key: "nothing", value: None });
    let record = BaseRecord::to(topic).key(key).payload(value).headers(headers);
    producer.send(record).map_err(|(error, _)| error)?;
    Ok(producer.flush(DEADLINE)?)
}

#[test]
fn a_cluster_starts_stops_and_recovers() -> Result<()> {
    let mut cluster = Cluster::options("lab").without_preload().start()?;
    let database = cluster.create_database()?;
    cluster.connect(&database)?.batch_execute("CREATE TABLE t AS SELECT 1 AS x")?;

    cluster.stop(StopMode::Fast)?;
    assert!(cluster.connect(&database).is_err());
    cluster.start()?;
    cluster.restart(StopMode::Immediate)?;
    assert!(cluster.log().contains("database system was not properly shut down"));
    let row = cluster.connect(&database)?.query_one("SELECT x FROM t", &[])?;
    assert_eq!(row.get::<_, i32>(0), 1);

    cluster.set("work_mem", "7MB")?;
    cluster.reload()?;
    let mut client = cluster.connect(&database)?;
    wait::until_ok("the reload", DEADLINE, || {
        let value: String = client.query_one("SHOW work_mem", &[])?.get(0);
        Ok((value == "7MB").then_some(()))
    })?;

    let psql = cluster.client_program("psql", &database).args(["-Atc", "SELECT 6*7"]).output()?;
    assert_eq!(String::from_utf8_lossy(&psql.stdout), "42\n");
    Ok(())
}

#[test]
fn a_dropped_cluster_leaves_nothing() -> Result<()> {
    let cluster = Cluster::options("gone").without_preload().start()?;
    let (data, sockets, pid) = (cluster.data_dir(), cluster.socket_dir().to_path_buf(), cluster.pid()?);
    drop(cluster);
    assert!(!data.exists() && !sockets.exists());
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    Ok(())
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let error = Cluster::options("bad").without_preload().set("max_connections", "many").start().err();
    let error = format!("{:#}", error.expect("no error"));
    assert!(error.contains("max_connections"), "{error}");
}

#[test]
fn a_record_goes_round() -> Result<()> {
    let broker = Broker::shared()?;
    broker.create_topic("round", 3, &[("message.timestamp.type", "LogAppendTime")])?;
    let mut consumer = Consumer::new(&broker.bootstrap_servers(), &["round", "not_yet"])?;
    produce(broker, "round", "k", "é")?;
    produce(broker, "not_yet", "k", "2")?;
    let records = consumer.read_until(2, DEADLINE)?;
    let record = records.iter().find(|record| record.topic == "round").expect("no record of the topic");
    assert_eq!((record.key_text(), record.value_text(), record.offset), (Some("k"), Some("é"), 0));
    let headers = [("kind".to_string(), Some(b"first".to_vec())), ("nothing".to_string(), None)];
    assert_eq!(record.headers, headers);
    assert_eq!(record.header("kind"), Some("first"));
    assert_eq!(Consumer::read_all(&broker.bootstrap_servers(), &["round", "not_yet"])?.len(), 2);
    broker.delete_topic("round")
}

#[test]
fn a_broker_comes_back_with_its_data() -> Result<()> {
    let mut broker = Broker::options().start()?;
    produce(&broker, "kept", "k", "1")?;
    broker.restart()?;
    produce(&broker, "kept", "k", "2")?;
    broker.kill()?;
    assert!(!broker.answers());
    broker.start()?;
    broker.pause()?;
    assert!(!broker.answers());
    broker.resume()?;
    let mut consumer = Consumer::new(&broker.bootstrap_servers(), &["kept"])?;
    let records = consumer.read_until(2, DEADLINE)?;
    let values: Vec<_> = records.iter().filter_map(|record| record.value_text()).collect();
    assert_eq!(values, ["1", "2"]);
    Ok(())
}

#[test]
fn a_cluster_of_brokers_goes_on_without_one() -> Result<()> {
    let mut cluster = KafkaCluster::start()?;
    cluster.create_topic("shared", 3, &[("min.insync.replicas", "2")])?;
    cluster.until_in_sync()?;
    let leader = cluster.leader("shared", 0)?.expect("no leader");
    let place = usize::try_from(leader - 1)?;
    cluster.broker(place).kill()?;
    wait::until_ok("another leader", DEADLINE, || {
        let now = cluster.leader("shared", 0)?;
        Ok(now.is_some_and(|now| now != leader).then_some(()))
    })?;
    let another = (place + 1) % 3;
    produce(&cluster.brokers()[another], "shared", "k", "1")?;
    cluster.broker(place).start()?;
    cluster.roll()?;
    let records = Consumer::read_all(&cluster.bootstrap_servers(), &["shared"])?;
    assert_eq!(records.len(), 1);
    cluster.delete_topic("shared")
}

/// Two servers are never taken for copies of each other: delivery exactly once, and whoever follows a log, would.
#[test]
fn each_server_has_an_identifier_of_its_own() -> Result<()> {
    let identifier = || -> Result<i64> {
        let cluster = Cluster::options("lab").without_preload().start()?;
        let sql = "SELECT system_identifier FROM pg_control_system()";
        Ok(cluster.connect("postgres")?.query_one(sql, &[])?.get(0))
    };
    assert_ne!(identifier()?, identifier()?);
    Ok(())
}
