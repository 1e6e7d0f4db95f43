-- An application's transaction without an outbox: one small row.
\set k random(1, 10000)
INSERT INTO orders (total) VALUES (:k);
