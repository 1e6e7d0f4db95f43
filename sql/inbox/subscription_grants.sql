-- Owns who may receive from a subscription.

CREATE FUNCTION inbox.grant_subscription_for(caller regrole, role regrole, name text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    granted inbox.subscription := inbox.own_subscription(caller, name, false);
BEGIN
    PERFORM inbox.require_role(role);
    PERFORM inbox.mark(role, 'inbox.subscription_grants');
    INSERT INTO inbox.subscription_grants (role, subscription_id) VALUES (grant_subscription_for.role, granted.id)
        ON CONFLICT DO NOTHING;
END
$$;
COMMENT ON FUNCTION inbox.grant_subscription_for(regrole, regrole, text) IS 'Does the work of inbox.grant_subscription() for the caller.';

CREATE FUNCTION inbox.grant_subscription(role regrole, name text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inbox_for_caller';
COMMENT ON FUNCTION inbox.grant_subscription(regrole, text) IS
    'Lets a role, and its members, receive from the subscription. They also need EXECUTE on inbox.receive().';

CREATE FUNCTION inbox.revoke_subscription_for(caller regrole, role regrole, name text) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    closed  inbox.subscription := inbox.own_subscription(caller, name, false);
    revoked boolean;
BEGIN
    DELETE FROM inbox.subscription_grants AS g
     WHERE g.role = revoke_subscription_for.role AND g.subscription_id = closed.id;
    revoked := FOUND;
    PERFORM inbox.unmark(role, 'inbox.subscription_grants');
    RETURN revoked;
END
$$;
COMMENT ON FUNCTION inbox.revoke_subscription_for(regrole, regrole, text) IS 'Does the work of inbox.revoke_subscription() for the caller.';

CREATE FUNCTION inbox.revoke_subscription(role regrole, name text) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inbox_for_caller';
COMMENT ON FUNCTION inbox.revoke_subscription(regrole, text) IS
    'Revokes what inbox.grant_subscription() granted. Returns false if there was no such grant.';
