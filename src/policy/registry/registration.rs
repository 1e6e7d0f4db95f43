//! Registers a schema that refers to others. A database and a registry number the versions of a subject differently, so the
//! registry is asked which versions of its own the others are.

use std::collections::{HashMap, HashSet};

use super::answer::{Answer, Found};
use super::failure::{Class, Failure};
use super::references::{MOST, about, unreadable};
use super::request::{New, Reference, Request};

/// A schema that others refer to, with the numbers of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Referred {
    /// The version of its subject.
    pub version: i32,
    /// The schema.
    pub schema: New,
}

/// The schemas that these references lead to, each behind those that it refers to itself. What `find` does not know is left out.
pub fn collect(
    references: &[Reference],
    mut find: impl FnMut(&Reference) -> Option<Referred>,
) -> Vec<Referred> {
    let (mut seen, mut found) = (HashSet::new(), Vec::new());
    references.iter().for_each(|reference| visit(reference, &mut find, &mut seen, &mut found));
    found
}

/// The depth is bounded by the number of schemas.
fn visit(
    reference: &Reference,
    find: &mut impl FnMut(&Reference) -> Option<Referred>,
    seen: &mut HashSet<(String, i32)>,
    found: &mut Vec<Referred>,
) {
    if seen.len() >= MOST || !seen.insert((reference.subject.clone(), reference.version)) {
        return;
    }
    if let Some(referred) = find(reference) {
        referred.schema.references.iter().for_each(|further| visit(further, find, seen, found));
        found.push(referred);
    }
}

/// Registers a schema with those that it refers to, which are registered already.
///
/// # Errors
/// The registry does not have one of them, or does not register it.
pub fn register(
    mut schema: New,
    others: &[Referred],
    mut ask: impl FnMut(&Request) -> Result<Answer, Failure>,
) -> Result<Answer, Failure> {
    let mut numbers = HashMap::new();
    for other in others {
        let mut wanted = other.schema.clone();
        renumber(&mut wanted.references, &numbers)?;
        let reference = Reference {
            name: wanted.subject.clone(),
            subject: wanted.subject.clone(),
            version: other.version,
        };
        let number = match ask(&Request::Find(wanted)) {
            Ok(Answer::Schema(Found { version: Some(number), .. })) => number,
            Ok(_) => return Err(unreadable(&reference, "the registry gave no version")),
            Err(failure) if failure.class.is_of_all() => return Err(failure),
            Err(failure) => return Err(Failure::new(failure.class, &about(&reference, &failure.text))),
        };
        numbers.insert((reference.subject, reference.version), number);
    }
    renumber(&mut schema.references, &numbers)?;
    ask(&Request::Register(schema))
}

fn renumber(references: &mut [Reference], numbers: &HashMap<(String, i32), i32>) -> Result<(), Failure> {
    for reference in references {
        let number = numbers.get(&(reference.subject.clone(), reference.version));
        reference.version = *number.ok_or_else(|| {
            Failure::new(Class::NotFound, &about(reference, "the database does not have it any more"))
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::request::SchemaType;
    use super::*;

    fn reference(name: &str, version: i32) -> Reference {
        Reference { name: name.to_uppercase(), subject: name.into(), version }
    }

    fn new(subject: &str, references: Vec<Reference>) -> New {
        let (subject, definition) = (subject.to_owned(), format!("definition of {subject}"));
        New { subject, schema_type: SchemaType::Avro, definition, references }
    }

    /// As the database has them: a refers to b and c, and b to c.
    fn find(reference: &Reference) -> Option<Referred> {
        let references = match &*reference.subject {
            "a" => vec![self::reference("b", 2), self::reference("c", 3)],
            "b" => vec![self::reference("c", 3)],
            "c" => vec![],
            "circle" => vec![self::reference("circle", 1)],
            "endless" => vec![self::reference("endless", reference.version + 1)],
            _ => return None,
        };
        Some(Referred { version: reference.version, schema: new(&reference.subject, references) })
    }

    fn subjects(found: &[Referred]) -> Vec<&str> {
        found.iter().map(|referred| &*referred.schema.subject).collect()
    }

    #[test]
    fn each_comes_behind_those_that_it_refers_to() {
        assert_eq!(subjects(&collect(&[reference("a", 1), reference("b", 2)], find)), ["c", "b", "a"]);
        assert_eq!(subjects(&collect(&[reference("circle", 1)], find)), ["circle"]);
        assert_eq!(collect(&[reference("endless", 1)], find).len(), MOST);
        assert_eq!(collect(&[reference("unknown", 1)], find), []);
    }

    /// The registry has ten versions of each subject more than the database.
    fn ask(request: &Request) -> Result<Answer, Failure> {
        match request {
            Request::Find(new) if new.subject == "b" && new.references[0].version != 13 => {
                Err(Failure::new(Class::NotFound, "schema not found"))
            }
            Request::Find(new) => {
                let version = match &*new.subject {
                    "a" => 11,
                    "b" => 12,
                    _ => 13,
                };
                let New { schema_type, definition, .. } = new.clone();
                let (id, references) = (Some(1), Vec::new());
                Ok(Answer::Schema(Found { id, version: Some(version), schema_type, definition, references }))
            }
            Request::Register(new) => {
                assert_eq!(new.references[0].version, 11);
                Ok(Answer::Registered(7))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn references_have_the_numbers_of_the_registry() {
        let schema = new("root", vec![reference("a", 1)]);
        let others = collect(&schema.references, find);
        assert_eq!(register(schema, &others, ask), Ok(Answer::Registered(7)));
    }

    #[test]
    fn what_the_registry_does_not_have_is_named() {
        let schema = new("root", vec![reference("a", 1)]);
        let others = collect(&schema.references, find);
        let lost = |request: &Request| match request {
            Request::Find(_) => Err(Failure::new(Class::NotFound, "no such schema")),
            other => ask(other),
        };
        let failure = register(schema.clone(), &others, lost).unwrap_err();
        assert_eq!(
            (failure.class, &*failure.text),
            (Class::NotFound, "it refers to \"c\", version 3 of subject \"c\": no such schema")
        );
        let down = |_: &Request| Err(Failure::new(Class::Unavailable, "down"));
        assert_eq!(register(schema.clone(), &others, down).unwrap_err().class, Class::Unavailable);
        // It was removed meanwhile.
        assert_eq!(register(schema, &[], ask).unwrap_err().class, Class::NotFound);
    }
}
