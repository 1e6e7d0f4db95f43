//! Makes one definition of a schema and those that it refers to, so that it stands alone as all others do.
//!
//! Avro: a type of another schema is put where it is used first. JSON Schema: the other schema is put among the definitions, and
//! references lead there. Protobuf: the files follow each other, each after a line with its name ([`proto_files`]).

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Map, Value, json};

use super::compiled::Format;
use super::limits::{MAX_DEFINITION_BYTES, MAX_DEPTH};
use super::proto_files;

/// A schema that others refer to by this name: the name of an Avro type, a `$ref`, the path of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The name.
    pub name: String,
    /// The definition.
    pub definition: String,
}

/// The namespace of types that have none.
const NO_NAMESPACE: &str = "without_namespace";

/// The schema with its parts.
///
/// # Errors
/// Why they do not make one.
pub fn bundle(format: Format, definition: &str, parts: &[Part]) -> Result<String, String> {
    if parts.is_empty() {
        return Ok(definition.to_owned());
    }
    let whole = match format {
        Format::Json => json_schema(definition, parts)?,
        Format::Avro => avro(definition, parts)?,
        Format::Protobuf => protobuf(definition, parts)?,
    };
    if whole.len() > MAX_DEFINITION_BYTES {
        return Err(format!(
            "with the schemas that it refers to, it has more than {MAX_DEFINITION_BYTES} bytes"
        ));
    }
    Ok(whole)
}

fn parse(definition: &str, what: &str) -> Result<Value, String> {
    serde_json::from_str(definition).map_err(|_| format!("{what} is not JSON"))
}

/// The place of a part among the definitions.
fn place(number: usize) -> String {
    format!("referenced-{number}")
}

fn json_schema(definition: &str, parts: &[Part]) -> Result<String, String> {
    let mut root = parse(definition, "the schema")?;
    let places: HashMap<&str, usize> =
        parts.iter().enumerate().map(|(number, part)| (&*part.name, number)).collect();
    let base = root.get("$id").and_then(Value::as_str).map(str::to_owned);
    redirect(&mut root, &places, base.as_deref(), "#", 0)?;
    let mut definitions = Map::new();
    for (number, part) in parts.iter().enumerate() {
        let mut other = parse(&part.definition, &format!("the schema \"{}\"", part.name))?;
        let base = other.get("$id").and_then(Value::as_str).map(str::to_owned);
        redirect(&mut other, &places, base.as_deref(), &format!("#/$defs/{}", place(number)), 0)?;
        if let Value::Object(members) = &mut other {
            // A resource of its own would be the root of its references.
            members.remove("$id");
            members.remove("$schema");
        }
        definitions.insert(place(number), other);
    }
    let Value::Object(members) = &mut root else { return Err("the schema is not an object".into()) };
    match members.entry("$defs").or_insert_with(|| json!({})) {
        Value::Object(own) => own.extend(definitions),
        _ => return Err("the member \"$defs\" of the schema is not an object".into()),
    }
    Ok(root.to_string())
}

/// Has the references of a schema lead to where the schemas are now: itself at `own`.
fn redirect(
    value: &mut Value,
    places: &HashMap<&str, usize>,
    base: Option<&str>,
    own: &str,
    depth: usize,
) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err(format!("a schema is nested more than {MAX_DEPTH} levels deep"));
    }
    match value {
        Value::Array(elements) => {
            elements.iter_mut().try_for_each(|element| redirect(element, places, base, own, depth + 1))
        }
        Value::Object(members) => members.iter_mut().try_for_each(|(name, member)| match member {
            Value::String(target) if name == "$ref" => {
                if let Some(new) = redirected(target, places, base, own) {
                    *target = new;
                }
                Ok(())
            }
            member => redirect(member, places, base, own, depth + 1),
        }),
        _ => Ok(()),
    }
}

fn redirected(target: &str, places: &HashMap<&str, usize>, base: Option<&str>, own: &str) -> Option<String> {
    let (schema, fragment) = target.split_once('#').unwrap_or((target, ""));
    if schema.is_empty() || Some(schema) == base {
        // A name instead of a place is found wherever it is.
        return (fragment.is_empty() || fragment.starts_with('/')).then(|| format!("{own}{fragment}"));
    }
    let absolute =
        base.and_then(|base| base.rsplit_once('/')).map(|(folder, _)| format!("{folder}/{schema}"));
    let number = places.get(schema).or_else(|| places.get(absolute?.as_str()))?;
    Some(format!("#/$defs/{}{fragment}", place(*number)))
}

fn protobuf(definition: &str, parts: &[Part]) -> Result<String, String> {
    let mut whole = definition.to_owned();
    for part in parts {
        if part.name.contains(['\n', '\r']) {
            return Err("the name of a schema that it refers to has a line break".into());
        }
        proto_files::append(&mut whole, &part.name, &part.definition);
    }
    Ok(whole)
}

