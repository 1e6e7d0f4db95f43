//! Schemas of events: their definitions, payloads in their encodings, and what makes two of them compatible.
//!
//! [`compiled`] is the entry. Each format has a folder: [`json`] for JSON Schema, [`avro`], [`protobuf`]; each is a cargo
//! feature, so a build without one of them refuses its schemas.

#[cfg(not(any(feature = "json-schema", feature = "avro", feature = "protobuf")))]
compile_error!("choose at least one of the features json-schema, avro and protobuf");

#[cfg(feature = "avro")]
pub mod avro;
pub mod bundle;
pub mod compatibility;
pub mod compiled;
pub mod document;
pub mod fault;
pub mod interrupt;
#[cfg(feature = "json-schema")]
pub mod json;
pub mod limits;
pub mod numbers;
pub mod output;
pub mod proto_files;
#[cfg(feature = "protobuf")]
pub mod protobuf;
pub mod wire;
