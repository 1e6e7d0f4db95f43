//! Compares the layout of Debezium with what a real Debezium writes: its connector for PostgreSQL with its outbox event router,
//! in Kafka Connect. `scripts/debezium-test` fetches it.
//!
//! The same events are inserted into a table of Debezium's, and emitted. Topics, keys, values, headers and partitions must be
//! the same, byte for byte.

use std::time::Duration;

use anyhow::{Context, Result};
use event_outbox_lab::connect::Connect;
use event_outbox_lab::{Broker, Cluster, Consumer, Record};
use postgres::Client;
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(120);
const PARTITIONS: i32 = 3;

/// The table that the router expects, with columns of one's own.
const TABLE: &str = "
CREATE TABLE outbox_router (
    id            uuid PRIMARY KEY,
    aggregatetype varchar(255) NOT NULL,
    aggregateid   varchar(255) NOT NULL,
    type          varchar(255),
    payload       {payload},
    trace         text
);
CREATE PUBLICATION outbox_router FOR TABLE outbox_router WITH (publish = 'insert')";

/// Events: the last digits of the id, the aggregate, the key, the type, the payload, a header of one's own.
type Event = (
    &'static str,
    &'static str,
    &'static str,
    Option<&'static str>,
    Option<&'static str>,
    Option<&'static str>,
);

const EVENTS: [Event; 7] = [
    (
        "01",
        "order",
        "1",
        Some("OrderPlaced"),
        Some("{\"id\":1,\"lines\":[{\"sku\":\"ä\"}],\"paid\":false}"),
        Some("7f"),
    ),
    ("02", "order", "2", Some("OrderPlaced"), Some("{\"id\":2,\"note\":null,\"total\":1234567890123}"), None),
    ("03", "order", "Größe 3", None, Some("{\"id\":3,\"text\":\"a b  c\\n\\\"\"}"), Some("")),
    ("04", "customer", "1", Some("CustomerMoved"), Some("{\"list\":[1,2,3]}"), Some("\"quoted\"")),
    ("05", "order", "1", Some("OrderGone"), None, None),
    ("06", "order", "", Some("T"), Some("{\"id\":6}"), Some("123")),
    (
        "07",
        "order",
        "ключ",
        Some("Type"),
        Some("{\"id\":7,\"deep\":{\"er\":{\"st\":[true,false]}}}"),
        Some("[1]"),
    ),
];

const SETTINGS: [(&str, &str); 3] = [
    ("wal_level", "logical"),
    ("event_outbox.envelope", "debezium"),
    ("event_outbox.debezium_additional_fields", "type:header:eventType"),
];

const EMIT_BYTES: &str = "
SELECT outbox.emit_bytes($2, convert_to($5, 'UTF8'), convert_to($3, 'UTF8'), $4, jsonb_build_object('trace', $6::text),
                         $1::text::uuid)";

struct Pair {
    client: Client,
    // Fields are dropped in this order: what depends on a server before it.
    connect: Connect,
    _server: Cluster,
    broker: Broker,
}

/// Starts the servers, and Debezium with its default settings but these.
fn start(payload: &str, config: &[(&str, &str)]) -> Result<Pair> {
    let broker = Broker::options().start()?;
    for side in ["debezium", "ours"] {
        for aggregate in ["order", "customer"] {
            broker.create_topic(&format!("{side}.outbox.event.{aggregate}"), PARTITIONS, &[])?;
        }
    }
    let mut options =
        Cluster::options("debezium").set("event_outbox.bootstrap_servers", broker.bootstrap_servers());
    for (name, value) in SETTINGS {
        options = options.set(name, value);
    }
    let server = options.start()?;
    let database = server.create_database()?;
    let mut client = server.connect(&database)?;
    client.batch_execute("CREATE EXTENSION event_outbox")?;
    client.batch_execute(&TABLE.replace("{payload}", payload))?;
    let connect = Connect::start(&broker.bootstrap_servers())?;
    let mut all = json!({
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "database.hostname": "127.0.0.1",
        "database.port": server.port().to_string(),
        "database.user": "postgres",
        "database.password": "none",
        "database.dbname": database,
        "topic.prefix": "router",
        "plugin.name": "pgoutput",
        "slot.name": "router",
        "publication.name": "outbox_router",
        "table.include.list": "public.outbox_router",
        "transforms": "outbox",
        "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
        "transforms.outbox.route.topic.replacement": "debezium.outbox.event.${routedByValue}",
        "transforms.outbox.table.fields.additional.placement": "type:header:eventType,trace:header",
        // The default of Connect.
        "header.converter": "org.apache.kafka.connect.storage.SimpleHeaderConverter",
        "key.converter": "org.apache.kafka.connect.storage.StringConverter",
        // Debezium's own, which no consumer of an outbox reads.
        "extended.headers.enabled": "false",
    });
    for (name, value) in config {
        all[name] = Value::from(*value);
    }
    connect.create("router", &all)?;
    Ok(Pair { client, connect, _server: server, broker })
}

