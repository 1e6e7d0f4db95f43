-- The event's row goes into a table like outbox.events, but without its triggers. No outbox can cost less.
\set k random(1, 10000)
INSERT INTO bare_events (topic, key, payload, headers, content_type)
VALUES ('emit', convert_to('k' || :k, 'UTF8'), convert_to(:payload, 'UTF8'), :headers, 'application/json');
