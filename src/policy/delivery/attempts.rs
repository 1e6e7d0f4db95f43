//! Decides whether a refused event gets another attempt, and when.

use std::time::Duration;

use super::error_class::ErrorClass;

/// A refusal of an event.
#[derive(Debug, Clone, Copy)]
pub struct Refusal {
    /// How often the event has been refused, including this time.
    pub attempts: i32,
    /// The class of this refusal, if it is known.
    pub class: Option<ErrorClass>,
    /// Time since the first refusal.
    pub since_first: Duration,
}

impl Refusal {
    /// Whether it is the last refusal, so that the event is dead. If others can fix the cause, the event is retried during
    /// the grace period, however many attempts that takes: access rights that are missing for some seconds must not kill
    /// good events.
    #[must_use]
    pub fn is_last(&self, max_attempts: i32, grace: Duration) -> bool {
        if self.class.is_some_and(|class| !class.is_refusal()) {
            return true;
        }
        let in_grace = self.class.is_some_and(ErrorClass::is_fixed_by_others) && self.since_first < grace;
        self.attempts >= max_attempts && !in_grace
    }
}

/// The largest number of attempts that can be set.
pub const MOST_ATTEMPTS: i32 = 1_000_000;

/// How many attempts events have by the class of their refusal, where it is not the general number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AttemptsByClass([Option<i32>; ErrorClass::ALL.len()]);

impl AttemptsByClass {
    /// Reads `class=attempts, …`.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut all = Self::default();
        if text.trim().is_empty() {
            return Ok(all);
        }
        for entry in text.split(',').map(str::trim) {
            let (class, attempts) =
                entry.split_once('=').ok_or_else(|| format!("\"{entry}\" has no form class=attempts"))?;
            let class = class.trim();
            let place = ErrorClass::parse(class)
                .and_then(|class| all.0.get_mut(class as usize))
                .ok_or_else(|| format!("there is no class \"{class}\""))?;
            let number = attempts.trim().parse().ok().filter(|number| (1..=MOST_ATTEMPTS).contains(number));
            let number =
                number.ok_or_else(|| format!("the attempts of {class} are not from 1 to {MOST_ATTEMPTS}"))?;
            if place.replace(number).is_some() {
                return Err(format!("class {class} is given twice"));
            }
        }
        Ok(all)
    }

    /// How many attempts an event has that was last refused with this class.
    #[must_use]
    pub fn of(&self, class: Option<ErrorClass>, otherwise: i32) -> i32 {
        class.and_then(|class| self.0.get(class as usize).copied().flatten()).unwrap_or(otherwise)
    }
}

/// No duration above zero can be doubled more often, because a `Duration` holds fewer than 2^94 nanoseconds.
const MAX_DOUBLINGS: u32 = 94;

