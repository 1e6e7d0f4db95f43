"""Reads a record of each topic with Confluent's deserializers, and prints the documents: read.py BROKERS REGISTRY AVRO PROTOBUF JSON"""
import json
import sys

from confluent_kafka import Consumer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.schema_registry.json_schema import JSONDeserializer
from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

brokers, registry, avro, protobuf, json_schema = sys.argv[1:]


def order_class():
    """The class of `message Order { int64 id = 1; string note = 2; repeated string tags = 3; }`."""
    file = descriptor_pb2.FileDescriptorProto(name="order.proto", package="shop", syntax="proto3")
    # A message before it, so that its place in the schema is not the first.
    file.message_type.add(name="Other")
    order = file.message_type.add(name="Order")
    field = descriptor_pb2.FieldDescriptorProto
    order.field.add(name="id", number=1, type=field.TYPE_INT64, label=field.LABEL_OPTIONAL)
    order.field.add(name="note", number=2, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    order.field.add(name="tags", number=3, type=field.TYPE_STRING, label=field.LABEL_REPEATED)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Order"))


client = SchemaRegistryClient({"url": registry})
deserializers = {
    avro: AvroDeserializer(client),
    # Without the registry, which it would ask for the schema in a form that Apicurio does not give.
    protobuf: ProtobufDeserializer(order_class(), {"use.deprecated.format": False}),
    json_schema: JSONDeserializer(None, schema_registry_client=client),
}
consumer = Consumer({"bootstrap.servers": brokers, "group.id": avro, "auto.offset.reset": "earliest"})
consumer.subscribe(list(deserializers))
read = {}
for _ in range(120):
    message = consumer.poll(0.5)
    if message is None or message.error():
        continue
    topic = message.topic()
    value = deserializers[topic](message.value(), SerializationContext(topic, MessageField.VALUE))
    if topic == protobuf:
        value = json_format.MessageToDict(value)
        value["id"] = int(value["id"])
    read[topic] = value
    if len(read) == len(deserializers):
        break
print(json.dumps([read.get(topic) for topic in deserializers]))
