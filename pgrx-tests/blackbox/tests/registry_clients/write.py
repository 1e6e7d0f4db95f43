"""Writes a record to each topic with Confluent's serializers, which register their schemas: write.py BROKERS REGISTRY AVRO JSON"""
import sys

from confluent_kafka import Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

brokers, registry, avro, json_schema = sys.argv[1:]
client = SchemaRegistryClient({"url": registry})

AVRO = '{"type":"record","name":"Order","fields":[{"name":"id","type":"long"},{"name":"tags","type":{"type":"array","items":"string"}}]}'
JSON = '{"$schema":"http://json-schema.org/draft-07/schema#","title":"Order","type":"object","properties":{"id":{"type":"integer"}}}'
producer = Producer({"bootstrap.servers": brokers})
for topic, serializer, value in [
    (avro, AvroSerializer(client, AVRO), {"id": 9007199254740993, "tags": ["a", "b"]}),
    (json_schema, JSONSerializer(JSON, client), {"id": 7}),
]:
    producer.produce(topic, value=serializer(value, SerializationContext(topic, MessageField.VALUE)))
producer.flush(30)
