//! Parses arbitrary and nearly valid user input: the result is always valid or an error, never a panic. The number of cases
//! limits the search; `PROPTEST_CASES=1000000` extends it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use event_outbox_policy::event::draft::{Draft, Event};
use event_outbox_policy::event::envelope::{Envelope, default_source};
use event_outbox_policy::event::headers::{self, HeaderError, RESERVED_PREFIX};
use event_outbox_policy::event::json;
use event_outbox_policy::event::topic::{self, Pattern};
use event_outbox_policy::inbox::projection::mapping::{Change, Column, Format, Mapping};
use event_outbox_policy::inbox::projection::source::Source;
use event_outbox_policy::inbox::records::RecordRef;
use event_outbox_policy::kafka::properties::{self, PropertyError};
use proptest::prelude::*;
use serde_json::Value;

/// Any text, mostly of the characters that have a meaning for the parser.
fn near(alphabet: &'static str) -> impl Strategy<Value = String> {
    let characters: Vec<char> = alphabet.chars().collect();
    let meaningful = prop::collection::vec(prop::sample::select(characters), 0..40);
    prop_oneof![
        4 => meaningful.prop_map(|characters| characters.into_iter().collect()),
        1 => any::<String>(),
        1 => "\\PC{0,200}",
    ]
}

