//! Owns the rule for each librdkafka property that a user can set. The properties are those of librdkafka's
//! CONFIGURATION.md. A test compares this file with that list, so every property has been considered.

/// The rule for a property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The property is passed to librdkafka.
    Pass,
    /// The property reaches beyond the producer, into files and programs of the server, so only users who can write the
    /// server's files may set it. Holds the reason, as a clause.
    FileOnly(&'static str),
    /// The property would break a guarantee, or the outbox sets it itself. Holds the reason, as a clause.
    Refused(&'static str),
    /// There is no such property.
    Unknown,
}

pub(super) const NAMES_A_FILE: &str = "it names a file that the server's user reads";
const RUNS_A_COMMAND: &str = "it is part of a command that the server's user runs";
const LOADS_CODE: &str = "it loads code into the server";
const CHOOSES_RECEIVER: &str = "it decides who receives secrets";
const FOR_TESTS: &str = "it is for librdkafka's own tests";
const FOR_PROGRAMS: &str = "only programs can set it, not text";
const OWN: &str = "the outbox sets it itself";

/// The rule for a property with this value. `name` is its [`canonical`] name.
#[must_use]
pub fn rule(name: &str, value: &str) -> Rule {
    if let Some(reason) = reason_to_refuse(name, value) {
        Rule::Refused(reason)
    } else if let Some(reason) = reason_for_file_only(name, value) {
        Rule::FileOnly(reason)
    } else if PASSED.contains(&name) {
        Rule::Pass
    } else {
        Rule::Unknown
    }
}

/// The rule for a property that only consumers have. Among the properties of all clients, those refused here are ignored by
/// consumers.
#[must_use]
pub fn consumer_rule(name: &str, value: &str) -> Rule {
    match name {
        "auto.offset.reset" => Rule::Refused("use on_data_loss of inbox.subscribe()"),
        "enable.auto.commit"
        | "auto.commit.enable"
        | "auto.commit.interval.ms"
        | "enable.auto.offset.store"
        | "offset.store.method"
        | "offset.store.path"
        | "offset.store.sync.interval.ms" => {
            Rule::Refused("offsets are stored with the events, in the database")
        }
        "queued.max.messages.kbytes"
        | "fetch.max.bytes"
        | "fetch.message.max.bytes"
        | "receive.message.max.bytes" => Rule::Refused("use event_outbox.consumer_memory"),
        "enable.partition.eof" | "group.id" | "group.instance.id" | "group.protocol" => Rule::Refused(OWN),
        "check.crcs" if is_off(value) => Rule::Refused("damaged records must not be taken for events"),
        _ => rule(name, value),
    }
}

/// The name that librdkafka uses for the property if `name` is an alias of it. A property that is set by its name in one
/// place and by its alias in another is the same property.
#[must_use]
pub fn canonical(name: &str) -> &str {
    match name {
        "metadata.broker.list" => "bootstrap.servers",
        "max.in.flight" => "max.in.flight.requests.per.connection",
        "sasl.mechanism" => "sasl.mechanisms",
        "sasl.oauthbearer.client.credentials.client.id" => "sasl.oauthbearer.client.id",
        "sasl.oauthbearer.client.credentials.client.secret" => "sasl.oauthbearer.client.secret",
        "queue.buffering.max.ms" => "linger.ms",
        "message.send.max.retries" => "retries",
        "compression.codec" => "compression.type",
        "max.partition.fetch.bytes" => "fetch.message.max.bytes",
        "request.required.acks" => "acks",
        "delivery.timeout.ms" => "message.timeout.ms",
        other => other,
    }
}

/// Whether the property's value is a secret.
#[must_use]
pub fn is_secret(name: &str) -> bool {
    matches!(
        name,
        "sasl.password"
            | "sasl.oauthbearer.config"
            | "sasl.oauthbearer.client.secret"
            | "sasl.oauthbearer.extensions"
            | "sasl.oauthbearer.assertion.private.key.passphrase"
            | "sasl.oauthbearer.assertion.private.key.pem"
            // Passwords are piped into it.
            | "sasl.kerberos.kinit.cmd"
            | "ssl.key.password"
            | "ssl.key.pem"
            | "ssl.keystore.password"
    )
}

fn reason_to_refuse(name: &str, value: &str) -> Option<&'static str> {
    match name {
        "bootstrap.servers" => Some("use event_outbox.bootstrap_servers"),
        "enable.idempotence" if is_off(value) => Some("without it a retry can reorder or repeat events"),
        "acks" if !matches!(value, "all" | "-1") => {
            Some("an event counts as published only when all in-sync replicas have it")
        }
        "max.in.flight.requests.per.connection" if !at_most(value, 5) => {
            Some("an idempotent producer keeps order with at most 5 requests in flight")
        }
        "message.timeout.ms" if value != "0" => {
            Some("a timed-out event would leave a gap in the order of its key")
        }
        "message.max.bytes" => Some("use event_outbox.max_event_bytes and the topic's max.message.bytes"),
        "retries" if !at_least(value, i64::from(i32::MAX)) => Some("an outage must not use up an event"),
        "partitioner" if value == "random" => Some("events with the same key must go to the same partition"),
        "queuing.strategy" if !value.eq_ignore_ascii_case("fifo") => {
            Some("events with the same key must keep their order")
        }
        "api.version.request" if is_off(value) => Some("without it records have no headers"),
        "ssl.truststore.location" => Some("it is a property of Java clients; use ssl.ca.location"),
        "sasl.jaas.config" => Some("it is a property of Java clients; use sasl.username and sasl.password"),
        "transactional.id" => Some(OWN),
        "delivery.report.only.error" if !is_off(value) => Some("every delivery must be reported"),
        "allow.auto.create.topics" => Some("use event_outbox.auto_create_topics"),
        "queue.buffering.max.messages" | "queue.buffering.max.kbytes" => {
            Some("use event_outbox.max_in_flight")
        }
        "log_level" => Some("use log_min_messages"),
        "enabled_events"
        | "log.queue"
        | "enable.gapless.guarantee"
        | "enable_sasl_queue"
        | "internal.termination.signal"
        | "client.software.name"
        | "client.software.version" => Some(OWN),
        "opaque"
        | "default_topic_conf"
        | "interceptors"
        | "msg_order_cmp"
        | "ssl_key"
        | "ssl_certificate"
        | "ssl_ca"
        | "ssl_engine_callback_data" => Some(FOR_PROGRAMS),
        _ if name.ends_with("_cb") => Some(FOR_PROGRAMS),
        _ if name.starts_with("test.") || name.starts_with("ut_") => Some(FOR_TESTS),
        _ => None,
    }
}

