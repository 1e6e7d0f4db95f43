//! Avro: each type there and back, the rules of its resolution.

use event_outbox_policy::schema::compiled::Format;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{compiled, decoded, encoded, incompatible, there_and_back};

fn field(of: &Value) -> String {
    json!({"type": "record", "name": "shop.Order", "fields": [{"name": "x", "type": of}]}).to_string()
}

fn pass(of: &Value, value: &str) -> Result<String, String> {
    let schema = compiled(Format::Avro, &field(of));
    let document = there_and_back(&schema, &format!("{{\"x\":{value}}}"))?;
    Ok(document.strip_prefix("{\"x\":").and_then(|rest| rest.strip_suffix('}')).unwrap().to_owned())
}

#[test]
fn each_type_comes_back() {
    let same = [
        (json!("null"), "null"),
        (json!("boolean"), "true"),
        (json!("int"), "-2147483648"),
        (json!("long"), "9223372036854775807"),
        (json!("float"), "0.1"),
        (json!("double"), "-1.5"),
        (json!("double"), "\"NaN\""),
        (json!("string"), "\"a\\\"\\nü\""),
        (json!("bytes"), "\"AP8=\""),
        (json!({"type": "array", "items": "int"}), "[1,2]"),
        (json!({"type": "array", "items": "int"}), "[]"),
        (json!({"type": "map", "values": "long"}), "{\"a\":1,\"b\":2}"),
        (json!({"type": "enum", "name": "E", "symbols": ["A", "B"]}), "\"B\""),
        (json!({"type": "fixed", "name": "F", "size": 2}), "\"AP8=\""),
        (json!(["null", "string"]), "null"),
        (json!(["null", "string"]), "\"x\""),
        (json!(["null", "int", "string", {"type": "array", "items": "boolean"}]), "[true]"),
        (json!({"type": "int", "logicalType": "date"}), "\"2024-02-29\""),
        (json!({"type": "int", "logicalType": "time-millis"}), "\"12:30:00.5\""),
        (json!({"type": "long", "logicalType": "time-micros"}), "\"00:00:00.000001\""),
        (json!({"type": "long", "logicalType": "timestamp-millis"}), "\"2024-01-02T03:04:05.678Z\""),
        (json!({"type": "long", "logicalType": "local-timestamp-micros"}), "\"2024-01-02T03:04:05.000001\""),
        (
            json!({"type": "bytes", "logicalType": "decimal", "precision": 30, "scale": 2}),
            "-1234567890123456789012345.67",
        ),
        (
            json!({"type": "fixed", "name": "D", "size": 8, "logicalType": "decimal", "precision": 9, "scale": 2}),
            "-0.01",
        ),
        (json!({"type": "string", "logicalType": "uuid"}), "\"018f4e9c-7b1a-7000-8000-0123456789ab\""),
    ];
    for (of, value) in same {
        assert_eq!(pass(&of, value).as_deref(), Ok(value), "{of}");
    }
    assert_eq!(pass(&json!("int"), "1.0").as_deref(), Ok("1"));
    let moment = json!({"type": "long", "logicalType": "timestamp-micros"});
    assert_eq!(pass(&moment, "\"2024-01-02T03:04:05.5+01:00\"").as_deref(), Ok("\"2024-01-02T02:04:05.5Z\""));
}

