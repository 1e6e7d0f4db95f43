//! Whether a reader's schema reads what was written with a writer's: the rules of Avro's schema resolution, as Java's
//! `SchemaCompatibility` checks them.

use std::collections::HashSet;

use super::encode::describe;
use super::types::{Enum, Names, Place, Record, Type, Types};
use crate::schema::fault::{Fault, Path};

/// Checks that a schema reads what was written with another.
///
/// # Errors
/// The first place that it cannot read.
pub fn can_read(reader: &Types, writer: &Types) -> Result<(), Fault> {
    let mut check = Check { reader, writer, seen: HashSet::new() };
    check.pair(reader.root, writer.root, &Path::Root)
}

struct Check<'a> {
    reader: &'a Types,
    writer: &'a Types,
    /// Pairs that are, or are being, found compatible.
    seen: HashSet<(Place, Place)>,
}

impl Check<'_> {
    fn pair(&mut self, reader: Place, writer: Place, path: &Path<'_>) -> Result<(), Fault> {
        if !self.seen.insert((reader, writer)) {
            return Ok(());
        }
        let checked = self.types(reader, writer, path);
        if checked.is_err() {
            self.seen.remove(&(reader, writer));
        }
        checked
    }

    fn types(&mut self, reader: Place, writer: Place, path: &Path<'_>) -> Result<(), Fault> {
        let (new, old) = (self.reader.at(reader), self.writer.at(writer));
        let differ = || path.fault(format!("{} cannot be read as {}", describe(old), describe(new)));
        match (new, old) {
            (_, Type::Union(branches)) => {
                branches.iter().try_for_each(|branch| self.pair(reader, *branch, path))
            }
            (Type::Union(branches), _) => {
                let mut fault = None;
                for branch in branches {
                    match self.pair(*branch, writer, path) {
                        Ok(()) => return Ok(()),
                        Err(found) => {
                            fault = fault.or(Some(found).filter(|found| found.place != path.to_string()))
                        }
                    }
                }
                let none = || path.fault(format!("no branch of the union reads {}", describe(old)));
                Err(fault.unwrap_or_else(none))
            }
            (Type::Array(new), Type::Array(old)) => self.pair(*new, *old, &Path::Member(path, "items")),
            (Type::Map(new), Type::Map(old)) => self.pair(*new, *old, &Path::Member(path, "values")),
            (Type::Record(new), Type::Record(old)) => {
                same_name(&new.names, &old.names, path)?;
                self.fields(new, old, path)
            }
            (Type::Enum(new), Type::Enum(old)) => {
                same_name(&new.names, &old.names, path)?;
                symbols(new, old, path)
            }
            _ => match (fixed(new), fixed(old)) {
                (Some((new, size)), Some((old, old_size))) => {
                    same_name(new, old, path)?;
                    if size != old_size {
                        return Err(path.fault(format!("its size is {size} instead of {old_size}")));
                    }
                    Ok(())
                }
                (None, None) if promotes(describe(new), describe(old)) => Ok(()),
                _ => Err(differ()),
            },
        }
    }

    fn fields(&mut self, new: &Record, old: &Record, path: &Path<'_>) -> Result<(), Fault> {
        for field in &new.fields {
            let path = Path::Member(path, &field.name);
            let names = std::iter::once(&field.name).chain(&field.aliases);
            let written = names.filter_map(|name| old.by_name.get(name)).next();
            match written {
                Some(place) => self.pair(field.of, old.fields[*place].of, &path)?,
                None if field.default.is_some() => {}
                None if matches!(self.reader.at(field.of), Type::Enum(of) if of.default.is_some()) => {}
                None => return Err(path.fault("the field was not written, and has no default")),
            }
        }
        Ok(())
    }
}

fn same_name(new: &Names, old: &Names, path: &Path<'_>) -> Result<(), Fault> {
    if new.short() == old.short() || new.aliases.contains(&old.full) {
        return Ok(());
    }
    Err(path.fault(format!("its name is {} instead of {}", new.full, old.full)))
}

fn symbols(new: &Enum, old: &Enum, path: &Path<'_>) -> Result<(), Fault> {
    if new.default.as_ref().is_some_and(|default| new.symbols.contains(default)) {
        return Ok(());
    }
    match old.symbols.iter().find(|symbol| !new.symbols.contains(symbol)) {
        None => Ok(()),
        Some(symbol) => Err(path.fault(format!("the symbol {symbol} is not known, and there is no default"))),
    }
}

fn fixed(of: &Type) -> Option<(&Names, usize)> {
    match of {
        Type::Fixed(names, size) | Type::Decimal(_, _, Some((names, size))) => Some((names, *size)),
        Type::UuidFixed(names) => Some((names, 16)),
        _ => None,
    }
}

/// Whether a primitive type is read as another.
fn promotes(reader: &str, writer: &str) -> bool {
    reader == writer
        || matches!(
            (writer, reader),
            ("int", "long" | "float" | "double")
                | ("long", "float" | "double")
                | ("float", "double")
                | ("string", "bytes")
                | ("bytes", "string")
        )
}
