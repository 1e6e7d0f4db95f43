//! Owns the tests inside a transaction of a real server. Each is rolled back at its end, so no relay sees its
//! events. The tests in `pgrx-tests/` cover relays and committed events from outside.
//!
//! Runs in: a client backend of the test server.

use pgrx::prelude::*;

/// The interface that `cargo pgrx test` expects, for the server that it starts.
#[cfg(test)]
pub mod pg_test {
    /// Called before the server is started.
    pub fn setup(_options: Vec<&str>) {}

    /// Lines for `postgresql.conf`.
    #[must_use]
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        // The relay is off: it would have nothing to publish, and there is no broker.
        vec!["shared_preload_libraries = 'event_outbox'", "event_outbox.enabled = off"]
    }
}

#[pg_schema]
mod tests {
    use super::*;

    fn one<T: FromDatum + IntoDatum>(sql: &str) -> T {
        Spi::get_one(sql).unwrap().unwrap()
    }

    /// SQLSTATE, message, detail and hint of the error that a statement raises.
    fn error_of(sql: &str) -> (String, String, String, String) {
        Spi::run(
            "CREATE OR REPLACE FUNCTION pg_temp.error_of(command text) RETURNS text[] LANGUAGE plpgsql AS $$ \
             DECLARE message text; detail text; hint text; \
             BEGIN EXECUTE command; RETURN NULL; \
             EXCEPTION WHEN OTHERS THEN \
                 GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT; \
                 RETURN ARRAY[SQLSTATE, message, detail, hint]; \
             END $$",
        )
        .unwrap();
        let parts: Vec<String> =
            Spi::get_one_with_args("SELECT pg_temp.error_of($1)", &[sql.into()]).unwrap().unwrap();
        let [code, message, detail, hint] = parts.try_into().unwrap();
        (code, message, detail, hint)
    }

    fn is_refused(sql: &str, code: &str, message: &str) {
        let found = error_of(sql);
        assert_eq!((found.0.as_str(), found.1.as_str()), (code, message), "{sql}");
        assert!(!found.2.is_empty() && !found.3.is_empty(), "{sql}: detail and hint");
        assert_eq!(one::<i64>("SELECT count(*) FROM outbox.events"), 0, "{sql}");
    }

    #[pg_test]
    fn emit_stores_what_it_returns() {
        let id: pgrx::Uuid = one(
            "SELECT outbox.emit('orders', '{\"b\": 1.10, \"a\": [1, \"x y\"]}', key => 'k', event_type => 't', \
             headers => '{\"h\": null}', partition => 3)",
        );
        let stored: String = Spi::get_one_with_args(
            "SELECT concat_ws('|', topic, partition, convert_from(key, 'UTF8'), convert_from(payload, 'UTF8'), headers, \
             event_type, content_type, attempts) FROM outbox.events WHERE event_id = $1",
            &[id.into()],
        )
        .unwrap()
        .unwrap();
        assert_eq!(stored, "orders|3|k|{\"a\":[1,\"x y\"],\"b\":1.10}|{\"h\":null}|t|application/json|0");
    }

    #[pg_test]
    fn a_given_event_id_is_kept() {
        let id: String =
            one("SELECT outbox.emit('t', '1', event_id => '00000000-0000-0000-0000-000000000007')::text");
        assert_eq!(id, "00000000-0000-0000-0000-000000000007");
    }

    #[pg_test]
    fn emit_bytes_stores_bytes() {
        Spi::run("SELECT outbox.emit_bytes('t', '\\x00ff', key => '\\x0001', content_type => 'application/protobuf')").unwrap();
        assert!(one::<bool>(
            "SELECT payload = '\\x00ff' AND key = '\\x0001' AND content_type = 'application/protobuf' FROM outbox.events"
        ));
    }

    #[pg_test]
    fn a_tombstone_has_neither_payload_nor_content_type() {
        Spi::run("SELECT outbox.emit('t', NULL, key => 'k')").unwrap();
        assert!(one::<bool>("SELECT payload IS NULL AND content_type IS NULL FROM outbox.events"));
    }

    #[pg_test]
    fn an_exception_block_rolls_its_events_back() {
        Spi::run(
            "DO $$ BEGIN \
                 PERFORM outbox.emit('t', '1'); \
                 BEGIN PERFORM outbox.emit('t', '2'); RAISE 'no'; EXCEPTION WHEN OTHERS THEN NULL; END; \
                 PERFORM outbox.emit('t', '3'); \
             END $$",
        )
        .unwrap();
        assert_eq!(
            one::<String>("SELECT string_agg(outbox.readable(payload), ',' ORDER BY id) FROM outbox.events"),
            "1,3"
        );
    }

