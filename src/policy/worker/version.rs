//! Decides whether the library can work with the SQL objects that it finds in a database. With every new release
//! their versions differ for a while: a package installs the library, `ALTER EXTENSION … UPDATE` the objects.

use std::str::FromStr;

/// The version number of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version([u32; 3]);

impl Version {
    /// The version with these three numbers.
    #[must_use]
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self([major, minor, patch])
    }
}

/// The text is not a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAVersion;

impl FromStr for Version {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        let mut numbers = [0; 3];
        let mut parts = text.split('.');
        for number in &mut numbers {
            *number = parts.next().and_then(|part| part.parse().ok()).ok_or(NotAVersion)?;
        }
        if parts.next().is_some() { Err(NotAVersion) } else { Ok(Self(numbers)) }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self([major, minor, patch]) = self;
        write!(f, "{major}.{minor}.{patch}")
    }
}

/// How the objects of a database fit the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// They have the same version.
    Exact,
    /// They are older, but the library can still work with them.
    Older,
    /// They are too old for the library to work with them.
    TooOld,
    /// They are newer than the library, or their version was never released: the library cannot know their definitions.
    Unknown,
}

impl Fit {
    /// The fit of objects with the version `objects` to a library that can work with `oldest` and later versions.
    #[must_use]
    pub fn of(objects: &str, library: Version, oldest: Version) -> Self {
        match objects.parse::<Version>() {
            Ok(version) if version == library => Self::Exact,
            Ok(version) if version < oldest => Self::TooOld,
            Ok(version) if version < library => Self::Older,
            Ok(_) | Err(NotAVersion) => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        let version = |text: &str| text.parse::<Version>().unwrap();
        assert!(version("0.9.0") < version("0.10.0"));
        assert!(version("1.0.0") > version("0.99.99"));
        assert_eq!(version("1.2.3"), Version::new(1, 2, 3));
        assert_eq!(Version::new(1, 2, 3).to_string(), "1.2.3");
        for text in ["", "1", "1.2", "1.2.3.4", "1.2.x", "1.2.-3", "next"] {
            assert_eq!(text.parse::<Version>(), Err(NotAVersion), "{text}");
        }
    }

    #[test]
    fn a_library_works_with_the_versions_it_knows() {
        let fit = |objects| Fit::of(objects, Version::new(1, 4, 0), Version::new(1, 2, 0));
        assert_eq!(fit("1.4.0"), Fit::Exact);
        assert_eq!(fit("1.2.0"), Fit::Older);
        assert_eq!(fit("1.3.7"), Fit::Older);
        assert_eq!(fit("1.1.9"), Fit::TooOld);
        assert_eq!(fit("1.4.1"), Fit::Unknown);
        assert_eq!(fit("unpackaged"), Fit::Unknown);
    }
}
