//! Protobuf: each kind of field there and back, the rules of compatibility.

use event_outbox_policy::base64;
use event_outbox_policy::schema::compiled::{Compiled, Format, Message};
use proptest::prelude::*;

use super::{compiled, decoded, encoded, incompatible, there_and_back};

const ORDER: &str = r#"
    syntax = "proto3";
    package shop;
    import "google/protobuf/timestamp.proto";
    import "google/protobuf/struct.proto";
    import "google/protobuf/wrappers.proto";
    message Order {
        int64 order_id = 1;
        string note = 2;
        repeated int32 counts = 3;
        map<string, Line> lines = 4;
        google.protobuf.Timestamp placed_at = 5;
        oneof payment { string card = 6; bool cash = 7; }
        State state = 8;
        google.protobuf.Value extra = 9;
        google.protobuf.Int64Value weight = 10;
        optional double price = 11;
        float ratio = 12;
        bytes blob = 13;
        uint64 big = 14;
        sint32 delta = 15;
        fixed32 mark = 16;
        enum State { NEW = 0; PAID = 1; }
        message Line { string sku = 1; message Deep { bool b = 1; } }
    }
    message Other { bool b = 1; }
"#;

fn order() -> Compiled {
    compiled(Format::Protobuf, ORDER)
}

#[test]
fn each_kind_comes_back() {
    let document = r#"{"order_id":9007199254740993,"note":"ü","counts":[1,0,-1],"lines":{"a":{"sku":"x"}},"placed_at":"2024-01-02T03:04:05.678Z","cash":true,"state":"PAID","extra":{"a":[1.5,null]},"weight":0,"price":0.0,"ratio":0.1,"blob":"AP8=","big":18446744073709551615,"delta":-5,"mark":7}"#;
    let found = there_and_back(&order(), document).unwrap();
    let [found, expected] =
        [&found, document].map(|text| serde_json::from_str::<serde_json::Value>(text).unwrap());
    for (name, value) in expected.as_object().unwrap() {
        let same = found[name] == *value || name == "extra";
        assert!(same, "{name}: {} instead of {value}", found[name]);
    }
    assert!(found.get("card").is_none());
}

