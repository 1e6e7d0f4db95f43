-- Which roles may emit to which topics. While the table is empty, everybody who may emit may emit to all;
-- as soon as it holds a grant, a role may emit to the topics granted to it, or to a role whose rights it has,
-- and to no others. The check is in src/outbox/emit/topic_grants.rs.

CREATE TABLE outbox.topic_grants (
    role    regrole NOT NULL,
    pattern text NOT NULL CONSTRAINT topic_or_prefix CHECK (outbox.is_topic_pattern(pattern)),
    PRIMARY KEY (role, pattern)
);

COMMENT ON TABLE outbox.topic_grants IS
    'Which roles may emit to which topics; while it is empty, those who may emit may emit to all. Changed by outbox.grant_topic() and outbox.revoke_topic().';
COMMENT ON COLUMN outbox.topic_grants.role IS 'The role, and all that have its rights by membership. A grant counts while the role has the right to read this table, which comes with it.';
COMMENT ON COLUMN outbox.topic_grants.pattern IS
    'A topic; or the beginning of topics, followed by an asterisk.';

-- A role by its name: an oid would mean another one in another cluster.
SELECT pg_catalog.pg_extension_config_dump('outbox.topic_grants', '');

CREATE FUNCTION outbox.topic_grants_changed() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'outbox_topic_grants_changed';
COMMENT ON FUNCTION outbox.topic_grants_changed() IS 'Has all sessions read outbox.topic_grants anew.';

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
            DETAIL = 'A topic grant says which role may emit to which topics.',
            HINT = 'To mean all topics, pass ''*''.';
    END IF;
    -- regrole takes any number, and - for none.
    IF NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.oid = grant_topic.role) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_object',
            MESSAGE = format('role "%s" does not exist', role),
            DETAIL = 'Topics are granted to roles; there is no grant to PUBLIC.',
            HINT = 'Create a role for all who are to have the grant, and make them its members.';
    END IF;
    IF NOT outbox.is_topic_pattern(pattern) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_name',
            MESSAGE = 'invalid topic pattern',
            DETAIL = format('No topic has a name like "%s".', pattern),
            HINT = 'Pass a topic''s name, or the beginning of names and an asterisk, such as ''orders.*''.';
    END IF;

    -- One after the other, since each may change the table's privileges.
    PERFORM outbox.act_as_owner('outbox.topic_grants');
    LOCK TABLE outbox.topic_grants IN SHARE ROW EXCLUSIVE MODE;
    -- What counts no more, since DROP OWNED has taken the role's rights, or the role is gone.
    DELETE FROM outbox.topic_grants AS g
     WHERE NOT EXISTS (SELECT FROM pg_class AS c
                        WHERE c.oid = g.tableoid
                          AND (c.relowner = g.role OR EXISTS (SELECT FROM aclexplode(c.relacl) AS a
                                                               WHERE a.grantee = g.role AND a.privilege_type = 'SELECT')));
    IF NOT FOUND AND NOT EXISTS (SELECT FROM outbox.topic_grants) THEN
        RAISE NOTICE USING
            MESSAGE = 'from now on roles can emit only to topics that are granted to them',
            DETAIL = 'This is the first topic grant in this database.',
            HINT = 'Superusers, and the owner of outbox.events, can emit to all topics.';
    END IF;
    INSERT INTO outbox.topic_grants (role, pattern) VALUES (grant_topic.role, grant_topic.pattern)
        ON CONFLICT DO NOTHING;
    -- A role that has grants can see them, and they count as long as it can: so DROP OWNED takes them too, without anything
    -- of ours to run. And PostgreSQL does not drop a role that is mentioned in privileges.
    IF role <> (SELECT c.relowner FROM pg_class AS c WHERE c.oid = 'outbox.topic_grants'::regclass) THEN
        EXECUTE format('GRANT SELECT ON outbox.topic_grants TO %s', role);
    END IF;
END
$$;
COMMENT ON FUNCTION outbox.grant_topic(regrole, text) IS
    'Lets a role emit to a topic, or to all whose names begin with what stands before an asterisk. The first grant closes all topics to roles without one.';

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
            HINT = 'outbox.topic_grants shows who has any.';
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
            MESSAGE = 'from now on every role that can emit can emit to all topics',
            DETAIL = 'There are no topic grants left in this database.',
            HINT = 'To close all topics, grant one to a role that nobody has.';
    END IF;
    RETURN revoked;
END
$$;
COMMENT ON FUNCTION outbox.revoke_topic(regrole, text) IS
    'Takes back a grant with just this pattern, or without a pattern all grants of the role; returns how many. When the last is gone, all topics are open again.';
