-- pgbench: Kafka refuses the event because its topic has no such partition. After three attempts it is a dead letter.
SELECT outbox.emit('orders', '{"why": "to have a dead letter to look at"}', partition => 999);
