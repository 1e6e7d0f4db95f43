SELECT write_message(gen_random_uuid()::varchar, 'bench-one', 'added', :'payload'::jsonb);
