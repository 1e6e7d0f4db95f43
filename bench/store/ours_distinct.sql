-- Each client appends to a stream of its own.
SELECT event_store.append('bench-' || :client_id, 'any', :event::jsonb);
