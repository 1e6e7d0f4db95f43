-- Owns the rebuild of a projection: a second one fills a table of its own from the beginning of the topic, and once it is ready,
-- its worker brings the first one's table to the same rows and takes its place. The table itself stays, with its privileges,
-- triggers, views and foreign keys.

CREATE FUNCTION inbox.rebuild_for(caller regrole, name text, key jsonb, columns jsonb, timeout interval) RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    rebuilt  inbox.subscription := inbox.own_projection(caller, name);
    present  inbox.projection;
    keys     jsonb;
    new_name text;
BEGIN
    SELECT * INTO present FROM inbox.projection AS p WHERE p.subscription_id = rebuilt.id;
    IF present.rebuild_of IS NOT NULL OR EXISTS (SELECT FROM inbox.projection AS p WHERE p.rebuild_of = rebuilt.id) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('projection "%s" is being rebuilt', name),
            DETAIL = 'A rebuild takes the place of its projection when it is ready.',
            HINT = 'Wait until inbox.projections shows it no more, or end it with inbox.unproject().';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = present."table") THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_table',
            MESSAGE = format('table %s of projection "%s" was dropped', present.table_name, name),
            DETAIL = 'A rebuild fills the table that there is.',
            HINT = format('SELECT inbox.unproject(%L); ends the projection. Then create the table, and call inbox.project().', name);
    END IF;
    PERFORM inbox.require_projectable(caller, present."table");
    keys := inbox.projection_key(present."table", coalesce(key, present.key));
    columns := inbox.projection_columns(present."table", keys, coalesce(columns, present.columns));
    new_name := left(name, 40) || '.rebuild-' || rebuilt.id;
    PERFORM inbox.add_projection(caller, new_name, rebuilt.topics[1], NULL, present.format, keys, columns, rebuilt.id, timeout);
    RETURN new_name;
END
$$;
COMMENT ON FUNCTION inbox.rebuild_for(regrole, text, jsonb, jsonb, interval) IS 'Does the work of inbox.rebuild() for the caller.';

CREATE FUNCTION inbox.rebuild(
    name    text,
    key     jsonb    DEFAULT NULL,
    columns jsonb    DEFAULT NULL,
    timeout interval DEFAULT '30 seconds'
) RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inbox_for_caller';
COMMENT ON FUNCTION inbox.rebuild(text, jsonb, jsonb, interval) IS
    'Reads the topic from its beginning into a table beside the one of the projection, and then gives that one the same rows in one transaction. Returns the name of the rebuild in inbox.projections.';

-- The worker of a rebuild calls it, as the owner of the tables, in the transaction in which the table got its rows.
CREATE FUNCTION inbox.finish_rebuild(rebuild integer) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    old    inbox.subscription;
    target regclass;
    admin  regrole;
BEGIN
    SELECT s.* INTO old FROM inbox.projection AS p JOIN inbox.subscription AS s ON s.id = p.rebuild_of
     WHERE p.subscription_id = rebuild;
    target := (SELECT p."table" FROM inbox.projection AS p WHERE p.subscription_id = old.id);
    admin := (SELECT c.relowner FROM pg_class AS c WHERE c.oid = 'inbox.subscription'::regclass);
    INSERT INTO inbox.subscription_grants (role, subscription_id)
    SELECT g.role, rebuild FROM inbox.subscription_grants AS g WHERE g.subscription_id = old.id ON CONFLICT DO NOTHING;
    UPDATE inbox.subscription AS s SET owner = old.owner WHERE s.id = rebuild;
    UPDATE inbox.projection AS p SET rebuild_of = NULL WHERE p.subscription_id = rebuild;
    DELETE FROM inbox.projection AS p WHERE p.subscription_id = old.id;
    PERFORM inbox.unsubscribe_for(admin, old.name);
    UPDATE inbox.subscription AS s SET name = old.name WHERE s.id = rebuild;
    UPDATE inbox.projection AS p SET "table" = target, table_name = target::text, filenode = pg_relation_filenode(target),
           copy_crashes = 0
     WHERE p.subscription_id = rebuild;
END
$$;
COMMENT ON FUNCTION inbox.finish_rebuild(integer) IS 'Lets a rebuild take the place of its projection.';

-- The process of a rebuild locks its table before anything else.
CREATE FUNCTION inbox.lock_rebuild(caller regrole, name text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    "table" regclass := (SELECT c.oid::regclass
                           FROM inbox.subscription AS s
                                JOIN inbox.projection AS p ON p.rebuild_of IS NOT NULL AND s.id IN (p.subscription_id, p.rebuild_of)
                                JOIN pg_class AS c ON c.oid = p."table"
                          WHERE s.name = lock_rebuild.name AND inbox.may_change(caller, s.owner));
BEGIN
    IF "table" IS NOT NULL THEN
        EXECUTE format('LOCK TABLE %s', "table");
    END IF;
EXCEPTION
    -- The rebuild has ended meanwhile.
    WHEN undefined_table THEN NULL;
END
$$;
COMMENT ON FUNCTION inbox.lock_rebuild(regrole, text) IS
    'Waits until the process of a rebuild has no transaction, and keeps it from another. The name is that of the rebuild or of its projection.';
