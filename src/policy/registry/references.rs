//! Collects the schemas that a schema of a registry refers to, and makes one of them.

use super::answer::{Answer, Found};
use super::failure::{Class, Failure};
use super::request::{Reference, Request, SchemaType, Version};
use crate::schema::bundle::{Part, bundle};
use crate::schema::compiled::Format;
use crate::schema::limits::MAX_DEFINITION_BYTES;

/// The most schemas that one refers to, directly or by others.
pub const MOST: usize = 100;

/// The schema with all that it refers to in its definition, for which the registry is asked.
///
/// # Errors
/// The registry does not have one of them, or they make no schema.
pub fn resolve(
    found: Found,
    mut ask: impl FnMut(&Request) -> Result<Answer, Failure>,
) -> Result<Found, Failure> {
    let mut parts: Vec<(Reference, String)> = Vec::new();
    let mut open: Vec<Reference> = found.references.iter().rev().cloned().collect();
    let mut bytes = found.definition.len();
    while let Some(reference) = open.pop() {
        if let Some((known, _)) = parts.iter().find(|(known, _)| known.name == reference.name) {
            if *known != reference {
                return Err(unreadable(&reference, "another schema of this name is referred to as well"));
            }
            continue;
        }
        if parts.len() >= MOST {
            return Err(unreadable(&reference, &format!("it is one of more than {MOST}")));
        }
        let other = fetch(&reference, &mut ask)?;
        if other.schema_type != found.schema_type {
            return Err(unreadable(&reference, "it is of another format"));
        }
        bytes += other.definition.len();
        if bytes > MAX_DEFINITION_BYTES {
            return Err(unreadable(
                &reference,
                &format!("together they have more than {MAX_DEFINITION_BYTES} bytes"),
            ));
        }
        open.extend(other.references.into_iter().rev());
        parts.push((reference, other.definition));
    }
    let parts: Vec<Part> =
        parts.into_iter().map(|(reference, definition)| Part { name: reference.name, definition }).collect();
    let definition = bundle(format(found.schema_type), &found.definition, &parts)
        .map_err(|reason| Failure::new(Class::Unreadable, &reason))?;
    Ok(Found { definition, references: Vec::new(), ..found })
}

fn fetch(
    reference: &Reference,
    ask: &mut impl FnMut(&Request) -> Result<Answer, Failure>,
) -> Result<Found, Failure> {
    let version = Version::Number(reference.version);
    match ask(&Request::OfSubject { subject: reference.subject.clone(), version }) {
        Ok(Answer::Schema(found)) => Ok(found),
        Ok(Answer::Registered(_)) => Err(unreadable(reference, "the registry gave no schema")),
        Err(failure) if failure.class.is_of_all() => Err(failure),
        Err(failure) => Err(Failure::new(failure.class, &about(reference, &failure.text))),
    }
}

fn format(schema_type: SchemaType) -> Format {
    match schema_type {
        SchemaType::Avro => Format::Avro,
        SchemaType::Protobuf => Format::Protobuf,
        SchemaType::Json => Format::Json,
    }
}

pub(super) fn about(reference: &Reference, reason: &str) -> String {
    let Reference { name, subject, version } = reference;
    format!("it refers to \"{name}\", version {version} of subject \"{subject}\": {reason}")
}

pub(super) fn unreadable(reference: &Reference, reason: &str) -> Failure {
    Failure::new(Class::Unreadable, &about(reference, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(name: &str, subject: &str, version: i32) -> Reference {
        Reference { name: name.into(), subject: subject.into(), version }
    }

    fn record(name: &str, field: &str, references: Vec<Reference>) -> Found {
        let definition = format!(
            r#"{{"type": "record", "name": "{name}", "fields": [{{"name": "f", "type": "{field}"}}]}}"#
        );
        Found { id: None, version: None, schema_type: SchemaType::Avro, definition, references }
    }

    type Registry<'r> = &'r [(&'r str, Found)];

    fn resolved(registry: Registry<'_>, found: Found) -> (Result<Found, Failure>, usize) {
        let mut asked = 0;
        let answer = resolve(found, |request| {
            asked += 1;
            let Request::OfSubject { subject, version: Version::Number(_) } = request else {
                panic!("{request:?}")
            };
            let known = registry.iter().find(|(name, _)| name == subject);
            let missing = || Failure::new(Class::NotFound, "no such subject");
            known.map(|(_, found)| Answer::Schema(found.clone())).ok_or_else(missing)
        });
        (answer, asked)
    }

    #[test]
    fn what_others_refer_to_is_asked_for_once() {
        let c = reference("C", "c", 1);
        let registry = [
            ("a", record("A", "B", vec![reference("B", "b", 2), c.clone()])),
            ("b", record("B", "C", vec![c.clone()])),
            ("c", record("C", "long", vec![])),
        ];
        let root = record("Root", "A", vec![reference("A", "a", 1), c]);
        let (answer, asked) = resolved(&registry, root);
        let found = answer.unwrap();
        assert_eq!((asked, found.references.len()), (3, 0));
        for name in ["Root", "A", "B", "C"] {
            assert_eq!(found.definition.matches(&format!("\"name\":\"{name}\"")).count(), 1, "{name}");
        }
    }

    #[test]
    fn references_in_a_circle_end() {
        let (a, b) = (reference("A", "a", 1), reference("B", "b", 1));
        let registry = [("a", record("A", "B", vec![b.clone()])), ("b", record("B", "A", vec![a.clone()]))];
        assert!(resolved(&registry, record("Root", "A", vec![a])).0.is_ok());
    }

    #[test]
    fn what_cannot_be_resolved_names_the_reference() {
        let root = || record("Root", "A", vec![reference("A", "a", 7)]);
        let failure = |registry: Registry<'_>, root: Found| resolved(registry, root).0.unwrap_err();
        let missing = failure(&[], root());
        assert_eq!(
            (missing.class, &*missing.text),
            (Class::NotFound, "it refers to \"A\", version 7 of subject \"a\": no such subject")
        );
        let json = Found { schema_type: SchemaType::Json, ..record("A", "long", vec![]) };
        assert!(failure(&[("a", json)], root()).text.contains("another format"));
        let long = Found { definition: "x".repeat(MAX_DEFINITION_BYTES), ..record("A", "long", vec![]) };
        assert!(failure(&[("a", long)], root()).text.contains("more than"));
        let two = record("Root", "A", vec![reference("A", "a", 1), reference("A", "a", 2)]);
        assert!(failure(&[("a", record("A", "long", vec![]))], two).text.contains("another schema"));
        let outage = resolve(root(), |_| Err(Failure::new(Class::Unavailable, "down"))).unwrap_err();
        assert_eq!((outage.class, &*outage.text), (Class::Unavailable, "down"));
    }

    #[test]
    fn a_registry_that_refers_without_end_is_left() {
        let mut number = 0;
        let root = record("Root", "A", vec![reference("R0", "r", 0)]);
        let failure = resolve(root, |_| {
            number += 1;
            Ok(Answer::Schema(record(
                &format!("R{number}"),
                "long",
                vec![reference(&format!("N{number}"), "r", number)],
            )))
        });
        assert!(failure.unwrap_err().text.contains("more than 100"));
    }
}
