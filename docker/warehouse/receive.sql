-- pgbench: waits for events, and keeps the last state of each order. The commit acknowledges all events that were received.
CALL inbox.await('warehouse', '10 s');
BEGIN;
INSERT INTO orders (id, state, changed)
SELECT DISTINCT ON (event.id) event.id, event.state, event.changed
  FROM (SELECT position, (data->>'id')::integer AS id, data->>'state' AS state, (data->>'changed')::timestamptz AS changed
          FROM inbox.receive('warehouse', max_events => 100)) AS event
 ORDER BY event.id, event.position DESC
    ON CONFLICT (id) DO UPDATE SET state = excluded.state, changed = excluded.changed;
COMMIT;
