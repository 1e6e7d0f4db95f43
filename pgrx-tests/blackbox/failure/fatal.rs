//! A producer with a fatal error is replaced: nothing is lost, and no event is charged.

use std::collections::HashSet;

use event_outbox_lab::{Consumer, Record, Result};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey as Request, RDKafkaRespErr as Answer};

use crate::support::database::TestDatabase;
use crate::support::events::emit_numbers;
use crate::support::relay::{status, until_drained, until_idle};

const EVENTS: i32 = 200;

/// The log line of a fatal error.
const LOG_LINE: &str = "the Kafka producer cannot be used";

/// A relay that publishes to a mock cluster.
fn at_work(brokers: &MockCluster<'_, DefaultProducerContext>) -> Result<TestDatabase> {
    brokers.create_topic("fatal", 1, 1)?;
    let mut db = TestDatabase::new()?;
    let servers = brokers.bootstrap_servers();
    // The mock does not check sequence numbers: it would accept requests behind one that it refuses. So all that is
    // emitted at once goes in one request.
    db.alter_database("SET event_outbox.kafka_properties = 'max.in.flight=1, linger.ms=50'")?;
    db.alter_database(&format!("SET event_outbox.bootstrap_servers = '{servers}'"))?;
    Ok(db)
}

/// All events have arrived in order, some perhaps more than once. None was charged, and the error was logged once.
fn assert_blameless(db: &mut TestDatabase, servers: &str, pid: i32) -> Result<()> {
    until_drained(&mut db.client)?;
    assert_eq!(until_idle(&mut db.client)?, pid);
    assert_eq!(status(&mut db.client)?.refused, 0);
    let records = Consumer::read_all(servers, &["fatal"])?;
    let mut values: Vec<i32> =
        records.iter().filter_map(Record::value_text).filter_map(|text| text.parse().ok()).collect();
    let mut seen = HashSet::new();
    values.retain(|value| seen.insert(*value));
    assert_eq!(values, (1..=EVENTS).collect::<Vec<_>>());
    let log = db.server.log();
    let lines = log.lines().filter(|line| line.contains(LOG_LINE) && line.contains(&format!("[{pid}]")));
    assert_eq!(lines.count(), 1);
    Ok(())
}

/// The cluster assigns the producer no id at first.
#[test]
fn no_identity() -> Result<()> {
    let brokers = MockCluster::new(1)?;
    brokers
        .request_errors(Request::InitProducerId, &[Answer::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED]);
    let mut db = at_work(&brokers)?;
    let pid = db.relay()?;
    emit_numbers(&mut db.client, "fatal", 1..=EVENTS, "'k'")?;
    assert_blameless(&mut db, &brokers.bootstrap_servers(), pid)
}

/// Events are in flight when the broker has lost the sequence before them.
#[test]
fn a_lost_sequence() -> Result<()> {
    let brokers = MockCluster::new(1)?;
    let mut db = at_work(&brokers)?;
    let pid = db.relay()?;
    emit_numbers(&mut db.client, "fatal", 1..=EVENTS / 2, "'k'")?;
    until_drained(&mut db.client)?;
    brokers.request_errors(Request::Produce, &[Answer::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER]);
    emit_numbers(&mut db.client, "fatal", EVENTS / 2 + 1..=EVENTS, "'k'")?;
    assert_blameless(&mut db, &brokers.bootstrap_servers(), pid)
}
