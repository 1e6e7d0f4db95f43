//! The limits of schemas and of the values that they encode.
//!
//! Whoever may register a schema chooses what is compiled and interpreted in every session that emits to its topics. These
//! bounds keep memory and time small whatever that is.

/// The longest definition in bytes.
pub const MAX_DEFINITION_BYTES: usize = 1 << 20;

/// How deep a schema, or a value, may be nested.
pub const MAX_DEPTH: usize = 64;

/// How many types, fields and symbols a schema may have together.
pub const MAX_PARTS: usize = 20_000;

/// How many values are visited to encode or decode one payload. Alternatives of unions that do not fit count as well.
pub const MAX_VALUES: usize = 2_000_000;

/// The longest JSON document that a payload is decoded to, in bytes.
pub const MAX_DOCUMENT_BYTES: usize = 32 << 20;

/// The longest payload that is encoded or decoded by a schema, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 8 << 20;

/// How much memory a codec takes at most for each byte of what it reads: its tree of the value, and its output.
pub const MEMORY_PER_BYTE: usize = 64;

/// How much memory the regular expressions of a schema may take, in bytes, each.
pub const MAX_PATTERN_BYTES: usize = 256 << 10;

/// How many digits of a decimal are handled.
pub const MAX_DIGITS: usize = 1000;