fn reason_for_file_only(name: &str, value: &str) -> Option<&'static str> {
    match name {
        "plugin.library.paths" | "ssl.engine.location" | "ssl.engine.id" | "ssl.providers" => {
            Some(LOADS_CODE)
        }
        // The other three become part of the command's text, which a shell reads.
        "sasl.kerberos.kinit.cmd"
        | "sasl.kerberos.principal"
        | "sasl.kerberos.service.name"
        | "sasl.kerberos.keytab" => Some(RUNS_A_COMMAND),
        "ssl.key.location"
        | "ssl.certificate.location"
        | "ssl.ca.location"
        | "https.ca.location"
        | "ssl.crl.location"
        | "ssl.keystore.location"
        | "sasl.oauthbearer.assertion.private.key.file"
        | "sasl.oauthbearer.assertion.file"
        | "sasl.oauthbearer.assertion.jwt.template.file"
        | "offset.store.path" => Some(NAMES_A_FILE),
        "sasl.oauthbearer.token.endpoint.url" | "sasl.oauthbearer.metadata.authentication.type" => {
            Some(CHOOSES_RECEIVER)
        }
        "enable.ssl.certificate.verification" if !is_on(value) => Some(CHOOSES_RECEIVER),
        "ssl.endpoint.identification.algorithm" if !value.eq_ignore_ascii_case("https") => {
            Some(CHOOSES_RECEIVER)
        }
        _ => None,
    }
}