/// The examples of the specification.
#[test]
fn bytes_are_as_the_specification_has_them() {
    let bytes =
        |of: Value, value: &str| encoded(&compiled(Format::Avro, &field(&of)), &format!("{{\"x\":{value}}}"));
    assert_eq!(bytes(json!("string"), "\"foo\""), Ok(b"\x06foo".to_vec()));
    assert_eq!(bytes(json!("long"), "-64"), Ok(vec![0x7f]));
    assert_eq!(bytes(json!("long"), "64"), Ok(vec![0x80, 1]));
    assert_eq!(bytes(json!({"type": "array", "items": "long"}), "[3, 27]"), Ok(vec![4, 6, 54, 0]));
    assert_eq!(bytes(json!(["null", "string"]), "\"a\""), Ok(vec![2, 2, 0x61]));
    assert_eq!(encoded(&compiled(Format::Avro, "\"int\""), "1"), Ok(vec![2]));
    assert_eq!(encoded(&compiled(Format::Avro, "int"), "1"), Ok(vec![2]));
    // A block with its length in bytes.
    let array = compiled(Format::Avro, r#"{"type": "array", "items": "long"}"#);
    assert_eq!(decoded(&array, &[3, 4, 6, 54, 2, 2, 0]).as_deref(), Ok("[3,27,1]"));
}

#[test]
fn the_path_of_a_fault_is_named() {
    let order = json!({"type": "record", "name": "Order", "fields": [
        {"name": "id", "type": "long"},
        {"name": "note", "type": ["null", "string"], "default": null},
        {"name": "items", "default": [], "type": {"type": "array", "items":
            {"type": "record", "name": "Item", "fields": [{"name": "price", "type": "int"}]}}}
    ]});
    let schema = compiled(Format::Avro, &order.to_string());
    let fault = |document: &str| encoded(&schema, document).unwrap_err();
    assert_eq!(there_and_back(&schema, r#"{"id":1}"#).as_deref(), Ok(r#"{"id":1,"note":null,"items":[]}"#));
    assert_eq!(fault("{}"), "/id: it is missing, and has no default");
    assert_eq!(fault(r#"{"id":1,"x":1}"#), "/x: Order has no field of this name");
    assert_eq!(
        fault(r#"{"id":1,"items":[{"price":1},{"price":"a"}]}"#),
        "/items/1/price: a string is not of the type int"
    );
    assert_eq!(
        fault(r#"{"id":9223372036854775808}"#),
        "/id: 9223372036854775808 cannot be held by an integer of 64 bits without loss"
    );
    assert_eq!(fault(r#"{"id":1.5}"#), "/id: 1.5 cannot be held by an integer of 64 bits without loss");
    assert_eq!(fault(r#"{"id":1,"note":2}"#), "/note: a number is none of: null, string");
    assert_eq!(fault("[]"), "an array is not of the type Order");
    assert!(
        pass(&json!("double"), "9007199254740993")
            .unwrap_err()
            .starts_with("/x: 9007199254740993 cannot be held")
    );
    assert!(
        pass(&json!({"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}), "1.234")
            .is_err()
    );
}

#[test]
fn a_union_takes_what_fits() {
    let a = json!({"type": "record", "name": "A", "fields": [{"name": "a", "type": "int"}]});
    let b = json!({"type": "record", "name": "B", "fields": [{"name": "b", "type": "int"}]});
    let of = json!(["bytes", "string", a, b]);
    assert_eq!(pass(&of, "\"abcd\"").as_deref(), Ok("\"abcd\""));
    assert_eq!(pass(&of, r#"{"b":1}"#).as_deref(), Ok(r#"{"b":1}"#));
    // As Avro's own JSON names a branch.
    assert_eq!(pass(&of, r#"{"B":{"b":1}}"#).as_deref(), Ok(r#"{"b":1}"#));
    assert_eq!(pass(&of, r#"{"bytes":"AP8="}"#).as_deref(), Ok("\"AP8=\""));
    assert!(pass(&of, r#"{"c":1}"#).unwrap_err().contains("is none of: bytes, string, shop.A, shop.B"));
}

#[test]
fn a_recursive_schema_works() {
    let tree = r#"{"type":"record","name":"n.T","fields":[{"name":"l","type":["null","T"],"default":null},{"name":"v","type":"int"}]}"#;
    let schema = compiled(Format::Avro, tree);
    let document = r#"{"l":{"l":null,"v":2},"v":1}"#;
    assert_eq!(there_and_back(&schema, document).as_deref(), Ok(document));
    assert_eq!(incompatible(Format::Avro, "full", tree, tree), None);
}

#[test]
fn defaults_must_fit() {
    let with = |default: &str| {
        event_outbox_policy::schema::compiled::Compiled::compile(
            Format::Avro,
            &format!(
                r#"{{"type":"record","name":"R","fields":[{{"name":"b","type":"bytes","default":{default}}}]}}"#
            ),
        )
    };
    assert_eq!(there_and_back(&with("\"\\u00ff\"").unwrap(), "{}").as_deref(), Ok(r#"{"b":"/w=="}"#));
    assert!(with("5").is_err());
}

#[test]
fn resolution_follows_java() {
    let record = |fields: Value| json!({"type": "record", "name": "R", "fields": fields}).to_string();
    let a = record(json!([{"name": "a", "type": "int"}]));
    let cases = [
        (record(json!([{"name": "a", "type": "long"}])), "backward", None),
        (record(json!([{"name": "a", "type": "long"}])), "forward", Some("/a: long cannot be read as int")),
        (record(json!([])), "backward", None),
        (record(json!([])), "full", Some("/a: the field was not written, and has no default")),
        (record(json!([{"name": "a", "type": "int"}, {"name": "b", "type": "int"}])), "backward",
            Some("/b: the field was not written, and has no default")),
        (record(json!([{"name": "a", "type": "int"}, {"name": "b", "type": "int", "default": 1}])), "full", None),
        (record(json!([{"name": "b", "type": "int", "aliases": ["a"]}])), "backward", None),
        (record(json!([{"name": "a", "type": ["null", "int"]}])), "backward", None),
        (record(json!([{"name": "a", "type": ["null", "int"]}])), "forward", Some("/a: null cannot be read as int")),
        (json!({"type": "record", "name": "Q", "fields": [{"name": "a", "type": "int"}]}).to_string(), "backward",
            Some("its name is Q instead of R")),
        (json!({"type": "record", "name": "Q", "aliases": ["R"], "fields": [{"name": "a", "type": "int"}]}).to_string(),
            "backward", None),
        ("\"string\"".to_owned(), "none", None),
        ("\"string\"".to_owned(), "backward", Some("R cannot be read as string")),
    ];
    for (new, level, expected) in cases {
        assert_eq!(incompatible(Format::Avro, level, &new, &a).as_deref(), expected, "{new}");
    }
    let symbols = |symbols: Value| json!({"type": "enum", "name": "E", "symbols": symbols}).to_string();
    let fault = incompatible(Format::Avro, "backward", &symbols(json!(["A"])), &symbols(json!(["A", "B"])));
    assert_eq!(fault.as_deref(), Some("the symbol B is not known, and there is no default"));
}

/// A type, and values of it.
fn typed(depth: u32) -> BoxedStrategy<(Value, BoxedStrategy<Value>)> {
    let leaf = prop_oneof![
        Just((json!("boolean"), any::<bool>().prop_map(Value::from).boxed())),
        Just((json!("int"), any::<i32>().prop_map(Value::from).boxed())),
        Just((json!("long"), any::<i64>().prop_map(Value::from).boxed())),
        Just((json!("double"), (-1e9..1e9_f64).prop_map(Value::from).boxed())),
        Just((json!("string"), "[a-zü\"\\\\]{0,5}".prop_map(Value::from).boxed())),
    ];
    if depth == 0 {
        return leaf.boxed();
    }
    prop_oneof![
        leaf,
        typed(depth - 1).prop_map(|(of, values)| {
            let all = prop::collection::vec(values, 0..4).prop_map(Value::from).boxed();
            (json!({"type": "array", "items": of}), all)
        }),
        typed(depth - 1).prop_map(|(of, values)| {
            let all = prop::collection::btree_map("[a-c]{1,2}", values, 0..3);
            (
                json!({"type": "map", "values": of}),
                all.prop_map(|map| Value::Object(map.into_iter().collect())).boxed(),
            )
        }),
        typed(depth - 1)
            .prop_map(|(of, values)| {
                (json!(["null", of]), prop_oneof![Just(Value::Null), values].boxed())
            })
            .prop_filter("a union in a union", |(of, _)| !of[1].is_array()),
    ]
    .boxed()
}

proptest! {
    #[test]
    fn any_value_of_any_schema_comes_back(
        (of, value) in typed(3).prop_flat_map(|(of, values)| values.prop_map(move |value| (of.clone(), value)))
    ) {
        let found = pass(&of, &value.to_string()).unwrap();
        prop_assert_eq!(serde_json::from_str::<Value>(&found).unwrap(), value, "{}", of);
    }

    #[test]
    fn any_bytes_can_be_tried((of, _) in typed(3), bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let _ = decoded(&compiled(Format::Avro, &field(&of)), &bytes);
    }
}
