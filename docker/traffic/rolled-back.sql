-- pgbench: an order that comes to nothing, and so does its event.
\set id random(1, 1000)
BEGIN;
UPDATE orders SET state = 'cancelled', changed = clock_timestamp() WHERE id = :id;
ROLLBACK;