/// Properties that affect only the client itself. Those of the other role have no effect.
const PASSED: &[&str] = &[
    "acks",
    "api.version.fallback.ms",
    "api.version.request",
    "api.version.request.timeout.ms",
    "auto.commit.enable",
    "auto.commit.interval.ms",
    "auto.offset.reset",
    "batch.num.messages",
    "batch.size",
    "broker.address.family",
    "broker.address.ttl",
    "broker.version.fallback",
    "builtin.features",
    "check.crcs",
    "client.dns.lookup",
    "client.id",
    "client.rack",
    "compression.level",
    "compression.type",
    "connections.max.idle.ms",
    "consume.callback.max.messages",
    "coordinator.query.interval.ms",
    "debug",
    "delivery.report.only.error",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.metrics.push",
    "enable.partition.eof",
    "enable.random.seed",
    "enable.sasl.oauthbearer.unsecure.jwt",
    "enable.sparse.connections",
    "enable.ssl.certificate.verification",
    "fetch.error.backoff.ms",
    "fetch.max.bytes",
    "fetch.message.max.bytes",
    "fetch.min.bytes",
    "fetch.queue.backoff.ms",
    "fetch.wait.max.ms",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "group.protocol.type",
    "group.remote.assignor",
    "heartbeat.interval.ms",
    "https.ca.pem",
    "isolation.level",
    "linger.ms",
    "log.connection.close",
    "log.thread.name",
    "max.in.flight.requests.per.connection",
    "max.poll.interval.ms",
    "message.copy.max.bytes",
    "message.timeout.ms",
    "metadata.max.age.ms",
    "metadata.recovery.rebootstrap.trigger.ms",
    "metadata.recovery.strategy",
    "metadata.request.timeout.ms",
    "offset.store.method",
    "offset.store.sync.interval.ms",
    "partition.assignment.strategy",
    "partitioner",
    "produce.offset.report",
    "queue.buffering.backpressure.threshold",
    "queued.max.messages.kbytes",
    "queued.min.messages",
    "queuing.strategy",
    "receive.message.max.bytes",
    "reconnect.backoff.jitter.ms",
    "reconnect.backoff.max.ms",
    "reconnect.backoff.ms",
    "request.timeout.ms",
    "retries",
    "retry.backoff.max.ms",
    "retry.backoff.ms",
    "sasl.kerberos.min.time.before.relogin",
    "sasl.mechanisms",
    "sasl.oauthbearer.assertion.algorithm",
    "sasl.oauthbearer.assertion.claim.aud",
    "sasl.oauthbearer.assertion.claim.exp.seconds",
    "sasl.oauthbearer.assertion.claim.iss",
    "sasl.oauthbearer.assertion.claim.jti.include",
    "sasl.oauthbearer.assertion.claim.nbf.seconds",
    "sasl.oauthbearer.assertion.claim.sub",
    "sasl.oauthbearer.assertion.private.key.passphrase",
    "sasl.oauthbearer.assertion.private.key.pem",
    "sasl.oauthbearer.client.id",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.config",
    "sasl.oauthbearer.extensions",
    "sasl.oauthbearer.grant.type",
    "sasl.oauthbearer.method",
    "sasl.oauthbearer.scope",
    "sasl.password",
    "sasl.username",
    "security.protocol",
    "session.timeout.ms",
    "socket.blocking.max.ms",
    "socket.connection.setup.timeout.ms",
    "socket.keepalive.enable",
    "socket.max.fails",
    "socket.nagle.disable",
    "socket.receive.buffer.bytes",
    "socket.send.buffer.bytes",
    "socket.timeout.ms",
    "ssl.ca.certificate.stores",
    "ssl.ca.pem",
    "ssl.certificate.pem",
    "ssl.cipher.suites",
    "ssl.curves.list",
    "ssl.endpoint.identification.algorithm",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl.keystore.password",
    "ssl.sigalgs.list",
    "statistics.interval.ms",
    "sticky.partitioning.linger.ms",
    "topic.blacklist",
    "topic.metadata.propagation.max.ms",
    "topic.metadata.refresh.fast.cnt",
    "topic.metadata.refresh.fast.interval.ms",
    "topic.metadata.refresh.interval.ms",
    "topic.metadata.refresh.sparse",
    "transaction.timeout.ms",
];

fn is_off(value: &str) -> bool {
    ["false", "f", "0"].iter().any(|word| value.eq_ignore_ascii_case(word))
}

fn is_on(value: &str) -> bool {
    ["true", "t", "1"].iter().any(|word| value.eq_ignore_ascii_case(word))
}

fn at_most(value: &str, most: i64) -> bool {
    value.parse::<i64>().is_ok_and(|n| n <= most)
}

fn at_least(value: &str, least: i64) -> bool {
    value.parse::<i64>().is_ok_and(|n| n >= least)
}
