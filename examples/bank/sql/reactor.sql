-- reactor: a service with a database of its own. It knows of the bank what Kafka tells it, keeps what it needs, and says
-- which transfers are suspicious. Runs in the database "reactor" as the role reactor_service.

-- State transfer: a copy of the owners. Their events are fat, so one call keeps the table: no code, and nobody is asked.
CREATE TABLE reactor.owner (
    id      bigint PRIMARY KEY,
    name    text NOT NULL,
    country text NOT NULL
);
COMMENT ON TABLE reactor.owner IS 'A copy of the owners. The projection "owners" writes it.';

SELECT inbox.project('owners', 'bank.owners', 'reactor.owner', format => 'capture');

-- From deltas: the accounts. Each event has the columns that have changed; the others stay as they are.
CREATE TABLE reactor.account (
    number      bigint PRIMARY KEY,
    owner_id    bigint NOT NULL,
    daily_limit numeric NOT NULL,
    state       text NOT NULL
);
COMMENT ON TABLE reactor.account IS 'The accounts, put together from deltas.';

-- From notifications: when an address has changed. Which address that is, the reactor does not learn.
CREATE TABLE reactor.contact_change (
    owner_id   bigint PRIMARY KEY,
    changed_at timestamptz NOT NULL
);
COMMENT ON TABLE reactor.contact_change IS 'When an owner was last given another address.';

CREATE FUNCTION reactor.on_customer(event inbox.event) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    row_key CONSTANT jsonb := event.data -> 'key';
    known   reactor.account;
BEGIN
    CASE event.event_type
        WHEN 'account.created', 'account.patched' THEN
            SELECT * INTO known FROM reactor.account AS a WHERE a.number = (row_key ->> 'number')::bigint;
            known := jsonb_populate_record(known, row_key || (event.data -> 'changed'));
            INSERT INTO reactor.account AS a VALUES (known.*) ON CONFLICT (number) DO UPDATE
               SET owner_id = excluded.owner_id, daily_limit = excluded.daily_limit, state = excluded.state;
        WHEN 'contact.patched' THEN
            INSERT INTO reactor.contact_change AS c VALUES ((row_key ->> 'owner_id')::bigint, event.event_time)
            ON CONFLICT (owner_id) DO UPDATE SET changed_at = greatest(c.changed_at, excluded.changed_at);
        ELSE
            NULL;
    END CASE;
    NOTIFY reactor;
END
$$;
COMMENT ON FUNCTION reactor.on_customer(inbox.event) IS 'Keeps what the reactor knows of accounts and their owners.';

-- What it makes of transfers.
CREATE TABLE reactor.country (
    code text PRIMARY KEY,
    risk text NOT NULL CHECK (risk IN ('low', 'high'))
);
COMMENT ON TABLE reactor.country IS 'How risky transfers from a country are. The compliance team keeps it.';
INSERT INTO reactor.country VALUES ('AT', 'low'), ('CH', 'low'), ('DE', 'low'), ('ES', 'low'), ('FR', 'low'), ('IT', 'low'),
                                   ('KY', 'high'), ('PA', 'high');

CREATE TABLE reactor.transfer (
    event_id    uuid PRIMARY KEY,
    source      bigint NOT NULL,
    target      bigint NOT NULL,
    amount      numeric NOT NULL,
    sent_at     timestamptz NOT NULL,
    position    bigint NOT NULL,
    produced_at timestamptz NOT NULL,
    checked_at  timestamptz NOT NULL,
    findings    text[] NOT NULL
);
CREATE INDEX ON reactor.transfer (source, sent_at);
CREATE INDEX ON reactor.transfer (sent_at);
COMMENT ON TABLE reactor.transfer IS 'The transfers, with what the reactor found in them. It can be rebuilt from the topic.';

