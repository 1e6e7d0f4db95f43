//! JSON Schema: documents that are checked and sent as they are.
//!
//! References lead within the schema alone: nothing is fetched from the network, or read from files. Regular expressions are
//! matched in linear time. How much a check may do is limited ([`metered`]).

pub mod compatibility;
pub mod metered;

use jsonschema::{PatternOptions, ValidationError, Validator};
use serde_json::Value;

use super::fault::{Fault, shown};
use super::limits::{MAX_DEPTH, MAX_PARTS, MAX_PATTERN_BYTES};
use metered::Metered;

/// How many regular expressions a schema may have: each takes time to compile.
const MAX_PATTERNS: usize = 200;

/// How many steps a check may take, besides those for each byte of the document. A step takes some tens of nanoseconds.
const FIRST_STEPS: u64 = 500_000;
const STEPS_PER_BYTE: u64 = 20;

/// The same for finding out where a document breaks the schema. Each of these steps may keep some hundred bytes: the faults
/// of all alternatives of an `anyOf`, and of theirs.
const STEPS_OF_FAULTS: u64 = 100_000;
const BYTES_PER_STEP_OF_FAULTS: u64 = 4;

/// A compiled schema.
#[derive(Debug)]
pub struct Schema {
    definition: Value,
    validator: Validator<Metered>,
}

impl Schema {
    /// Compiles a definition.
    ///
    /// # Errors
    /// It is no JSON Schema, or exceeds a limit.
    pub fn compile(definition: &str) -> Result<Self, Fault> {
        let definition: Value = serde_json::from_str(definition).map_err(|error| {
            let place = format!("line {} column {}", error.line(), error.column());
            Fault::at(place, "the definition is not JSON")
        })?;
        Parts::default().count(&definition, 0)?;
        // Whatever the compiler does with what an author has written, the session goes on.
        let compiled = metered::limited(FIRST_STEPS, || {
            jsonschema::options_for::<Metered>()
                .offline()
                .should_validate_formats(true)
                .should_ignore_unknown_formats(true)
                .with_pattern_options(
                    PatternOptions::regex().size_limit(MAX_PATTERN_BYTES).dfa_size_limit(MAX_PATTERN_BYTES),
                )
                .build(&definition)
        });
        let compiled =
            compiled.unwrap_or_else(|| Err(ValidationError::custom("it takes too long to compile")));
        let validator = compiled.map_err(|error| {
            Fault::at(error.instance_path().to_string(), format!("the schema is invalid: {}", masked(&error)))
        })?;
        Ok(Self { definition, validator })
    }

    /// The schema as a document.
    #[must_use]
    pub fn definition(&self) -> &Value {
        &self.definition
    }

    /// Checks a document.
    ///
    /// # Errors
    /// It breaks the schema, or is no JSON.
    pub fn check(&self, document: &str) -> Result<(), Fault> {
        if is_deep(document.as_bytes()) {
            return Err(Fault::new(format!("it is nested more than {MAX_DEPTH} levels deep")));
        }
        let value: Value = serde_json::from_str(document).map_err(|error| {
            let place = format!("line {} column {}", error.line(), error.column());
            Fault::at(place, "it is not JSON, or has a number beyond those of a double")
        })?;
        let bytes = document.len() as u64;
        let steps = FIRST_STEPS + STEPS_PER_BYTE * bytes;
        match metered::limited(steps, || self.validator.is_valid(metered::Node(&value))) {
            Some(true) => Ok(()),
            Some(false) => Err(self.fault(&value, STEPS_OF_FAULTS + bytes / BYTES_PER_STEP_OF_FAULTS)),
            None => Err(Fault::new("checking it takes too many steps")),
        }
    }

    /// Where a document breaks the schema, if so many steps are enough to find out.
    fn fault(&self, value: &Value, steps: u64) -> Fault {
        let find = || match self.validator.validate(metered::Node(value)) {
            Ok(()) => None,
            Err(error) => Some(Fault::at(error.instance_path().to_string(), masked(&error))),
        };
        metered::limited(steps, find)
            .flatten()
            .unwrap_or_else(|| Fault::new("to find out where would take too many steps"))
    }
}

/// The message of an error. It names the value only if that is short.
fn masked(error: &ValidationError<'_>) -> String {
    /// The longest message that shows its value.
    const SHORT: usize = 200;
    let text = error.to_string();
    if text.len() <= SHORT { text } else { error.masked().to_string() }
}

/// What was found in a definition.
#[derive(Default)]
struct Parts {
    all: usize,
    patterns: usize,
}

impl Parts {
    fn count(&mut self, value: &Value, depth: usize) -> Result<(), Fault> {
        self.all += 1;
        if self.all > MAX_PARTS {
            return Err(Fault::new(format!("the schema has more than {MAX_PARTS} parts")));
        }
        if depth > MAX_DEPTH {
            return Err(Fault::new(format!("the schema is nested more than {MAX_DEPTH} levels deep")));
        }
        match value {
            Value::Array(elements) => elements.iter().try_for_each(|element| self.count(element, depth + 1)),
            Value::Object(members) => {
                for (name, member) in members {
                    self.patterns += match (&**name, member) {
                        ("pattern", Value::String(_)) => 1,
                        ("patternProperties", Value::Object(patterns)) => patterns.len(),
                        _ => 0,
                    };
                    if self.patterns > MAX_PATTERNS {
                        let reason = format!("the schema has more than {MAX_PATTERNS} regular expressions");
                        return Err(Fault::at(shown(name), reason));
                    }
                    self.count(member, depth + 1)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Whether more brackets are open at any place than may be.
fn is_deep(text: &[u8]) -> bool {
    let (mut depth, mut in_string, mut is_escaped) = (0_usize, false, false);
    for byte in text {
        match (in_string, byte) {
            (true, _) if is_escaped => is_escaped = false,
            (true, b'\\') => is_escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'[' | b'{') => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return true;
                }
            }
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}
