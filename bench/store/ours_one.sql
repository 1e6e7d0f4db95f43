SELECT event_store.append('bench-one', 'any', jsonb_build_object('type', 'added', 'data', :'payload'::jsonb));