impl Pair {
    /// The records of a side, by their ids.
    fn records(&self, side: &str) -> Result<Vec<Record>> {
        let topics = ["order", "customer"].map(|aggregate| format!("{side}.outbox.event.{aggregate}"));
        let mut consumer = Consumer::new(&self.broker.bootstrap_servers(), &[&topics[0], &topics[1]])?;
        let read = consumer.read_until(EVENTS.len(), DEADLINE).map(<[Record]>::to_vec);
        let mut records = read.with_context(|| self.connect.log_tail())?;
        records.sort_by_key(|record| record.header("id").map(str::to_owned));
        Ok(records)
    }

    /// Both sides have the same records.
    fn assert_same(&self) -> Result<()> {
        let (theirs, ours) = (self.records("debezium")?, self.records("ours")?);
        assert_eq!((theirs.len(), ours.len()), (EVENTS.len(), EVENTS.len()));
        for (theirs, ours) in theirs.iter().zip(&ours) {
            assert_eq!(theirs.topic.strip_prefix("debezium."), ours.topic.strip_prefix("ours."));
            assert_eq!((&theirs.key, &theirs.value), (&ours.key, &ours.value), "{theirs:?} {ours:?}");
            assert_eq!(theirs.headers, ours.headers, "{theirs:?} {ours:?}");
            assert_eq!(theirs.partition, ours.partition, "{theirs:?} {ours:?}");
        }
        Ok(())
    }

    /// Inserts the events into Debezium's table, with this expression for the payload $5, and emits them by this statement.
    fn insert(&mut self, payload: &str, emit: &str) -> Result<()> {
        let sql = format!("INSERT INTO outbox_router VALUES ($1::text::uuid, $2, $3, $4, {payload}, $6)");
        for (id, aggregate, key, kind, payload, trace) in EVENTS {
            let id = format!("00000000-0000-7000-8000-0000000000{id}");
            self.client.execute(&sql, &[&id, &aggregate, &key, &kind, &payload, &trace])?;
            let topic = format!("ours.outbox.event.{aggregate}");
            self.client.execute(emit, &[&id, &topic, &key, &kind, &payload, &trace])?;
        }
        Ok(())
    }
}

/// Documents: Debezium expands them and writes them as JSON.
#[test]
fn documents_are_the_same() -> Result<()> {
    let mut pair = start(
        "jsonb",
        &[
            ("transforms.outbox.table.expand.json.payload", "true"),
            // By default JSON's converter writes the text null for no payload, and members that are null are left out.
            ("transforms.outbox.route.tombstone.on.empty.payload", "true"),
            ("transforms.outbox.table.json.payload.null.behavior", "optional_bytes"),
            ("value.converter", "org.apache.kafka.connect.json.JsonConverter"),
            ("value.converter.schemas.enable", "false"),
        ],
    )?;
    pair.insert(
        "$5::text::jsonb",
        "SELECT outbox.emit($2, $5::text::jsonb, $3, $4, jsonb_build_object('trace', $6::text), $1::text::uuid)",
    )?;
    pair.assert_same()
}

/// Text: Debezium passes it through.
#[test]
fn texts_are_the_same() -> Result<()> {
    let mut pair = start("text", &[("value.converter", "org.apache.kafka.connect.storage.StringConverter")])?;
    pair.insert("$5", EMIT_BYTES)?;
    pair.assert_same()
}

/// Bytes: Debezium passes them through.
#[test]
fn bytes_are_the_same() -> Result<()> {
    let mut pair = start("bytea", &[("value.converter", "io.debezium.converters.BinaryDataConverter")])?;
    pair.insert("convert_to($5::text, 'UTF8')", EMIT_BYTES)?;
    pair.assert_same()
}
