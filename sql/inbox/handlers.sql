-- Owns the handlers: functions that background workers call with the events of a subscription. Each process is connected as
-- the owner of the function.

-- A function is named as text, because pg_upgrade keeps no oids of functions. There is no foreign key, as for the tables of
-- tables.sql: a dump would restore inbox.subscription before this table, and so before those that must be there before it.
CREATE TABLE inbox.handler (
    subscription_id integer     PRIMARY KEY,
    handler         text        NOT NULL,
    workers         integer     NOT NULL CHECK (workers BETWEEN 1 AND 64),
    batch           integer     NOT NULL CHECK (batch BETWEEN 1 AND 10000),
    created_at      timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE inbox.handler IS 'The handlers. Changed only through inbox.handle() and inbox.unhandle().';
COMMENT ON COLUMN inbox.handler.subscription_id IS 'The subscription.';
COMMENT ON COLUMN inbox.handler.handler IS 'The function with its schema and argument type.';
COMMENT ON COLUMN inbox.handler.workers IS 'How many processes call it.';
COMMENT ON COLUMN inbox.handler.batch IS 'How many events a process receives in a transaction, at most.';
COMMENT ON COLUMN inbox.handler.created_at IS 'When it was set.';

SELECT pg_catalog.pg_extension_config_dump('inbox.handler', '');

CREATE TRIGGER handler_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON inbox.handler
    FOR EACH STATEMENT EXECUTE FUNCTION inbox.after_change();

CREATE FUNCTION inbox.handle_for(caller regrole, subscription text, handler regprocedure, workers integer, batch integer)
    RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    handled  inbox.subscription := inbox.own_subscription(caller, subscription, true);
    function pg_proc;
    runs_as  pg_roles;
BEGIN
    PERFORM inbox.refuse_projection(handled.id, 'inbox.handle()', 'Subscribe to the topic by another name than %L.');
    IF (workers BETWEEN 1 AND 64 AND batch BETWEEN 1 AND 10000) IS NOT TRUE THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'workers must be 1 to 64, and batch 1 to 10000',
            DETAIL = format('workers is %s, batch is %s.', coalesce(workers::text, 'NULL'), coalesce(batch::text, 'NULL')),
            HINT = 'Omit a parameter to use its default.';
    END IF;
    SELECT * INTO function FROM pg_proc AS p WHERE p.oid = handler;
    IF function.oid IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_function',
            MESSAGE = 'the handler does not exist',
            DETAIL = format('The handler is %s.', coalesce(handler::text, 'NULL')),
            HINT = 'Pass a function, such as ''app.handle(inbox.event)''.';
    END IF;
    IF function.prokind <> 'f' OR function.proretset OR function.pronargs <> 1
       OR function.proargtypes[0] NOT IN ('inbox.event'::regtype, 'inbox.event[]'::regtype) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_function_definition',
            MESSAGE = format('%s cannot be a handler', handler),
            DETAIL = 'A handler is a function that takes one argument, of the type inbox.event or inbox.event[], and returns no set.',
            HINT = 'CREATE FUNCTION app.handle(event inbox.event) RETURNS void …';
    END IF;
    SELECT * INTO runs_as FROM pg_roles AS r WHERE r.oid = function.proowner;
    IF NOT pg_has_role(caller::oid, function.proowner, 'USAGE') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'insufficient_privilege',
            MESSAGE = format('permission denied for function %s', handler),
            DETAIL = format('It would run as %s, whose rights role %s does not have.', runs_as.rolname, caller),
            HINT = 'Let the owner of the function call inbox.handle(), or become a member of that role.';
    END IF;
    IF NOT runs_as.rolcanlogin THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_authorization_specification',
            MESSAGE = format('role "%s" cannot log in', runs_as.rolname),
            DETAIL = 'The processes of a handler are connected as the owner of the function.',
            HINT = format('ALTER ROLE %I LOGIN, or let a role that can log in own the function.', runs_as.rolname);
    END IF;
    IF NOT (has_schema_privilege(runs_as.oid, 'inbox', 'USAGE')
            AND has_function_privilege(runs_as.oid, 'inbox.receive(text, integer, interval)', 'EXECUTE')
            AND inbox.may_receive(runs_as.oid::regrole, handled.id)) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'insufficient_privilege',
            MESSAGE = format('role "%s" may not receive from subscription "%s"', runs_as.rolname, subscription),
            DETAIL = 'The processes of a handler are connected as the owner of the function.',
            HINT = format('GRANT USAGE ON SCHEMA inbox TO %1$I; GRANT EXECUTE ON FUNCTION inbox.receive(text, integer, interval) TO %1$I; SELECT inbox.grant_subscription(%1$L, %2$L);',
                          runs_as.rolname, subscription);
    END IF;
    INSERT INTO inbox.handler (subscription_id, handler, workers, batch)
    SELECT handled.id, format('%I.%I(%s)', n.nspname, function.proname,
                              CASE function.proargtypes[0] WHEN 'inbox.event'::regtype THEN 'inbox.event' ELSE 'inbox.event[]' END),
           handle_for.workers, handle_for.batch
      FROM pg_namespace AS n WHERE n.oid = function.pronamespace
        ON CONFLICT (subscription_id) DO UPDATE
       SET handler = excluded.handler, workers = excluded.workers, batch = excluded.batch, created_at = now();
END
$$;
COMMENT ON FUNCTION inbox.handle_for(regrole, text, regprocedure, integer, integer) IS 'Does the work of inbox.handle() for the caller.';

CREATE FUNCTION inbox.handle(subscription text, handler regprocedure, workers integer DEFAULT 1, batch integer DEFAULT 100)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inbox_for_caller';
COMMENT ON FUNCTION inbox.handle(text, regprocedure, integer, integer) IS
    'Has background workers receive the events of a subscription and call a function for each, or for each batch. They are connected as the owner of the function.';

CREATE FUNCTION inbox.unhandle_for(caller regrole, subscription text) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    handled inbox.subscription := inbox.own_subscription(caller, subscription, true);
BEGIN
    DELETE FROM inbox.handler AS h WHERE h.subscription_id = handled.id;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION inbox.unhandle_for(regrole, text) IS 'Does the work of inbox.unhandle() for the caller.';

CREATE FUNCTION inbox.unhandle(subscription text) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inbox_for_caller';
COMMENT ON FUNCTION inbox.unhandle(text) IS
    'Ends the handler of a subscription: its processes finish the batch they are at. Returns false if there was none.';

CREATE VIEW inbox.handlers WITH (security_barrier) AS
    SELECT s.name AS subscription,
           h.handler,
           pg_catalog.pg_get_userbyid(p.proowner) AS role,
           h.workers,
           (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_get_activity(NULL) AS a
             WHERE a.datid = d.oid
               AND a.application_name = pg_catalog.left(pg_catalog.concat('event_outbox handler of ', s.name), 63)) AS running,
           h.batch,
           h.created_at
      FROM inbox.handler AS h
           JOIN inbox.subscriptions AS s ON s.id = h.subscription_id
           JOIN pg_catalog.pg_database AS d ON d.datname = pg_catalog.current_database()
           LEFT JOIN pg_catalog.pg_proc AS p ON p.oid = pg_catalog.to_regprocedure(h.handler);
COMMENT ON VIEW inbox.handlers IS 'The handlers of the subscriptions from which the current user may receive.';
COMMENT ON COLUMN inbox.handlers.subscription IS 'The subscription.';
COMMENT ON COLUMN inbox.handlers.handler IS 'The function.';
COMMENT ON COLUMN inbox.handlers.role IS 'The role that its processes are connected as; NULL if the function no longer exists.';
COMMENT ON COLUMN inbox.handlers.workers IS 'How many processes call it.';
COMMENT ON COLUMN inbox.handlers.running IS 'How many of them run at present.';
COMMENT ON COLUMN inbox.handlers.batch IS 'How many events a process receives in a transaction, at most.';
COMMENT ON COLUMN inbox.handlers.created_at IS 'When it was set.';
