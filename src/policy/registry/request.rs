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

/// Another schema that one refers to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// How it refers to it: the name of an Avro type, the path of an import, a `$ref`.
    pub name: String,
    /// The subject.
    pub subject: String,
    /// Its version.
    pub version: i32,
}

/// A schema as it is registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct New {
    /// The subject.
    pub subject: String,
    /// The format.
    pub schema_type: SchemaType,
    /// The definition.
    pub definition: String,
    /// The schemas that it refers to, with the versions of the registry.
    pub references: Vec<Reference>,
}

/// A question to a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Registers a schema under a subject, unless it is there already. The answer is its id.
    Register(New),
    /// Asks which version of its subject a schema is.
    Find(New),
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
            Self::Register(new) => HttpRequest {
                path: format!("/subjects/{}/versions", segment(&new.subject)),
                body: Some(new.body().to_string()),
            },
            Self::Find(new) => HttpRequest {
                path: format!("/subjects/{}", segment(&new.subject)),
                body: Some(new.body().to_string()),
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

impl New {
    fn body(&self) -> Value {
        let mut body = match self.schema_type {
            // The first registries knew no other format, nor this member.
            SchemaType::Avro => json!({ "schema": self.definition }),
            other => json!({ "schema": self.definition, "schemaType": other }),
        };
        if !self.references.is_empty() {
            body["references"] = json!(self.references);
        }
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_those_of_the_interface() {
        let new = |schema_type, references| {
            let (subject, definition) = ("a/b".to_owned(), "\"string\"".to_owned());
            New { subject, schema_type, definition, references }
        };
        let register = |schema_type| Request::Register(new(schema_type, Vec::new())).http();
        let path = "/subjects/a%2Fb/versions".to_owned();
        let body = Some(r#"{"schema":"\"string\""}"#.to_owned());
        assert_eq!(register(SchemaType::Avro), HttpRequest { path: path.clone(), body });
        let body = Some(r#"{"schema":"\"string\"","schemaType":"PROTOBUF"}"#.to_owned());
        assert_eq!(register(SchemaType::Protobuf), HttpRequest { path, body });
        let reference = Reference { name: "A".into(), subject: "a".into(), version: 2 };
        let find = Request::Find(new(SchemaType::Json, vec![reference])).http();
        let body = r#"{"references":[{"name":"A","subject":"a","version":2}],"schema":"\"string\"","schemaType":"JSON"}"#;
        assert_eq!(find, HttpRequest { path: "/subjects/a%2Fb".into(), body: Some(body.into()) });
        assert_eq!(Request::WithId(7).http().path, "/schemas/ids/7");
        let of = |version| Request::OfSubject { subject: "t-value".into(), version }.http().path;
        assert_eq!(of(Version::Latest), "/subjects/t-value/versions/latest");
        assert_eq!(of(Version::Number(3)), "/subjects/t-value/versions/3");
    }
}
