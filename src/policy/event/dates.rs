//! The dates of an event: when it is due, and what is wrong with a date.

use super::draft::LAST_TIME;

/// The dates that the author of an event gave, in microseconds since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dates {
    /// The event is published at this time, not before.
    pub deliver_at: Option<i64>,
    /// The event is not published from this time on.
    pub expires_at: Option<i64>,
}

/// What is wrong with the dates of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidDates {
    /// A date is infinite, or no record can have it. Holds the name of the argument.
    OutOfRange(&'static str),
    /// The event would expire before it is due.
    ExpiresBeforeDue,
}

impl Dates {
    /// When the event is due, if that is not at once.
    ///
    /// # Errors
    /// The first fault.
    pub fn due(self, now: i64) -> Result<Option<i64>, InvalidDates> {
        if self.deliver_at.is_some_and(is_out_of_range) {
            return Err(InvalidDates::OutOfRange("deliver_at"));
        }
        if self.expires_at.is_some_and(is_out_of_range) {
            return Err(InvalidDates::OutOfRange("expires_at"));
        }
        if let (Some(due), Some(end)) = (self.deliver_at, self.expires_at)
            && end <= due
        {
            return Err(InvalidDates::ExpiresBeforeDue);
        }
        Ok(self.deliver_at.filter(|date| *date > now))
    }
}

fn is_out_of_range(date: i64) -> bool {
    !(0..=LAST_TIME).contains(&date)
}

impl InvalidDates {
    /// The primary error message, for the author of the event.
    #[must_use]
    pub fn message(self) -> String {
        match self {
            Self::OutOfRange(name) => format!("{name} is out of range"),
            Self::ExpiresBeforeDue => "event expires before it is due".into(),
        }
    }

    /// The error detail.
    #[must_use]
    pub fn detail(self) -> String {
        match self {
            Self::OutOfRange(_) => "The times of events lie between 1970 and 9999, and are finite.".into(),
            Self::ExpiresBeforeDue => "expires_at must be later than deliver_at.".into(),
        }
    }

    /// The error hint.
    #[must_use]
    pub fn hint(self) -> String {
        match self {
            Self::OutOfRange(name) => format!("Pass a finite time, or leave {name} out."),
            Self::ExpiresBeforeDue => "Pass a later expires_at.".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000;

    fn due(deliver_at: Option<i64>) -> Result<Option<i64>, InvalidDates> {
        Dates { deliver_at, expires_at: None }.due(NOW)
    }

    #[test]
    fn only_a_date_in_the_future_makes_an_event_wait() {
        assert_eq!(due(None), Ok(None));
        assert_eq!(due(Some(0)), Ok(None));
        assert_eq!(due(Some(NOW)), Ok(None));
        assert_eq!(due(Some(NOW + 1)), Ok(Some(NOW + 1)));
        assert_eq!(due(Some(LAST_TIME)), Ok(Some(LAST_TIME)));
    }

    #[test]
    fn a_date_that_no_record_can_have_is_refused() {
        for date in [i64::MIN, -1, LAST_TIME + 1, i64::MAX] {
            assert_eq!(due(Some(date)), Err(InvalidDates::OutOfRange("deliver_at")), "{date}");
            let dates = Dates { deliver_at: None, expires_at: Some(date) };
            assert_eq!(dates.due(NOW), Err(InvalidDates::OutOfRange("expires_at")), "{date}");
        }
    }

    #[test]
    fn an_event_expires_after_it_is_due() {
        let due = |due, end| Dates { deliver_at: Some(due), expires_at: Some(end) }.due(NOW);
        assert_eq!(due(NOW + 5, NOW + 6), Ok(Some(NOW + 5)));
        assert_eq!(due(NOW + 5, NOW + 5), Err(InvalidDates::ExpiresBeforeDue));
        assert_eq!(due(NOW - 5, NOW - 6), Err(InvalidDates::ExpiresBeforeDue));
        // Too late already: it is kept as a dead letter.
        assert_eq!(due(NOW - 5, NOW - 4), Ok(None));
    }
}
