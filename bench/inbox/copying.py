"""A consumer in Python as a careful team writes it: it copies a batch of records in the binary format into a table like the
inbox's, and adds a row of offsets in the same transaction.

Arguments: a connection string, Kafka's bootstrap servers, a topic, and its number of partitions. Ends with SIGTERM.
"""

import json
import sys
import zlib
from datetime import datetime, timezone

import psycopg
from confluent_kafka import Consumer, KafkaException, TopicPartition, OFFSET_BEGINNING

BATCH = 10_000
LANES = 64
TYPES = ["int4", "int2", "int8", "int4", "int8", "timestamptz", "bytea", "bytea", "bytea"]


def row(record, position):
    headers = record.headers()
    packed = json.dumps({name: value.decode() for name, value in headers}).encode() if headers else None
    produced_at = datetime.fromtimestamp(record.timestamp()[1] / 1000, timezone.utc)
    lane = zlib.crc32(record.key()) % LANES
    return (1, lane, position, record.partition(), record.offset(), produced_at, record.key(), record.value(), packed)


def store(connection, consumer, partitions):
    next_offsets = [0] * partitions
    batch = position = 0
    while True:
        records = consumer.consume(BATCH, timeout=0.02)
        if not records:
            continue
        with connection.transaction(), connection.cursor() as cursor:
            with cursor.copy("COPY python_log FROM STDIN (FORMAT BINARY)") as copy:
                copy.set_types(TYPES)
                for record in records:
                    if record.error():
                        raise KafkaException(record.error())
                    position += 1
                    copy.write_row(row(record, position))
                    next_offsets[record.partition()] = record.offset() + 1
            batch += 1
            cursor.execute("INSERT INTO python_progress VALUES (%s, %s, %s)", (batch, next_offsets, position))


def main():
    database, servers, topic, partitions = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "event_outbox_bench",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.queue.backoff.ms": 10,
            "check.crcs": True,
        }
    )
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(partitions)])
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        store(connection, consumer, partitions)


main()
