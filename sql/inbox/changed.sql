-- Owns what tells sessions of changes: they remember what some tables say of a subscription. See
-- src/inbox/receive/subscription.rs.

CREATE FUNCTION inbox.changed() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'inbox_changed';
COMMENT ON FUNCTION inbox.changed() IS 'Makes all sessions read the subscriptions again.';

DO $once$
DECLARE
    known text;
BEGIN
    FOREACH known IN ARRAY ARRAY['subscription', 'subscription_grants', 'partition', 'segment'] LOOP
        EXECUTE pg_catalog.format($ddl$
            CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON inbox.%1$I
                FOR EACH STATEMENT EXECUTE FUNCTION inbox.changed();
            ALTER TABLE inbox.%1$I ENABLE ALWAYS TRIGGER changed;
        $ddl$, known);
    END LOOP;
END
$once$;
