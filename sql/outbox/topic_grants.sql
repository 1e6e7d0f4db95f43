-- Owns the grants of topics. While the table is empty, every role that may emit may emit to all topics. Once it contains
-- a grant, a role may emit only to topics that are granted to it or to a role whose rights it has. The check is in
-- src/outbox/emit/topic_grants.rs.

CREATE TABLE outbox.topic_grants (
    role    regrole NOT NULL,
    pattern text NOT NULL CONSTRAINT topic_or_prefix CHECK (outbox.is_topic_pattern(pattern)),
    PRIMARY KEY (role, pattern)
);

COMMENT ON TABLE outbox.topic_grants IS
    'Which roles may emit to which topics. While it is empty, every role that may emit may emit to all topics. outbox.grant_topic() and outbox.revoke_topic() change it.';
COMMENT ON COLUMN outbox.topic_grants.role IS 'The role; the grant extends to its members. It is valid only while the role has the SELECT privilege on this table, which outbox.grant_topic() grants.';
COMMENT ON COLUMN outbox.topic_grants.pattern IS
    'A topic name, or a prefix of topic names followed by an asterisk.';

-- A dump contains role names: an OID would mean a different role in another cluster.
SELECT pg_catalog.pg_extension_config_dump('outbox.topic_grants', '');

CREATE FUNCTION outbox.topic_grants_changed() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'outbox_topic_grants_changed';
COMMENT ON FUNCTION outbox.topic_grants_changed() IS 'Makes all sessions read outbox.topic_grants again.';

CREATE TRIGGER topic_grants_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON outbox.topic_grants
    FOR EACH STATEMENT EXECUTE FUNCTION outbox.topic_grants_changed();

CREATE FUNCTION outbox.grant_topic(role regrole, pattern text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF role IS NULL OR pattern IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'null_value_not_allowed',
            MESSAGE = 'role and pattern must not be null',
            DETAIL = 'A topic grant needs both a role and a topic pattern.',
            HINT = 'To grant all topics, pass ''*''.';
    END IF;
    -- regrole accepts any number, and - for none.
    IF NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.oid = grant_topic.role) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_object',
            MESSAGE = format('role "%s" does not exist', role),
            DETAIL = 'Topics can be granted to roles only, not to PUBLIC.',
            HINT = 'Create a group role, grant the topic to it, and add the members.';
    END IF;
    IF NOT outbox.is_topic_pattern(pattern) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_name',
            MESSAGE = 'invalid topic pattern',
            DETAIL = format('No valid topic name matches "%s".', pattern),
            HINT = 'Pass a topic name, or a prefix and an asterisk, such as ''orders.*''.';
    END IF;

    -- One at a time, because each call may change the table's privileges.
    PERFORM outbox.act_as_owner('outbox.topic_grants');
    LOCK TABLE outbox.topic_grants IN SHARE ROW EXCLUSIVE MODE;
    -- Invalid grants: DROP OWNED has revoked the role's privilege, or the role was dropped.
    DELETE FROM outbox.topic_grants AS g
     WHERE NOT EXISTS (SELECT FROM pg_class AS c
                        WHERE c.oid = g.tableoid
                          AND (c.relowner = g.role OR EXISTS (SELECT FROM aclexplode(c.relacl) AS a
                                                               WHERE a.grantee = g.role AND a.privilege_type = 'SELECT')));
    IF NOT FOUND AND NOT EXISTS (SELECT FROM outbox.topic_grants) THEN
        RAISE NOTICE USING
            MESSAGE = 'roles can now emit only to topics that are granted to them',
            DETAIL = 'This is the first topic grant in this database.',
            HINT = 'Superusers and the owner of outbox.events can still emit to all topics.';
    END IF;
    INSERT INTO outbox.topic_grants (role, pattern) VALUES (grant_topic.role, grant_topic.pattern)
        ON CONFLICT DO NOTHING;
    -- A role can see its grants, and they are valid only as long as it can. So DROP OWNED removes them without running any
    -- code of the extension, and PostgreSQL refuses to drop a role that still has some.
    IF role <> (SELECT c.relowner FROM pg_class AS c WHERE c.oid = 'outbox.topic_grants'::regclass) THEN
        EXECUTE format('GRANT SELECT ON outbox.topic_grants TO %s', role);
    END IF;
END
$$;
COMMENT ON FUNCTION outbox.grant_topic(regrole, text) IS
    'Lets a role emit to a topic, or to all topics with a prefix followed by an asterisk. The first grant closes all topics to roles without a grant.';

CREATE FUNCTION outbox.revoke_topic(role regrole, pattern text DEFAULT NULL) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    revoked bigint;
BEGIN
    IF role IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'null_value_not_allowed',
            MESSAGE = 'role must not be null',
            DETAIL = 'Topic grants are revoked from one role at a time.',
            HINT = 'See outbox.topic_grants for the roles that have grants.';
    END IF;
    PERFORM outbox.act_as_owner('outbox.topic_grants');
    LOCK TABLE outbox.topic_grants IN SHARE ROW EXCLUSIVE MODE;
    DELETE FROM outbox.topic_grants AS g
     WHERE g.role = revoke_topic.role AND (revoke_topic.pattern IS NULL OR g.pattern = revoke_topic.pattern);
    GET DIAGNOSTICS revoked = ROW_COUNT;
    IF revoked = 0 THEN
        RETURN 0;
    END IF;

    IF NOT EXISTS (SELECT FROM outbox.topic_grants AS g WHERE g.role = revoke_topic.role)
       AND EXISTS (SELECT FROM pg_roles AS r WHERE r.oid = revoke_topic.role)
       AND role <> (SELECT c.relowner FROM pg_class AS c WHERE c.oid = 'outbox.topic_grants'::regclass) THEN
        EXECUTE format('REVOKE SELECT ON outbox.topic_grants FROM %s', role);
    END IF;
    IF NOT EXISTS (SELECT FROM outbox.topic_grants) THEN
        RAISE WARNING USING
            MESSAGE = 'every role that can emit can now emit to all topics',
            DETAIL = 'No topic grants are left in this database.',
            HINT = 'To keep topics closed, grant one to a role without members.';
    END IF;
    RETURN revoked;
END
$$;
COMMENT ON FUNCTION outbox.revoke_topic(regrole, text) IS
    'Revokes the grant with exactly this pattern, or all grants of the role if no pattern is given; returns how many. Without any grant left, all topics are open again.';
