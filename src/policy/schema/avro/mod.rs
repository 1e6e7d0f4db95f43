//! Avro: its schemas, and JSON values as its binary encoding has them.
//!
//! JSON is written as SQL and most programs write it: a union's value is the value itself, without the name of its branch;
//! bytes are base64, as jsonb cannot hold every character; dates and times are strings as PostgreSQL writes them.

pub mod compatibility;
pub mod decode;
pub mod encode;
pub mod logical;
pub mod types;

use self::encode::Encoder;
use self::types::{Type, Types};
use super::document::Json;
use super::fault::{Fault, Path};
use super::limits::MAX_PAYLOAD_BYTES;
use super::output::Output;

/// Compiles a definition.
///
/// # Errors
/// It is no Avro schema, exceeds a limit, or a default is not a value of its field.
pub fn compile(definition: &str) -> Result<Types, Fault> {
    let types = Types::read(definition)?;
    for of in types.iter() {
        let Type::Record(record) = of else { continue };
        for field in &record.fields {
            let Some(default) = &field.default else { continue };
            let json = Json::parse(default).map_err(|why| Fault::new(why.to_string()))?;
            let mut bytes = Vec::new();
            let mut encoder = Encoder::of_default(&types, Output::new(&mut bytes, MAX_PAYLOAD_BYTES));
            encoder.value(field.of, &json, &Path::Root).map_err(|fault| {
                let place = format!("{}.{}", record.names.full, field.name);
                Fault::at(place, format!("the default is not a value of the field: {fault}"))
            })?;
        }
    }
    Ok(types)
}