    #[pg_test]
    fn emit_rejects_what_kafka_would_refuse() {
        is_refused("SELECT outbox.emit(NULL, '1')", "22004", "event topic must not be null");
        is_refused("SELECT outbox.emit('a b', '1')", "42602", "invalid event topic");
        is_refused("SELECT outbox.emit('..', '1')", "42602", "invalid event topic");
        is_refused("SELECT outbox.emit(repeat('x', 250), '1')", "42602", "invalid event topic");
        is_refused(
            "SELECT outbox.emit('t', '1', partition => -1)",
            "22023",
            "event partition must not be negative",
        );
        is_refused("SELECT outbox.emit('t', NULL)", "22004", "event without a payload must have a key");
        is_refused("SELECT outbox.emit('t', '1', event_type => '')", "22023", "event type must not be empty");
        is_refused(
            "SELECT outbox.emit('t', '1', headers => '[1]')",
            "22023",
            "event headers must be a JSON object",
        );
        is_refused(
            "SELECT outbox.emit('t', '1', headers => '{\"\": 1}')",
            "22023",
            "event header names must not be empty",
        );
        is_refused(
            "SELECT outbox.emit('t', '1', headers => '{\"ce_id\": 1}')",
            "42939",
            "event header \"ce_id\" is reserved",
        );
        is_refused(
            "SELECT outbox.emit_bytes('t', repeat('x', 1000001)::bytea)",
            "54000",
            "event is too large",
        );
    }

    #[pg_test]
    fn plain_inserts_are_checked_too() {
        is_refused(
            "INSERT INTO outbox.events (topic, payload) VALUES ('a b', '1')",
            "42602",
            "invalid event topic",
        );
        is_refused(
            "INSERT INTO outbox.events (topic) VALUES ('t')",
            "22004",
            "event without a payload must have a key",
        );
        is_refused(
            "INSERT INTO outbox.events (topic, payload, headers) VALUES ('t', '1', '{\"CE_x\": 1}')",
            "42939",
            "event header \"CE_x\" is reserved",
        );
        Spi::run("INSERT INTO outbox.events (topic, payload) VALUES ('t', '1')").unwrap();
        assert!(one::<bool>(
            "SELECT event_id IS NOT NULL AND emitted_at IS NOT NULL AND content_type IS NULL FROM outbox.events"
        ));
    }

    #[pg_test]
    fn the_maximum_size_is_a_setting() {
        Spi::run("SET event_outbox.max_event_bytes = 10").unwrap();
        is_refused("SELECT outbox.emit('t', '\"123456789\"')", "54000", "event is too large");
        Spi::run("SELECT outbox.emit('t', '\"12345678\"')").unwrap();
    }

    #[pg_test]
    fn reporting_a_refusal_counts_the_attempt() {
        Spi::run("SET event_outbox.max_attempts = 4").unwrap();
        Spi::run("SELECT outbox.emit('t', '1')").unwrap();
        for attempt in 1..=3 {
            Spi::run("UPDATE outbox.events SET last_error = 'no such topic'").unwrap();
            assert_eq!(one::<i32>("SELECT attempts FROM outbox.events"), attempt);
            // The delay starts at one second and doubles with each attempt; half of it is random.
            assert!(one::<bool>(
                "SELECT next_attempt_at - clock_timestamp() BETWEEN interval '0.4 s' * 2 ^ (attempts - 1) \
                 AND interval '1 s' * 2 ^ (attempts - 1) FROM outbox.events"
            ));
        }
        Spi::run("UPDATE outbox.events SET last_error = NULL").unwrap();
        assert_eq!(one::<i32>("SELECT attempts FROM outbox.events"), 3, "to forget an error is no refusal");
    }

    /// Emits an event and reports refusals until it is dead.
    fn kill(topic: &str, key: &str) {
        Spi::run(&format!(
            "SELECT outbox.emit('{topic}', '{{\"k\": 1}}', key => '{key}', headers => '{{\"h\": \"1\"}}')"
        ))
        .unwrap();
        for _ in 0..3 {
            Spi::run(&format!("UPDATE outbox.events SET last_error = 'no, {key}' WHERE topic = '{topic}'"))
                .unwrap();
        }
    }

