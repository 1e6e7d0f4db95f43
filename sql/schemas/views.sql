-- Owns the views of schemas.

CREATE VIEW outbox.schemas AS
    SELECT v.subject, v.version, v.schema_id AS id, d.format, s.compatibility, coalesce(v.source, d.definition) AS definition,
           v.version OPERATOR(pg_catalog.=) pg_catalog.max(v.version) OVER (PARTITION BY v.subject) AS is_latest, v.registered_at,
           r.id AS registry_id,
           CASE WHEN outbox.schema_registry() IS NOT NULL THEN coalesce(r.state, 'waiting') END AS registry_state,
           r.error AS registry_error, r.retry_at AS registry_retry_at, v.refers_to
      FROM outbox.schema_version AS v
      JOIN outbox.schema_subject AS s ON s.subject OPERATOR(pg_catalog.=) v.subject
      JOIN outbox.schema_definition AS d ON d.id OPERATOR(pg_catalog.=) v.schema_id
      LEFT JOIN outbox.schema_registration AS r
        ON r.registry OPERATOR(pg_catalog.=) outbox.schema_registry() AND r.subject OPERATOR(pg_catalog.=) v.subject
       AND r.version OPERATOR(pg_catalog.=) v.version;
COMMENT ON VIEW outbox.schemas IS 'The registered schemas: the versions of each subject.';
COMMENT ON COLUMN outbox.schemas.subject IS 'The subject.';
COMMENT ON COLUMN outbox.schemas.version IS 'The version, from 1.';
COMMENT ON COLUMN outbox.schemas.id IS 'Identifies the definition in this database, and in the wire format while no Schema Registry is used.';
COMMENT ON COLUMN outbox.schemas.format IS 'json, avro or protobuf.';
COMMENT ON COLUMN outbox.schemas.compatibility IS 'What the next version must be compatible with.';
COMMENT ON COLUMN outbox.schemas.definition IS 'The schema as it was registered.';
COMMENT ON COLUMN outbox.schemas.is_latest IS 'Whether it is the newest version of its subject.';
COMMENT ON COLUMN outbox.schemas.registered_at IS 'When it was registered.';
COMMENT ON COLUMN outbox.schemas.registry_id IS 'The id that the Schema Registry has given to the definition, which is that of the wire format.';
COMMENT ON COLUMN outbox.schemas.registry_state IS
    'registered if the Schema Registry has it; refused if it does not accept it; waiting if it was not asked yet, or does not answer; NULL without a registry.';
COMMENT ON COLUMN outbox.schemas.registry_error IS 'Why it is not registered there.';
COMMENT ON COLUMN outbox.schemas.registry_retry_at IS 'When the Schema Registry is asked again, after a refusal.';
COMMENT ON COLUMN outbox.schemas.refers_to IS
    'The schemas that it refers to: objects with the name by which it does, a subject, and a version of that. NULL if it stands alone.';

CREATE VIEW outbox.schema_bindings AS
    SELECT b.topic, nullif(b.event_type, '') AS event_type, b.subject, b.version, b.message, b.wire_format, s.format
      FROM outbox.schema_binding AS b
      LEFT JOIN outbox.schema_subject AS s ON s.subject OPERATOR(pg_catalog.=) b.subject;
COMMENT ON VIEW outbox.schema_bindings IS 'Which schema the events of a topic have.';
COMMENT ON COLUMN outbox.schema_bindings.topic IS 'A topic, or a prefix of topics followed by an asterisk.';
COMMENT ON COLUMN outbox.schema_bindings.event_type IS 'The type of the events; NULL for those of all types that have no binding of their own.';
COMMENT ON COLUMN outbox.schema_bindings.subject IS 'The subject; NULL if these events have no schema.';
COMMENT ON COLUMN outbox.schema_bindings.version IS 'The version with which events are encoded; NULL for the latest.';
COMMENT ON COLUMN outbox.schema_bindings.message IS 'The message of a Protobuf schema; NULL for the first one.';
COMMENT ON COLUMN outbox.schema_bindings.wire_format IS 'confluent if the payload begins with the id of its schema, otherwise plain.';
COMMENT ON COLUMN outbox.schema_bindings.format IS 'The format of the subject.';
