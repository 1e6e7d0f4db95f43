"""Writes a record to each topic with Confluent's serializers, which register their schemas: write.py BROKERS REGISTRY AVRO PROTOBUF JSON"""
import sys

from confluent_kafka import Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

brokers, registry, avro, protobuf, json_schema = sys.argv[1:]
client = SchemaRegistryClient({"url": registry})

file = descriptor_pb2.FileDescriptorProto(name="note.proto", package="shop", syntax="proto3")
file.message_type.add(name="Other")
note = file.message_type.add(name="Note")
note.field.add(name="id", number=1, type=3, label=1)
note.nested_type.add(name="Line").field.add(name="text", number=1, type=9, label=1)
pool = descriptor_pool.DescriptorPool()
pool.Add(file)
Line = message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Note.Line"))

AVRO = '{"type":"record","name":"Order","fields":[{"name":"id","type":"long"},{"name":"tags","type":{"type":"array","items":"string"}}]}'
JSON = '{"$schema":"http://json-schema.org/draft-07/schema#","title":"Order","type":"object","properties":{"id":{"type":"integer"}}}'
producer = Producer({"bootstrap.servers": brokers})
for topic, serializer, value in [
    (avro, AvroSerializer(client, AVRO), {"id": 9007199254740993, "tags": ["a", "b"]}),
    (protobuf, ProtobufSerializer(Line, client, {"use.deprecated.format": False}), Line(text="ä")),
    (json_schema, JSONSerializer(JSON, client), {"id": 7}),
]:
    producer.produce(topic, value=serializer(value, SerializationContext(topic, MessageField.VALUE)))
producer.flush(30)
