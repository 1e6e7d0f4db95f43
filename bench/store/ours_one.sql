-- All clients append to one stream.
SELECT event_store.append('bench-one', 'any', :event::jsonb);
