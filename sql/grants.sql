-- Nothing is open until an administrator grants it. An application needs
--   GRANT USAGE ON SCHEMA outbox TO app;
--   GRANT EXECUTE ON FUNCTION outbox.emit TO app;

REVOKE ALL ON ALL TABLES IN SCHEMA outbox FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA outbox FROM PUBLIC;
