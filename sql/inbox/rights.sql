-- Owns who may do what in the inbox. Kafka is read with the server's credentials, so a role may subscribe only to the topics
-- granted to it; it may change its own subscriptions, and let others receive from them.

-- A grant counts as long as its role has the right to read the table of grants, which inbox.mark() gives it. So DROP OWNED
-- ends it without running any code of the extension, and PostgreSQL refuses to drop a role that still has some.
CREATE FUNCTION inbox.is_marked(role regrole, grants regclass) RETURNS boolean
    LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT c.relowner = $1 OR EXISTS (SELECT FROM aclexplode(c.relacl) AS a
                                       WHERE a.grantee = $1 AND a.privilege_type = 'SELECT')
      FROM pg_class AS c WHERE c.oid = $2
$$;
COMMENT ON FUNCTION inbox.is_marked(regrole, regclass) IS
    'Whether the rights of the role in this table of grants count: DROP OWNED has not taken its right to read the table.';

CREATE FUNCTION inbox.mark(role regrole, grants regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    -- One at a time, because each changes the table's privileges.
    EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', grants);
    -- What DROP OWNED has ended must not count again with the role's next grant.
    IF grants = 'inbox.topic_grants'::regclass THEN
        DELETE FROM inbox.topic_grants AS g WHERE NOT inbox.is_marked(g.role, grants);
    ELSE
        DELETE FROM inbox.subscription_grants AS g WHERE NOT inbox.is_marked(g.role, grants);
        UPDATE inbox.subscription AS s SET owner = (SELECT c.relowner FROM pg_class AS c WHERE c.oid = s.tableoid)
         WHERE NOT inbox.is_marked(s.owner, grants);
    END IF;
    IF NOT inbox.is_marked(role, grants) THEN
        EXECUTE format('GRANT SELECT ON %s TO %s', grants, role);
    END IF;
END
$$;
COMMENT ON FUNCTION inbox.mark(regrole, regclass) IS 'Makes the rights of the role in this table of grants count.';

CREATE FUNCTION inbox.unmark(role regrole, grants regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', grants);
    IF NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.oid = unmark.role)
       OR role = (SELECT c.relowner FROM pg_class AS c WHERE c.oid = grants)
       OR (grants = 'inbox.topic_grants'::regclass
           AND EXISTS (SELECT FROM inbox.topic_grants AS g WHERE g.role = unmark.role))
       OR (grants = 'inbox.subscription_grants'::regclass
           AND (EXISTS (SELECT FROM inbox.subscription_grants AS g WHERE g.role = unmark.role)
                OR EXISTS (SELECT FROM inbox.subscription AS s WHERE s.owner = unmark.role))) THEN
        RETURN;
    END IF;
    EXECUTE format('REVOKE SELECT ON %s FROM %s', grants, role);
END
$$;
COMMENT ON FUNCTION inbox.unmark(regrole, regclass) IS
    'Takes the right to read this table of grants from a role that has no grants any more, so that it can be dropped.';

CREATE FUNCTION inbox.require_role(role regrole) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF role IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'null_value_not_allowed',
            MESSAGE = 'role must not be null',
            DETAIL = 'A grant needs a role.',
            HINT = 'To open something to several roles, grant it to a group role, and add the members.';
    END IF;
    -- regrole accepts any number, and - for none.
    IF NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.oid = require_role.role) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_object',
            MESSAGE = format('role "%s" does not exist', role),
            DETAIL = 'Topics and subscriptions can be granted to roles only, not to PUBLIC.',
            HINT = 'Create a group role, grant to it, and add the members.';
    END IF;
END
$$;
COMMENT ON FUNCTION inbox.require_role(regrole) IS 'Raises an error unless the role exists.';

CREATE FUNCTION inbox.is_administrator(caller regrole) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT pg_has_role($1::oid, c.relowner, 'USAGE') FROM pg_class AS c WHERE c.oid = 'inbox.subscription'::regclass
$$;
COMMENT ON FUNCTION inbox.is_administrator(regrole) IS
    'Whether the role has the rights of the owner of the tables, as superusers have.';

CREATE FUNCTION inbox.may_change(caller regrole, owner regrole) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT inbox.is_administrator($1)
           OR (pg_has_role($1::oid, $2::oid, 'USAGE') AND inbox.is_marked($2, 'inbox.subscription_grants'))
$$;
COMMENT ON FUNCTION inbox.may_change(regrole, regrole) IS 'Whether the role may change what that owner has subscribed to.';

CREATE FUNCTION inbox.own_subscription(caller regrole, name text, is_to_change boolean) RETURNS inbox.subscription
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    own inbox.subscription;
BEGIN
    IF name IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'null_value_not_allowed',
            MESSAGE = 'the name of the subscription must not be null',
            DETAIL = 'The function acts on one subscription.',
            HINT = 'SELECT name FROM inbox.subscriptions; shows them.';
    END IF;
    IF is_to_change THEN
        SELECT * INTO own FROM inbox.subscription AS s WHERE s.name = own_subscription.name FOR NO KEY UPDATE;
    ELSE
        SELECT * INTO own FROM inbox.subscription AS s WHERE s.name = own_subscription.name FOR KEY SHARE;
    END IF;
    IF own.id IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_object',
            MESSAGE = format('subscription "%s" does not exist', left(name, 100)),
            DETAIL = 'No subscription of this database has this name.',
            HINT = 'SELECT name FROM inbox.subscriptions; shows them. inbox.subscribe() creates one.';
    END IF;
    IF NOT inbox.may_change(caller, own.owner) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'insufficient_privilege',
            MESSAGE = format('permission denied for subscription "%s"', name),
            DETAIL = format('Role %s does not have the rights of %s, which owns the subscription.', caller, own.owner),
            HINT = 'Let its owner do it, or become a member of that role.';
    END IF;
    RETURN own;