    #[pg_test]
    fn an_event_without_attempts_left_becomes_a_complete_dead_letter() {
        kill("t", "a");
        assert_eq!(one::<i64>("SELECT count(*) FROM outbox.events"), 0);
        assert_eq!(
            one::<String>(
                "SELECT concat_ws('|', topic, outbox.readable(key), outbox.readable(payload), headers, content_type, attempts, error) \
                 FROM outbox.dead_letters"
            ),
            "t|a|{\"k\":1}|{\"h\":\"1\"}|application/json|3|no, a"
        );
        assert!(one::<bool>(
            "SELECT first_refused_at < last_refused_at AND error_class IS NULL FROM outbox.dead_letters"
        ));
    }

    #[pg_test]
    fn redrive_keeps_order_and_identity() {
        for key in ["a", "b", "c"] {
            kill("t", key);
        }
        kill("other", "d");
        let before: String = one(
            "SELECT string_agg(event_id::text, ',' ORDER BY id) FROM outbox.dead_letters WHERE topic = 't'",
        );
        assert_eq!(one::<i64>("SELECT outbox.redrive(topic => 't', max => 2)"), 2);
        assert_eq!(one::<i64>("SELECT outbox.redrive(topic => 't')"), 1);
        assert_eq!(
            one::<String>("SELECT string_agg(event_id::text, ',' ORDER BY id) FROM outbox.events"),
            before
        );
        assert!(one::<bool>(
            "SELECT bool_and(attempts = 0 AND next_attempt_at IS NULL AND last_error IS NULL) FROM outbox.events"
        ));
        assert_eq!(one::<String>("SELECT string_agg(topic, ',') FROM outbox.dead_letters"), "other");
        assert_eq!(one::<i64>("SELECT outbox.redrive(event_id) FROM outbox.dead_letters"), 1);
    }

    #[pg_test]
    fn dead_letters_are_discarded_only_on_request() {
        kill("t", "a");
        kill("t", "b");
        assert_eq!(one::<i64>("SELECT outbox.discard(topic => 'other')"), 0);
        assert_eq!(one::<i64>("SELECT outbox.discard(since => now() + interval '1 hour')"), 0);
        let refused = error_of("SELECT outbox.discard()");
        assert_eq!((refused.0.as_str(), refused.1.as_str()), ("22004", "no dead letters selected"));
        assert!(!refused.2.is_empty() && !refused.3.is_empty());
        assert_eq!(one::<i64>("SELECT outbox.discard(since => '-infinity')"), 2);
        assert_eq!(one::<i64>("SELECT count(*) FROM outbox.dead_letters"), 0);
    }

    #[pg_test]
    fn a_dead_event_is_copied_to_the_dead_letter_topic_once() {
        Spi::run("SET event_outbox.dead_letter_topic = 'dead'").unwrap();
        kill("t", "a");
        let headers: String = one("SELECT headers::jsonb::text FROM outbox.events WHERE topic = 'dead'");
        for part in [
            "\"h\": \"1\"",
            "\"__outbox.errors.topic\": \"t\"",
            "\"__outbox.errors.message\": \"no, a\"",
            "\"__outbox.errors.attempts\": \"3\"",
        ] {
            assert!(headers.contains(part), "{headers}");
        }
        assert!(one::<bool>("SELECT e.event_id = d.event_id FROM outbox.events e, outbox.dead_letters d"));
        for _ in 0..3 {
            Spi::run("UPDATE outbox.events SET last_error = 'no'").unwrap();
        }
        assert_eq!(one::<i64>("SELECT count(*) FROM outbox.events"), 0, "what dies there stays");
        assert_eq!(one::<i64>("SELECT count(*) FROM outbox.dead_letters"), 2);
        assert_eq!(error_of("SET event_outbox.dead_letter_topic = 'a b'").0, "22023");
    }

    /// The status, the attempt, and whether there are an event id and an error.
    fn try_emit(arguments: &str) -> String {
        one(&format!(
            "SELECT concat_ws(' ', status, attempt, event_id IS NOT NULL, error) FROM outbox.try_emit({arguments})"
        ))
    }

    #[pg_test]
    fn a_message_is_stored_once() {
        assert_eq!(try_emit("'m1', 't', '{\"a\": 1}', key => 'k'"), "stored 1 t");
        assert_eq!(try_emit("'m1', 't', '{\"a\": 2}', key => 'k'"), "duplicate 1 t");
        assert_eq!(try_emit("'m2', 't', '{\"a\": 1}'::jsonb"), "stored 1 t");
        assert_eq!(
            one::<String>("SELECT string_agg(outbox.readable(payload), ',' ORDER BY id) FROM outbox.events"),
            "{\"a\":1},{\"a\":1}"
        );
        assert!(one::<bool>(
            "SELECT e.event_id = i.event_id FROM outbox.intake i JOIN outbox.events e USING (event_id) WHERE source_id = 'm1'"
        ));
    }

