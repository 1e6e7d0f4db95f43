//! Owns the events in flight: those that were handed to Kafka and are not settled yet.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::id_ring::IdRing;
use super::lanes::Lane;

/// The limits of the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The number of events.
    pub events: usize,
    /// The memory in bytes, by `Event::weight`.
    pub bytes: usize,
}

/// The parts of an event in flight that its settlement needs. `R` identifies its row, and distinguishes it from another row
/// that takes its place.
#[derive(Debug)]
pub struct InFlightEvent<R> {
    /// The event.
    pub id: i64,
    /// Its row.
    pub row: R,
    /// Its topic.
    pub topic: Arc<str>,
    /// When it was emitted, in microseconds since 1970.
    pub emitted_at: i64,
    /// The record's timestamp, in microseconds since 1970.
    pub record_time: i64,
    /// The lane in which it keeps its order.
    pub lane: Lane,
    /// Whether it was sent alone of its topic, so a refusal can only mean this event.
    pub sole_in_flight: bool,
    /// Whether its row was deleted before it was handed over, so that it is delivered at most once.
    pub is_row_gone: bool,
    /// Whether the broker has not answered for it yet.
    pub is_open: bool,
    /// Its position among all events that were handed over. The window sets it.
    pub place: u64,
    /// The memory that it takes, in bytes.
    pub weight: usize,
}

/// The events in flight by id, bounded in number and in bytes.
#[derive(Debug)]
pub struct Window<R> {
    events: IdRing<InFlightEvent<R>>,
    bytes: usize,
    /// The number of events handed over so far.
    handed_over: u64,
}

impl<R> Default for Window<R> {
    fn default() -> Self {
        Self { events: IdRing::default(), bytes: 0, handed_over: 0 }
    }
}

impl<R> Window<R> {
    /// The entry of the event with this id, if it is in flight.
    #[must_use]
    pub fn get(&self, id: i64) -> Option<&InFlightEvent<R>> {
        self.events.get(id)
    }

    /// The broker has answered for this event, but it is not settled yet. Returns its topic if this is the first answer.
    pub fn answered(&mut self, id: i64) -> Option<Arc<str>> {
        let entry = self.events.get_mut(id)?;
        std::mem::take(&mut entry.is_open).then(|| entry.topic.clone())
    }

    /// The event itself is no longer in memory, only its entry.
    pub fn lighten(&mut self, id: i64) {
        if let Some(entry) = self.events.get_mut(id) {
            self.bytes -= std::mem::take(&mut entry.weight);
        }
    }

    /// The number of a topic's events without an answer. Iterates over all events in flight, so use it rarely.
    #[must_use]
    pub fn count_open(&self, topic: &str) -> usize {
        self.events.values().filter(|entry| entry.is_open && *entry.topic == *topic).count()
    }

    /// Adds an event that was handed over.
    pub fn add(&mut self, mut entry: InFlightEvent<R>) {
        self.handed_over += 1;
        entry.place = self.handed_over;
        self.bytes += entry.weight;
        if let Some(before) = self.events.insert(entry.id, entry) {
            self.bytes -= before.weight;
        }
    }

    /// Removes a settled event.
    pub fn remove(&mut self, id: i64) -> Option<InFlightEvent<R>> {
        let entry = self.events.remove(id)?;
        self.bytes -= entry.weight;
        Some(entry)
    }

    /// All events, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &InFlightEvent<R>> {
        self.events.values()
    }

    /// Removes all events but these.
    pub fn keep_only(&mut self, ids: &HashSet<i64>) {
        self.events.retain(|id| ids.contains(&id));
        self.bytes = self.events.values().map(|entry| entry.weight).sum();
    }

    /// The number of events.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// The event with the lowest id.
    #[must_use]
    pub fn oldest(&self) -> Option<&InFlightEvent<R>> {
        self.events.first()
    }

    /// Whether no event is in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// The room that is left.
    #[must_use]
    pub fn room(&self, limits: Limits) -> Room {
        Room {
            events: limits.events.saturating_sub(self.len()),
            bytes: limits.bytes.saturating_sub(self.bytes),
            whole: limits.bytes,
            empty: self.is_empty(),
            reserved: (0, 0),
        }
    }

    /// Whether there is enough room to make reading the table worthwhile: at least this share of the window (a fourth, a
    /// tenth …). Otherwise each acknowledgement would cost a read of its own.
    #[must_use]
    pub fn is_worth_filling(&self, limits: Limits, share: usize) -> bool {
        let room = self.room(limits);
        self.is_empty()
            || (room.events >= limits.events.div_ceil(share) && room.bytes >= limits.bytes / share)
    }

    /// The lanes of all events in flight, with repeats.
    pub fn lanes(&self) -> impl Iterator<Item = u64> {
        self.events.values().filter_map(|entry| entry.lane)
    }

    /// For each topic the place of the oldest event without an answer. Iterates over all events in flight, so use it rarely.
    #[must_use]
    pub fn first_places(&self) -> HashMap<Arc<str>, u64> {
        let mut first: HashMap<Arc<str>, u64> = HashMap::new();
        for entry in self.events.values().filter(|entry| entry.is_open) {
            match first.get_mut(&entry.topic) {
                Some(place) => *place = entry.place.min(*place),
                None => {
                    first.insert(entry.topic.clone(), entry.place);
                }
            }
        }
        first
    }

    /// The number of events whose rows are gone, but for those in `kept`.
    #[must_use]
    pub fn count_rowless(&self, kept: &HashSet<i64>) -> usize {
        self.events.values().filter(|entry| entry.is_row_gone && !kept.contains(&entry.id)).count()
    }

    /// The topics of all events in flight, with repeats.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<str>> {
        self.events.values().map(|entry| &entry.topic)
    }
}

