//! Protobuf's binary encoding as JSON.

use std::io;

use prost_reflect::{DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::Serializer;

use crate::schema::fault::Fault;
use crate::schema::interrupt;
use crate::schema::output::Output;

/// Decodes bytes as a message.
///
/// # Errors
/// They are not its encoding, or too much JSON.
pub fn decode(message: &MessageDescriptor, bytes: &[u8], out: Output<'_>) -> Result<(), Fault> {
    let found = DynamicMessage::decode(message.clone(), bytes)
        .map_err(|error| Fault::new(format!("it is not {}: {error}", message.full_name())))?;
    let options = SerializeOptions::new()
        .stringify_64_bit_integers(false)
        .use_proto_field_name(true)
        .skip_default_fields(false);
    let mut writer = Writer { out, fault: None, writes: 0 };
    let written = found.serialize_with_options(&mut Serializer::new(&mut writer), &options);
    match (writer.fault, written) {
        (Some(fault), _) => Err(fault),
        (None, Err(error)) => {
            Err(Fault::new(format!("{} has no form in JSON: {error}", message.full_name())))
        }
        (None, Ok(())) => Ok(()),
    }
}

/// Writes into an output, and keeps its fault.
struct Writer<'a> {
    out: Output<'a>,
    fault: Option<Fault>,
    writes: u64,
}

impl io::Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writes += 1;
        interrupt::after(self.writes, 1);
        self.out.put(bytes).map_err(|fault| {
            self.fault = Some(fault);
            io::Error::from(io::ErrorKind::OutOfMemory)
        })?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
