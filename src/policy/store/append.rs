//! Decides what becomes of an append: whether the stream is as expected, and whether its events are stored already.
//!
//! The caller holds the lock of the stream, and has looked up the ids that it was given.

use std::fmt;
use std::str::FromStr;

/// What the caller expects of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Anything.
    Any,
    /// It has no events.
    NoStream,
    /// It has events.
    StreamExists,
    /// Its last event has this version, from 1 on.
    Version(i64),
}

/// The text is none of what can be expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAnExpectation;

impl FromStr for Expected {
    type Err = NotAnExpectation;

    fn from_str(text: &str) -> Result<Self, NotAnExpectation> {
        match text {
            "any" => Ok(Self::Any),
            "no_stream" => Ok(Self::NoStream),
            "stream_exists" => Ok(Self::StreamExists),
            // Digits only: what Rust reads as a number besides, such as +1, is more likely a mistake.
            text if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                text.parse().map_err(|_| NotAnExpectation).and_then(Self::of_version)
            }
            _ => Err(NotAnExpectation),
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::NoStream => f.write_str("version 0"),
            Self::StreamExists => f.write_str("any event"),
            Self::Version(version) => write!(f, "version {version}"),
        }
    }
}

impl Expected {
    /// What a version says: 0 is that of a stream without events.
    ///
    /// # Errors
    /// [`NotAnExpectation`] for a negative one.
    pub fn of_version(version: i64) -> Result<Self, NotAnExpectation> {
        match version {
            0 => Ok(Self::NoStream),
            1.. => Ok(Self::Version(version)),
            _ => Err(NotAnExpectation),
        }
    }

    /// Whether a stream with this version is as expected.
    #[must_use]
    pub fn is_met_by(self, version: i64) -> bool {
        match self {
            Self::Any => true,
            Self::NoStream => version == 0,
            Self::StreamExists => version > 0,
            Self::Version(expected) => version == expected,
        }
    }

    /// Whether a stream that has no events cannot be as expected.
    #[must_use]
    pub fn needs_events(self) -> bool {
        matches!(self, Self::StreamExists | Self::Version(_))
    }

    /// Whether events that lie in the stream from this version on lie where these were to be stored.
    fn is_place(self, first: i64) -> bool {
        match self {
            Self::Any | Self::StreamExists => true,
            Self::NoStream => first == 1,
            Self::Version(version) => version.checked_add(1) == Some(first),
        }
    }
}

/// What becomes of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The events are stored after the present version.
    Store,
    /// They are stored already; the last of them has this version.
    Stored(i64),
    /// The stream is not as expected.
    WrongVersion,
    /// Some of the ids are in the stream, but they are not these events where they were to be stored.
    IdConflict,
}

/// Decides about events that are to be appended to a stream with this version. `known` has an entry for each of them: the
/// version of the event of the stream that has the id which the caller gave it, if any.
#[must_use]
pub fn decide(expected: Expected, version: i64, known: &[Option<i64>]) -> Decision {
    if known.iter().all(Option::is_none) {
        return if expected.is_met_by(version) { Decision::Store } else { Decision::WrongVersion };
    }
    let first = known.first().copied().flatten();
    let in_sequence = first.is_some_and(|first| known.iter().zip(first..).all(|(at, due)| *at == Some(due)));
    match first.filter(|first| in_sequence && expected.is_place(*first)) {
        Some(first) => Decision::Stored(first - 1 + i64::try_from(known.len()).unwrap_or(i64::MAX)),
        None => Decision::IdConflict,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expectations_are_words_and_versions() {
        for (text, expected) in [
            ("any", Some(Expected::Any)),
            ("no_stream", Some(Expected::NoStream)),
            ("stream_exists", Some(Expected::StreamExists)),
            ("0", Some(Expected::NoStream)),
            ("7", Some(Expected::Version(7))),
            ("9223372036854775807", Some(Expected::Version(i64::MAX))),
            ("9223372036854775808", None),
            ("-1", None),
            ("+1", None),
            (" 1", None),
            ("Any", None),
            ("", None),
        ] {
            assert_eq!(text.parse().ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_stored_where_it_was_to_be_is_not_stored_again() {
        use Decision::*;
        let at = |versions: &[i64]| versions.iter().copied().map(Some).collect::<Vec<_>>();
        for (expected, known, decision) in [
            (Expected::Any, at(&[3, 4]), Stored(4)),
            (Expected::StreamExists, at(&[1]), Stored(1)),
            (Expected::Version(2), at(&[3, 4]), Stored(4)),
            (Expected::NoStream, at(&[1, 2]), Stored(2)),
            (Expected::NoStream, at(&[3, 4]), IdConflict),
            (Expected::Version(5), at(&[3, 4]), IdConflict),
            (Expected::Version(i64::MAX), at(&[3]), IdConflict),
            (Expected::Any, at(&[4, 3]), IdConflict),
            (Expected::Any, at(&[3, 5]), IdConflict),
            (Expected::Any, vec![Some(3), None], IdConflict),
            (Expected::Any, vec![None, Some(3)], IdConflict),
            (Expected::Any, vec![None, None], Store),
            (Expected::Version(5), vec![None], Store),
            (Expected::Version(4), vec![None], WrongVersion),
            (Expected::NoStream, vec![None], WrongVersion),
            (Expected::StreamExists, vec![None], Store),
        ] {
            assert_eq!(decide(expected, 5, &known), decision, "{expected:?} {known:?}");
        }
        assert_eq!(decide(Expected::StreamExists, 0, &[None]), WrongVersion);
        assert_eq!(decide(Expected::NoStream, 0, &[None]), Store);
    }
}
