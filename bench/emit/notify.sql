-- The same row goes into a table whose trigger wakes a relay with NOTIFY.
\set k random(1, 10000)
INSERT INTO notifying_events (topic, key, payload, headers, content_type)
VALUES ('emit', convert_to('k' || :k, 'UTF8'), convert_to(:payload, 'UTF8'), :headers, 'application/json');
