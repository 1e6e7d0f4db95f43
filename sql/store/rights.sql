-- Owns who may append to and read which categories, and which categories are published. Without a grant only those may who have
-- the rights of the owner of the tables. The check of an append is in src/store/categories.rs.

CREATE FUNCTION event_store.is_category_pattern(category text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT coalesce($1 ~ '^([A-Za-z0-9._]{1,100}|[A-Za-z0-9._]{0,99}[*])$', false) $$;
COMMENT ON FUNCTION event_store.is_category_pattern(text) IS
    'Whether this is a category, or a prefix of categories followed by an asterisk.';

CREATE FUNCTION event_store.require_category(category text) RETURNS void
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF (event_store.is_category_pattern(category) AND strpos(category, '*') = 0) IS NOT TRUE THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_name',
            MESSAGE = 'invalid category',
            DETAIL = format('It is %s.', coalesce(quote_literal(left(category, 300)), 'NULL')),
            HINT = 'Pass the name of one category.';
    END IF;
END
$$;
COMMENT ON FUNCTION event_store.require_category(text) IS 'Raises an error unless this is the name of one category.';

CREATE FUNCTION event_store.category_of(stream text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF (stream ~ '^[A-Za-z0-9._]{1,100}-[^[:cntrl:]]+$' AND octet_length(stream) <= 512) IS NOT TRUE THEN
        RAISE EXCEPTION USING
            ERRCODE = CASE WHEN stream IS NULL THEN 'null_value_not_allowed' ELSE 'invalid_name' END,
            MESSAGE = 'invalid name of a stream',
            DETAIL = format('The name is %s.', coalesce(quote_literal(left(stream, 300)), 'NULL')),
            HINT = 'Pass a category, "-" and an id, such as ''account-42''. The category has letters, digits, "." and "_".';
    END IF;
    RETURN split_part(stream, '-', 1);
END
$$;
COMMENT ON FUNCTION event_store.category_of(text) IS 'Returns the category of a stream; an error if the name is none of a stream.';

CREATE FUNCTION event_store.is_administrator(caller regrole) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT pg_has_role($1::oid, c.relowner, 'USAGE') FROM pg_class AS c WHERE c.oid = 'event_store.stream'::regclass
$$;
COMMENT ON FUNCTION event_store.is_administrator(regrole) IS
    'Whether the role has the rights of the owner of the tables, as superusers have.';

-- A grant counts as long as its role has the right to read the table of grants: see grant_category().
CREATE FUNCTION event_store.is_marked(role regrole) RETURNS boolean
    LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT c.relowner = $1 OR EXISTS (SELECT FROM aclexplode(c.relacl) AS a
                                       WHERE a.grantee = $1 AND a.privilege_type = 'SELECT')
      FROM pg_class AS c WHERE c.oid = 'event_store.category_grants'::regclass
$$;
COMMENT ON FUNCTION event_store.is_marked(regrole) IS
    'Whether the grants of the role count: DROP OWNED has not taken its right to read the table.';

CREATE FUNCTION event_store.is_granted(caller regrole, category text, is_to_append boolean) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT event_store.is_administrator($1)
        OR EXISTS (SELECT FROM event_store.category_grants AS g
                    WHERE CASE WHEN $3 THEN g.may_append ELSE g.may_read END
                      AND CASE WHEN right(g.category, 1) = '*' THEN starts_with($2, left(g.category, -1)) ELSE g.category = $2 END
                      AND pg_has_role($1::oid, g.role::oid, 'USAGE') AND event_store.is_marked(g.role))
$$;
COMMENT ON FUNCTION event_store.is_granted(regrole, text, boolean) IS
    'Whether the role may append to the category, or read it. For all categories, pass *.';

CREATE FUNCTION event_store.require_grant(caller regrole, category text, is_to_append boolean) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF event_store.is_granted(caller, category, is_to_append) THEN
        RETURN;
    END IF;
    RAISE EXCEPTION USING
        ERRCODE = 'insufficient_privilege',
        MESSAGE = CASE WHEN category = '*' THEN 'permission denied for all categories' ELSE format('permission denied for category "%s"', category) END,
        DETAIL = format('Neither role %s nor a role whose rights it has may %s.', caller,
                        CASE WHEN is_to_append THEN 'append to it' ELSE 'read it' END),
        HINT = 'An administrator can grant it with event_store.grant_category().';
END
$$;
COMMENT ON FUNCTION event_store.require_grant(regrole, text, boolean) IS 'Raises an error unless the role may.';

CREATE FUNCTION event_store.require_administrator(caller regrole, what text) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF NOT event_store.is_administrator(caller) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'insufficient_privilege',
            MESSAGE = format('permission denied for %s', what),
            DETAIL = format('Role %s does not have the rights of the owner of event_store.stream.', caller),
            HINT = 'Let an administrator do it, or a SECURITY DEFINER function of one.';
    END IF;
END
$$;
COMMENT ON FUNCTION event_store.require_administrator(regrole, text) IS
    'Raises an error unless the role has the rights of the owner of the tables.';

CREATE FUNCTION event_store.check_grant(role regrole, category text, privilege text) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF role IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'null_value_not_allowed',
            MESSAGE = 'role must not be null',
            DETAIL = 'A grant needs a role.',
            HINT = 'To open a category to several roles, grant it to a group role, and add the members.';
    END IF;
    IF (category IS NULL OR event_store.is_category_pattern(category)) IS NOT TRUE THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_name',
            MESSAGE = 'invalid category',
            DETAIL = format('No category matches %s.', quote_literal(left(category, 300))),
            HINT = 'Pass a category, or a prefix and an asterisk, such as ''bank.*''. For all categories, pass ''*''.';
    END IF;
    IF (privilege IN ('append', 'read', 'all')) IS NOT TRUE THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'invalid privilege',
            DETAIL = format('It is %s.', coalesce(quote_literal(left(privilege, 100)), 'NULL')),
            HINT = 'Pass ''append'', ''read'' or ''all''.';
    END IF;
END
$$;
COMMENT ON FUNCTION event_store.check_grant(regrole, text, text) IS 'Raises an error unless these can be arguments of grant_category().';

CREATE FUNCTION event_store.grant_category(role regrole, category text, privilege text DEFAULT 'all') RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM event_store.check_grant(role, coalesce(category, ''), privilege);
    -- regrole accepts any number, and - for none.
    IF NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.oid = grant_category.role) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_object',
            MESSAGE = format('role "%s" does not exist', role),
            DETAIL = 'Categories can be granted to roles only, not to PUBLIC.',
            HINT = 'Create a group role, grant the category to it, and add the members.';
    END IF;
    -- One at a time, because each call may change the table's privileges.
    PERFORM outbox.act_as_owner('event_store.category_grants');
    LOCK TABLE event_store.category_grants IN SHARE ROW EXCLUSIVE MODE;
    -- What DROP OWNED has ended must not count again with the role's next grant.
    DELETE FROM event_store.category_grants AS g WHERE NOT event_store.is_marked(g.role);
    INSERT INTO event_store.category_grants AS g (role, category, may_append, may_read)
    VALUES (grant_category.role, grant_category.category, privilege <> 'read', privilege <> 'append')
        ON CONFLICT ON CONSTRAINT category_grants_pkey
        DO UPDATE SET may_append = g.may_append OR excluded.may_append, may_read = g.may_read OR excluded.may_read;
    -- A role can see its grants, and they are valid only as long as it can. So DROP OWNED removes them without running any
    -- code of the extension, and PostgreSQL refuses to drop a role that still has some.
    IF NOT event_store.is_marked(role) THEN
        EXECUTE format('GRANT SELECT ON event_store.category_grants TO %s', role);
    END IF;
END
$$;
COMMENT ON FUNCTION event_store.grant_category(regrole, text, text) IS
    'Lets a role append to a category, read it, or both; or all categories with a prefix followed by an asterisk. It also needs EXECUTE on the functions.';

CREATE FUNCTION event_store.revoke_category(role regrole, category text DEFAULT NULL, privilege text DEFAULT 'all') RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    revoked bigint;
BEGIN
    PERFORM event_store.check_grant(role, category, privilege);
    PERFORM outbox.act_as_owner('event_store.category_grants');
    LOCK TABLE event_store.category_grants IN SHARE ROW EXCLUSIVE MODE;
    UPDATE event_store.category_grants AS g
       SET may_append = g.may_append AND privilege = 'read', may_read = g.may_read AND privilege = 'append'
     WHERE g.role = revoke_category.role AND (revoke_category.category IS NULL OR g.category = revoke_category.category)
       AND (g.may_append AND privilege <> 'read' OR g.may_read AND privilege <> 'append');
    GET DIAGNOSTICS revoked = ROW_COUNT;
    DELETE FROM event_store.category_grants AS g WHERE g.role = revoke_category.role AND NOT g.may_append AND NOT g.may_read;
    IF NOT EXISTS (SELECT FROM event_store.category_grants AS g WHERE g.role = revoke_category.role)
       AND EXISTS (SELECT FROM pg_roles AS r WHERE r.oid = revoke_category.role)
       AND role <> (SELECT c.relowner FROM pg_class AS c WHERE c.oid = 'event_store.category_grants'::regclass) THEN
        EXECUTE format('REVOKE SELECT ON event_store.category_grants FROM %s', role);
    END IF;
    RETURN revoked;
END
$$;
COMMENT ON FUNCTION event_store.revoke_category(regrole, text, text) IS
    'Revokes what was granted with exactly this category or prefix, or all grants of the role if none is given; returns of how many.';

CREATE FUNCTION event_store.bind_category(category text, topic text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM event_store.require_category(category);
    IF outbox.is_topic_name(topic) IS NOT TRUE THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_name',
            MESSAGE = 'invalid event topic',
            DETAIL = format('No event can have the topic %s.', coalesce(quote_literal(left(topic, 300)), 'NULL')),
            HINT = 'Pass the name of one topic.';
    END IF;
    PERFORM outbox.act_as_owner('event_store.category_binding');
    INSERT INTO event_store.category_binding AS b (category, topic) VALUES (bind_category.category, bind_category.topic)
        ON CONFLICT ON CONSTRAINT category_binding_pkey DO UPDATE SET topic = excluded.topic;
END
$$;
COMMENT ON FUNCTION event_store.bind_category(text, text) IS
    'Publishes each event that is appended to the category from now on to this topic, through the outbox, in the same transaction.';

CREATE FUNCTION event_store.unbind_category(category text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM outbox.act_as_owner('event_store.category_binding');
    DELETE FROM event_store.category_binding AS b WHERE b.category = unbind_category.category;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION event_store.unbind_category(text) IS
    'Ends the publication of the category''s events. Returns whether they were published.';