END
$$;
COMMENT ON FUNCTION inbox.own_subscription(regrole, text, boolean) IS
    'Returns the subscription, locked against its end, or against each change; an error if it does not belong to the role.';

CREATE FUNCTION inbox.may_consume(caller regrole, topic_or_pattern text) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT inbox.is_administrator($1)
        OR EXISTS (SELECT FROM inbox.topic_grants AS g
                    WHERE pg_has_role($1::oid, g.role::oid, 'USAGE')
                      AND inbox.is_marked(g.role, 'inbox.topic_grants')
                      -- All topics that a pattern finds begin with what comes before its first asterisk.
                      AND CASE WHEN right(g.pattern, 1) = '*'
                               THEN starts_with(split_part($2, '*', 1), left(g.pattern, -1))
                               ELSE g.pattern = $2 END)
$$;
COMMENT ON FUNCTION inbox.may_consume(regrole, text) IS
    'Whether the role may subscribe to the topic, or to all topics that the pattern finds.';

CREATE FUNCTION inbox.may_receive(caller regrole, subscription_id integer) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT inbox.is_administrator($1)
        OR EXISTS (SELECT FROM (SELECT s.owner AS role FROM inbox.subscription AS s WHERE s.id = $2
                                UNION ALL
                                SELECT g.role FROM inbox.subscription_grants AS g WHERE g.subscription_id = $2) AS r
                    WHERE pg_has_role($1::oid, r.role::oid, 'USAGE') AND inbox.is_marked(r.role, 'inbox.subscription_grants'))
$$;
COMMENT ON FUNCTION inbox.may_receive(regrole, integer) IS
    'Whether the role may receive from the subscription: it has the rights of its owner, or was granted it.';

CREATE FUNCTION inbox.grant_topic(role regrole, topic text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM inbox.require_role(role);
    IF outbox.is_topic_pattern(topic) IS NOT TRUE THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_name',
            MESSAGE = 'invalid topic pattern',
            DETAIL = format('No valid topic name matches %s.', coalesce(quote_literal(left(topic, 300)), 'NULL')),
            HINT = 'Pass a topic name, or a prefix and an asterisk, such as ''orders.*''. For all topics, pass ''*''.';
    END IF;
    PERFORM outbox.act_as_owner('inbox.topic_grants');
    PERFORM inbox.mark(role, 'inbox.topic_grants');
    INSERT INTO inbox.topic_grants (role, pattern) VALUES (grant_topic.role, grant_topic.topic) ON CONFLICT DO NOTHING;
END
$$;
COMMENT ON FUNCTION inbox.grant_topic(regrole, text) IS
    'Lets a role subscribe to a topic, or to all topics with a prefix followed by an asterisk. Without a grant, only superusers can subscribe.';

CREATE FUNCTION inbox.revoke_topic(role regrole, topic text DEFAULT NULL) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    revoked bigint;
    remain  text;
BEGIN
    IF role IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'null_value_not_allowed',
            MESSAGE = 'role must not be null',
            DETAIL = 'Grants of topics are revoked from one role at a time.',
            HINT = 'See inbox.topic_grants for the roles that have grants.';
    END IF;
    PERFORM outbox.act_as_owner('inbox.topic_grants');
    DELETE FROM inbox.topic_grants AS g
     WHERE g.role = revoke_topic.role AND (revoke_topic.topic IS NULL OR g.pattern = revoke_topic.topic);
    GET DIAGNOSTICS revoked = ROW_COUNT;
    PERFORM inbox.unmark(role, 'inbox.topic_grants');

    SELECT string_agg(format('"%s"', s.name), ', ' ORDER BY s.name) INTO remain
      FROM inbox.subscription AS s
     WHERE EXISTS (SELECT FROM pg_roles AS r WHERE r.oid = s.owner)
       AND EXISTS (SELECT FROM unnest(s.topics || s.pattern) AS t(topic)
                    WHERE t.topic IS NOT NULL AND NOT inbox.may_consume(s.owner, t.topic));
    IF revoked > 0 AND remain IS NOT NULL THEN
        RAISE WARNING USING
            MESSAGE = 'subscriptions go on reading topics that their owners may no longer subscribe to',
            DETAIL = format('They are %s.', remain),
            HINT = 'inbox.unsubscribe() ends a subscription.';
    END IF;
    RETURN revoked;
END
$$;
COMMENT ON FUNCTION inbox.revoke_topic(regrole, text) IS
    'Revokes the grant with exactly this topic or pattern, or all grants of the role if none is given; returns how many. Subscriptions remain.';
