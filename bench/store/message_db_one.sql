-- All clients write to one stream.
SELECT write_message(gen_random_uuid()::varchar, 'bench-one', 'added', :payload::jsonb);
