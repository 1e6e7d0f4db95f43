-- account: owners and accounts are plain tables. Their changes become events without a line of code for it.
-- Runs in the database "bank" as the role account_service.

CREATE TABLE account.owner (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name    text NOT NULL CHECK (name ~ '\S' AND length(name) <= 60),
    country text NOT NULL CHECK (country ~ '^[A-Z]{2}$')
);
COMMENT ON TABLE account.owner IS 'The people who have accounts.';

-- Personal data lies in a table of its own: it never leaves this database.
CREATE TABLE account.contact (
    owner_id bigint PRIMARY KEY REFERENCES account.owner,
    email    text NOT NULL CHECK (email ~ '^\S+@\S+$' AND length(email) <= 120)
);
COMMENT ON TABLE account.contact IS 'How to reach an owner.';

CREATE TABLE account.account (
    number      bigint GENERATED ALWAYS AS IDENTITY (START WITH 1001) PRIMARY KEY,
    owner_id    bigint NOT NULL REFERENCES account.owner,
    daily_limit numeric(12, 2) NOT NULL CHECK (daily_limit BETWEEN 1 AND 1000000),
    state       text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'in review')),
    opened_at   timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE account.account IS 'The accounts. Their balances are not here: see transactions.sql.';

-- Three styles of events.
--
-- Fat, or state transfer: an event carries the whole row, before and after. Who reads it can keep a copy, and never has to
-- ask back. The reactor does.
SELECT outbox.capture('account.owner', 'fat', topic => 'bank.owners');

-- Delta: an event carries what has changed, such as {"key": {"number": 1001}, "changed": {"state": "in review"}}.
SELECT outbox.capture('account.account', 'delta', topic => 'bank.accounts', "except" => '{opened_at}');

-- Notification: an event says that something has changed, and not what. It carries the key alone, so that no address ever
-- reaches Kafka. Who must know more asks, and needs the right to.
SELECT outbox.capture('account.contact', 'notification', topic => 'bank.contacts');

-- Commands. They change tables, and do not know that somebody listens. They run with the rights of this service.

CREATE FUNCTION account.open(name text, email text, country text, daily_limit numeric) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH owner AS (
        INSERT INTO account.owner (name, country) VALUES (btrim(open.name), open.country) RETURNING id
    ), contact AS (
        INSERT INTO account.contact (owner_id, email) SELECT owner.id, btrim(open.email) FROM owner
    )
    INSERT INTO account.account (owner_id, daily_limit) SELECT owner.id, open.daily_limit FROM owner RETURNING number;
END;
COMMENT ON FUNCTION account.open(text, text, text, numeric) IS 'Opens an account for a new owner, and returns its number.';

CREATE FUNCTION account.change_email(number bigint, email text) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    UPDATE account.contact AS c SET email = btrim(change_email.email)
      FROM account.account AS a WHERE a.owner_id = c.owner_id AND a.number = change_email.number;
END;
COMMENT ON FUNCTION account.change_email(bigint, text) IS 'Changes the address of the owner of an account.';

CREATE FUNCTION account.end_review(number bigint) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    UPDATE account.account AS a SET state = 'open' WHERE a.number = end_review.number AND a.state <> 'open';
END;
COMMENT ON FUNCTION account.end_review(bigint) IS 'Lets an account transfer money again.';

-- Choreography: the reactor has found a transfer suspicious and has said so, to nobody in particular. This service decides
-- by itself what that means for an account. A background worker calls the function for each event, connected as this role;
-- its commit acknowledges the event, so that each counts exactly once.
CREATE FUNCTION account.on_alarm(event inbox.event) RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    UPDATE account.account AS a SET state = 'in review' WHERE a.number = ((event).data ->> 'account')::bigint;
END;
COMMENT ON FUNCTION account.on_alarm(inbox.event) IS 'Puts the account that an alarm names in review.';

SELECT inbox.subscribe('alarms', ARRAY['bank.alarms'], 'earliest');
SELECT inbox.handle('alarms', 'account.on_alarm(inbox.event)');

-- What others may see and do.

CREATE VIEW account.accounts AS
    SELECT a.number, a.owner_id, o.name, o.country, c.email, a.daily_limit, a.state, a.opened_at
      FROM account.account AS a
           JOIN account.owner AS o ON o.id = a.owner_id
           JOIN account.contact AS c ON c.owner_id = a.owner_id;
COMMENT ON VIEW account.accounts IS 'Each account with its owner.';

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA account FROM PUBLIC;
GRANT USAGE ON SCHEMA account TO teller, transactions_service;
GRANT SELECT ON account.accounts TO teller;
GRANT EXECUTE ON FUNCTION account.open, account.change_email, account.end_review TO teller;
GRANT SELECT (number, daily_limit, state) ON account.account TO transactions_service;
