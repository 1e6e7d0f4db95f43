-- transactions: transfers are event-sourced. What is stored is what has happened; balances follow from it.
-- Runs in the database "bank" as the role transactions_service.
--
-- Each account is a stream, such as account-1001, with these events:
--
--   money.deposited    {"amount": 100.00}
--   transfer.sent      {"transfer": "0192…", "from": 1001, "to": 1002, "amount": 25.00, "reference": "Rent"}
--   transfer.received  the same

-- The aggregate: the state of an account, as far as rules need it. It is folded from the events of the stream, one after
-- the other. A function that only depends on its arguments: there is no table behind it.
CREATE FUNCTION transactions.apply(state jsonb, event event_store.recorded_event) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    amount CONSTANT numeric := (event.data ->> 'amount')::numeric;
    today  CONSTANT text := (event.recorded_at AT TIME ZONE 'UTC')::date;
    -- What was sent on the day of the event, before it.
    sent   CONSTANT numeric := CASE WHEN state ->> 'day' = today THEN (state ->> 'sent')::numeric ELSE 0 END;
BEGIN
    RETURN CASE event.type
        WHEN 'transfer.sent' THEN
            state || jsonb_build_object('balance', (state ->> 'balance')::numeric - amount, 'day', today, 'sent', sent + amount)
        WHEN 'transfer.received' THEN state || jsonb_build_object('balance', (state ->> 'balance')::numeric + amount)
        WHEN 'money.deposited' THEN state || jsonb_build_object('balance', (state ->> 'balance')::numeric + amount)
        ELSE state
    END;
END
$$;
COMMENT ON FUNCTION transactions.apply(jsonb, event_store.recorded_event) IS 'Folds an event into the state of an account.';

-- The state of an account with its version, from the newest snapshot on. Raise the version of the reducer when apply()
-- changes: snapshots of another version are not used.
CREATE FUNCTION transactions.account(number bigint, OUT version bigint, OUT balance numeric, OUT sent_today numeric, OUT state jsonb)
    LANGUAGE sql SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT a.version, (a.state ->> 'balance')::numeric,
           CASE WHEN a.state ->> 'day' = (now() AT TIME ZONE 'UTC')::date::text THEN (a.state ->> 'sent')::numeric ELSE 0 END,
           a.state
      FROM event_store.aggregate('account-' || account.number, 'transactions.apply(jsonb, event_store.recorded_event)',
                                 '{"balance": 0}', reducer_version => 1) AS a
$$;
COMMENT ON FUNCTION transactions.account(bigint) IS 'The state of an account, folded from its events.';

-- Commands. Each has an id, which whoever gives the command chooses: a command that is repeated, because an answer was
-- lost or a button was pressed twice, happens once and has the same result.

CREATE FUNCTION transactions.deposit(command uuid, number bigint, amount numeric) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM account.account AS a WHERE a.number = deposit.number) THEN
        RAISE EXCEPTION 'There is no account %.', number USING ERRCODE = 'BK001';
    END IF;
    IF amount > 0 AND amount <= 1000000 AND scale(amount) <= 2 THEN
        -- Whatever happened to the account before, more money is welcome: any version will do.
        RETURN event_store.append('account-' || number, 'any',
            jsonb_build_object('type', 'money.deposited', 'data', jsonb_build_object('amount', amount)),
            command_id => command::text, correlation_id => command);
    END IF;
    RAISE EXCEPTION 'An amount is between 0.01 and 1,000,000.00.' USING ERRCODE = 'BK002';
END
$$;
COMMENT ON FUNCTION transactions.deposit(uuid, bigint, numeric) IS 'Puts money into an account; returns the version of its stream.';

