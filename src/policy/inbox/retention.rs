//! Decides when the log goes on in another segment, and which segments can be emptied.

use crate::delivery::lanes::Micros;

/// The number of segments.
pub const SEGMENTS: usize = 8;

/// Into how many segments the events of the retention are divided, so that they leave in parts.
const PARTS: i64 = (SEGMENTS as i64) / 2;

/// A segment is not left sooner, however short the retention is.
const YOUNGEST: Micros = 60_000_000;

/// A segment is left when it is larger, in bytes.
const LARGEST: u64 = 1 << 30;

/// A segment that holds events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Its number.
    pub number: usize,
    /// None of its events has a lower position.
    pub first_position: i64,
    /// When its first event was stored.
    pub opened_at: Micros,
}

/// Whether the log should go on in another segment. `retention` is the longest of all subscriptions, and `bytes` the size of
/// the segment that is being written.
#[must_use]
pub fn should_leave(current: &Segment, bytes: u64, retention: Micros, now: Micros) -> bool {
    let age = now.saturating_sub(current.opened_at);
    bytes > 0 && (age >= (retention / PARTS).max(YOUNGEST) || bytes >= LARGEST)
}

/// The segment in which the log can go on: one that is empty. `None` if there is none.
#[must_use]
pub fn next_free(segments: &[Segment]) -> Option<usize> {
    let last =
        segments.iter().max_by_key(|segment| segment.first_position).map_or(SEGMENTS - 1, |last| last.number);
    (1..=SEGMENTS)
        .map(|step| (last + step) % SEGMENTS)
        .find(|number| segments.iter().all(|segment| segment.number != *number))
}

/// The oldest segment, if its retention is over: all its events are older. The segment that is being written is never the
/// one. The caller finds out whether all subscriptions have received its events.
#[must_use]
pub fn expired(segments: &[Segment], retention: Micros, now: Micros) -> Option<Segment> {
    let mut by_age: Vec<&Segment> = segments.iter().collect();
    by_age.sort_by_key(|segment| segment.first_position);
    match by_age[..] {
        // Its last event was stored before the first of the next one.
        [oldest, next, ..] if now.saturating_sub(next.opened_at) >= retention => Some(*oldest),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(number: usize, first_position: i64, opened_at: Micros) -> Segment {
        Segment { number, first_position, opened_at }
    }

    const HOUR: Micros = 3_600_000_000;

    #[test]
    fn the_ring_goes_on_with_a_free_segment() {
        assert_eq!(next_free(&[]), Some(0));
        let mut segments = vec![segment(6, 1, 0), segment(7, 10, 0)];
        assert_eq!(next_free(&segments), Some(0));
        segments.extend((0..5).map(|number| segment(number, 20 + number as i64, 0)));
        assert_eq!(next_free(&segments), Some(5));
        segments.push(segment(5, 30, 0));
        assert_eq!(next_free(&segments), None);
    }

    #[test]
    fn the_oldest_segment_expires_when_its_last_event_is_old_enough() {
        let segments = [segment(1, 50, 2 * HOUR), segment(0, 1, 0)];
        assert_eq!(expired(&segments, HOUR, 3 * HOUR - 1), None);
        assert_eq!(expired(&segments, HOUR, 3 * HOUR), Some(segments[1]));
        assert_eq!(expired(&segments[..1], HOUR, 9 * HOUR), None, "it is being written");
    }

    #[test]
    fn a_segment_is_left_by_age_or_size() {
        let current = segment(0, 1, 0);
        assert!(!should_leave(&current, 0, HOUR, 9 * HOUR), "nothing is in it");
        assert!(!should_leave(&current, 1, HOUR, HOUR / 4 - 1));
        assert!(should_leave(&current, 1, HOUR, HOUR / 4));
        assert!(!should_leave(&current, 1, 0, YOUNGEST - 1));
        assert!(should_leave(&current, LARGEST, HOUR, 1));
    }
}