/// The wait after the given attempt, counted from 1: `base`, doubled with each further one, at most `cap`;
/// half of it is fixed and half is chosen by `jitter`, a random number between 0 and 1.
///
/// This is the "equal jitter" of Marc Brooker's analysis, *Exponential Backoff And Jitter*, AWS Architecture
/// Blog, 2015. Randomness keeps events that were refused together from coming back together. That analysis
/// prefers full jitter where many clients contend for one resource; here the fixed half matters more, since
/// attempts are few and one of them must not be spent at once on an event that was just refused.
pub fn delay(attempt: u32, base: Duration, cap: Duration, jitter: f64) -> Duration {
    let mut ceiling = base.min(cap);
    for _ in 1..attempt.min(MAX_DOUBLINGS + 1) {
        ceiling = ceiling.saturating_mul(2).min(cap);
    }
    let half = ceiling / 2;
    let jitter = if jitter.is_nan() { 0.0 } else { jitter.clamp(0.0, 1.0) };
    half.saturating_add((ceiling - half).mul_f64(jitter)).min(ceiling)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BASE: Duration = Duration::from_secs(1);
    const CAP: Duration = Duration::from_secs(300);

    #[test]
    fn doubles_from_the_base_up_to_the_cap() {
        let longest: Vec<u64> = (1..=11).map(|attempt| delay(attempt, BASE, CAP, 1.0).as_secs()).collect();
        assert_eq!(longest, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    }

    #[test]
    fn half_is_fixed_and_half_is_random() {
        assert_eq!(delay(3, BASE, CAP, 0.0), Duration::from_secs(2));
        assert_eq!(delay(3, BASE, CAP, 0.5), Duration::from_secs(3));
        assert_eq!(delay(3, BASE, CAP, 1.0), Duration::from_secs(4));
    }

    #[test]
    fn the_extremes_are_harmless() {
        assert_eq!(delay(0, BASE, CAP, 1.0), BASE);
        assert_eq!(delay(u32::MAX, BASE, CAP, 1.0), CAP);
        assert_eq!(delay(u32::MAX, Duration::from_nanos(1), Duration::MAX, 1.0), Duration::MAX);
        assert_eq!(delay(u32::MAX, Duration::ZERO, CAP, 1.0), Duration::ZERO);
        assert_eq!(delay(1, CAP, BASE, 1.0), BASE);
        assert_eq!(delay(1, BASE, CAP, f64::NAN), BASE / 2);
        assert_eq!(delay(1, BASE, CAP, f64::INFINITY), BASE);
    }

    #[test]
    fn the_last_attempt_is_counted() {
        let refusal = |attempts, class, seconds| Refusal { attempts, class, since_first: BASE * seconds };
        for class in [None, Some(ErrorClass::TooLarge), Some(ErrorClass::UnknownPartition)] {
            assert!(!refusal(2, class, 1_000).is_last(3, BASE * 60));
            assert!(refusal(3, class, 0).is_last(3, BASE * 60));
        }
    }

    #[test]
    fn an_expired_event_has_no_other_attempt() {
        let class = Some(ErrorClass::Expired);
        assert!(Refusal { attempts: 0, class, since_first: Duration::ZERO }.is_last(3, BASE * 60));
    }

    #[test]
    fn a_cause_that_others_can_fix_has_its_grace_too() {
        for class in [ErrorClass::UnknownTopic, ErrorClass::NotAuthorized] {
            let refusal =
                |attempts, seconds| Refusal { attempts, class: Some(class), since_first: BASE * seconds };
            assert!(!refusal(3, 59).is_last(3, BASE * 60));
            assert!(!refusal(9, 59).is_last(3, BASE * 60));
            assert!(refusal(3, 60).is_last(3, BASE * 60));
            assert!(!refusal(2, 60).is_last(3, BASE * 60));
            assert!(refusal(3, 0).is_last(3, Duration::ZERO));
        }
    }

    #[test]
    fn a_class_can_have_attempts_of_its_own() {
        let some = AttemptsByClass::parse(" too_large=1,invalid_record = 20 ").unwrap();
        assert_eq!(some.of(Some(ErrorClass::TooLarge), 3), 1);
        assert_eq!(some.of(Some(ErrorClass::InvalidRecord), 3), 20);
        assert_eq!(some.of(Some(ErrorClass::Other), 3), 3);
        assert_eq!(some.of(None, 3), 3);
        for nothing in ["", " "] {
            assert_eq!(AttemptsByClass::parse(nothing), Ok(AttemptsByClass::default()));
        }
        for class in ErrorClass::ALL {
            let one = AttemptsByClass::parse(&format!("{class}=7")).unwrap();
            for other in ErrorClass::ALL {
                assert_eq!(one.of(Some(other), 3), if other == class { 7 } else { 3 });
            }
        }
    }

    #[test]
    fn attempts_by_class_that_make_no_sense_are_refused() {
        for text in [
            "too_large",
            "too_large=",
            "too_large=0",
            "too_large=-1",
            "too_large=1000001",
            "too_large=1.5",
            "big=1",
            "too_large=1,",
            ",",
            "=1",
            "too_large=1, too_large=2",
            "too_large=1=1",
            "Too_Large=1",
            "too_large=99999999999999999999",
        ] {
            assert!(AttemptsByClass::parse(text).is_err(), "{text}");
        }
    }

    /// Up to some thirty years: longer ones lose microseconds to floating point.
    fn duration() -> impl Strategy<Value = Duration> {
        prop_oneof![
            (0..1_000_000_000u64, 0..1_000_000_000u32).prop_map(|(secs, nanos)| Duration::new(secs, nanos)),
            (0..10_000u64).prop_map(Duration::from_millis),
        ]
    }

    const ROUNDING: Duration = Duration::from_micros(1);

    proptest! {
        #[test]
        fn lies_between_half_the_ceiling_and_the_ceiling(
            attempt in prop_oneof![0..40u32, any::<u32>()],
            base in duration(), cap in duration(), jitter in 0.0..=1.0,
        ) {
            let doubled = base.as_nanos() << attempt.saturating_sub(1).min(64);
            let ceiling = Duration::from_nanos(u64::try_from(doubled.min(cap.as_nanos())).unwrap());
            let wait = delay(attempt, base, cap, jitter);
            prop_assert!(wait >= ceiling / 2 && wait <= ceiling);
            prop_assert!(delay(attempt, base, cap, 1.0) + ROUNDING >= ceiling);
        }

        #[test]
        fn never_shrinks_with_the_attempts_or_the_jitter(
            attempt in prop_oneof![0..40u32, 0..u32::MAX],
            base in duration(), cap in duration(), low in 0.0..=1.0, more in 0.0..=1.0,
        ) {
            let high = low + (1.0 - low) * more;
            let wait = delay(attempt, base, cap, low);
            prop_assert!(wait <= delay(attempt + 1, base, cap, low) + ROUNDING);
            prop_assert!(wait <= delay(attempt, base, cap, high));
        }
    }
}