fn avro(definition: &str, parts: &[Part]) -> Result<String, String> {
    let mut others = BTreeMap::new();
    for part in parts {
        others.insert(part.name.clone(), parse(&part.definition, &format!("the schema \"{}\"", part.name))?);
    }
    let root = match definition.trim_start().starts_with(['{', '[', '"']) {
        true => parse(definition, "the schema")?,
        // The bare name of a type.
        false => Value::from(definition.trim()),
    };
    let mut avro = Avro { others, defined: HashSet::new(), placed: HashMap::new() };
    Ok(avro.schema(root, "", 0)?.to_string())
}

/// Goes through an Avro schema in the order in which its types are defined.
struct Avro {
    /// The schemas that are referred to, by the full names of their types.
    others: BTreeMap<String, Value>,
    /// The names of the types that are defined so far.
    defined: HashSet<String>,
    /// The names of those that were put somewhere, by the names by which they are referred to.
    placed: HashMap<String, String>,
}

fn full_name(name: &str, space: &str) -> String {
    if name.contains('.') || space.is_empty() { name.to_owned() } else { format!("{space}.{name}") }
}

impl Avro {
    fn schema(&mut self, schema: Value, space: &str, depth: usize) -> Result<Value, String> {
        if depth > MAX_DEPTH {
            return Err(format!("a schema is nested more than {MAX_DEPTH} levels deep"));
        }
        match schema {
            Value::String(name) => self.named(name, space, depth),
            Value::Array(branches) => {
                branches.into_iter().map(|branch| self.schema(branch, space, depth + 1)).collect()
            }
            Value::Object(members) => self.object(members, space, depth),
            other => Ok(other),
        }
    }

    /// A name: of a type that is defined, or of one that is put here.
    fn named(&mut self, name: String, space: &str, depth: usize) -> Result<Value, String> {
        if self.defined.contains(&full_name(&name, space)) {
            return Ok(name.into());
        }
        // In a namespace, a name without one may be that of a type that has none.
        let candidates = [full_name(&name, space), name.clone()];
        if let Some(placed) = candidates.iter().find_map(|full| self.placed.get(full)) {
            return Ok(placed.as_str().into());
        }
        let Some(full) = candidates.into_iter().find(|full| self.others.contains_key(full)) else {
            return Ok(name.into());
        };
        let Some(Value::Object(mut members)) = self.others.remove(&full) else {
            return Err(format!("the schema of the type {full} does not define it"));
        };
        let own = members.get("name").and_then(Value::as_str).unwrap_or_default();
        let mut placed = full_name(own, members.get("namespace").and_then(Value::as_str).unwrap_or_default());
        if !placed.contains('.') {
            // Where it is put it would get another namespace. Payloads have no names.
            members.insert("namespace".into(), NO_NAMESPACE.into());
            placed = full_name(&placed, NO_NAMESPACE);
        }
        self.placed.insert(full, placed);
        self.object(members, "", depth + 1)
    }

    fn object(
        &mut self,
        mut members: Map<String, Value>,
        space: &str,
        depth: usize,
    ) -> Result<Value, String> {
        let text = |name: &str| members.get(name).and_then(Value::as_str).map(str::to_owned);
        let kind = text("type").unwrap_or_default();
        let mut inner = space.to_owned();
        if matches!(&*kind, "record" | "error" | "enum" | "fixed")
            && let Some(name) = text("name")
        {
            let full = full_name(&name, &text("namespace").unwrap_or_else(|| space.to_owned()));
            inner = full.rsplit_once('.').map_or(String::new(), |(space, _)| space.to_owned());
            self.defined.insert(full);
        }
        for (name, member) in &mut members {
            let is_schema = match &**name {
                "items" | "values" => true,
                "type" => !member.is_string() || !is_known(&kind),
                "fields" => {
                    let Value::Array(fields) = member else { continue };
                    for field in fields {
                        if let Some(of) = field.get_mut("type") {
                            *of = self.schema(of.take(), &inner, depth + 1)?;
                        }
                    }
                    false
                }
                _ => false,
            };
            if is_schema {
                *member = self.schema(member.take(), &inner, depth + 1)?;
            }
        }
        Ok(Value::Object(members))
    }
}

/// Whether a type of an object is one of Avro's own.
fn is_known(kind: &str) -> bool {
    ["record", "error", "enum", "fixed", "array", "map"].contains(&kind)
}

#[cfg(all(test, feature = "json-schema", feature = "avro", feature = "protobuf"))]
mod tests {
    use super::*;
    use crate::schema::compiled::{Compiled, Message};

    fn part(name: &str, definition: &str) -> Part {
        Part { name: name.into(), definition: definition.into() }
    }

    fn compiled(format: Format, definition: &str, parts: &[Part]) -> Compiled {
        let whole = bundle(format, definition, parts).unwrap();
        Compiled::compile(format, &whole).unwrap_or_else(|fault| panic!("{fault}: {whole}"))
    }

    /// Whether a document is taken; if so, it is the same after its way there and back.
    fn takes(schema: &Compiled, document: &str) -> bool {
        let (mut bytes, mut back) = (Vec::new(), Vec::new());
        if schema.encode(Message::First, document, &mut bytes, 10_000).is_err() {
            return false;
        }
        schema.decode(Message::First, &bytes, &mut back).unwrap();
        let value = |text: &[u8]| serde_json::from_slice::<Value>(text).unwrap();
        assert_eq!(value(&back), value(document.as_bytes()));
        true
    }

