//! What a new version of a subject must be compatible with.

use super::compiled::{Compiled, Format};
use super::fault::Fault;

/// Which versions must read which others' payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// None.
    None,
    /// The new version reads what the last one wrote; or all, if transitive.
    Backward(Reach),
    /// The last version, or all, read what the new one writes.
    Forward(Reach),
    /// Both.
    Full(Reach),
}

/// How many older versions a new one is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The last one.
    Last,
    /// All.
    All,
}

impl Level {
    /// The level of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (kind, reach) = match name.strip_suffix("_transitive") {
            Some(kind) => (kind, Reach::All),
            None => (name, Reach::Last),
        };
        match kind {
            "none" if reach == Reach::Last => Some(Self::None),
            "backward" => Some(Self::Backward(reach)),
            "forward" => Some(Self::Forward(reach)),
            "full" => Some(Self::Full(reach)),
            _ => None,
        }
    }

    /// How many older versions a new one is compared with, at most.
    #[must_use]
    pub fn reach(self) -> usize {
        match self {
            Self::None => 0,
            Self::Backward(Reach::Last) | Self::Forward(Reach::Last) | Self::Full(Reach::Last) => 1,
            Self::Backward(Reach::All) | Self::Forward(Reach::All) | Self::Full(Reach::All) => usize::MAX,
        }
    }

    /// Whether the new version must read what older ones wrote.
    #[must_use]
    pub fn is_backward(self) -> bool {
        matches!(self, Self::Backward(_) | Self::Full(_))
    }

    /// Whether older versions must read what the new one writes.
    #[must_use]
    pub fn is_forward(self) -> bool {
        matches!(self, Self::Forward(_) | Self::Full(_))
    }
}

/// Which of two versions cannot read the other's payloads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incompatible {
    /// The new one cannot read what the older one wrote.
    Backward(Fault),
    /// The older one cannot read what the new one writes.
    Forward(Fault),
}

/// Compares a new version with an older one.
///
/// # Errors
/// They are not as compatible as the level says.
pub fn check(level: Level, new: &Compiled, old: &Compiled) -> Result<(), Incompatible> {
    if level.is_backward() {
        can_read(new, old).map_err(Incompatible::Backward)?;
    }
    if level.is_forward() {
        can_read(old, new).map_err(Incompatible::Forward)?;
    }
    Ok(())
}

fn can_read(reader: &Compiled, writer: &Compiled) -> Result<(), Fault> {
    match (reader, writer) {
        #[cfg(feature = "avro")]
        (Compiled::Avro(reader), Compiled::Avro(writer)) => {
            super::avro::compatibility::can_read(reader, writer)
        }
        #[cfg(feature = "protobuf")]
        (Compiled::Protobuf(reader), Compiled::Protobuf(writer)) => {
            super::protobuf::compatibility::can_read(reader, writer)
        }
        #[cfg(feature = "json-schema")]
        (Compiled::Json(reader), Compiled::Json(writer)) => {
            super::json::compatibility::accepts_all(reader.definition(), writer.definition())
        }
        (reader, writer) => {
            let [reader, writer] = [reader, writer].map(Compiled::format).map(Format::name);
            Err(Fault::new(format!("one is {reader}, the other {writer}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_their_names() {
        let full = Level::parse("full_transitive").unwrap();
        assert!(full.is_backward() && full.is_forward() && full.reach() > 1);
        assert_eq!(Level::parse("forward"), Some(Level::Forward(Reach::Last)));
        assert_eq!(Level::parse("none").map(Level::reach), Some(0));
        assert_eq!(Level::parse("none_transitive"), None);
        assert_eq!(Level::parse("BACKWARD"), None);
    }
}
