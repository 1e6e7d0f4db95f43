//! Compatibility as this database judges it, beside the verdict of the registry. `docs/guides/schemas.md` has the differences.

use event_outbox_lab::{Result, SchemaRegistry};
use postgres::Client;

use crate::support::database::TestDatabase;

/// A change: its name, the format, the older and the newer definition.
type Case = (&'static str, &'static str, &'static str, &'static str);

const RECORD: &str = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"long"}]}"#;
const MESSAGE: &str = r#"syntax = "proto3"; message M { int32 a = 1; string b = 2; }"#;
const OBJECT: &str = r#"{"$schema":"http://json-schema.org/draft-07/schema#","type":"object","additionalProperties":false,
    "required":["a"],"properties":{"a":{"type":"integer"},"b":{"type":"string"}}}"#;

const CASES: [Case; 33] = [
    (
        "Avro: a field with a default is added",
        "avro",
        RECORD,
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"long"},{"name":"b","type":"int","default":0}]}"#,
    ),
    (
        "Avro: a field without a default is added",
        "avro",
        RECORD,
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"long"},{"name":"b","type":"int"}]}"#,
    ),
    ("Avro: the only field goes", "avro", RECORD, r#"{"type":"record","name":"R","fields":[]}"#),
    (
        "Avro: long becomes double",
        "avro",
        RECORD,
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"double"}]}"#,
    ),
    (
        "Avro: long becomes int",
        "avro",
        RECORD,
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}"#,
    ),
    (
        "Avro: long becomes string",
        "avro",
        RECORD,
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"string"}]}"#,
    ),
    (
        "Avro: long becomes a union with null",
        "avro",
        RECORD,
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":["null","long"]}]}"#,
    ),
    (
        "Avro: a field is renamed, with an alias",
        "avro",
        RECORD,
        r#"{"type":"record","name":"R","fields":[{"name":"b","type":"long","aliases":["a"]}]}"#,
    ),
    (
        "Avro: the record is renamed",
        "avro",
        RECORD,
        r#"{"type":"record","name":"S","fields":[{"name":"a","type":"long"}]}"#,
    ),
    (
        "Avro: a symbol is added",
        "avro",
        r#"{"type":"enum","name":"E","symbols":["A","B"]}"#,
        r#"{"type":"enum","name":"E","symbols":["A","B","C"]}"#,
    ),
    (
        "Avro: a symbol is added, with a default",
        "avro",
        r#"{"type":"enum","name":"E","symbols":["A","B"],"default":"A"}"#,
        r#"{"type":"enum","name":"E","symbols":["A","B","C"],"default":"A"}"#,
    ),
    (
        "Avro: fixed becomes longer",
        "avro",
        r#"{"type":"fixed","name":"F","size":2}"#,
        r#"{"type":"fixed","name":"F","size":3}"#,
    ),
    ("Avro: string becomes bytes", "avro", r#""string""#, r#""bytes""#),
    (
        "Avro: the scale of a decimal changes",
        "avro",
        r#"{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}"#,
        r#"{"type":"bytes","logicalType":"decimal","precision":9,"scale":3}"#,
    ),
    (
        "Protobuf: a field is added",
        "protobuf",
        MESSAGE,
        r#"syntax = "proto3"; message M { int32 a = 1; string b = 2; bool c = 3; }"#,
    ),
    ("Protobuf: a field goes", "protobuf", MESSAGE, r#"syntax = "proto3"; message M { int32 a = 1; }"#),
    (
        "Protobuf: a field goes and is reserved",
        "protobuf",
        MESSAGE,
        r#"syntax = "proto3"; message M { int32 a = 1; reserved 2; reserved "b"; }"#,
    ),
    (
        "Protobuf: a field is renamed",
        "protobuf",
        MESSAGE,
        r#"syntax = "proto3"; message M { int32 a = 1; string c = 2; }"#,
    ),
    (
        "Protobuf: int32 becomes int64",
        "protobuf",
        MESSAGE,
        r#"syntax = "proto3"; message M { int64 a = 1; string b = 2; }"#,
    ),
    (
        "Protobuf: int32 becomes sint32",
        "protobuf",
        MESSAGE,
        r#"syntax = "proto3"; message M { sint32 a = 1; string b = 2; }"#,
    ),
    (
        "Protobuf: string becomes bytes",
        "protobuf",
        MESSAGE,
        r#"syntax = "proto3"; message M { int32 a = 1; bytes b = 2; }"#,
    ),
    (
        "Protobuf: a field becomes repeated",
        "protobuf",
        MESSAGE,
        r#"syntax = "proto3"; message M { int32 a = 1; repeated string b = 2; }"#,
    ),
    (
        "Protobuf: the number of a field changes",
        "protobuf",
        MESSAGE,
        r#"syntax = "proto3"; message M { int32 a = 1; string b = 3; }"#,
    ),
    (
        "Protobuf: a message is added",
        "protobuf",
        MESSAGE,
        r#"syntax = "proto3"; message M { int32 a = 1; string b = 2; } message N {}"#,
    ),
    (
        "Protobuf: a message goes",
        "protobuf",
        r#"syntax = "proto3"; message M { int32 a = 1; } message N {}"#,
        r#"syntax = "proto3"; message M { int32 a = 1; }"#,
    ),
    (
        "Protobuf: a field moves into a new oneof",
        "protobuf",
        MESSAGE,
        r#"syntax = "proto3"; message M { int32 a = 1; oneof o { string b = 2; } }"#,
    ),
    (
        "JSON: an optional property is added",
        "json",
        OBJECT,
        r#"{"$schema":"http://json-schema.org/draft-07/schema#","type":"object","additionalProperties":false,"required":["a"],"properties":{"a":{"type":"integer"},"b":{"type":"string"},"c":{"type":"string"}}}"#,
    ),
    (
        "JSON: an optional property goes",
        "json",
        OBJECT,
        r#"{"$schema":"http://json-schema.org/draft-07/schema#","type":"object","additionalProperties":false,"required":["a"],"properties":{"a":{"type":"integer"}}}"#,
    ),
    (
        "JSON: a property becomes required",
        "json",
        OBJECT,
        r#"{"$schema":"http://json-schema.org/draft-07/schema#","type":"object","additionalProperties":false,"required":["a","b"],"properties":{"a":{"type":"integer"},"b":{"type":"string"}}}"#,
    ),
    (
        "JSON: integer becomes number",
        "json",
        OBJECT,
        r#"{"$schema":"http://json-schema.org/draft-07/schema#","type":"object","additionalProperties":false,"required":["a"],"properties":{"a":{"type":"number"},"b":{"type":"string"}}}"#,
    ),
    (
        "JSON: integer becomes string",
        "json",
        OBJECT,
        r#"{"$schema":"http://json-schema.org/draft-07/schema#","type":"object","additionalProperties":false,"required":["a"],"properties":{"a":{"type":"string"},"b":{"type":"string"}}}"#,
    ),
    (
        "JSON: a closed schema is opened",
        "json",
        OBJECT,
        r#"{"$schema":"http://json-schema.org/draft-07/schema#","type":"object","required":["a"],"properties":{"a":{"type":"integer"},"b":{"type":"string"}}}"#,
    ),
    (
        "JSON: a string gets a longest length",
        "json",
        OBJECT,
        r#"{"$schema":"http://json-schema.org/draft-07/schema#","type":"object","additionalProperties":false,"required":["a"],"properties":{"a":{"type":"integer"},"b":{"type":"string","maxLength":9}}}"#,
    ),
];

const LEVELS: [&str; 3] = ["backward", "forward", "full"];

/// The cases that both judge differently: what is accepted here, and there, by levels.
const DIFFERENCES: [(&str, &str, &str); 10] = [
    ("Protobuf: a field is added", "backward, forward, full", "backward, full"),
    ("Protobuf: a field goes", "backward, forward, full", "forward, full"),
    ("Protobuf: a field goes and is reserved", "backward, forward, full", ""),
    ("Protobuf: a field is renamed", "backward, forward, full", ""),
    ("Protobuf: int32 becomes int64", "backward, forward, full", ""),
    ("Protobuf: string becomes bytes", "backward, forward, full", ""),
    ("Protobuf: a field becomes repeated", "backward, forward, full", ""),
    ("Protobuf: the number of a field changes", "backward, forward, full", ""),
    ("Protobuf: a message is added", "backward", "backward, forward, full"),
    ("Protobuf: a message goes", "forward", "backward, forward, full"),
];

/// The levels at which this database accepts a change.
fn ours(client: &mut Client, case: Case, subject: &str) -> Result<String> {
    let (_, format, old, new) = case;
    let mut accepted = Vec::new();
    for level in LEVELS {
        let subject = format!("{subject}-{level}");
        let sql = "SELECT outbox.register_schema($1, $2, $3, $4)";
        client.execute(sql, &[&subject, &format, &old, &level])?;
        match client.execute(sql, &[&subject, &format, &new, &level]) {
            Ok(_) => accepted.push(level),
            Err(error) => {
                let message = error.as_db_error().map_or("", |error| error.message());
                assert!(message.contains("compatible"), "{case:?}: {error:?}");
            }
        }
    }
    Ok(accepted.join(", "))
}

/// Those at which the registry does.
fn theirs(registry: &SchemaRegistry, case: Case, subject: &str) -> Result<String> {
    let (_, format, old, new) = case;
    let schema_type = format.to_uppercase();
    registry.register(subject, &schema_type, old)?;
    let mut accepted = Vec::new();
    for level in LEVELS {
        registry.set_compatibility(subject, &level.to_uppercase())?;
        if registry.is_compatible(subject, &schema_type, new)? {
            accepted.push(level);
        }
    }
    Ok(accepted.join(", "))
}

#[test]
fn verdicts_are_those_of_the_registry_but_for_what_is_documented() -> Result<()> {
    let registry = SchemaRegistry::shared()?;
    let mut db = TestDatabase::new()?;
    let mut different = Vec::new();
    for (number, case) in CASES.into_iter().enumerate() {
        let subject = db.topic(&format!("case-{number}"));
        let (ours, theirs) = (ours(&mut db.client, case, &subject)?, theirs(registry, case, &subject)?);
        if ours != theirs {
            different.push((case.0, ours, theirs));
        }
    }
    let found: Vec<_> = different.iter().map(|(name, ours, theirs)| (*name, &**ours, &**theirs)).collect();
    assert_eq!(found, DIFFERENCES, "{found:#?}");
    Ok(())
}

/// Three versions, the last of which fits the second and not the first; and the levels at which it is tried.
type Chain = (&'static str, [&'static str; 3], &'static [&'static str], &'static str);

