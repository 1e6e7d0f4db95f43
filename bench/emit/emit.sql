-- The same event through the extension.
\set k random(1, 10000)
SELECT outbox.emit('emit', :payload, key => 'k' || :k, headers => :headers);
