//! JSON Schema: what is accepted, with which path.

use event_outbox_policy::schema::compiled::{Compiled, Format};

use super::{compiled, encoded, incompatible};

const ORDER: &str = r##"{
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["id"],
    "properties": {
        "id": {"type": "integer"},
        "at": {"type": "string", "format": "date-time"},
        "code": {"type": "string", "pattern": "^[A-Z]{2}\\d+$"},
        "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}}
    },
    "$defs": {"line": {"type": "object", "properties": {"count": {"type": "integer", "minimum": 1}}}}
}"##;

#[test]
fn documents_stay_as_they_are() {
    let schema = compiled(Format::Json, ORDER);
    let document =
        r#"{"lines":[{"count":3}],"code":"AB12","id":9007199254740993,"at":"2024-01-01T00:00:00Z"}"#;
    assert_eq!(encoded(&schema, document).unwrap(), document.as_bytes());
}

#[test]
fn the_path_of_a_fault_is_named() {
    let schema = compiled(Format::Json, ORDER);
    for (document, place) in [
        (r#"{"id":1,"lines":[{"count":1},{"count":0}]}"#, "/lines/1/count: "),
        (r#"{"id":"1"}"#, "/id: "),
        (r#"{"id":1,"code":"x"}"#, "/code: "),
        (r#"{"id":1,"at":"yesterday"}"#, "/at: "),
        ("{}", "\"id\" is a required property"),
        ("{", "line 1 column 1: it is not JSON"),
    ] {
        let fault = encoded(&schema, document).unwrap_err();
        assert!(fault.starts_with(place), "{document}: {fault}");
    }
}

#[test]
fn mistakes_in_a_schema_have_a_place() {
    let fault = |definition: &str| Compiled::compile(Format::Json, definition).unwrap_err().to_string();
    assert_eq!(fault("{\n  \"type\": }"), "line 2 column 11: the definition is not JSON");
    assert!(
        fault(r#"{"properties": {"a": {"type": "text"}}}"#)
            .starts_with("/properties/a/type: the schema is invalid")
    );
    // The engine has no look-around.
    assert!(fault(r#"{"pattern": "(?=a)b"}"#).contains("invalid"), "{}", fault(r#"{"pattern": "(?=a)b"}"#));
}

#[test]
fn a_version_must_accept_what_was_written() {
    let open =
        r#"{"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": false}"#;
    let wide = r#"{"type": "object", "properties": {"a": {"type": "number"}, "b": {}}, "additionalProperties": false}"#;
    assert_eq!(incompatible(Format::Json, "backward", wide, open), None);
    let fault = incompatible(Format::Json, "forward", wide, open).unwrap();
    assert!(fault.starts_with("/a: ") || fault.starts_with("/b: "), "{fault}");
}
