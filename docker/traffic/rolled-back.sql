-- pgbench: the change of an order is rolled back, and so is its event.
\set id random(1, 1000)
BEGIN;
UPDATE orders SET state = 'cancelled', changed = clock_timestamp() WHERE id = :id;
ROLLBACK;
