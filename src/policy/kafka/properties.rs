//! Reads the properties of clients that users set, librdkafka's and the Schema Registry's, and refuses those that would break a
//! guarantee.

use std::fmt;

use super::property_rules::{self, Rule, canonical};
use super::registry_rules;

/// Properties, in the order given. Those of one kind of client alone have its prefix: [`CONSUMER`], [`REGISTRY`].
pub type Properties = Vec<(String, String)>;

/// Marks a property that only consumers have, as in the configuration of Kafka Connect's workers.
pub const CONSUMER: &str = "consumer.";

/// Marks a property of the Schema Registry's client, as in the configuration of Java clients.
pub const REGISTRY: &str = "schema.registry.";

/// The kind of client that properties belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A producer, or a client that sends requests.
    Producer,
    /// A consumer.
    Consumer,
    /// A client of the Schema Registry.
    Registry,
}

/// The properties that a client of this role has, without prefixes. A property of consumers alone replaces the one that all
/// clients of Kafka have.
#[must_use]
pub fn of_role(properties: Properties, role: Role) -> Properties {
    let (mut common, mut consumer, mut registry) = (Properties::new(), Properties::new(), Properties::new());
    for (name, value) in properties {
        let (of, bare) = match (name.strip_prefix(CONSUMER), name.strip_prefix(REGISTRY)) {
            (Some(bare), _) => (&mut consumer, bare.to_owned()),
            (None, Some(bare)) => (&mut registry, bare.to_owned()),
            (None, None) => (&mut common, name),
        };
        of.push((bare, value));
    }
    match role {
        Role::Producer => common,
        Role::Consumer => {
            common.extend(consumer);
            common
        }
        Role::Registry => registry,
    }
}

/// Why a list of properties cannot be used. No variant holds a value, because values may be secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PropertyError {
    /// An entry has no `=` or no name. Holds its position, counted from 1.
    Malformed(usize),
    /// The outbox sets the property itself, or its value would break a guarantee.
    Refused {
        /// The property's name.
        name: String,
        /// The reason, as a clause.
        reason: &'static str,
    },
    /// The property can be set only in the properties file.
    FileOnly {
        /// The property's name.
        name: String,
        /// The reason, as a clause.
        reason: &'static str,
    },
    /// There is no such property. Holds the entry's position, counted from 1, since the name may be a piece of a secret
    /// value.
    Unknown(usize),
}

impl fmt::Display for PropertyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(entry) => write!(f, "entry {entry} is not of the form key=value"),
            Self::Refused { name, reason } => write!(f, "property \"{name}\" cannot be set: {reason}"),
            Self::FileOnly { name, reason } => {
                write!(
                    f,
                    "property \"{name}\" can be set only in event_outbox.kafka_properties_file: {reason}"
                )
            }
            Self::Unknown(entry) => {
                write!(f, "entry {entry} is not a property of librdkafka or the Schema Registry")
            }
        }
    }
}

/// Reads a setting: commas or line ends separate entries, and `\,` stands for a comma inside a value.
///
/// # Errors
/// The first entry that is malformed or refused.
pub fn parse_setting(text: &str) -> Result<Properties, PropertyError> {
    let mut entries = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let escaped = c == '\\' && chars.next_if_eq(&',').is_some();
        match c {
            _ if escaped => last(&mut entries).push(','),
            ',' | '\n' => entries.push(String::new()),
            other => last(&mut entries).push(other),
        }
    }
    read(entries.iter().map(String::as_str), Source::Setting)
}

/// Reads a properties file: each line holds one entry, and `#` begins a comment line.
///
/// # Errors
/// The first line that is malformed or refused.
pub fn parse_file(text: &str) -> Result<Properties, PropertyError> {
    read(text.lines().map(|line| if line.trim_start().starts_with('#') { "" } else { line }), Source::File)
}

fn last(entries: &mut Vec<String>) -> &mut String {
    if entries.is_empty() {
        entries.push(String::new());
    }
    let at = entries.len() - 1;
    &mut entries[at]
}

/// The source of properties.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// A setting, which may be granted to roles that are not superusers.
    Setting,
    /// A file on the server.
    File,
}