    #[test]
    fn types_of_other_avro_schemas_are_found() {
        let customer = part(
            "shop.Customer",
            r#"{"type": "record", "name": "Customer", "namespace": "shop", "fields": [
                {"name": "id", "type": "long"}, {"name": "at", "type": ["null", "Address"], "default": null},
                {"name": "friends", "type": {"type": "array", "items": "Customer"}, "default": []}]}"#,
        );
        let address = part(
            "Address",
            r#"{"type": "record", "name": "Address", "fields": [{"name": "city", "type": "string"}]}"#,
        );
        let order = r#"{"type": "record", "name": "Order", "namespace": "shop", "fields": [
            {"name": "by", "type": "Customer"}, {"name": "to", "type": {"type": "map", "values": "shop.Customer"}},
            {"name": "where", "type": "Address"}]}"#;
        let schema = compiled(Format::Avro, order, &[address.clone(), customer.clone()]);
        assert!(takes(
            &schema,
            r#"{"by": {"id": 1, "at": {"city": "x"}, "friends": [{"id": 2, "at": null, "friends": []}]},
                "to": {"a": {"id": 3, "at": null, "friends": []}}, "where": {"city": "y"}}"#
        ));
        // A schema may be nothing but another one, or a union of some.
        let parts = [address, customer];
        let union = compiled(Format::Avro, r#"["Address", "shop.Customer"]"#, &parts);
        assert!(
            takes(&union, r#"{"city": "x"}"#) && takes(&union, r#"{"id": 1, "at": null, "friends": []}"#)
        );
        let bare = compiled(Format::Avro, "Address", &parts);
        assert!(takes(&bare, r#"{"city": "x"}"#));
    }

    #[test]
    fn references_of_json_schemas_lead_to_the_other_schema() {
        let address = part(
            "http://shop/address.json",
            r##"{"$schema": "http://json-schema.org/draft-07/schema#", "$id": "http://shop/address.json", "type": "object",
                "required": ["city"], "properties": {"city": {"$ref": "#/definitions/name"}, "near": {"$ref": "#"}},
                "definitions": {"name": {"type": "string"}}}"##,
        );
        let customer = part(
            "customer.json",
            r##"{"type": "object", "properties": {"at": {"$ref": "http://shop/address.json"}}}"##,
        );
        let order = r##"{"$id": "http://shop/order.json", "type": "object", "properties": {
            "by": {"$ref": "customer.json"}, "to": {"$ref": "address.json"}, "again": {"$ref": "#"},
            "city": {"$ref": "address.json#/definitions/name"}}}"##;
        let schema = compiled(Format::Json, order, &[address, customer]);
        let good = r#"{"by": {"at": {"city": "x", "near": {"city": "y"}}}, "to": {"city": "z"}, "city": "c", "again": {}}"#;
        assert!(takes(&schema, good));
        for bad in [
            r#"{"by": {"at": {}}}"#,
            r#"{"to": {"city": 1}}"#,
            r#"{"to": {"city": "x", "near": {}}}"#,
            r#"{"city": 1}"#,
            r#"{"again": {"city": 1}}"#,
        ] {
            assert!(!takes(&schema, bad), "{bad}");
        }
    }

    #[test]
    fn protobuf_files_import_each_other() {
        let address = part(
            "shop/address.proto",
            "syntax = \"proto3\"; package shop; message Address { string city = 1; }",
        );
        let customer = part(
            "customer.proto",
            "syntax = \"proto3\"; import \"shop/address.proto\"; message Customer { shop.Address at = 1; }",
        );
        let order = "syntax = \"proto3\";\nimport \"customer.proto\";\nimport \"google/protobuf/timestamp.proto\";\n\
                     message Order { int64 id = 1; Customer by = 2; google.protobuf.Timestamp when = 3; }\n";
        let schema = compiled(Format::Protobuf, order, &[address, customer]);
        assert!(takes(&schema, r#"{"id": 1, "by": {"at": {"city": "x"}}, "when": "2026-01-01T00:00:00Z"}"#));
    }

    #[test]
    fn what_makes_no_schema_says_why() {
        let error = |format, definition: &str, part: Part| bundle(format, definition, &[part]).unwrap_err();
        assert!(error(Format::Json, "{}", part("a", "nope")).contains("\"a\" is not JSON"));
        assert!(error(Format::Json, "true", part("a", "{}")).contains("not an object"));
        assert!(error(Format::Avro, "\"a\"", part("a", "\"int\"")).contains("does not define it"));
        let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
        assert!(error(Format::Json, "{}", part("a", &deep)).contains("nested"));
        let long = "x".repeat(MAX_DEFINITION_BYTES);
        assert!(error(Format::Protobuf, "", part("a", &long)).contains("more than"));
        // What refers to nothing is left as it is.
        assert_eq!(bundle(Format::Avro, " nope", &[]).as_deref(), Ok(" nope"));
    }
}
