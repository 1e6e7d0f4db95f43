-- No stream is looked for, locked, or checked.
INSERT INTO plain_event (stream_id, category, event_id, type, data)
VALUES (:client_id, 'bench', gen_random_uuid(), 'added', :payload::jsonb);