const CHAINS: [Chain; 3] = [
    (
        "avro",
        [
            RECORD,
            r#"{"type":"record","name":"R","fields":[{"name":"a","type":"long"},{"name":"b","type":"int"}]}"#,
            r#"{"type":"record","name":"R","fields":[{"name":"a","type":"long"},{"name":"b","type":"int"},{"name":"c","type":"int","default":0}]}"#,
        ],
        &["backward", "backward_transitive", "forward", "forward_transitive", "full", "full_transitive"],
        "backward, forward, forward_transitive, full",
    ),
    (
        "protobuf",
        [
            MESSAGE,
            r#"syntax = "proto3"; message M { string a = 1; string b = 2; }"#,
            r#"syntax = "proto3"; message M { string a = 1; string b = 2; bool c = 3; }"#,
        ],
        &["backward", "backward_transitive"],
        "backward",
    ),
    (
        "json",
        [
            OBJECT,
            r#"{"$schema":"http://json-schema.org/draft-07/schema#","type":"object","additionalProperties":false,"required":["a","b"],"properties":{"a":{"type":"integer"},"b":{"type":"string"}}}"#,
            r#"{"$schema":"http://json-schema.org/draft-07/schema#","type":"object","additionalProperties":false,"required":["a","b"],"properties":{"a":{"type":"integer"},"b":{"type":"string"},"c":{"type":"string"}}}"#,
        ],
        &["backward", "backward_transitive"],
        "backward",
    ),
];

