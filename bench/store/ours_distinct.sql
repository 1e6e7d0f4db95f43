SELECT event_store.append('bench-' || :client_id, 'any', jsonb_build_object('type', 'added', 'data', :'payload'::jsonb));
