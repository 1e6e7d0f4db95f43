-- Owns outbox.lint(), which finds what breaks the naming conventions among the events that are here: those that wait, the dead
-- letters, and what captures will emit.

CREATE FUNCTION outbox.naming_breach(event_type text) RETURNS text
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'outbox_naming_breach';
COMMENT ON FUNCTION outbox.naming_breach(text) IS
    'Says how an event type breaks the naming convention: event_outbox.naming_pattern, or an entity and a verb in the past tense. NULL if it keeps it.';

CREATE FUNCTION outbox.lint()
    RETURNS TABLE (rule text, topic text, event_type text, events bigint, finding text, hint text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp ROWS 20
    AS $$
WITH stored AS (
    SELECT e.topic, e.event_type, e.key IS NULL AS lacks_key, count(*) AS events FROM outbox.events AS e GROUP BY 1, 2, 3
    UNION ALL
    SELECT d.topic, d.event_type, d.key IS NULL, count(*) FROM outbox.dead_letters AS d GROUP BY 1, 2, 3
), names AS (
    SELECT s.topic, s.event_type, sum(s.events)::bigint AS events,
           coalesce(sum(s.events) FILTER (WHERE s.lacks_key), 0)::bigint AS without_key
      FROM (TABLE stored
            UNION ALL
            SELECT c.topic, replace(c.event_type, '{action}', a.action), false, 0
              FROM outbox.captures AS c
              JOIN (VALUES ('created', '{insert,update}'::text[]), ('patched', '{update}'), ('replaced', '{update}'),
                           ('deleted', '{delete,update}'), ('truncated', '{truncate}')) AS a (action, operations)
                ON c.operations && a.operations AND a.action <> CASE c.style WHEN 'fat' THEN 'patched' ELSE 'replaced' END) AS s
     GROUP BY 1, 2
), template AS (
    SELECT t.text, '^' || regexp_replace(regexp_replace(t.text, '([.*+?^$()|\[\]\\])', '\\\1', 'g'), '\{[a-z]+\}', '[A-Za-z0-9_-]+', 'g')
                       || '$' AS pattern
      FROM (SELECT current_setting('event_outbox.topic_template')) AS t (text)
), kinds AS (
    SELECT n.topic, count(DISTINCT n.event_type ~ '[.:/_-]') AS spellings,
           count(DISTINCT regexp_replace(n.event_type, '[^.:/_-]*$', '')) FILTER (WHERE n.event_type ~ '[.:/_-]') AS entities,
           string_agg(DISTINCT n.event_type, ', ' ORDER BY n.event_type) AS types, sum(n.events)::bigint AS events
      FROM names AS n
     WHERE n.event_type IS NOT NULL
     GROUP BY n.topic
)
SELECT 'type_missing', n.topic, n.event_type, n.events, 'The events have no type: consumers see the topic''s name.',
       'Pass event_type, such as ''order.placed''.'
  FROM names AS n WHERE n.event_type IS NULL AND n.events > 0
UNION ALL
SELECT 'type', n.topic, n.event_type, n.events, outbox.naming_breach(n.event_type),
       'Name the entity and what has happened to it, or set event_outbox.naming_pattern to your own convention.'
  FROM names AS n WHERE outbox.naming_breach(n.event_type) IS NOT NULL
UNION ALL
SELECT 'topic', n.topic, NULL, sum(n.events)::bigint, format('The topic does not follow the template %s.', t.text),
       'Choose the topic by the template, or set event_outbox.topic_template to your own.'
  FROM names AS n, template AS t WHERE n.topic !~ t.pattern GROUP BY n.topic, t.text
UNION ALL
SELECT 'key_missing', n.topic, n.event_type, n.without_key, 'The events have no key: nothing keeps their order.',
       'Pass the identity of the entity as the key.'
  FROM names AS n WHERE n.without_key > 0
UNION ALL
SELECT 'types_differ', k.topic, NULL, k.events, format('The types of the topic are spelt in different ways, or of different entities: %s.', left(k.types, 300)),
       'Keep to one spelling, and to one entity for each topic.'
  FROM kinds AS k WHERE k.spellings > 1 OR k.entities > 1
 ORDER BY 1, 2, 3
$$;
COMMENT ON FUNCTION outbox.lint() IS
    'Finds events, dead letters and captures that break the naming conventions, with a hint each. The caller needs the right to read outbox.events, outbox.dead_letters and outbox.captures.';
