-- Another database, which keeps a copy of the orders: the service warehouse receives their events.
CREATE DATABASE warehouse;
\connect warehouse
CREATE EXTENSION event_outbox;
CREATE TABLE orders (
    id      integer PRIMARY KEY,
    state   text NOT NULL,
    changed timestamptz NOT NULL
);
\i /docker-entrypoint-initdb.d/3-metrics.sql
