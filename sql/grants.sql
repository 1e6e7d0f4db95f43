-- Nothing is open until an administrator grants it. An application needs
--   GRANT USAGE ON SCHEMA outbox TO app;
--   GRANT EXECUTE ON FUNCTION outbox.emit TO app;

REVOKE ALL ON ALL TABLES IN SCHEMA outbox FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA outbox FROM PUBLIC;

-- But what the table's defaults and the views call is checked against their user: these show and change
-- nothing by themselves, and relay_status() asks for the right to read outbox.status, or outbox.relays
-- where it is about another database.
GRANT EXECUTE ON FUNCTION outbox.uuid_v7(), outbox.channel(text), outbox.readable(bytea), outbox.relay_status(oid)
    TO PUBLIC;