-- What was said to others is not said again when the reactor is rebuilt.
CREATE TABLE reactor.alarm (
    event_id uuid PRIMARY KEY,
    account  bigint NOT NULL,
    findings text[] NOT NULL,
    said_at  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE reactor.alarm IS 'The alarms that were given.';

CREATE FUNCTION reactor.findings(source bigint, amount numeric, sent_at timestamptz, event uuid) RETURNS text[]
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    payer    reactor.owner;
    risk     text;
    findings text[] := '{}';
BEGIN
    SELECT o.* INTO payer FROM reactor.account AS a JOIN reactor.owner AS o ON o.id = a.owner_id WHERE a.number = source;
    -- Topics have no order among each other: a transfer can come before its account. The inbox tries again later.
    IF payer.id IS NULL THEN
        RAISE EXCEPTION 'account % is not known yet', source;
    END IF;
    SELECT c.risk INTO risk FROM reactor.country AS c WHERE c.code = payer.country;
    IF risk IS NULL THEN
        RAISE EXCEPTION 'no risk is known for country %', payer.country;
    END IF;
    IF amount >= 10000 THEN
        findings := findings || 'a large amount'::text;
    END IF;
    IF risk = 'high' AND amount >= 500 THEN
        findings := findings || 'from a country of high risk'::text;
    END IF;
    IF amount >= 1000 AND EXISTS (SELECT FROM reactor.contact_change AS c WHERE c.owner_id = payer.id
                                     AND sent_at BETWEEN c.changed_at AND c.changed_at + interval '1 hour') THEN
        findings := findings || 'soon after a change of address'::text;
    END IF;
    RETURN findings;
END
$$;
COMMENT ON FUNCTION reactor.findings(bigint, numeric, timestamptz, uuid) IS 'What is suspicious about a transfer; an error if that cannot be said.';

-- Called for each transfer. An error is an attempt: the inbox tries again, and after five attempts keeps the event as a
-- dead letter. Other accounts go on meanwhile; later transfers of the same account wait their turn.
CREATE FUNCTION reactor.on_transfer(event inbox.event) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    id       CONSTANT uuid := event.event_id;
    source   CONSTANT bigint := event.data ->> 'from';
    amount   CONSTANT numeric := event.data ->> 'amount';
    findings CONSTANT text[] := reactor.findings(source, amount, event.event_time, id);
BEGIN
    -- The relay repeats an event after a crash of the bank's server, and a rebuild reads all of them again.
    INSERT INTO reactor.transfer (event_id, source, target, amount, sent_at, position, produced_at, checked_at, findings)
    VALUES (id, source, (event.data ->> 'to')::bigint, amount, event.event_time, event.position, event.produced_at,
            clock_timestamp(), findings)
    ON CONFLICT (event_id) DO NOTHING;
    -- Choreography: the reactor says what it has found, and gives no orders. Who must act on it, knows.
    IF findings <> '{}' THEN
        INSERT INTO reactor.alarm (event_id, account, findings) VALUES (id, source, findings) ON CONFLICT (event_id) DO NOTHING;
        IF FOUND THEN
            PERFORM outbox.emit('bank.alarms', jsonb_build_object('account', source, 'transfer', id, 'findings', findings),
                                key => source::text, event_type => 'transfer.flagged');
        END IF;
    END IF;
    NOTIFY reactor;
END
$$;
COMMENT ON FUNCTION reactor.on_transfer(inbox.event) IS 'Checks a transfer, keeps it, and gives the alarm.';

SELECT inbox.subscribe('customers', ARRAY['bank.accounts', 'bank.contacts'], 'earliest');
SELECT inbox.handle('customers', 'reactor.on_customer(inbox.event)');
-- The account or its owner may come some seconds later than the transfer.
SELECT inbox.subscribe('transfers', ARRAY['bank.transfers'], 'earliest', max_attempts => 5);
SELECT inbox.handle('transfers', 'reactor.on_transfer(inbox.event)', workers => 2);

-- What operators do.

-- Everything that follows from transfers is forgotten, and the topic is read again from its beginning. Both happen in one
-- transaction, so that nobody sees half of it; the table fills while the bank goes on.
CREATE FUNCTION reactor.rebuild() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM inbox.seek('transfers', 'earliest');
    DELETE FROM reactor.transfer;
    PERFORM inbox.rebuild('owners');
    NOTIFY reactor;
END
$$;
COMMENT ON FUNCTION reactor.rebuild() IS 'Builds the tables of transfers and owners anew from Kafka.';

CREATE FUNCTION reactor.set_risk(country text, risk text) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    INSERT INTO reactor.country (code, risk) VALUES (set_risk.country, set_risk.risk)
    ON CONFLICT (code) DO UPDATE SET risk = excluded.risk;
END;
COMMENT ON FUNCTION reactor.set_risk(text, text) IS 'Says how risky a country is.';

-- Redrive: when the cause is mended, what failed is handled again.
CREATE FUNCTION reactor.redrive() RETURNS bigint
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT inbox.redrive('transfers', since => '-infinity') $$;
COMMENT ON FUNCTION reactor.redrive() IS 'Has all dead letters handled again; returns how many.';

CREATE FUNCTION reactor.pause() RETURNS boolean
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT inbox.pause('transfers', 'by the operator') $$;
COMMENT ON FUNCTION reactor.pause() IS 'Stops checking transfers. They are stored all the same.';

CREATE FUNCTION reactor.resume() RETURNS boolean
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT inbox.resume('transfers') $$;
COMMENT ON FUNCTION reactor.resume() IS 'Checks transfers again.';

-- What operators see.

CREATE VIEW reactor.dead_letter AS
    SELECT d.dead_letter_id AS id, d.last_error, d.attempts, d.died_at, convert_from(d.key, 'UTF8') AS stream,
           convert_from(d.value, 'UTF8')::jsonb AS data
      FROM inbox.dead_letters AS d JOIN inbox.subscriptions AS s ON s.id = d.subscription_id
     WHERE s.name = 'transfers';
COMMENT ON VIEW reactor.dead_letter IS 'Transfers that could not be checked.';

-- Views of the inbox show the subscriptions from which a role may receive.
SELECT inbox.grant_subscription('operator', 'transfers');
SELECT inbox.grant_subscription('operator', 'owners');

CREATE VIEW reactor.waiting AS
    SELECT s.paused_at, s.retries, s.dead_letters FROM inbox.subscriptions AS s WHERE s.name = 'transfers';
COMMENT ON VIEW reactor.waiting IS 'How the subscription to transfers is.';

CREATE VIEW reactor.copy AS
    SELECT p.state, p.ready, p.lag, (SELECT count(*) FROM reactor.owner) AS owners
      FROM inbox.projections AS p WHERE p.name = 'owners';
COMMENT ON VIEW reactor.copy IS 'How the copy of the owners is.';

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA reactor FROM PUBLIC;
GRANT USAGE ON SCHEMA reactor TO operator;
GRANT SELECT ON reactor.account, reactor.owner, reactor.country, reactor.transfer TO operator;
GRANT SELECT ON reactor.dead_letter, reactor.waiting, reactor.copy TO operator;
GRANT EXECUTE ON FUNCTION reactor.rebuild, reactor.set_risk, reactor.redrive, reactor.pause, reactor.resume TO operator;
