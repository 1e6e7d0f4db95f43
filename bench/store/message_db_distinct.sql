SELECT write_message(gen_random_uuid()::varchar, 'bench-' || :client_id, 'added', :'payload'::jsonb);
