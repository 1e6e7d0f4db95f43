//! Has the deserializers of other languages read what is published with a Schema Registry, and the inbox what their serializers
//! write: Confluent's for Python, and Apicurio's for Java in Confluent's wire format. `scripts/registry-test` installs them.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use event_outbox_lab::{Broker, Cluster, SchemaRegistry, layout, wait};
use postgres::Client;
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(90);

const AVRO: &str = r#"{"type":"record","name":"Order","fields":[{"name":"id","type":"long"},
    {"name":"note","type":["null","string"],"default":null},{"name":"tags","type":{"type":"array","items":"string"}}]}"#;
const PROTOBUF: &str = r#"syntax = "proto3"; package shop; message Other {}
    message Order { int64 id = 1; string note = 2; repeated string tags = 3; }"#;
const JSON: &str = r#"{"$schema":"http://json-schema.org/draft-07/schema#","title":"Order","type":"object",
    "required":["id"],"properties":{"id":{"type":"integer"}}}"#;

struct Stage {
    client: Client,
    topics: [String; 3],
    _server: Cluster,
}

/// A database beside a registry, and three topics.
fn start(name: &str) -> Result<Stage> {
    let (broker, registry) = (Broker::shared()?, SchemaRegistry::shared()?);
    let server = Cluster::options("clients")
        .set("event_outbox.bootstrap_servers", broker.bootstrap_servers())
        .set("event_outbox.schema_registry_url", registry.url())
        .start()?;
    let database = server.create_database()?;
    let mut client = server.connect(&database)?;
    client.batch_execute("CREATE EXTENSION event_outbox")?;
    let topics = ["avro", "protobuf", "json"].map(|format| format!("{name}-{format}"));
    for topic in &topics {
        broker.create_topic(topic, 1, &[])?;
    }
    Ok(Stage { client, topics, _server: server })
}

/// Emits an order to each topic; returns the document.
fn emit(stage: &mut Stage) -> Result<Value> {
    let document = json!({"id": 9_007_199_254_740_993_i64, "note": "ä", "tags": ["a", "b"]});
    let formats = [("avro", AVRO, None), ("protobuf", PROTOBUF, Some("shop.Order")), ("json", JSON, None)];
    for (topic, (format, definition, message)) in stage.topics.iter().zip(formats) {
        let subject = format!("{topic}-value");
        stage
            .client
            .execute("SELECT outbox.register_schema($1, $2, $3)", &[&subject, &format, &definition])?;
        let bind = "SELECT outbox.bind_schema($1, NULL, $2, message => $3)";
        stage.client.execute(bind, &[topic, &subject, &message])?;
    }
    let registered: bool = stage.client.query_one("SELECT outbox.wait_registered()", &[])?.get(0);
    ensure!(registered, "the schemas were not registered");
    for topic in &stage.topics {
        stage.client.execute("SELECT outbox.emit($1, $2::jsonb)", &[topic, &document])?;
    }
    let published: bool = stage.client.query_one("SELECT outbox.wait_published('30 s')", &[])?.get(0);
    ensure!(published, "the events were not published");
    Ok(document)
}

fn clients() -> Result<PathBuf> {
    Ok(std::env::var_os("EVENT_OUTBOX_REGISTRY_CLIENTS").context("run scripts/registry-test")?.into())
}

fn program(name: &str) -> PathBuf {
    layout::repository().join("pgrx-tests/blackbox/tests/registry_clients").join(name)
}

fn python(name: &str, topics: &[String]) -> Result<Output> {
    let mut command = Command::new(clients()?.join("python/bin/python"));
    command.arg(program(name)).arg(Broker::shared()?.bootstrap_servers());
    succeeded(command.arg(SchemaRegistry::shared()?.url()).args(topics).output()?)
}

fn succeeded(output: Output) -> Result<Output> {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    ensure!(output.status.success(), "{out}{err}");
    Ok(output)
}

#[test]
fn confluents_deserializers_for_python_read_all_formats() -> Result<()> {
    let mut stage = start("python-reads")?;
    let document = emit(&mut stage)?;
    let read: Vec<Value> = serde_json::from_slice(&python("read.py", &stage.topics)?.stdout)?;
    assert_eq!(read, [document.clone(), document.clone(), document]);
    Ok(())
}

#[test]
fn what_confluents_serializers_for_python_write_is_received() -> Result<()> {
    let mut stage = start("python-writes")?;
    let topics: Vec<&str> = stage.topics.iter().map(String::as_str).collect();
    stage.client.execute("SELECT inbox.subscribe('s', $1, 'earliest')", &[&topics])?;
    // Its serializer for Protobuf registers the binary form of a schema, which is not read.
    let [avro, _, json] = &stage.topics;
    python("write.py", &[avro.clone(), json.clone()])?;
    let mut received = Vec::new();
    wait::until_ok("two events", DEADLINE, || {
        let sql = "SELECT topic, data, decode_error FROM inbox.receive('s', 10)";
        for row in stage.client.query(sql, &[])? {
            received.push((
                row.get::<_, String>(0),
                row.get::<_, Option<Value>>(1),
                row.get::<_, Option<String>>(2),
            ));
        }
        Ok((received.len() >= 2).then_some(()))
    })?;
    received.sort_by_key(|(topic, ..)| stage.topics.iter().position(|known| known == topic));
    let documents: Vec<_> = received.iter().map(|(_, data, error)| (data.clone(), error.clone())).collect();
    let expected = [json!({"id": 9_007_199_254_740_993_i64, "tags": ["a", "b"]}), json!({"id": 7})];
    assert_eq!(documents, expected.map(|document| (Some(document), None)));
    Ok(())
}

/// Confluent's own for Java are not on Maven Central. Those of Apicurio read the same wire format; but for Protobuf, where they
/// write another one.
#[test]
fn apicurios_deserializers_for_java_read_avro_and_json() -> Result<()> {
    let mut stage = start("java-reads")?;
    let document = emit(&mut stage)?;
    let registry = SchemaRegistry::shared()?.url().replace("/ccompat/v7", "/registry/v3");
    for (topic, class) in [
        (&stage.topics[0], "io.apicurio.registry.serde.avro.AvroKafkaDeserializer"),
        (&stage.topics[2], "io.apicurio.registry.serde.jsonschema.JsonSchemaKafkaDeserializer"),
    ] {
        let mut java = Command::new("java");
        java.arg("-cp").arg(clients()?.join("java/*")).arg(program("Read.java"));
        java.args([&Broker::shared()?.bootstrap_servers(), &registry, topic]).arg(class);
        let read: Value = serde_json::from_slice(&succeeded(java.output()?)?.stdout)?;
        assert_eq!(read, document, "{class}");
    }
    Ok(())
}
