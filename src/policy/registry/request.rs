//! The requests to a Schema Registry.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::url::segment;

/// What requests and answers are.
pub const MEDIA_TYPE: &str = "application/vnd.schemaregistry.v1+json";

/// The format of a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum SchemaType {
    /// Apache Avro.
    Avro,
    /// Protocol Buffers.
    Protobuf,
    /// JSON Schema.
    Json,
}

/// A version of a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// The one with this number.
    Number(i32),
    /// The last one.
    Latest,
}

/// A question to a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Registers a schema under a subject, unless it is there already. The answer is its id.
    Register {
        /// The subject.
        subject: String,
        /// The format.
        schema_type: SchemaType,
        /// The definition.
        definition: String,
    },
    /// Asks for the schema with an id.
    WithId(u32),
    /// Asks for a version of a subject.
    OfSubject {
        /// The subject.
        subject: String,
        /// Its version.
        version: Version,
    },
}

/// A request of HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRequest {
    /// What follows the address of the registry.
    pub path: String,
    /// The document to post; `None` to get one.
    pub body: Option<String>,
}

impl Request {
    /// The request as HTTP has it.
    #[must_use]
    pub fn http(&self) -> HttpRequest {
        match self {
            Self::Register { subject, schema_type, definition } => HttpRequest {
                path: format!("/subjects/{}/versions", segment(subject)),
                body: Some(body(*schema_type, definition).to_string()),
            },
            Self::WithId(id) => HttpRequest { path: format!("/schemas/ids/{id}"), body: None },
            Self::OfSubject { subject, version } => {
                let version = match version {
                    Version::Number(number) => number.to_string(),
                    Version::Latest => "latest".into(),
                };
                let path = format!("/subjects/{}/versions/{version}", segment(subject));
                HttpRequest { path, body: None }
            }
        }
    }
}

fn body(schema_type: SchemaType, definition: &str) -> Value {
    match schema_type {
        // The first registries knew no other format, nor this member.
        SchemaType::Avro => json!({ "schema": definition }),
        other => json!({ "schema": definition, "schemaType": other }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_those_of_the_interface() {
        let register = |schema_type| {
            let (subject, definition) = ("a/b".to_owned(), "\"string\"".to_owned());
            Request::Register { subject, schema_type, definition }.http()
        };
        let path = "/subjects/a%2Fb/versions".to_owned();
        let body = Some(r#"{"schema":"\"string\""}"#.to_owned());
        assert_eq!(register(SchemaType::Avro), HttpRequest { path: path.clone(), body });
        let body = Some(r#"{"schema":"\"string\"","schemaType":"PROTOBUF"}"#.to_owned());
        assert_eq!(register(SchemaType::Protobuf), HttpRequest { path, body });
        assert_eq!(Request::WithId(7).http().path, "/schemas/ids/7");
        let of = |version| Request::OfSubject { subject: "t-value".into(), version }.http().path;
        assert_eq!(of(Version::Latest), "/subjects/t-value/versions/latest");
        assert_eq!(of(Version::Number(3)), "/subjects/t-value/versions/3");
    }
}
