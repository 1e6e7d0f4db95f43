CREATE EXTENSION event_outbox;