/// JSON texts, unchanged, or with a part removed, doubled or inserted.
fn nearly_json() -> impl Strategy<Value = String> {
    let text = prop_oneof![
        3 => "[a-z]{1,4}",
        2 => any::<String>(),
        2 => "[ce_CE\"\\\\\u{0}\n{}:,é]{0,6}",
        1 => "[cC][eE]_[a-z]{0,3}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.clone().prop_map(Value::from),
    ];
    let value = leaf.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((text.clone(), inner), 0..6)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    });
    let broken = (value, any::<prop::sample::Index>(), near("{}[]\",:\\u0dce_ "), 0..8_u8);
    broken.prop_map(|(value, place, piece, way)| {
        let whole = value.to_string();
        let characters: Vec<char> = whole.chars().collect();
        let at = place.index(characters.len() + 1);
        let (head, tail) = characters.split_at(at);
        let (head, tail): (String, String) = (head.iter().collect(), tail.iter().collect());
        match way {
            0 => head,
            1 => format!("{head}{piece}{tail}"),
            2 => format!("{head}{tail}{tail}"),
            _ => whole,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn properties_are_read_as_written_or_refused(text in near("abc.=,\\\n\r #\t\u{0}é")) {
        for parsed in [properties::parse_setting(&text), properties::parse_file(&text)] {
            match parsed {
                Ok(pairs) => for (name, value) in pairs {
                    prop_assert!(!name.is_empty() && !name.contains(['=', '\n']));
                    prop_assert_eq!(name.trim(), name.as_str());
                    prop_assert!(text.contains(&name) || text.contains('\\'));
                    prop_assert_eq!(value.trim(), value.as_str());
                },
                Err(PropertyError::Malformed(entry) | PropertyError::Unknown(entry)) => {
                    prop_assert!((1..=text.len() + 1).contains(&entry));
                }
                Err(PropertyError::Refused { .. } | PropertyError::FileOnly { .. }) => {}
            }
        }
    }

    /// An error may be logged and shown, so it never quotes a value, whatever surrounds the value.
    #[test]
    fn errors_of_properties_contain_no_value(
        before in near("abc=,\\\n "), name in "[a-z.]{1,12}", after in near("abc=,\\\n "),
    ) {
        const SECRET: &str = "correcthorse";
        for entry in [SECRET.to_owned(), format!("={SECRET}"), format!("{SECRET}={name}"), format!("{name}={SECRET}"), format!("acks={SECRET}")] {
            let text = format!("{before}\n{entry}\n{after}");
            for parsed in [properties::parse_setting(&text), properties::parse_file(&text)] {
                if let Err(error) = parsed {
                    prop_assert!(!error.to_string().contains(SECRET), "{}", error);
                }
            }
        }
    }

    #[test]
    fn a_comma_within_a_value_survives(values in prop::collection::vec("[a-z,=\\\\]{0,8}[a-z=]", 1..5)) {
        let text: Vec<_> =
            values.iter().map(|value| format!("sasl.password={}", value.replace(',', "\\,"))).collect();
        let parsed = properties::parse_setting(&text.join(",")).unwrap();
        let parsed: Vec<_> = parsed.into_iter().map(|(_, value)| value).collect();
        prop_assert_eq!(parsed, values);
    }

    #[test]
    fn headers_that_are_read_can_be_sent(text in nearly_json()) {
        match headers::parse(&text) {
            Ok(found) => {
                let mut sent = Vec::new();
                found.each(|name, value| sent.push((name.to_owned(), value.map(str::to_owned))));
                let bytes: usize =
                    sent.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, String::len)).sum();
                prop_assert!((bytes..=bytes + 4 * sent.len()).contains(&headers::check(&text).unwrap()));
                prop_assert!(bytes <= headers::weigh(&text));
                for (name, value) in sent {
                    prop_assert!(!name.is_empty() && !name.contains('\0'));
                    prop_assert!(!name.to_lowercase().starts_with(RESERVED_PREFIX));
                    // Values that are not strings are sent as JSON.
                    prop_assert!(value.is_none_or(|value| value.len() <= text.len()));
                }
            }
            // An object whose names and strings can be sent is never refused as something else.
            Err(HeaderError::NotAnObject) => {
                prop_assert!(!serde_json::from_str::<Value>(&text).is_ok_and(|value| value.is_object()));
            }
            Err(HeaderError::Reserved(name)) => {
                prop_assert!(name.to_lowercase().starts_with(RESERVED_PREFIX));
            }
            Err(HeaderError::EmptyName | HeaderError::Unsendable) => {}
        }
    }

    #[test]
    fn compacting_keeps_the_meaning_and_never_fails(text in nearly_json()) {
        let compact = json::compact(&text);
        prop_assert!(compact.len() <= text.len());
        if let Ok(value) = serde_json::from_str::<Value>(&text) {
            prop_assert_eq!(serde_json::from_str::<Value>(&compact).unwrap(), value);
        }
    }

    /// Whatever the author wrote, each attribute of the envelope is present once, and as the outbox wrote it.
    #[test]
    fn the_envelope_is_the_outboxs_own(headers in nearly_json(), kind in any::<String>(), source in any::<String>()) {
        let event = Event {
            topic: "orders", headers: Some(headers.into()), event_type: Some(kind.as_str().into()),
            content_type: Some("a/b".into()), ..Event::default()
        };
        let mut written = Vec::new();
        Envelope::CloudEvents { source: source.clone() }.write(&event, |name, value| {
            written.push((name.to_owned(), value.map(<[u8]>::to_vec)));
        });
        for (name, value) in [("ce_source", source.as_bytes()), ("ce_type", kind.as_bytes()), ("ce_specversion", b"1.0")] {
            let found: Vec<_> = written.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name)).collect();
            prop_assert_eq!(found, [&(name.to_owned(), Some(value.to_vec()))]);
        }
        prop_assert_eq!(written.iter().filter(|(name, _)| name.to_lowercase().starts_with("ce_")).count(), 5);
        let sources = default_source(&source, &kind);
        prop_assert!(sources.bytes().all(|byte| byte.is_ascii_graphic()));
    }

    #[test]
    fn any_draft_can_be_checked(
        topic in prop_oneof![3 => "[a-z]{1,5}".prop_map(Some), 1 => prop::option::of(near("abc._-*/ "))], partition in any::<Option<i32>>(),
        headers in prop::option::of(prop_oneof![Just("{}".to_owned()), nearly_json()]), event_type_bytes in any::<Option<u16>>(),
        payload_bytes in any::<Option<usize>>().prop_map(|bytes| bytes.map(|bytes| bytes % 3_000_000)),
        emitted_at in any::<Option<i64>>(), limit in 0..3_000_000_usize,
    ) {
        let draft = Draft {
            topic: topic.as_deref(), partition, key_bytes: Some(0), payload_bytes, headers: headers.as_deref(),
            event_type_bytes: event_type_bytes.map(usize::from), content_type: None, emitted_at,
        };
        match draft.check(limit) {
            Ok(()) => {
                prop_assert!(topic.is_some_and(|name| topic::is_valid(&name)));
                prop_assert!(payload_bytes.unwrap_or(0) <= limit);
            }
            Err(invalid) => for text in [invalid.message(), invalid.detail(), invalid.hint()] {
                prop_assert!(!text.is_empty());
            },
        }
    }

    #[test]
    fn topics_and_channels_keep_to_their_characters(name in near("abcXYZ019._-~:*\"'/\\ \n\u{0}é漢")) {
        let channel = topic::channel(&name);
        prop_assert!(channel.len() <= topic::MAX_CHANNEL_BYTES && channel.starts_with("outbox:"));
        if topic::is_valid(&name) {
            prop_assert!(name.len() <= topic::MAX_TOPIC_BYTES && name.is_ascii());
            prop_assert!(!channel.contains(['"', '\'', '\\', '\n', '\0', ' ']));
            // No topic name is read as a prefix.
            prop_assert_eq!(Pattern::new(&name), Pattern::Topic(name.clone()));
        }
    }

    #[test]
    fn a_pattern_matches_its_topics_and_no_others(
        pattern in near("ab.*"), topic in "[ab.]{1,6}",
    ) {
        let opens = Pattern::new(&pattern).matches(&topic);
        let prefix = pattern.strip_suffix('*');
        prop_assert_eq!(opens, prefix.map_or(pattern == topic, |prefix| topic.get(..prefix.len()) == Some(prefix)));
    }

    #[test]
    fn any_record_is_a_change_or_says_why_not(
        source in prop_oneof![near("$@.[]\"ab0key"), Just("$.a".to_owned()), Just("@key.a.b".to_owned())],
        key in prop::option::of(nearly_json()), value in prop::option::of(nearly_json()), takes_json in any::<bool>(),
        is_capture in any::<bool>(),
    ) {
        let Ok(source) = Source::parse(&source) else { return Ok(()) };
        let column = |source| Column { source, takes_json };
        let mapping = Mapping {
            format: if is_capture { Format::Capture } else { Format::Json },
            keys: vec![column(Source::Key)],
            columns: vec![column(source)],
            has_one_partition: true,
        };
        let (key, value) = (key.as_deref().map(str::as_bytes), value.as_deref().map(str::as_bytes));
        let record = RecordRef { partition: 0, offset: 0, timestamp_ms: Some(i64::MAX), key, value, headers: &[] };
        match mapping.change(&record) {
            Ok(Change::Upsert(key, cells)) => {
                let texts = key.iter().chain(&cells).flatten();
                prop_assert!(key.iter().all(Option::is_some) && texts.into_iter().all(|text| !text.contains('\0')));
            }
            Ok(Change::Delete(key)) => prop_assert!(key.iter().all(Option::is_some)),
            Ok(Change::Truncate) => prop_assert!(is_capture),
            Err(fault) => prop_assert!(!fault.is_empty()),
        }
    }
}
