//! Schemas and payloads whose authors mean harm: each is refused, or done, within a short time and a little memory.

use std::time::{Duration, Instant};

use event_outbox_policy::schema::compiled::{Compiled, Format};
use event_outbox_policy::schema::limits::MAX_DEFINITION_BYTES;

use super::{compiled, decoded, encoded};

/// Does something that would take for ever without limits.
fn soon<R>(what: &str, work: impl FnOnce() -> R) -> R {
    let begin = Instant::now();
    let done = work();
    assert!(begin.elapsed() < Duration::from_secs(600), "{what} took {:?}", begin.elapsed());
    done
}

#[test]
fn definitions_are_limited() {
    let nested = |open: &str, close: &str, depth: usize| open.repeat(depth) + close + &"}".repeat(depth);
    let long = "x".repeat(MAX_DEFINITION_BYTES + 1);
    let fields: String = (1..30_000).map(|at| format!("int32 f{at} = {at};")).collect();
    let array = "{\"type\":\"array\",\"items\":";
    let definitions = [
        (Format::Json, nested("{\"not\":", "{}", 5000)),
        (Format::Json, format!("{{\"required\":[{}\"x\"]}}", "\"x\",".repeat(30_000))),
        (Format::Json, format!("{{\"anyOf\":[{}{{}}]}}", "{\"pattern\":\"(a{9}){9}\"},".repeat(1000))),
        (Format::Json, r#"{"pattern": "((a{1000}){1000}){1000}"}"#.into()),
        (Format::Json, r#"{"$ref": "http://localhost:1/x"}"#.into()),
        (Format::Json, r#"{"$ref": "file:///etc/passwd"}"#.into()),
        (Format::Json, r#"{"$schema": "http://localhost:1/x"}"#.into()),
        (Format::Avro, nested(array, "\"int\"", 5000)),
        (Format::Avro, nested(array, "\"int\"", 100)),
        (Format::Avro, r#"{"type":"fixed","name":"F","size":4000000000}"#.into()),
        (
            Format::Avro,
            r#"{"type":"record","name":"R","fields":[{"name":"r","type":"R","default":{}}]}"#.into(),
        ),
        (Format::Avro, "[".repeat(100_000)),
        (Format::Protobuf, format!("syntax = \"proto3\"; message M {{ {fields} }}")),
        (Format::Protobuf, "message A {".repeat(50_000)),
        (Format::Protobuf, "import \"schema.proto\"; message A {}".into()),
        (Format::Protobuf, format!("message A {{ option (x) = {} }}", "{a:".repeat(50_000))),
    ];
    for format in Format::ALL {
        assert!(Compiled::compile(format, &long).is_err());
    }
    for (format, definition) in definitions {
        let shown = &definition[..definition.len().min(60)];
        assert!(soon(shown, || Compiled::compile(format, &definition)).is_err(), "{shown}");
    }
}

#[test]
fn large_definitions_compile_soon() {
    let members: String = (0..9000).map(|at| format!("\"p{at}\":{{\"type\":\"string\"}},")).collect();
    let fields: String = (0..9000).map(|at| format!("{{\"name\":\"f{at}\",\"type\":\"int\"}},")).collect();
    let lines: String = (1..15_000).map(|at| format!("int32 f{at} = {at};")).collect();
    let definitions = [
        (Format::Json, format!("{{\"properties\":{{{members}\"x\":{{}}}}}}")),
        (
            Format::Avro,
            format!(
                "{{\"type\":\"record\",\"name\":\"R\",\"fields\":[{fields}{{\"name\":\"x\",\"type\":\"int\"}}]}}"
            ),
        ),
        (Format::Protobuf, format!("syntax = \"proto3\"; message M {{ {lines} }}")),
    ];
    for (format, definition) in definitions {
        let compiled = soon(format.name(), || Compiled::compile(format, &definition));
        assert!(compiled.is_ok(), "{}: {}", format.name(), compiled.unwrap_err());
    }
}

#[test]
fn references_cannot_explode() {
    // Each definition refers to the next one twice.
    let chain: String = (0..40)
        .map(|at| {
            format!(
                "\"d{at}\":{{\"anyOf\":[{{\"$ref\":\"#/$defs/d{}\"}},{{\"$ref\":\"#/$defs/d{}\"}}]}},",
                at + 1,
                at + 1
            )
        })
        .collect();
    let definition =
        format!("{{\"$ref\":\"#/$defs/d0\",\"$defs\":{{{chain}\"d40\":{{\"type\":\"string\"}}}}}}");
    if let Ok(schema) = soon("compiling", || Compiled::compile(Format::Json, &definition)) {
        let _ = soon("checking", || encoded(&schema, "1"));
    }
    // Alternatives that are tried for each element.
    let alternatives = r#"{"maximum":0},"#.repeat(200);
    let schema = compiled(Format::Json, &format!(r#"{{"items":{{"anyOf":[{alternatives}{{"const":1}}]}}}}"#));
    let ones = format!("[{}1]", "1,".repeat(20_000));
    let fault = soon("alternatives", || encoded(&schema, &ones)).unwrap_err();
    assert_eq!(fault, "checking it takes too many steps");
    // The faults of all alternatives at each level would fill the memory, though the check itself is short.
    let tree = r##"{"type":"object","anyOf":[{"properties":{"a":{"$ref":"#"}}},{"properties":{"a":{"$ref":"#"}}}]}"##;
    let deep = |levels: usize| "{\"a\":".repeat(levels) + "1" + &"}".repeat(levels);
    let schema = compiled(Format::Json, tree);
    let padded = format!("{{\"pad\":\"{}\",\"a\":{}}}", "x".repeat(500_000), deep(16));
    for document in [deep(60), padded] {
        let fault = soon("the faults of a tree", || encoded(&schema, &document)).unwrap_err();
        assert_eq!(fault, "to find out where would take too many steps");
    }
    for circle in [
        r##"{"$ref":"#"}"##,
        r##"{"anyOf":[{"$ref":"#"},{"type":"string"}]}"##,
        r##"{"allOf":[{"$ref":"#"}]}"##,
        r##"{"not":{"$ref":"#"}}"##,
    ] {
        if let Ok(schema) = soon(circle, || Compiled::compile(Format::Json, circle)) {
            let _ = soon(circle, || encoded(&schema, "1"));
        }
    }
}

#[test]
fn patterns_match_in_linear_time() {
    let schema = compiled(Format::Json, r#"{"pattern": "^(a+)+$"}"#);
    let document = format!("\"{}!\"", "a".repeat(100_000));
    assert!(soon("matching", || encoded(&schema, &document)).is_err());
}

#[test]
fn unions_cannot_explode() {
    // At each level both records are tried, and neither fits.
    let inner = r#"{"type":"record","name":"B","fields":[{"name":"a","type":["null","A","B"]},{"name":"b","type":"int"}]}"#;
    let outer = r#"{"type":"record","name":"A","fields":[{"name":"a","type":["null","A",INNER]},{"name":"c","type":"int"}]}"#;
    let schema = compiled(Format::Avro, &outer.replace("INNER", inner));
    let deep = "{\"a\":".repeat(60) + "1" + &"}".repeat(60);
    let fault = soon("a union", || encoded(&schema, &deep)).unwrap_err();
    assert!(fault.contains("too many values"), "{fault}");
}

#[test]
fn payloads_cannot_explode() {
    // A block of many values without bytes.
    let nulls = compiled(Format::Avro, r#"{"type":"array","items":"null"}"#);
    let mut many = Vec::new();
    event_outbox_policy::schema::wire::put_long(1 << 40, &mut many);
    assert!(soon("nulls", || decoded(&nulls, &many)).is_err());
    // Short values with long names.
    let name = "x".repeat(10_000);
    let wide = compiled(
        Format::Avro,
        &format!(
            r#"{{"type":"array","items":{{"type":"record","name":"R","fields":[{{"name":"{name}","type":"boolean"}}]}}}}"#
        ),
    );
    let mut records = Vec::new();
    event_outbox_policy::schema::wire::put_long(1_000_000, &mut records);
    records.resize(1_000_010, 0);
    assert!(soon("names", || decoded(&wide, &records)).is_err());
    let recursive =
        compiled(Format::Avro, r#"{"type":"record","name":"T","fields":[{"name":"t","type":["null","T"]}]}"#);
    assert!(soon("depth", || decoded(&recursive, &[2; 100_000])).is_err());
    let tree = compiled(Format::Protobuf, "syntax = \"proto3\"; message T { T t = 1; repeated T all = 2; }");
    let mut nested = Vec::new();
    for _ in 0..200 {
        let length = nested.len();
        let mut outer = vec![10];
        let mut rest = length;
        while rest >= 0x80 {
            outer.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        outer.push(rest as u8);
        outer.extend(nested);
        nested = outer;
    }
    assert!(soon("messages", || decoded(&tree, &nested)).is_err());
    assert!(soon("siblings", || decoded(&tree, &[18, 0].repeat(500_000))).is_ok());
}
