-- pgbench: an order is placed, or moves to its next state.
\set id random(1, 1000)
INSERT INTO orders (id, state) VALUES (:id, 'placed')
    ON CONFLICT (id) DO UPDATE
    SET state = CASE orders.state WHEN 'placed' THEN 'paid' WHEN 'paid' THEN 'shipped' ELSE 'placed' END,
        changed = clock_timestamp();
