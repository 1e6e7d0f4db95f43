//! What becomes of an event with an expiry date when the relay reads its row.

/// Microseconds since 1970-01-01 UTC.
type Micros = i64;

/// The longest time after which it is looked again whether there is a connection. The relay looks at once when there is one.
const LONGEST_HOLD: Micros = 10_000_000;

/// What to do with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It may be sent.
    Goes,
    /// It is too late.
    Expired,
    /// It waits until this time, so that it does not expire in the producer's queue, from which nothing can be taken back.
    HeldUntil(Micros),
}

/// The fate of an event that expires at this time, if ever.
#[must_use]
pub fn fate(expires_at: Option<Micros>, now: Micros, is_connected: bool) -> Fate {
    match expires_at {
        Some(date) if date <= now => Fate::Expired,
        Some(date) if !is_connected => Fate::HeldUntil(date.min(now.saturating_add(LONGEST_HOLD))),
        _ => Fate::Goes,
    }
}

impl Fate {
    /// When the event may be tried, given when it could be tried otherwise.
    #[must_use]
    pub fn not_before(self, otherwise: Option<Micros>) -> Option<Micros> {
        match self {
            Self::HeldUntil(date) => otherwise.max(Some(date)),
            Self::Goes | Self::Expired => otherwise,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_expired_is_sent_and_nothing_else_is_given_up(
            expires_at in proptest::option::of(any::<i64>()), now in any::<i64>(), is_connected: bool,
        ) {
            let is_over = expires_at.is_some_and(|date| date <= now);
            let fate = fate(expires_at, now, is_connected);
            prop_assert_eq!(fate == Fate::Expired, is_over);
            prop_assert_eq!(fate == Fate::Goes, !is_over && (is_connected || expires_at.is_none()));
            if let Fate::HeldUntil(date) = fate {
                // It is looked at again, and not later than it expires.
                prop_assert!(date > now && Some(date) <= expires_at);
            }
        }
    }

    #[test]
    fn an_event_without_a_date_is_never_held() {
        assert_eq!(fate(None, 5, false), Fate::Goes);
        assert_eq!(Fate::Goes.not_before(Some(7)), Some(7));
        assert_eq!(Fate::HeldUntil(9).not_before(Some(7)), Some(9));
        assert_eq!(Fate::HeldUntil(9).not_before(None), Some(9));
        assert_eq!(Fate::HeldUntil(5).not_before(Some(7)), Some(7));
    }
}