CREATE FUNCTION transactions.transfer(command uuid, source bigint, target bigint, amount numeric, reference text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    sender   CONSTANT text := 'account-' || source;
    receiver CONSTANT text := 'account-' || target;
    id       CONSTANT uuid := outbox.uuid_v7();
    details  CONSTANT jsonb := jsonb_build_object('transfer', id, 'from', source, 'to', target, 'amount', amount,
                                                  'reference', reference);
    present  record;
    version  bigint := event_store.command_version(sender, command::text);
BEGIN
    IF version IS NOT NULL THEN
        RETURN version;
    END IF;
    -- Read, decide …
    present := transactions.account(source);
    PERFORM transactions.require_allowed(source, target, amount, present.balance, present.sent_today);
    -- … and store, if the account is still as it was read. If another transfer came first, append() raises SQLSTATE OE001,
    -- and the caller decides anew. Nobody waits for a lock in between.
    --
    -- Streams are locked until the commit. Two transfers in opposite directions take them in the same order.
    IF target < source THEN
        PERFORM transactions.receive(receiver, id, details, command);
    END IF;
    version := event_store.append(sender, present.version,
        jsonb_build_object('id', id, 'type', 'transfer.sent', 'data', details),
        command_id => command::text, emit => 'bank.transfers', correlation_id => command);
    IF target > source THEN
        PERFORM transactions.receive(receiver, id, details, command);
    END IF;
    -- A snapshot once in a while, so that an old account is read as quickly as a new one.
    IF version / 50 > present.version / 50 THEN
        PERFORM event_store.save_snapshot(sender, present.version, present.state, reducer_version => 1);
    END IF;
    RETURN version;
END
$$;
COMMENT ON FUNCTION transactions.transfer(uuid, bigint, bigint, numeric, text) IS
    'Sends money from one account to another; returns the version of the sender''s stream.';

CREATE FUNCTION transactions.receive(receiver text, transfer uuid, details jsonb, command uuid) RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT event_store.append(receiver, 'any', jsonb_build_object('type', 'transfer.received', 'data', details),
                              causation_id => transfer, correlation_id => command)
$$;
COMMENT ON FUNCTION transactions.receive(text, uuid, jsonb, uuid) IS 'Stores the other side of a transfer, in the same transaction.';

-- The rules. They see the state, and nothing else.
CREATE FUNCTION transactions.require_allowed(source bigint, target bigint, amount numeric, balance numeric, sent_today numeric)
    RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    sender account.account;
BEGIN
    SELECT a.number, a.daily_limit, a.state INTO sender.number, sender.daily_limit, sender.state
      FROM account.account AS a WHERE a.number = source;
    IF (amount > 0 AND amount <= 1000000 AND scale(amount) <= 2) IS NOT TRUE THEN
        RAISE EXCEPTION 'An amount is between 0.01 and 1,000,000.00.' USING ERRCODE = 'BK002';
    ELSIF sender.number IS NULL OR NOT EXISTS (SELECT FROM account.account AS a WHERE a.number = target) THEN
        RAISE EXCEPTION 'There is no such account.' USING ERRCODE = 'BK001';
    ELSIF source = target THEN
        RAISE EXCEPTION 'Choose two different accounts.' USING ERRCODE = 'BK001';
    ELSIF sender.state <> 'open' THEN
        RAISE EXCEPTION 'Account % is in review, and sends nothing until the review has ended.', source USING ERRCODE = 'BK003';
    ELSIF balance < amount THEN
        RAISE EXCEPTION 'Account % has %, which is too little.', source, to_char(balance, 'FM999,999,990.00') USING ERRCODE = 'BK004';
    ELSIF sent_today + amount > sender.daily_limit THEN
        RAISE EXCEPTION 'Account % can send % more today.', source,
            to_char(greatest(sender.daily_limit - sent_today, 0), 'FM999,999,990.00') USING ERRCODE = 'BK005';
    END IF;
END
$$;
COMMENT ON FUNCTION transactions.require_allowed(bigint, bigint, numeric, numeric, numeric) IS 'Refuses a transfer that breaks a rule.';

-- The projection: balances as a table, for who wants to see all of them at once. It is written by a background worker that
-- receives the events of the category, in their order and each exactly once, a few milliseconds after their commit.
CREATE TABLE transactions.balance (
    number     bigint PRIMARY KEY,
    balance    numeric NOT NULL,
    transfers  bigint NOT NULL,
    sent       numeric NOT NULL,
    version    bigint NOT NULL,
    changed_at timestamptz NOT NULL
);
COMMENT ON TABLE transactions.balance IS
    'The balance of each account, and how many transfers it has sent, and of how much, as of a version of its stream.';

CREATE FUNCTION transactions.project(event inbox.event) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    number  CONSTANT bigint := substr(convert_from(event.key, 'UTF8'), length('account-') + 1);
    amount  CONSTANT numeric := event.data ->> 'amount';
    version CONSTANT bigint := event.headers ->> 'version';
    is_sent CONSTANT boolean := event.event_type = 'transfer.sent';
BEGIN
    INSERT INTO transactions.balance AS b (number, balance, transfers, sent, version, changed_at)
    VALUES (number, CASE WHEN is_sent THEN -amount ELSE amount END, is_sent::integer, CASE WHEN is_sent THEN amount ELSE 0 END,
            version, event.event_time)
    ON CONFLICT ON CONSTRAINT balance_pkey DO UPDATE
       SET balance = b.balance + excluded.balance, transfers = b.transfers + excluded.transfers, sent = b.sent + excluded.sent,
           version = excluded.version, changed_at = excluded.changed_at
     -- After a rebuild begins anew, what is already counted comes again.
     WHERE b.version < excluded.version;
    NOTIFY balances;
END
$$;
COMMENT ON FUNCTION transactions.project(inbox.event) IS 'Adds an event to the balance of its account.';

SELECT event_store.subscribe('balances', ARRAY['account'], 'earliest');
SELECT inbox.handle('balances', 'transactions.project(inbox.event)');

-- What others may see and do.

CREATE FUNCTION transactions.statement(number bigint)
    RETURNS TABLE (version bigint, event_id uuid, type text, data jsonb, command uuid, recorded_at timestamptz, balance numeric)
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT e.version, e.event_id, e.type, e.data, e.correlation_id, e.recorded_at,
           sum(CASE e.type WHEN 'transfer.sent' THEN -(e.data ->> 'amount')::numeric ELSE (e.data ->> 'amount')::numeric END)
               OVER (ORDER BY e.version)
      FROM event_store.read_stream('account-' || statement.number) AS e
     ORDER BY e.version DESC
$$;
COMMENT ON FUNCTION transactions.statement(bigint) IS 'All events of an account, the newest first, with the balance after each.';

CREATE FUNCTION transactions.sent_today(number bigint) RETURNS numeric
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT a.sent_today FROM transactions.account(sent_today.number) AS a $$;
COMMENT ON FUNCTION transactions.sent_today(bigint) IS 'What an account has sent today.';

CREATE FUNCTION transactions.recent_transfers("limit" bigint)
    RETURNS TABLE (event_id uuid, data jsonb, command uuid, recorded_at timestamptz)
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    -- Each transfer is two events of the category, and deposits are events, too.
    SELECT e.event_id, e.data, e.correlation_id, e.recorded_at
      FROM event_store.read_category('account', "limit" => 4 * recent_transfers."limit", backwards => true) AS e
     WHERE e.type = 'transfer.sent'
     ORDER BY e.position DESC LIMIT recent_transfers."limit"
$$;
COMMENT ON FUNCTION transactions.recent_transfers(bigint) IS 'The newest transfers.';

CREATE FUNCTION transactions.totals(OUT transfers bigint, OUT money numeric)
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT coalesce(sum(b.transfers), 0)::bigint, coalesce(sum(b.sent), 0) FROM transactions.balance AS b
$$;
COMMENT ON FUNCTION transactions.totals() IS 'How many transfers there were, and of how much money, by the projection: nobody reads all events for that.';

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA transactions FROM PUBLIC;
GRANT USAGE ON SCHEMA transactions TO teller;
GRANT SELECT ON transactions.balance TO teller;
GRANT EXECUTE ON FUNCTION transactions.deposit, transactions.transfer, transactions.statement, transactions.sent_today,
                          transactions.recent_transfers, transactions.totals TO teller;
