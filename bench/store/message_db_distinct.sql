-- Each client writes to a stream of its own.
SELECT write_message(gen_random_uuid()::varchar, 'bench-' || :client_id, 'added', :payload::jsonb);