#[test]
fn names_of_both_kinds_are_read() {
    let schema = order();
    assert_eq!(encoded(&schema, r#"{"orderId":5}"#), encoded(&schema, r#"{"order_id":"5"}"#));
    assert_eq!(encoded(&schema, r#"{"order_id":5}"#), Ok(vec![8, 5]));
    // What a missing field means is not written.
    assert_eq!(encoded(&schema, r#"{"order_id":0,"note":"","state":"NEW","ratio":0}"#), Ok(vec![]));
    assert_eq!(encoded(&schema, r#"{"price":0}"#).unwrap().len(), 9);
    assert!(decoded(&schema, &[]).unwrap().contains("\"order_id\":0"));
}

#[test]
fn the_path_of_a_fault_is_named() {
    let schema = order();
    for (document, expected) in [
        (r#"{"order_id":"x"}"#, "/order_id: \"x\" is not a number"),
        (r#"{"order_id":1.5}"#, "/order_id: 1.5 cannot be held by an integer of 64 bits without loss"),
        (
            r#"{"counts":[1,2147483648]}"#,
            "/counts/1: 2147483648 cannot be held by an integer of 32 bits without loss",
        ),
        (r#"{"lines":{"a":{"sku":5}}}"#, "/lines/a/sku: a number is not a string"),
        (r#"{"nope":1}"#, "/nope: shop.Order has no field of this name"),
        (r#"{"card":"1","cash":true}"#, "/cash: another field of the oneof payment is there as well"),
        (r#"{"order_id":1,"orderId":2}"#, "/orderId: the field is there under another name as well"),
        (r#"{"state":"LOST"}"#, "/state: \"LOST\" is no value of shop.Order.State"),
        (r#"{"price":9007199254740993}"#, "/price: 9007199254740993 cannot be held by a double without loss"),
        (
            r#"{"extra":{"a":[9007199254740993]}}"#,
            "/extra/a/0: 9007199254740993 cannot be held by a double without loss",
        ),
        (r#"{"blob":"?"}"#, "/blob: \"?\" is not base64"),
        ("[]", "an array is not shop.Order"),
    ] {
        assert_eq!(encoded(&schema, document).unwrap_err(), expected, "{document}");
    }
    let fault = encoded(&schema, r#"{"placed_at":"yesterday"}"#).unwrap_err();
    assert!(fault.starts_with("/placed_at: it is not google.protobuf.Timestamp"), "{fault}");
}

#[test]
fn a_message_is_found_by_name_and_place() {
    let schema = order();
    let indexes = |name: &str| schema.indexes(Message::Named(name));
    assert_eq!(schema.indexes(Message::First), Ok(Some(vec![0])));
    assert_eq!(indexes("Other"), Ok(Some(vec![1])));
    assert_eq!(indexes("shop.Other"), Ok(Some(vec![1])));
    let deep = indexes("Order.Line.Deep").unwrap().unwrap();
    assert_eq!(deep.len(), 3);
    let mut bytes = Vec::new();
    schema.encode(Message::At(&deep), r#"{"b":true}"#, &mut bytes, 100).unwrap();
    assert_eq!(bytes, [8, 1]);
    assert!(indexes("google.protobuf.Timestamp").is_err() && indexes("Nope").is_err());
    assert!(schema.encode(Message::At(&[9]), "{}", &mut bytes, 100).is_err());
}

#[test]
fn mistakes_in_a_schema_have_a_place() {
    let fault = |definition: &str| Compiled::compile(Format::Protobuf, definition).unwrap_err().to_string();
    let syntax = fault("syntax = \"proto3\";\nmessage A { int32 = 1; }");
    assert!(syntax.starts_with("line 2 column "), "{syntax}");
    let unknown = fault("syntax = \"proto3\";\nmessage A {\n  Nope a = 1; }");
    assert!(unknown.contains("Nope"), "{unknown}");
    // Nothing is read from a disk.
    let import = fault("syntax = \"proto3\";\nimport \"etc/passwd\";\nmessage A {}");
    assert!(import.contains("not found"), "{import}");
    fault("syntax = \"proto3\";\nimport \"/etc/passwd\";\nmessage A {}");
    assert_eq!(fault("syntax = \"proto3\";"), "the schema defines no message");
}

#[test]
fn changes_follow_confluent() {
    let with = |fields: &str| format!("syntax = \"proto3\"; message M {{ {fields} }}");
    let old = with("int32 a = 1; string b = 2; oneof o { int32 c = 3; int32 d = 4; }");
    let cases = [
        ("int64 renamed = 1; string b = 2; oneof o { int32 c = 3; int32 d = 4; } M new = 9;", None),
        ("string b = 2; oneof o { int32 c = 3; int32 d = 4; }", None),
        (
            "string a = 1; string b = 2; oneof o { int32 c = 3; int32 d = 4; }",
            Some("M.a: its type is string instead of int32"),
        ),
        (
            "repeated int32 a = 1; string b = 2; oneof o { int32 c = 3; int32 d = 4; }",
            Some("M.a: it is repeated in one of the versions only"),
        ),
        ("int32 a = 1; repeated bytes b = 2; oneof o { int32 c = 3; int32 d = 4; }", None),
        ("int32 a = 1; string b = 2; oneof o { int32 c = 3; }", Some("M.d: the field of a oneof is gone")),
        (
            "string b = 2; oneof o { int32 a = 1; int32 c = 3; int32 d = 4; }",
            Some("M.o: a field was moved into the oneof"),
        ),
        (
            "oneof p { int32 a = 1; string b = 2; } oneof o { int32 c = 3; int32 d = 4; }",
            Some("M.p: several fields were moved into the oneof"),
        ),
    ];
    for (fields, expected) in cases {
        assert_eq!(
            incompatible(Format::Protobuf, "backward", &with(fields), &old).as_deref(),
            expected,
            "{fields}"
        );
    }
    let other = "syntax = \"proto3\"; message N {}";
    assert_eq!(
        incompatible(Format::Protobuf, "backward", other, &old).as_deref(),
        Some("M: the message is gone")
    );
}

proptest! {
    #[test]
    fn numbers_come_back(id in any::<i64>(), big in any::<u64>(), delta in any::<i32>(), mark in any::<u32>(), note in "\\PC{0,5}") {
        let document = serde_json::json!({"order_id": id, "big": big, "delta": delta, "mark": mark, "note": note});
        let found = there_and_back(&order(), &document.to_string()).unwrap();
        let found: serde_json::Value = serde_json::from_str(&found).unwrap();
        for (name, value) in document.as_object().unwrap() {
            prop_assert_eq!(&found[name], value);
        }
    }

    #[test]
    fn any_bytes_can_be_tried(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let _ = decoded(&order(), &bytes);
    }
}

/// As `protoc --include_imports --descriptor_set_out=/dev/stdout shop/order.proto | base64` writes it, by hand: a field has a
/// number, and its length before it.
fn set(files: &[&[u8]]) -> String {
    text(&files.iter().flat_map(|file| part(1, file)).collect::<Vec<_>>())
}

fn part(number: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).ok().filter(|length| *length < 128).unwrap();
    [&[number << 3 | 2, length][..], bytes].concat()
}

fn text(bytes: &[u8]) -> String {
    let mut out = Vec::new();
    base64::encode(bytes, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

/// `syntax = "proto3"; package shop; message Address { string city = 1; }`
fn address() -> Vec<u8> {
    let field = [part(1, b"city"), vec![3 << 3, 1, 4 << 3, 1, 5 << 3, 9], part(10, b"city")].concat();
    let message = [part(1, b"Address"), part(2, &field)].concat();
    [part(1, b"shop/address.proto"), part(2, b"shop"), part(4, &message), part(12, b"proto3")].concat()
}

/// `syntax = "proto3"; package shop; import "shop/address.proto"; message Order { Address to = 1; }`
fn shipment() -> Vec<u8> {
    let field = [part(1, b"to"), vec![3 << 3, 1, 4 << 3, 1, 5 << 3, 11], part(6, b".shop.Address")].concat();
    let message = [part(1, b"Order"), part(2, &field)].concat();
    let file = [part(1, b"shop/order.proto"), part(2, b"shop"), part(3, b"shop/address.proto")].concat();
    [file, part(4, &message), part(12, b"proto3")].concat()
}

#[test]
fn descriptors_in_base64_are_schemas() {
    let alone = compiled(Format::Protobuf, &text(&address()));
    assert_eq!(encoded(&alone, r#"{"city":"x"}"#), Ok(b"\x0a\x01x".to_vec()));
    for definition in [set(&[&address()]), format!(" {}\n", set(&[&address()]))] {
        let alone = compiled(Format::Protobuf, &definition);
        assert_eq!(encoded(&alone, r#"{"city":"x"}"#), Ok(b"\x0a\x01x".to_vec()));
    }
    let set_of_two = compiled(Format::Protobuf, &set(&[&address(), &shipment()]));
    assert_eq!(encoded(&set_of_two, r#"{"to":{"city":"x"}}"#), Ok(b"\x0a\x03\x0a\x01x".to_vec()));
    let message = set_of_two.indexes(Message::First).unwrap();
    assert_eq!(
        decoded(&set_of_two, b"\x0a\x03\x0a\x01x"),
        Ok(r#"{"to":{"city":"x"}}"#.to_owned()),
        "{message:?}"
    );
}

#[test]
fn broken_descriptors_are_refused() {
    let refused = |definition: &str| Compiled::compile(Format::Protobuf, definition).unwrap_err().reason;
    // What it imports is not in the set.
    assert!(refused(&set(&[&shipment()])).contains("not found"), "{}", refused(&set(&[&shipment()])));
    // The order is that of the compiler: the last one is the schema.
    assert!(!refused(&set(&[])).is_empty());
    assert!(!refused(&text(&address()[..40])).is_empty());
    let messages = part(4, &part(1, b"M")).repeat(30_000);
    assert!(refused(&text(&messages)).contains("more than"));
    let files = [1 << 3 | 2, 0].repeat(100_000);
    assert!(!refused(&text(&files)).is_empty());
}

proptest! {
    #[test]
    fn any_descriptor_is_compiled_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        changes in proptest::collection::vec(any::<(usize, u8)>(), 1..4),
    ) {
        let _ = Compiled::compile(Format::Protobuf, &text(&bytes));
        let mut set: Vec<u8> = [part(1, &address()), part(1, &shipment())].concat();
        for (at, put) in changes {
            let place = at % set.len();
            set[place] = put;
        }
        if let Ok(schema) = Compiled::compile(Format::Protobuf, &text(&set)) {
            let _ = there_and_back(&schema, r#"{"to":{"city":"x"}}"#);
        }
    }
}
