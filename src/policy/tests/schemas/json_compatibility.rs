//! Which JSON Schemas accept all that others accept.

use event_outbox_policy::schema::json::compatibility::accepts_all;
use serde_json::{Value, json};

fn fault(new: Value, old: Value) -> Option<String> {
    accepts_all(&new, &old).err().map(|fault| fault.to_string())
}

fn order(more: Value) -> Value {
    let mut schema = json!({
        "type": "object", "required": ["id"], "additionalProperties": false,
        "properties": {"id": {"type": "integer"}, "note": {"type": "string", "maxLength": 10}}
    });
    if let (Some(schema), Value::Object(more)) = (schema.as_object_mut(), more) {
        schema.extend(more);
    }
    schema
}

#[test]
fn wider_schemas_accept_what_narrower_ones_do() {
    let wider = [
        json!({"required": []}),
        json!({"additionalProperties": true}),
        json!({"type": ["object", "null"]}),
        json!({"description": "an order"}),
        json!({"properties": {"id": {"type": "number"}, "note": {"type": "string", "maxLength": 20}}}),
        json!({"properties": {"id": {"type": "integer"}, "note": {"type": "string"}, "new": {"type": "null"}}}),
        json!({"properties": {"id": true, "note": {"anyOf": [{"type": "null"}, {"type": "string"}]}}}),
        json!({"properties": {"id": {"$ref": "#/$defs/id"}, "note": {}}, "$defs": {"id": {"type": "integer"}}}),
    ];
    for more in wider {
        assert_eq!(fault(order(more.clone()), order(json!({}))), None, "{more}");
    }
    assert_eq!(fault(json!({}), json!(true)), None);
    assert_eq!(fault(json!({"type": "integer"}), json!({"enum": [1, 2.0]})), None);
    assert_eq!(fault(json!({"minimum": 1}), json!({"type": "number", "minimum": 2})), None);
    assert_eq!(fault(json!({"minimum": 1}), json!({"type": "string"})), None);
    assert_eq!(
        fault(json!({"type": "string"}), json!({"allOf": [{"type": "string"}, {"maxLength": 3}]})),
        None
    );
    assert_eq!(
        fault(json!({"type": ["string", "null"]}), json!({"oneOf": [{"type": "string"}, {"type": "null"}]})),
        None
    );
}

#[test]
fn the_path_of_what_is_narrower_is_named() {
    let narrower = [
        (json!({"required": ["id", "note"]}), "/note: it is required now"),
        (
            json!({"properties": {"id": {"type": "string"}, "note": {}}}),
            "/id: the type integer is not accepted any more",
        ),
        (
            json!({"properties": {"id": {"type": "integer"}}}),
            "/note: the property is gone: the new schema accepts nothing here",
        ),
        (
            json!({"properties": {"id": {}, "note": {"type": "string", "maxLength": 5}}}),
            "/note: maxLength is stricter, or cannot be compared",
        ),
        (json!({"not": {"required": ["x"]}}), "not is stricter, or cannot be compared"),
    ];
    for (more, expected) in narrower {
        assert_eq!(fault(order(more.clone()), order(json!({}))).as_deref(), Some(expected), "{more}");
    }
    // A document with such a property may have been written before.
    let open = json!({"type": "object"});
    let typed = json!({"type": "object", "properties": {"a": {"type": "string"}}});
    assert!(fault(typed.clone(), open.clone()).is_some_and(|fault| fault.starts_with("/a: ")));
    assert_eq!(fault(open, typed), None);
    // The same words, but of other definitions.
    let not = |of: &str| json!({"not": {"$ref": "#/$defs/x"}, "$defs": {"x": {"type": of}}});
    assert_eq!(fault(not("string"), not("string")), None);
    assert!(fault(not("string"), not("number")).is_some());
}

#[test]
fn recursive_schemas_are_compared() {
    let tree = |of: &str| {
        json!({
            "$ref": "#/$defs/node",
            "$defs": {"node": {"properties": {"value": {"type": of}, "left": {"$ref": "#/$defs/node"}}}}
        })
    };
    assert_eq!(fault(tree("number"), tree("integer")), None);
    assert!(fault(tree("integer"), tree("number")).is_some());
    assert!(fault(json!({"$ref": "#"}), json!({"$ref": "#"})).is_some());
}
