//! librdkafka properties that users pass through, and those that would break a promise.

use std::fmt;

/// The properties of one producer, in the order given.
pub type Properties = Vec<(String, String)>;

/// Why a list of properties cannot be used. No variant carries a value: values may be secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PropertyError {
    /// An entry without `=` or without a name; its position, counted from 1.
    Malformed(usize),
    /// A property that the outbox sets itself, or a value that would break a promise.
    Refused {
        /// The property's name.
        name: String,
        /// Why, as a sentence.
        reason: &'static str,
    },
}

impl fmt::Display for PropertyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(entry) => write!(f, "entry {entry} is not of the form key=value"),
            Self::Refused { name, reason } => write!(f, "property \"{name}\" cannot be set: {reason}"),
        }
    }
}

/// Reads a setting: entries separated by commas or line ends, a comma inside a value written `\,`.
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
    read(entries.iter().map(String::as_str))
}

/// Reads a properties file: one entry a line, `#` begins a comment line.
///
/// # Errors
/// The first line that is malformed or refused.
pub fn parse_file(text: &str) -> Result<Properties, PropertyError> {
    read(text.lines().map(|line| if line.trim_start().starts_with('#') { "" } else { line }))
}

fn last(entries: &mut Vec<String>) -> &mut String {
    if entries.is_empty() {
        entries.push(String::new());
    }
    let at = entries.len() - 1;
    &mut entries[at]
}

fn read<'a>(entries: impl Iterator<Item = &'a str>) -> Result<Properties, PropertyError> {
    let mut properties = Properties::new();
    for (at, entry) in entries.enumerate().filter(|(_, entry)| !entry.trim().is_empty()) {
        let (name, value) = entry.split_once('=').ok_or(PropertyError::Malformed(at + 1))?;
        let (name, value) = (name.trim(), value.trim());
        if name.is_empty() {
            return Err(PropertyError::Malformed(at + 1));
        }
        if let Some(reason) = refusal(name, value) {
            return Err(PropertyError::Refused { name: name.to_owned(), reason });
        }
        properties.push((name.to_owned(), value.to_owned()));
    }
    Ok(properties)
}

/// Why a property cannot be passed on; `None` where it can. The meaning of each is that of
/// librdkafka's CONFIGURATION.md.
fn refusal(name: &str, value: &str) -> Option<&'static str> {
    let off = matches!(value, "false" | "0" | "f" | "n" | "no");
    match name {
        "bootstrap.servers" | "metadata.broker.list" => Some("use event_outbox.bootstrap_servers"),
        "enable.idempotence" if off => Some("without it a retry can reorder or repeat events"),
        "acks" | "request.required.acks" if !matches!(value, "all" | "-1") => {
            Some("an event counts as published only when all in-sync replicas have it")
        }
        "max.in.flight" | "max.in.flight.requests.per.connection" if !at_most(value, 5) => {
            Some("an idempotent producer keeps order with at most 5 requests in flight")
        }
        "message.timeout.ms" | "delivery.timeout.ms" if value != "0" => {
            Some("a timed-out event would leave a gap in the order of its key")
        }
        "retries" | "message.send.max.retries" if !at_least(value, i64::from(i32::MAX)) => {
            Some("an outage must not use up an event")
        }
        "partitioner" if value == "random" => Some("events with the same key must go to the same partition"),
        "transactional.id" => Some("the outbox does not use Kafka transactions"),
        "delivery.report.only.error" if !off => Some("every delivery must be reported"),
        "dr_cb"
        | "dr_msg_cb"
        | "opaque"
        | "default_topic_conf"
        | "enabled_events"
        | "enable.gapless.guarantee" => Some("it is set by the outbox itself"),
        "allow.auto.create.topics" => Some("use event_outbox.auto_create_topics"),
        "queue.buffering.max.messages" | "queue.buffering.max.kbytes" => {
            Some("use event_outbox.max_in_flight")
        }
        _ => None,
    }
}

fn at_most(value: &str, most: i64) -> bool {
    value.parse::<i64>().is_ok_and(|n| n <= most)
}

fn at_least(value: &str, least: i64) -> bool {
    value.parse::<i64>().is_ok_and(|n| n >= least)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Properties {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
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
    fn a_file_has_a_property_a_line() {
        assert_eq!(
            parse_file("# secrets\n\nsasl.password=a,b;c\r\n  # more\nlinger.ms=1\n").unwrap(),
            pairs(&[("sasl.password", "a,b;c"), ("linger.ms", "1")])
        );
    }

    #[test]
    fn what_is_malformed_is_named_by_position_not_by_value() {
        assert_eq!(parse_setting("a=1,secret"), Err(PropertyError::Malformed(2)));
        assert_eq!(parse_file("a=1\n\n=secret\n"), Err(PropertyError::Malformed(3)));
        assert!(!parse_setting("a=1,secret").unwrap_err().to_string().contains("secret"));
    }

    #[test]
    fn what_would_break_a_promise_is_refused() {
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
        ] {
            assert!(parse_setting(entry).is_ok(), "{entry}");
        }
    }
}