/// The events that a pass has taken and that are not in flight yet.
#[derive(Debug)]
pub struct Taken<R> {
    events: Vec<InFlightEvent<R>>,
    /// The lanes of the events that were in flight when they were first needed.
    in_flight: Option<HashSet<u64>>,
    /// The ids of the events, once another reader than that of new rows reads.
    ids: Option<HashSet<i64>>,
}

impl<R> Taken<R> {
    /// An empty set with room for this many events.
    #[must_use]
    pub fn with_capacity(events: usize) -> Self {
        Self { events: Vec::with_capacity(events), in_flight: None, ids: None }
    }

    /// The events.
    #[must_use]
    pub fn events(&self) -> &[InFlightEvent<R>] {
        &self.events
    }

    /// Takes out the events that are delivered at most once.
    #[must_use]
    pub fn split_rowless(&mut self) -> Self {
        let (rowless, others) =
            std::mem::take(&mut self.events).into_iter().partition(|entry| entry.is_row_gone);
        self.events = others;
        Self { events: rowless, in_flight: None, ids: None }
    }

    /// Takes the events out.
    pub(super) fn into_events(self) -> impl Iterator<Item = InFlightEvent<R>> {
        self.events.into_iter()
    }

    /// From now on, remembers the ids of the events, because rows may come in any order, and twice.
    pub fn remember_ids(&mut self) {
        self.ids = Some(self.events.iter().map(|entry| entry.id).collect());
    }

    /// Whether this event was taken, if the ids are remembered.
    #[must_use]
    pub fn has(&self, id: i64) -> bool {
        self.ids.as_ref().is_some_and(|ids| ids.contains(&id))
    }

    /// Adds an event.
    pub fn add(&mut self, entry: InFlightEvent<R>) {
        if let Some(ids) = &mut self.ids {
            ids.insert(entry.id);
        }
        self.events.push(entry);
    }

    /// Whether an event of this lane is in flight or was taken. If so, the next one must take the same route, since two routes
    /// would not keep their order.
    pub(super) fn is_on_its_way(&mut self, lane: Lane, window: &Window<R>) -> bool {
        let Some(lane) = lane else { return false };
        let in_flight = self.in_flight.get_or_insert_with(|| window.lanes().collect());
        in_flight.contains(&lane) || self.events.iter().any(|entry| entry.lane == Some(lane))
    }
}

/// The room in the window while a batch is assembled.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    events: usize,
    bytes: usize,
    /// The bytes of the whole window.
    whole: usize,
    empty: bool,
    reserved: (usize, usize),
}

impl Room {
    /// Reserves a quarter for the later readers of the pass.
    pub fn reserve(&mut self) {
        self.reserved = (self.events / 4, self.bytes / 4);
    }

    /// Ends the reservation.
    pub fn end_reserve(&mut self) {
        self.reserved = (0, 0);
    }

    /// Whether there is room for one more event of this weight. An event that is larger than the whole window needs it nearly
    /// alone: if it had to wait until nothing at all is in flight, those of other topics would keep it waiting as long as more
    /// of them come.
    #[must_use]
    pub fn fits(&self, weight: usize) -> bool {
        let (events, bytes) = self.reserved;
        let is_nearly_alone =
            || weight > self.whole && self.whole.saturating_sub(self.bytes) <= self.whole / 8;
        self.events > events
            && (self.empty || weight.saturating_add(bytes) <= self.bytes || is_nearly_alone())
    }

    /// Takes the room of an event.
    pub fn take(&mut self, weight: usize) {
        self.events = self.events.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(weight);
        self.empty = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { events: 100, bytes: 8_000 };

    fn event(id: i64, weight: usize) -> InFlightEvent<()> {
        InFlightEvent {
            id,
            row: (),
            topic: "t".into(),
            emitted_at: 0,
            record_time: 0,
            lane: None,
            sole_in_flight: false,
            is_row_gone: false,
            is_open: true,
            place: 0,
            weight,
        }
    }

    #[test]
    fn an_event_larger_than_the_window_goes_beside_small_ones_and_beside_no_other_large_one() {
        let mut window = Window::default();
        assert!(window.room(LIMITS).fits(20_000));
        (1..=10).for_each(|id| window.add(event(id, 100)));
        assert!(window.room(LIMITS).fits(20_000), "small ones are always in flight");
        window.add(event(11, 100));
        assert!(!window.room(LIMITS).fits(20_000), "they take too much");
        assert!(window.room(LIMITS).fits(100));
        window.remove(11);
        let mut room = window.room(LIMITS);
        room.take(20_000);
        assert!(!room.fits(20_000) && !room.fits(100));
        window.add(event(12, 20_000));
        assert!(!window.room(LIMITS).fits(20_000) && !window.room(LIMITS).fits(1));
    }

    #[test]
    fn an_event_that_would_fit_alone_waits_for_its_room() {
        let mut window = Window::default();
        window.add(event(1, 500));
        assert!(window.room(LIMITS).fits(7_500) && !window.room(LIMITS).fits(7_501));
    }
}
