//! What is wrong with a schema, a value or a payload, and where.

use std::fmt;

/// Why a value, or a definition, is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where: a JSON pointer, or the place in the text of a definition. Empty for the whole.
    pub place: String,
    /// What is wrong, without a capital and a full stop.
    pub reason: String,
}

impl Fault {
    /// A fault of the whole.
    #[must_use]
    pub fn new(reason: impl Into<String>) -> Self {
        Self { place: String::new(), reason: reason.into() }
    }

    /// A fault at a place.
    #[must_use]
    pub fn at(place: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { place: place.into(), reason: reason.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.place {
            "" => f.write_str(&self.reason),
            place => write!(f, "{place}: {}", self.reason),
        }
    }
}

/// A place in a value, as a chain from the inside out. It costs nothing until a fault is found.
#[derive(Debug, Clone, Copy)]
pub enum Path<'a> {
    /// The whole value.
    Root,
    /// A member of an object.
    Member(&'a Path<'a>, &'a str),
    /// An element of an array.
    Element(&'a Path<'a>, usize),
}

impl Path<'_> {
    /// How many levels lie above this place.
    #[must_use]
    pub fn depth(&self) -> usize {
        let (mut depth, mut path) = (0, self);
        while let Path::Member(above, _) | Path::Element(above, _) = path {
            depth += 1;
            path = above;
        }
        depth
    }

    /// A fault at this place.
    #[must_use]
    pub fn fault(&self, reason: impl Into<String>) -> Fault {
        Fault { place: self.to_string(), reason: reason.into() }
    }
}

/// As a JSON pointer.
impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Member(above, name) => {
                write!(f, "{above}/{}", name.replace('~', "~0").replace('/', "~1"))
            }
            Path::Element(above, at) => write!(f, "{above}/{at}"),
        }
    }
}

/// The longest name that a message shows.
const SHOWN: usize = 60;

/// A text of the user's for a message: quoted, and cut if it is long.
#[must_use]
pub fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        None => format!("\"{text}\""),
        Some((end, _)) => format!("\"{}…\"", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_pointer() {
        let items = Path::Member(&Path::Root, "it/e~ms");
        let price = Path::Element(&items, 3);
        assert_eq!(price.to_string(), "/it~1e~0ms/3");
        assert_eq!((price.depth(), Path::Root.depth()), (2, 0));
        assert_eq!(price.fault("is no number").to_string(), "/it~1e~0ms/3: is no number");
        assert_eq!(Path::Root.fault("is no object").to_string(), "is no object");
        assert_eq!(shown(&"ü".repeat(61)), format!("\"{}…\"", "ü".repeat(60)));
    }
}
