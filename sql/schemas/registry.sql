-- Owns what a Schema Registry says of schemas: whether it has registered them, and which it was asked for. Only the relay speaks
-- to it (src/outbox/relay/registry.rs).

CREATE FUNCTION outbox.schema_registry() RETURNS text
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'outbox_schema_registry';
COMMENT ON FUNCTION outbox.schema_registry() IS
    'Returns the address of the Schema Registry, as ids are stored with it; NULL if event_outbox.schema_registry_url is empty.';

CREATE FUNCTION outbox.schema_fingerprint(format text, definition text) RETURNS bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT sha256(convert_to($1 || ':' || $2, 'UTF8'))
$$;
COMMENT ON FUNCTION outbox.schema_fingerprint(text, text) IS 'Returns what identifies a definition: equal ones are stored once.';

-- Another registry gives other ids, and a registry at the same address can be another one. So a dump has neither these rows nor
-- ids: where it is restored, the relay registers all schemas again.
CREATE TABLE outbox.schema_registration (
    registry   text        NOT NULL,
    subject    text        NOT NULL,
    version    integer     NOT NULL,
    state      text        NOT NULL CHECK (state IN ('waiting', 'registered', 'refused')),
    id         integer     CHECK ((id IS NOT NULL) = (state = 'registered')),
    refusals   integer     NOT NULL DEFAULT 0,
    error      text,
    retry_at   timestamptz,
    changed_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (registry, subject, version),
    FOREIGN KEY (subject, version) REFERENCES outbox.schema_version ON DELETE CASCADE
);
COMMENT ON TABLE outbox.schema_registration IS 'What Schema Registries have said of the versions of subjects. The relay writes it.';
COMMENT ON COLUMN outbox.schema_registration.registry IS 'The address of the registry.';
COMMENT ON COLUMN outbox.schema_registration.subject IS 'The subject.';
COMMENT ON COLUMN outbox.schema_registration.version IS 'The version in this database.';
COMMENT ON COLUMN outbox.schema_registration.state IS
    'registered; refused, if the registry does not accept the version; waiting, if it could not be asked.';
COMMENT ON COLUMN outbox.schema_registration.id IS 'The id that the registry has given to the definition.';
COMMENT ON COLUMN outbox.schema_registration.refusals IS 'How often the registry has refused it.';
COMMENT ON COLUMN outbox.schema_registration.error IS 'Why it is not registered, or could not be found again.';
COMMENT ON COLUMN outbox.schema_registration.retry_at IS 'When the registry is asked again; NULL for as soon as possible.';
COMMENT ON COLUMN outbox.schema_registration.changed_at IS 'When this was found.';

CREATE TABLE outbox.schema_fetch (
    registry  text        NOT NULL,
    id        integer     NOT NULL,
    state     text        NOT NULL CHECK (state IN ('waiting', 'missing')),
    wanted_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    refusals  integer     NOT NULL DEFAULT 0,
    error     text,
    retry_at  timestamptz,
    PRIMARY KEY (registry, id)
);
COMMENT ON TABLE outbox.schema_fetch IS 'The schemas that receivers want and this database does not have. The relay writes it.';
COMMENT ON COLUMN outbox.schema_fetch.registry IS 'The address of the registry.';
COMMENT ON COLUMN outbox.schema_fetch.id IS 'The id in the record.';
COMMENT ON COLUMN outbox.schema_fetch.state IS 'missing, if the registry has no such schema, or one that cannot be read; otherwise waiting.';
COMMENT ON COLUMN outbox.schema_fetch.wanted_at IS 'When it was first wanted.';
COMMENT ON COLUMN outbox.schema_fetch.refusals IS 'How often the registry did not have it.';
COMMENT ON COLUMN outbox.schema_fetch.error IS 'Why it is not here.';
COMMENT ON COLUMN outbox.schema_fetch.retry_at IS 'When the registry is asked again; NULL for as soon as possible.';

CREATE FUNCTION outbox.schema_registry_changed() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'outbox_schema_registry_changed';
COMMENT ON FUNCTION outbox.schema_registry_changed() IS 'Tells the relay at commit that there may be schemas to register.';

CREATE TRIGGER schema_registry_changed AFTER INSERT OR UPDATE ON outbox.schema_version
    FOR EACH STATEMENT EXECUTE FUNCTION outbox.schema_registry_changed();
CREATE TRIGGER schema_registry_changed AFTER UPDATE OR DELETE OR TRUNCATE ON outbox.schema_registration
    FOR EACH STATEMENT EXECUTE FUNCTION outbox.schema_registry_changed();
CREATE TRIGGER schema_registry_changed AFTER INSERT OR UPDATE ON outbox.schema_fetch
    FOR EACH STATEMENT EXECUTE FUNCTION outbox.schema_registry_changed();
CREATE TRIGGER schemas_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON outbox.schema_fetch
    FOR EACH STATEMENT EXECUTE FUNCTION outbox.schemas_changed();

CREATE FUNCTION outbox.retry_registration(subject text DEFAULT NULL) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT outbox.act_as_owner('outbox.schema_registration');
    WITH retried AS (
        UPDATE outbox.schema_registration AS r SET retry_at = NULL, refusals = 0
         WHERE r.registry = outbox.schema_registry() AND r.state <> 'registered' AND r.subject = coalesce($1, r.subject)
        RETURNING 1)
    SELECT count(*) FROM retried
$$;
COMMENT ON FUNCTION outbox.retry_registration(text) IS
    'Has the Schema Registry asked again for the versions of a subject that it has not registered, or for those of all subjects, when the transaction commits. Returns how many there are.';

CREATE FUNCTION outbox.wait_registered(subject text DEFAULT NULL, timeout interval DEFAULT '30 seconds') RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_wait_registered';
COMMENT ON FUNCTION outbox.wait_registered(text, interval) IS
    'Waits until the Schema Registry has all versions of a subject, or of all subjects, that were committed before. Returns whether it has. An error if it refuses one.';
