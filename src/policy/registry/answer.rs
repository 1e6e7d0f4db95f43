//! The answers of a Schema Registry.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::failure::{Class, Failure};
use super::request::{Reference, Request, SchemaType};

/// What a registry answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A schema was registered, or was there already: its id.
    Registered(u32),
    /// A schema.
    Schema(Found),
}

/// A schema that the registry has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its id, if it was asked for by its subject.
    pub id: Option<u32>,
    /// The number of the version, likewise.
    pub version: Option<i32>,
    /// Its format.
    pub schema_type: SchemaType,
    /// Its definition.
    pub definition: String,
    /// The subjects of the schemas that it refers to.
    pub references: Vec<Reference>,
}

/// The answer to this request, from what came with HTTP.
///
/// # Errors
/// The registry did not do it, or it is no registry.
pub fn read(request: &Request, status: u16, body: &[u8]) -> Result<Answer, Failure> {
    if !(200..300).contains(&status) {
        return Err(Failure::of_status(status, body));
    }
    match request {
        Request::Register(_) => parse::<Registered>(body).map(|answer| Answer::Registered(answer.id)),
        Request::Find(_) | Request::WithId(_) | Request::OfSubject { .. } => {
            let Schema { schema, schema_type, references, id, version } = parse(body)?;
            let Some(schema_type) = schema_type.as_deref().map_or(Some(SchemaType::Avro), named) else {
                let name = schema_type.unwrap_or_default();
                let text = format!("the schema is of the format {name}, which the outbox does not know");
                return Err(Failure::new(Class::Unreadable, &text));
            };
            let references = references.unwrap_or_default();
            Ok(Answer::Schema(Found { id, version, schema_type, definition: schema, references }))
        }
    }
}

#[derive(Deserialize)]
struct Registered {
    id: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Schema {
    schema: String,
    schema_type: Option<String>,
    references: Option<Vec<Reference>>,
    id: Option<u32>,
    version: Option<i32>,
}

fn named(name: &str) -> Option<SchemaType> {
    [("AVRO", SchemaType::Avro), ("PROTOBUF", SchemaType::Protobuf), ("JSON", SchemaType::Json)]
        .into_iter()
        .find_map(|(known, schema_type)| name.eq_ignore_ascii_case(known).then_some(schema_type))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    // An array would pass for an object.
    let object = serde_json::from_slice::<Map<String, Value>>(body);
    object.and_then(|object| T::deserialize(Value::Object(object))).map_err(|error| {
        // Its text could quote the answer.
        let (line, column) = (error.line(), error.column());
        let text = format!(
            "it is no Schema Registry that answers: what it sends cannot be read (line {line}, column {column}); check event_outbox.schema_registry_url"
        );
        Failure::new(Class::NotARegistry, &text)
    })
}

#[cfg(test)]
mod tests {
    use super::super::request::New;
    use super::*;
    use proptest::prelude::*;

    fn register() -> Request {
        let (subject, definition) = ("a".to_owned(), "\"string\"".to_owned());
        Request::Register(New { subject, schema_type: SchemaType::Avro, definition, references: Vec::new() })
    }

    #[test]
    fn answers_are_those_of_the_interface() {
        let body = br#"{"id":7,"version":1,"schemaType":"AVRO","guid":"x"}"#;
        assert_eq!(read(&register(), 200, body), Ok(Answer::Registered(7)));
        let avro = br#"{"schema":"\"string\""}"#;
        let Ok(Answer::Schema(found)) = read(&Request::WithId(7), 200, avro) else { panic!() };
        assert_eq!((found.schema_type, &*found.definition), (SchemaType::Avro, "\"string\""));
        let protobuf = br#"{"subject":"p","version":2,"id":3,"schema":"m","schemaType":"PROTOBUF",
            "references":[{"name":"a.proto","subject":"a","version":1}]}"#;
        let Ok(Answer::Schema(found)) = read(&Request::WithId(3), 200, protobuf) else { panic!() };
        assert_eq!((found.id, found.version, found.references.len()), (Some(3), Some(2), 1));
        let other = read(&Request::WithId(7), 200, br#"{"schema":"x","schemaType":"THRIFT"}"#);
        assert_eq!(other.unwrap_err().class, Class::Unreadable);
    }

    #[test]
    fn what_is_no_answer_is_not_quoted() {
        for body in ["", "null", "<html>secret", r#"{"id":"secret"}"#, r#"{"id":-1}"#, r#"{"id":1"#, "[1]"] {
            let failure = read(&register(), 200, body.as_bytes()).unwrap_err();
            assert_eq!(failure.class, Class::NotARegistry, "{body}");
            assert!(!failure.text.contains("secret"), "{failure}");
        }
    }

    proptest! {
        #[test]
        fn any_answer_can_be_read(status in 0_u16..1000, body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&register(), status, &body);
            let _ = read(&Request::WithId(1), status, &body);
        }
    }
}
