-- Owns the views of the store.

CREATE VIEW event_store.streams WITH (security_barrier) AS
    SELECT s.name AS stream, s.category, coalesce(e.version, 0) AS version, s.created_at, e.recorded_at AS updated_at, s.tombstoned_at
      FROM event_store.stream AS s
           LEFT JOIN LATERAL (SELECT e.version, e.recorded_at FROM event_store.event AS e
                               WHERE e.stream_id = s.id ORDER BY e.version DESC LIMIT 1) AS e ON true;
COMMENT ON VIEW event_store.streams IS 'The streams of all categories. Each query looks at all of them, unless it names one or its category.';
COMMENT ON COLUMN event_store.streams.stream IS 'The name.';
COMMENT ON COLUMN event_store.streams.category IS 'Its category.';
COMMENT ON COLUMN event_store.streams.version IS 'The version of its last event; 0 if it has none any more.';
COMMENT ON COLUMN event_store.streams.created_at IS 'When its first event was appended.';
COMMENT ON COLUMN event_store.streams.updated_at IS 'When its last event was appended.';
COMMENT ON COLUMN event_store.streams.tombstoned_at IS 'Since when nothing can be appended any more; NULL while something can.';

CREATE VIEW event_store.categories AS
    SELECT coalesce(s.category, b.category) AS category, b.topic, coalesce(s.streams, 0) AS streams
      FROM (SELECT s.category, pg_catalog.count(*) AS streams FROM event_store.stream AS s GROUP BY s.category) AS s
           FULL JOIN event_store.category_binding AS b ON b.category = s.category;
COMMENT ON VIEW event_store.categories IS 'The categories that have streams, or are published.';
COMMENT ON COLUMN event_store.categories.category IS 'The category.';
COMMENT ON COLUMN event_store.categories.topic IS 'The topic to which its events are published; NULL if they are not.';
COMMENT ON COLUMN event_store.categories.streams IS 'How many streams it has.';
