-- Once. It fails as long as the topic does not exist; then the service tries again.
SELECT inbox.subscribe('warehouse', ARRAY['orders'], 'earliest')
 WHERE NOT EXISTS (SELECT FROM inbox.subscriptions WHERE name = 'warehouse');