    #[pg_test]
    fn an_invalid_message_is_rejected_after_its_attempts_unless_it_is_corrected() {
        assert_eq!(try_emit("'bad', 'a b', '1'"), "invalid 1 f invalid event topic");
        assert_eq!(try_emit("'bad', 't', '{'"), "invalid 2 f invalid input syntax for type json");
        assert_eq!(try_emit("'bad', 't', NULL"), "rejected 3 f event without a payload must have a key");
        assert_eq!(
            try_emit("'bad', 't', '1'"),
            "rejected 3 f event without a payload must have a key",
            "not examined again"
        );
        assert_eq!(try_emit("'corrected', 'a b', '1'"), "invalid 1 f invalid event topic");
        assert_eq!(try_emit("'corrected', 't', '1'"), "stored 2 t");
        assert_eq!(one::<i64>("SELECT count(*) FROM outbox.events"), 1);
        assert_eq!(error_of("SELECT outbox.try_emit(NULL, 't', '1')").0, "22004");
    }

    #[pg_test]
    fn channel_and_readable() {
        assert_eq!(one::<String>("SELECT outbox.channel('orders')"), "outbox:orders");
        assert_eq!(one::<i32>("SELECT octet_length(outbox.channel(repeat('x', 249)))"), 63);
        assert_eq!(one::<String>("SELECT outbox.readable('Größe'::text::bytea)"), "Größe");
        assert_eq!(one::<String>("SELECT outbox.readable('\\x00ff')"), "\\x00ff");
    }

    #[pg_test]
    fn uuids_have_version_7_and_the_current_time() {
        let text: String = one("SELECT outbox.uuid_v7()::text");
        assert_eq!((&text[14..15], "89ab".contains(&text[19..20])), ("7", true), "{text}");
        let millis = i64::from_str_radix(&text[..13].replace('-', ""), 16).unwrap();
        let now: i64 = one("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint");
        assert!((now - millis).abs() < 60_000, "{text}");
    }

    #[pg_test]
    fn pending_shows_text() {
        Spi::run("SELECT outbox.emit('t', '{\"a\": 1}', key => 'k'), outbox.emit_bytes('t', '\\xff', key => '\\xfe')").unwrap();
        assert_eq!(
            one::<String>("SELECT string_agg(key || ' ' || payload, ', ' ORDER BY id) FROM outbox.pending"),
            "k {\"a\":1}, \\xfe \\xff"
        );
        assert!(one::<bool>("SELECT bool_and(age >= interval '0') FROM outbox.pending"));
    }

    #[pg_test]
    fn wait_published_skips_events_of_its_own_transaction() {
        assert!(one::<bool>("SELECT outbox.wait_published('0')"));
        Spi::run("SELECT outbox.emit('t', '1')").unwrap();
        assert!(one::<bool>("SELECT outbox.wait_published('10 s')"));
    }

    #[pg_test]
    fn secrets_are_hidden() {
        Spi::run("SET event_outbox.kafka_properties = 'sasl.password=secret'").unwrap();
        assert_eq!(one::<String>("SELECT current_setting('event_outbox.kafka_properties')"), "********");
        assert_eq!(
            one::<i64>("SELECT count(*) FROM pg_settings WHERE name = 'event_outbox.kafka_properties'"),
            0
        );
    }

    #[pg_test]
    fn every_object_has_a_comment() {
        let without: Vec<String> = one("SELECT coalesce(array_agg(name), '{}') FROM ( \
                 SELECT p.oid::regprocedure::text AS name FROM pg_proc p \
                  WHERE pronamespace = 'outbox'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL \
                 UNION ALL \
                 SELECT c.oid::regclass::text FROM pg_class c \
                  WHERE relnamespace = 'outbox'::regnamespace AND relkind IN ('r', 'v') AND obj_description(c.oid, 'pg_class') IS NULL \
                 UNION ALL \
                 SELECT a.attrelid::regclass || '.' || a.attname FROM pg_attribute a \
                  WHERE attrelid IN ('outbox.events'::regclass, 'outbox.pending'::regclass, 'outbox.status'::regclass) \
                    AND attnum > 0 AND col_description(a.attrelid, a.attnum) IS NULL) AS objects");
        assert_eq!(without, Vec::<String>::new());
    }
}
