-- What an administrator does once, as a superuser: the roles of the services, their rights, and the topics of Kafka.
-- Nobody else in this example is a superuser. Each service runs its own file as its own role.

CREATE ROLE account_service LOGIN;        -- owns owners and accounts
CREATE ROLE transactions_service LOGIN;   -- owns transfers
CREATE ROLE reactor_service LOGIN;        -- owns everything in its own database
CREATE ROLE teller LOGIN;                 -- the web application: calls functions of the services, and reads what they show
CREATE ROLE operator LOGIN;               -- the web application's page "Operations"

-- The first database belongs to the bank's two services.
\connect bank
CREATE EXTENSION event_outbox;
CREATE SCHEMA account AUTHORIZATION account_service;
CREATE SCHEMA transactions AUTHORIZATION transactions_service;

-- Owners are a compacted topic: Kafka keeps the last state of each, so a new reader gets all of them. The others keep
-- every event. Their records carry the time at which the broker had them: the web application shows it.
SELECT outbox.create_topic('bank.owners', partitions => 3, config => '{"cleanup.policy": "compact"}');
SELECT outbox.create_topic('bank.accounts', partitions => 3);
SELECT outbox.create_topic('bank.contacts', partitions => 3);
SELECT outbox.create_topic('bank.transfers', partitions => 3,
                           config => '{"message.timestamp.type": "LogAppendTime", "retention.ms": "-1"}');
SELECT outbox.create_topic('bank.alarms', partitions => 3);

-- Who captures its tables, and to which topics.
GRANT USAGE ON SCHEMA outbox, inbox TO account_service;
GRANT EXECUTE ON FUNCTION outbox.capture, outbox.capture_changes TO account_service;
SELECT outbox.grant_topic('account_service', 'bank.owners');
SELECT outbox.grant_topic('account_service', 'bank.accounts');
SELECT outbox.grant_topic('account_service', 'bank.contacts');

-- Who receives alarms.
GRANT EXECUTE ON FUNCTION inbox.subscribe, inbox.handle, inbox.receive TO account_service;
SELECT inbox.grant_topic('account_service', 'bank.alarms');

-- Who stores events of accounts, projects balances from them, and publishes transfers.
GRANT USAGE ON SCHEMA event_store, inbox, outbox TO transactions_service;
GRANT EXECUTE ON FUNCTION event_store.append(text, text, jsonb, text, text, uuid, uuid),
                          event_store.append(text, bigint, jsonb, text, text, uuid, uuid),
                          event_store.command_version, event_store.aggregate, event_store.save_snapshot,
                          event_store.read_stream, event_store.read_category, event_store.subscribe TO transactions_service;
SELECT event_store.grant_category('transactions_service', 'account');
GRANT EXECUTE ON FUNCTION inbox.handle, inbox.receive TO transactions_service;
GRANT EXECUTE ON FUNCTION outbox.emit(text, jsonb, text, text, jsonb, uuid, integer) TO transactions_service;
SELECT outbox.grant_topic('transactions_service', 'bank.transfers');

-- Who watches the relay, and stops and starts it.
GRANT USAGE ON SCHEMA outbox TO operator;
GRANT SELECT ON outbox.status, outbox.paused, outbox.pending TO operator;
GRANT EXECUTE ON FUNCTION outbox.pause, outbox.resume TO operator;

-- The second database belongs to the reactor.
\connect reactor
CREATE EXTENSION event_outbox;
CREATE SCHEMA reactor AUTHORIZATION reactor_service;

GRANT USAGE ON SCHEMA inbox, outbox TO reactor_service;
GRANT EXECUTE ON FUNCTION inbox.subscribe, inbox.receive, inbox.handle, inbox.seek, inbox.pause, inbox.resume, inbox.redrive,
                          inbox.project, inbox.rebuild, inbox.grant_subscription TO reactor_service;
GRANT SELECT ON inbox.subscriptions, inbox.projections, inbox.retries, inbox.dead_letters TO reactor_service;
SELECT inbox.grant_topic('reactor_service', 'bank.*');

GRANT EXECUTE ON FUNCTION outbox.emit(text, jsonb, text, text, jsonb, uuid, integer) TO reactor_service;
SELECT outbox.grant_topic('reactor_service', 'bank.alarms');
