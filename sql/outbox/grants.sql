-- Nothing is open until an administrator grants it. An application needs
--   GRANT USAGE ON SCHEMA outbox TO app;
--   GRANT EXECUTE ON FUNCTION outbox.emit(text, jsonb, text, text, jsonb, uuid, integer) TO app;

REVOKE ALL ON ALL TABLES IN SCHEMA outbox FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA outbox FROM PUBLIC;

-- But what the table's defaults and the views call is checked against their user: these show and change
-- nothing by themselves, and relay_status() asks for the right to read outbox.status, or outbox.relays
-- where it is about another database.
GRANT EXECUTE ON FUNCTION outbox.uuid_v7(), outbox.channel(text), outbox.readable(bytea), outbox.relay_status(oid)
    TO PUBLIC;

-- These call the functions of their names that an application is granted, with the caller's own rights.
GRANT EXECUTE ON FUNCTION outbox.emit(text, jsonb, outbox.as_text, text, jsonb, uuid, integer),
    outbox.emit(outbox.topic_name, outbox.as_text, outbox.as_text, text, outbox.as_text, outbox.as_text, bigint),
    outbox.emit_bytes(outbox.topic_name, bytea, outbox.as_text, text, jsonb, uuid, integer, text),
    outbox.emit_bytes(outbox.topic_name, bytea, bytea, text, outbox.as_text, outbox.as_text, bigint, text),
    outbox.try_emit(outbox.as_text, outbox.topic_name, outbox.as_text, outbox.as_text, text, outbox.as_text, outbox.as_text, bigint), outbox.as_text_in(cstring), outbox.as_text_out(outbox.as_text), outbox.as_text_recv(internal),
    outbox.as_text_send(outbox.as_text), outbox.as_text(character)
    TO PUBLIC;