fn read<'a>(entries: impl Iterator<Item = &'a str>, source: Source) -> Result<Properties, PropertyError> {
    let mut properties = Properties::new();
    for (at, entry) in entries.enumerate().filter(|(_, entry)| !entry.trim().is_empty()) {
        let (name, value) = entry.split_once('=').ok_or(PropertyError::Malformed(at + 1))?;
        let (name, value) = (name.trim(), value.trim());
        if name.is_empty() {
            return Err(PropertyError::Malformed(at + 1));
        }
        let own = || name.to_owned();
        let (prefix, bare, rule): (_, _, fn(&str, &str) -> Rule) =
            match (name.strip_prefix(CONSUMER), name.strip_prefix(REGISTRY)) {
                (Some(bare), _) => (CONSUMER, bare, property_rules::consumer_rule),
                (None, Some(bare)) => (REGISTRY, bare, registry_rules::rule),
                (None, None) => ("", name, property_rules::rule),
            };
        match rule(canonical(bare), value) {
            Rule::Refused(reason) => return Err(PropertyError::Refused { name: own(), reason }),
            Rule::FileOnly(reason) if source == Source::Setting => {
                return Err(PropertyError::FileOnly { name: own(), reason });
            }
            Rule::Unknown => return Err(PropertyError::Unknown(at + 1)),
            Rule::Pass | Rule::FileOnly(_) => {}
        }
        properties.push((format!("{prefix}{}", canonical(bare)), value.to_owned()));
    }
    Ok(properties)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Properties {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn consumers_have_properties_of_their_own() {
        let all = parse_setting("sasl.username=a,consumer.sasl.username=b,linger.ms=5").unwrap();
        assert_eq!(
            of_role(all.clone(), Role::Producer),
            pairs(&[("sasl.username", "a"), ("linger.ms", "5")])
        );
        let consumer = of_role(all, Role::Consumer);
        assert_eq!(consumer.last().map(|(name, value)| (&**name, &**value)), Some(("sasl.username", "b")));
        for text in
            ["consumer.auto.offset.reset=latest", "consumer.sasl.kerberos.kinit.cmd=x", "consumer.x=1"]
        {
            assert!(parse_setting(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_schema_registry_has_properties_of_its_own() {
        let all = parse_file("schema.registry.ssl.ca.location=/ca\nssl.ca.location=/b\nconsumer.client.id=x")
            .unwrap();
        assert_eq!(of_role(all.clone(), Role::Registry), pairs(&[("ssl.ca.location", "/ca")]));
        assert_eq!(of_role(all, Role::Producer), pairs(&[("ssl.ca.location", "/b")]));
        let file_only = parse_setting("schema.registry.ssl.ca.location=/ca");
        assert!(matches!(file_only, Err(PropertyError::FileOnly { .. })));
        assert_eq!(parse_file("schema.registry.linger.ms=1"), Err(PropertyError::Unknown(1)));
    }

    #[test]
    fn a_setting_splits_at_commas_and_lines() {
        let text = "security.protocol=ssl, linger.ms = 5\nssl.cipher.suites=a\\,b,,sasl.password=p=\\q";
        assert_eq!(
            parse_setting(text).unwrap(),
            pairs(&[
                ("security.protocol", "ssl"),
                ("linger.ms", "5"),
                ("ssl.cipher.suites", "a,b"),
                ("sasl.password", "p=\\q")
            ])
        );
        assert_eq!(parse_setting("  ").unwrap(), vec![]);
    }

    #[test]
    fn a_file_has_one_property_per_line() {
        assert_eq!(
            parse_file("# secrets\n\nsasl.password=a,b;c\r\n  # more\nlinger.ms=1\n").unwrap(),
            pairs(&[("sasl.password", "a,b;c"), ("linger.ms", "1")])
        );
    }

    #[test]
    fn a_malformed_entry_is_named_by_position_not_by_value() {
        assert_eq!(parse_setting("debug=all,secret"), Err(PropertyError::Malformed(2)));
        assert_eq!(parse_file("debug=all\n\n=secret\n"), Err(PropertyError::Malformed(3)));
        assert!(!parse_setting("debug=all,secret").unwrap_err().to_string().contains("secret"));
    }

    #[test]
    fn a_property_that_would_break_a_guarantee_is_refused() {
        for entry in [
            "bootstrap.servers=x:1",
            "enable.idempotence=false",
            "acks=1",
            "request.required.acks=0",
            "max.in.flight=6",
            "message.timeout.ms=300000",
            "retries=3",
            "partitioner=random",
            "transactional.id=x",
            "delivery.report.only.error=true",
            "queue.buffering.max.messages=1",
            "enable.gapless.guarantee=false",
            "message.max.bytes=1000",
            "enable.idempotence=FALSE",
            "queuing.strategy=lifo",
            "log_level=7",
            "test.mock.num.brokers=1",
            "test.mock.of.the.future=1",
            "ssl_key=x",
            "open_cb=x",
        ] {
            assert!(matches!(parse_setting(entry), Err(PropertyError::Refused { .. })), "{entry}");
        }
        for entry in [
            "enable.idempotence=true",
            "acks=all",
            "acks=-1",
            "max.in.flight=1",
            "message.timeout.ms=0",
            "retries=2147483647",
            "partitioner=consistent_random",
            "compression.type=zstd",
            "debug=broker",
            "delivery.report.only.error=False",
            "enable.ssl.certificate.verification=True",
        ] {
            assert!(parse_setting(entry).is_ok(), "{entry}");
        }
    }

    #[test]
    fn a_property_that_affects_the_server_belongs_in_the_file() {
        for entry in [
            "sasl.kerberos.kinit.cmd=touch /tmp/x",
            "sasl.kerberos.principal=$(touch /tmp/x)",
            "plugin.library.paths=x.so",
            "ssl.engine.location=x.so",
            "ssl.providers=x",
            "ssl.key.location=/etc/key",
            "sasl.oauthbearer.assertion.file=/etc/passwd",
            "sasl.oauthbearer.token.endpoint.url=http://localhost",
            "enable.ssl.certificate.verification=false",
            "ssl.endpoint.identification.algorithm=none",
        ] {
            assert!(matches!(parse_setting(entry), Err(PropertyError::FileOnly { .. })), "{entry}");
            assert!(parse_file(entry).is_ok(), "{entry}");
        }
    }

    #[test]
    fn an_unknown_property_is_refused() {
        assert_eq!(parse_file("debug=all\nno.such=secret"), Err(PropertyError::Unknown(2)));
    }

    /// Otherwise chance would decide the order of two names of one property.
    #[test]
    fn an_alias_is_the_same_property() {
        assert_eq!(
            parse_setting("queue.buffering.max.ms=7,linger.ms=8").unwrap(),
            pairs(&[("linger.ms", "7"), ("linger.ms", "8")])
        );
    }
}
