//! Avro's logical types of time, as text and as numbers.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Unit as JiffUnit};

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Thousandths of a second.
    Millis,
    /// Millionths.
    Micros,
    /// Billionths.
    Nanos,
}

/// Whether a time is a moment, or one on a clock in an unknown place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// A moment.
    Utc,
    /// On a clock.
    Local,
}

impl Unit {
    fn nanos(self) -> i128 {
        match self {
            Self::Millis => 1_000_000,
            Self::Micros => 1_000,
            Self::Nanos => 1,
        }
    }

    /// The number of units in so many nanoseconds; `None` if something is left over.
    fn count(self, nanos: i128) -> Option<i64> {
        (nanos % self.nanos() == 0).then(|| i64::try_from(nanos / self.nanos()).ok()).flatten()
    }
}

const EPOCH: Date = Date::constant(1970, 1, 1);
const DAY: i128 = 86_400_000_000_000;

/// The days since 1970.
#[must_use]
pub fn days(text: &str) -> Option<i32> {
    let date: Date = text.parse().ok()?;
    if text.len() > 10 && !text.starts_with(['+', '-']) {
        // A time of day would be lost.
        return None;
    }
    EPOCH.until((JiffUnit::Day, date)).ok().map(|span| span.get_days())
}

/// The date so many days after 1970.
#[must_use]
pub fn date(days: i32) -> Option<String> {
    let span = jiff::Span::new().try_days(days).ok()?;
    EPOCH.checked_add(span).ok().map(|date| date.to_string())
}

/// The time of day in units.
#[must_use]
pub fn time_of_day(text: &str, unit: Unit) -> Option<i64> {
    let time: Time = text.parse().ok()?;
    unit.count(nanos_of(time))
}

/// The time of day after so many units.
#[must_use]
pub fn clock_time(count: i64, unit: Unit) -> Option<String> {
    let nanos = i128::from(count) * unit.nanos();
    (0..DAY).contains(&nanos).then(|| {
        let nanos = nanos as i64;
        let part = |by: i64, of: i64| nanos / by % of;
        Time::new(
            part(3_600_000_000_000, 24) as i8,
            part(60_000_000_000, 60) as i8,
            part(1_000_000_000, 60) as i8,
            part(1, 1_000_000_000) as i32,
        )
        .ok()
        .map(|time| time.to_string())
    })?
}

fn nanos_of(time: Time) -> i128 {
    let seconds = i128::from(time.hour()) * 3600 + i128::from(time.minute()) * 60 + i128::from(time.second());
    seconds * 1_000_000_000 + i128::from(time.subsec_nanosecond())
}

/// The units since 1970.
#[must_use]
pub fn timestamp(text: &str, clock: Clock, unit: Unit) -> Option<i64> {
    let moment = match clock {
        Clock::Utc => text.parse::<Timestamp>().ok()?,
        Clock::Local => {
            // With an offset it would be a moment.
            if text.parse::<Timestamp>().is_ok() {
                return None;
            }
            text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp()
        }
    };
    unit.count(moment.as_nanosecond())
}

/// The moment, or local time, so many units after 1970.
#[must_use]
pub fn timestamp_text(count: i64, clock: Clock, unit: Unit) -> Option<String> {
    let moment = Timestamp::from_nanosecond(i128::from(count) * unit.nanos()).ok()?;
    Some(match clock {
        Clock::Utc => moment.to_string(),
        Clock::Local => TimeZone::UTC.to_datetime(moment).to_string(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_as_postgres_writes_them() {
        assert_eq!(days("1970-01-02"), Some(1));
        assert_eq!(days("1969-12-31"), Some(-1));
        assert_eq!(days("2024-02-30"), None);
        assert_eq!(days("2024-02-29T00:00:01"), None);
        assert_eq!(time_of_day("00:00:01.5", Unit::Millis), Some(1500));
        assert_eq!(time_of_day("00:00:01.0005", Unit::Millis), None);
        // What to_jsonb() makes of timestamptz and timestamp.
        let moment = "2024-01-02T03:04:05.123456+00:00";
        assert_eq!(timestamp(moment, Clock::Utc, Unit::Micros), Some(1_704_164_645_123_456));
        assert_eq!(timestamp(moment, Clock::Utc, Unit::Millis), None);
        assert_eq!(timestamp(moment, Clock::Local, Unit::Micros), None);
        assert_eq!(timestamp("2024-01-02T03:04:05", Clock::Utc, Unit::Micros), None);
        assert_eq!(timestamp("2024-01-02T03:04:05", Clock::Local, Unit::Millis), Some(1_704_164_645_000));
    }

    proptest! {
        #[test]
        fn times_come_back(count in any::<i64>(), days_since in any::<i32>(), of_day in 0..86_400_000_000_i64) {
            for unit in [Unit::Millis, Unit::Micros, Unit::Nanos] {
                for clock in [Clock::Utc, Clock::Local] {
                    if let Some(text) = timestamp_text(count, clock, unit) {
                        prop_assert_eq!(timestamp(&text, clock, unit), Some(count), "{}", text);
                    }
                }
            }
            if let Some(text) = date(days_since) {
                prop_assert_eq!(days(&text), Some(days_since), "{}", text);
            }
            let text = clock_time(of_day, Unit::Micros).unwrap();
            prop_assert_eq!(time_of_day(&text, Unit::Micros), Some(of_day), "{}", text);
        }
    }
}
