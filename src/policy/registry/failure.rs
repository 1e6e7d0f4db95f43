//! Why a Schema Registry did not do what it was asked, and when to ask again.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

/// The most characters of a registry's text that are kept.
const TEXT: usize = 1000;

/// The first and the longest pause before something that the registry refused is asked again: somebody can have changed what
/// the registry has, or allows.
const PAUSE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(3600));

/// The classes of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Nobody answers, or the registry cannot answer now.
    Unavailable,
    /// The registry does not know who asks, or who asks may ask nothing.
    Unauthorized,
    /// What answers is no registry.
    NotARegistry,
    /// The user may not do this.
    Denied,
    /// The schema is incompatible with those before it.
    Incompatible,
    /// The registry takes the schema, or the subject, for invalid.
    Invalid,
    /// There is no such schema.
    NotFound,
    /// The schema is too large, or of a kind that the outbox does not read.
    Unreadable,
}

impl Class {
    /// Whether every other request would fail alike now.
    #[must_use]
    pub fn is_of_all(self) -> bool {
        matches!(self, Self::Unavailable | Self::Unauthorized | Self::NotARegistry)
    }
}

/// A failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its class.
    pub class: Class,
    /// What happened, as a clause.
    pub text: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Failure {
    /// A failure with a text, which is shortened if it is long.
    #[must_use]
    pub fn new(class: Class, text: &str) -> Self {
        let text = text.trim();
        let mut kept: String =
            text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(TEXT).collect();
        if kept.len() < text.len() {
            kept.push('…');
        }
        Self { class, text: kept }
    }

    /// The failure that an answer with this status and body reports.
    #[must_use]
    pub fn of_status(status: u16, body: &[u8]) -> Self {
        let reported = serde_json::from_slice::<Reported>(body).ok();
        // A registry's own codes begin with the status.
        let is_of_registry = |error: &Reported| {
            error.error_code.is_some_and(|code| code == i64::from(status) || code / 100 == i64::from(status))
        };
        let from_registry = reported.as_ref().is_some_and(is_of_registry);
        let class = match status {
            401 | 407 => Class::Unauthorized,
            403 => Class::Denied,
            404 if from_registry => Class::NotFound,
            409 => Class::Incompatible,
            400 | 422 if from_registry => Class::Invalid,
            408 | 425 | 429 | 500.. => Class::Unavailable,
            _ => Class::NotARegistry,
        };
        let said = reported.and_then(|error| error.message).unwrap_or_default();
        let text = match class {
            Class::NotARegistry => format!(
                "it is no Schema Registry that answers (status {status}): check event_outbox.schema_registry_url, with its path"
            ),
            _ if said.is_empty() => format!("the registry answered with status {status}"),
            _ => format!("the registry answered: {said} (status {status})"),
        };
        Self::new(class, &text)
    }
}

/// What an answer that reports an error holds.
#[derive(Deserialize)]
struct Reported {
    error_code: Option<i64>,
    message: Option<String>,
}

/// How long to wait until something that was refused this many times is asked again.
#[must_use]
pub fn pause(refusals: u32) -> Duration {
    let doublings = refusals.saturating_sub(1).min(16);
    (PAUSE.0 * (1 << doublings)).min(PAUSE.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn class(status: u16, body: &str) -> Class {
        Failure::of_status(status, body.as_bytes()).class
    }

    #[test]
    fn an_answer_says_whether_it_is_about_one_schema_or_about_all() {
        let not_found = r#"{"error_code":40403,"message":"Schema not found"}"#;
        assert_eq!(class(404, not_found), Class::NotFound);
        assert_eq!(class(409, r#"{"error_code":409,"message":"incompatible"}"#), Class::Incompatible);
        assert_eq!(class(422, r#"{"error_code":42201,"message":"invalid"}"#), Class::Invalid);
        assert_eq!(class(403, ""), Class::Denied);
        assert_eq!(class(401, "<html>"), Class::Unauthorized);
        for status in [429, 500, 502, 503, 504] {
            assert_eq!(class(status, not_found), Class::Unavailable, "{status}");
        }
        // A proxy, or a server of something else.
        for (status, body) in [
            (404, "<html>not here</html>"),
            (404, r#"{"status":404}"#),
            (404, r#"{"error_code":50001}"#),
            (400, ""),
            (301, ""),
            (405, r#"{"error_code":40501}"#),
        ] {
            assert_eq!(class(status, body), Class::NotARegistry, "{status} {body}");
        }
        assert!(
            Class::Unavailable.is_of_all()
                && Class::Unauthorized.is_of_all()
                && Class::NotARegistry.is_of_all()
        );
        assert!(
            !Class::Incompatible.is_of_all() && !Class::NotFound.is_of_all() && !Class::Denied.is_of_all()
        );
    }

    #[test]
    fn the_registrys_own_words_are_kept() {
        let failure = Failure::of_status(409, br#"{"error_code":409,"message":"field c has no default"}"#);
        assert_eq!(failure.to_string(), "the registry answered: field c has no default (status 409)");
        assert_eq!(Failure::of_status(500, b"garbage").text, "the registry answered with status 500");
        let long = Failure::new(Class::Invalid, &"ä\n".repeat(2000)).text;
        assert!(long.chars().count() <= TEXT + 1 && long.ends_with('…') && !long.contains('\n'));
    }

    #[test]
    fn what_was_refused_is_asked_again_less_and_less_often() {
        assert_eq!((pause(0), pause(1), pause(2)), (PAUSE.0, PAUSE.0, PAUSE.0 * 2));
        assert_eq!((pause(20), pause(u32::MAX)), (PAUSE.1, PAUSE.1));
    }

    proptest! {
        #[test]
        fn any_answer_is_a_failure(status in 0_u16..1000, body in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(!Failure::of_status(status, &body).text.is_empty());
        }
    }
}