#[test]
fn transitive_levels_count_all_versions_here_and_there() -> Result<()> {
    let registry = SchemaRegistry::shared()?;
    let mut db = TestDatabase::new()?;
    for (format, [first, second, third], levels, expected) in CHAINS {
        let schema_type = format.to_uppercase();
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for level in levels {
            let subject = db.topic(&format!("{format}-{level}"));
            let mut register = |definition: &str, level: &str| {
                let sql = "SELECT outbox.register_schema($1, $2, $3, $4)";
                db.client.execute(sql, &[&subject, &format, &definition, &level])
            };
            register(first, "none")?;
            register(second, "none")?;
            if register(third, level).is_ok() {
                ours.push(*level);
            }
            registry.register(&subject, &schema_type, first)?;
            registry.set_compatibility(&subject, "NONE")?;
            registry.register(&subject, &schema_type, second)?;
            registry.set_compatibility(&subject, &level.to_uppercase())?;
            let (status, answer) = registry.try_register(&subject, &schema_type, third)?;
            match status {
                200 => theirs.push(*level),
                _ => assert_eq!(status, 409, "{format} {level}: {answer}"),
            }
        }
        assert_eq!((ours.join(", "), theirs.join(", ")), (expected.into(), expected.into()), "{format}");
    }
    Ok(())
}
